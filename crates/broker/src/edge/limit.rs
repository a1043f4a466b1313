//! Limits per network address: requests, open sockets, invite claims and previews, wrong secrets (broker spec §5.0).
//!
//! Loopback is exempt from all of them but the one on wrong secrets. Everything lives in memory, bounded: an address
//! that has been quiet costs nothing after the next clean-up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::http::HeaderMap;
use claudemesh_protocol::MemberId;
use claudemesh_protocol::limits::{
    BrokerLimits, INVITES_PER_MAKER_HOUR, SETUP_CODE_TRIES_PER_MINUTE,
};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;

use crate::settings::Cidr;

/// Headers by which a proxy says for whom it asks.
const FORWARDING_HEADERS: [&str; 4] =
    ["x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host"];

/// Who asks, as far as limits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientAddress {
    /// The socket's address, or the forwarded one when a trusted proxy says so.
    pub(crate) ip: IpAddr,
    /// True for a loopback socket that forwards for nobody.
    pub(crate) is_local: bool,
}

impl ClientAddress {
    /// Works out the address from the socket and the headers.
    ///
    /// `X-Forwarded-For` is read from its right end: each trusted proxy vouches for the entry left of it. From an
    /// untrusted peer it changes nothing, but it ends the loopback exemption, because then a proxy nobody told us of
    /// stands in between.
    pub(crate) fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> Self {
        let peer = peer.to_canonical();
        let is_trusted = |ip: IpAddr| trusted.iter().any(|range| range.contains(ip));
        let is_forwarded = FORWARDING_HEADERS.iter().any(|name| headers.contains_key(*name));
        if !is_trusted(peer) {
            return Self { ip: peer, is_local: peer.is_loopback() && !is_forwarded };
        }
        let mut ip = peer;
        let mut entries: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        while is_trusted(ip) {
            match entries.pop().map(|entry| entry.trim().parse::<IpAddr>()) {
                Some(Ok(next)) => ip = next.to_canonical(),
                Some(Err(_)) | None => break,
            }
        }
        Self { ip, is_local: ip.is_loopback() && !is_forwarded }
    }

    /// The bucket of this address: IPv6 by its /64, since one customer holds all of it.
    fn bucket(self) -> IpAddr {
        match self.ip {
            IpAddr::V4(_) => self.ip,
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        }
    }
}

/// A limit was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limited {
    /// Seconds until another try can succeed, at least 1.
    pub(crate) retry_after_seconds: u64,
}

/// One kind of limited thing, per key.
struct Buckets<Key: std::hash::Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<Key>,
    clock: DefaultClock,
}

impl<Key: std::hash::Hash + Eq + Clone> Buckets<Key> {
    fn new(quota: Quota) -> Self {
        Self { limiter: RateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    /// Takes `cost` from the key's bucket, all or nothing.
    fn take(&self, key: &Key, cost: NonZeroU32) -> Result<(), Limited> {
        match self.limiter.check_key_n(key, cost) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(self.clock.now());
                Err(Limited { retry_after_seconds: wait.as_secs().saturating_add(1) })
            }
            // A cost above the whole bucket can never be paid; the caller is limited for as long as it tries.
            Err(_insufficient_capacity) => Err(Limited { retry_after_seconds: 60 }),
        }
    }

    fn forget_quiet_keys(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// Open WebSockets by address.
type OpenSockets = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// What an invite code turned out to be; an unknown one costs double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeFound {
    Known,
    Unknown,
}

/// All limits per address.
pub(crate) struct EdgeLimits {
    requests: Buckets<IpAddr>,
    claims_of_address: Buckets<IpAddr>,
    claims_of_code: Buckets<String>,
    invites_made: Buckets<MemberId>,
    previews: Buckets<IpAddr>,
    setup_tries: Buckets<IpAddr>,
    sockets: OpenSockets,
    max_sockets: usize,
}

impl EdgeLimits {
    pub(crate) fn new(limits: &BrokerLimits) -> Self {
        let per_second = Quota::per_second(at_least_one(limits.http_rate_per_ip))
            .allow_burst(at_least_one(limits.http_burst_per_ip));
        Self {
            requests: Buckets::new(per_second),
            claims_of_address: Buckets::new(per_hour(limits.invite_claims_per_ip_hour)),
            claims_of_code: Buckets::new(per_hour(limits.invite_claims_per_code_hour)),
            invites_made: Buckets::new(per_hour(INVITES_PER_MAKER_HOUR)),
            previews: Buckets::new(Quota::per_minute(at_least_one(
                limits.invite_previews_per_ip_min,
            ))),
            setup_tries: Buckets::new(Quota::per_minute(at_least_one(SETUP_CODE_TRIES_PER_MINUTE))),
            sockets: Arc::default(),
            max_sockets: limits.max_sockets_per_ip,
        }
    }

    /// One HTTP request; an upgrade counts as one.
    pub(crate) fn request(&self, client: ClientAddress) -> Result<(), Limited> {
        if client.is_local {
            return Ok(());
        }
        self.requests.take(&client.bucket(), NonZeroU32::MIN)
    }

    /// Counts an open WebSocket; `None` when the address has too many. The guard gives the place back.
    pub(crate) fn open_socket(&self, client: ClientAddress) -> Option<SocketGuard> {
        if client.is_local {
            return Some(SocketGuard { counted: None });
        }
        let key = client.bucket();
        let mut sockets = self.sockets.lock();
        let open = sockets.entry(key).or_insert(0);
        if *open >= self.max_sockets {
            return None;
        }
        *open += 1;
        Some(SocketGuard { counted: Some((Arc::clone(&self.sockets), key)) })
    }

    /// A claim of an invite. Unknown codes count for loopback too: they are wrong secrets, and guessing is what the
    /// limit is against. A known code has a limit of its own.
    pub(crate) fn claim(
        &self,
        client: ClientAddress,
        code: &str,
        found: CodeFound,
    ) -> Result<(), Limited> {
        if !client.is_local || found == CodeFound::Unknown {
            self.claims_of_address.take(&client.bucket(), found.cost())?;
        }
        match found {
            CodeFound::Known => self.claims_of_code.take(&code.to_owned(), NonZeroU32::MIN),
            CodeFound::Unknown => Ok(()),
        }
    }

    /// An invite that a member makes. The log keeps each, so this holds for loopback too.
    pub(crate) fn invite_made(&self, maker: &MemberId) -> Result<(), Limited> {
        self.invites_made.take(maker, NonZeroU32::MIN)
    }

    /// A look at an invite without claiming it.
    pub(crate) fn preview(&self, client: ClientAddress, found: CodeFound) -> Result<(), Limited> {
        if client.is_local && found == CodeFound::Known {
            return Ok(());
        }
        self.previews.take(&client.bucket(), found.cost())
    }

    /// A try of the setup code; holds for loopback too, and for the right code once the tries are used up.
    pub(crate) fn setup_try(&self, client: ClientAddress) -> Result<(), Limited> {
        self.setup_tries.take(&client.bucket(), NonZeroU32::MIN)
    }

    /// Drops what quiet addresses occupy; runs every five minutes.
    pub(crate) fn forget_quiet_addresses(&self) {
        self.requests.forget_quiet_keys();
        self.claims_of_address.forget_quiet_keys();
        self.claims_of_code.forget_quiet_keys();
        self.invites_made.forget_quiet_keys();
        self.previews.forget_quiet_keys();
        self.setup_tries.forget_quiet_keys();
    }
}

impl CodeFound {
    const fn cost(self) -> NonZeroU32 {
        match self {
            Self::Known => NonZeroU32::MIN,
            Self::Unknown => NonZeroU32::MIN.saturating_add(1),
        }
    }
}

/// The place of an open socket in its address's count.
#[derive(Debug)]
pub(crate) struct SocketGuard {
    counted: Option<(OpenSockets, IpAddr)>,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        if let Some((sockets, key)) = self.counted.take() {
            let mut sockets = sockets.lock();
            let left = sockets.get(&key).copied().unwrap_or(0).saturating_sub(1);
            if left == 0 {
                sockets.remove(&key);
            } else {
                sockets.insert(key, left);
            }
        }
    }
}

fn per_hour(count: u32) -> Quota {
    Quota::per_hour(at_least_one(count))
}

fn at_least_one(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests;
