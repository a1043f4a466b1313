//! What a client does when its connection ends: the close table and the reconnect schedule, both without I/O.

use std::time::Duration;

use claudemesh_protocol::limits;
use rand::{Rng, RngExt as _};

/// Least wait after `capacity` (wire spec §1.5: backoff from 30 s).
const CAPACITY_WAIT: Duration = Duration::from_secs(30);
/// First wait when somebody else holds our session key; doubles up to [`TAKEOVER_WAIT_MAX`] (daemon spec §18.4).
const TAKEOVER_WAIT: Duration = Duration::from_secs(30);
/// Longest wait of a contested session key (daemon spec §18.4).
const TAKEOVER_WAIT_MAX: Duration = Duration::from_mins(10);
/// Wait before the one quick retry of a hello the broker calls wrong (daemon spec §18.4).
const FAULT_FIRST_WAIT: Duration = Duration::from_secs(5);
/// Period of later retries of a refused hello, and of an unauthorized key (daemon spec §18.4).
const REFUSED_WAIT: Duration = Duration::from_mins(10);
/// Period of retries of a revoked member; the ban may be lifted (daemon spec §18.4).
const REVOKED_WAIT: Duration = Duration::from_mins(15);
/// Period of retries at a broker that lacks a required feature (daemon spec §18.3).
const FEATURE_WAIT: Duration = Duration::from_mins(5);
/// Longest first wait after a broker announced its stop (daemon spec §18.4).
const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Which of the two kinds of connection this is (daemon spec §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The one member-keyed connection of a mesh.
    ControlPlane,
    /// The connection of one registered session.
    Session,
}

impl Role {
    /// In front of the names of log events (daemon spec §6.7).
    pub const fn log_prefix(self) -> &'static str {
        match self {
            Self::ControlPlane => "broker_",
            Self::Session => "session_broker_",
        }
    }
}

/// Why a connection is not trying by the ordinary schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisabledReason {
    /// The member was removed from the mesh.
    Revoked,
    /// The key is no member there, or the mesh is gone.
    Unauthorized,
    /// Another machine with the same member key took over.
    Replaced,
    /// Another machine with the same member key was there first.
    MemberAlreadyConnected,
    /// The broker lacks what this client needs.
    FeatureMissing,
    /// The broker states something this client needs in a form it cannot read.
    FeatureInvalid,
    /// The broker offers less of something than this client needs.
    FeatureBelowFloor,
    /// Messages are told to wait longer than the broker remembers their ids.
    MaxAge,
    /// The session was kicked by an admin.
    Kicked,
    /// The broker knows no session connections.
    SessionsUnsupported,
    /// The broker calls the handshake itself wrong.
    HelloRefused,
}

impl DisabledReason {
    /// The word shown in status output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Unauthorized => "unauthorized",
            Self::Replaced => "replaced",
            Self::MemberAlreadyConnected => "member_already_connected",
            Self::FeatureMissing => "feature_unavailable",
            Self::FeatureInvalid => "feature_param_invalid",
            Self::FeatureBelowFloor => "feature_param_below_floor",
            Self::MaxAge => "outbox_max_age_above_dedupe_window",
            Self::Kicked => "kicked",
            Self::SessionsUnsupported => "sessions_unsupported",
            Self::HelloRefused => "hello_refused",
        }
    }
}

/// What follows the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Again, by the schedule.
    Reconnect,
    /// Again at once, without counting: the machine slept, or has another network.
    ReconnectNow,
    /// Again within two seconds at first: the broker is restarting.
    ReconnectSoon,
    /// Again, but not before this time.
    ReconnectAfter(Duration),
    /// Once again at once with fresh signatures; after that by the schedule.
    SignAgain,
    /// Once more after five seconds, then every ten minutes.
    HelloFault,
    /// Somebody else holds this session key: 30 s, doubling to ten minutes.
    Contested,
    /// Disabled, with a retry from time to time.
    Disable(DisabledReason, Duration),
    /// Disabled until the owner asks again.
    Park(DisabledReason),
}

/// The reaction to a close code and its reason (daemon spec §18.4). `code` 1006 stands for every transport error.
///
/// The reason counts up to its first space or colon, so that a broker may add words for people.
pub fn reaction(code: u16, reason: &str, role: Role) -> Reaction {
    let word = reason.split([':', ' ']).next().unwrap_or(reason);
    match (code, word) {
        (1000, "session_replaced") if role == Role::Session => Reaction::Contested,
        (1001, _) => Reaction::ReconnectSoon,
        (1008, "capacity") => Reaction::ReconnectAfter(CAPACITY_WAIT),
        (1008, "expired" | "ttl_too_long" | "timestamp_skew" | "hello_timeout") => {
            Reaction::SignAgain
        }
        (
            1008,
            "bad_signature"
            | "malformed"
            | "attestation_mismatch"
            | "bad_session_pubkey"
            | "bad_parent_pubkey",
        ) => Reaction::HelloFault,
        (
            1008,
            "unauthorized"
            | "parent_member_id_mismatch"
            | "mesh_not_found"
            | "mesh_archived"
            | "key_rotated",
        ) => Reaction::Disable(DisabledReason::Unauthorized, REFUSED_WAIT),
        (1008, "unknown_message_type" | "no_hello") if role == Role::Session => {
            Reaction::Park(DisabledReason::SessionsUnsupported)
        }
        (4001, _) if role == Role::Session => Reaction::Park(DisabledReason::Kicked),
        (4002, _) | (1008, "revoked") => Reaction::Disable(DisabledReason::Revoked, REVOKED_WAIT),
        (4003, _) if role == Role::ControlPlane => Reaction::Park(DisabledReason::Replaced),
        (4004, _) if role == Role::ControlPlane => {
            Reaction::Park(DisabledReason::MemberAlreadyConnected)
        }
        (4010..=4012, _) => Reaction::Disable(DisabledReason::FeatureMissing, FEATURE_WAIT),
        _ => Reaction::Reconnect,
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Dial again after this time; the state shown meanwhile is `reconnecting`.
    Wait(Duration),
    /// Dial again after this time; the state shown meanwhile is `disabled`.
    WaitDisabled(DisabledReason, Duration),
    /// Do not dial until asked.
    Park(DisabledReason),
}

/// The reconnect schedule of one connection (daemon spec §6.3).
#[derive(Debug, Clone)]
pub struct Backoff {
    schedule: Vec<Duration>,
    floor: Duration,
    attempt: usize,
    has_signed_again: bool,
    hello_faults: u32,
    takeovers: u32,
}

impl Backoff {
    /// The schedule of the wire specification.
    pub fn standard() -> Self {
        let schedule =
            limits::RECONNECT_SCHEDULE_SECS.iter().map(|secs| Duration::from_secs(*secs));
        Self::new(schedule.collect(), limits::RECONNECT_FLOOR)
    }

    /// Another schedule: upper bounds of the waits, of which the last stays, and the least wait.
    pub fn new(schedule: Vec<Duration>, floor: Duration) -> Self {
        Self { schedule, floor, attempt: 0, has_signed_again: false, hello_faults: 0, takeovers: 0 }
    }

    /// Takes over the schedule of `other`, and stays where it is in it.
    pub fn follow(&mut self, other: &Self) {
        if self.schedule != other.schedule {
            self.schedule.clone_from(&other.schedule);
        }
        self.floor = other.floor;
    }

    /// The connection has been open long enough to call it stable: start over.
    pub fn reset(&mut self) {
        self.attempt = 0;
        self.has_signed_again = false;
        self.hello_faults = 0;
        self.takeovers = 0;
    }

    /// The handshake was accepted: the next clock or attestation trouble deserves its quick retry again.
    pub fn hello_accepted(&mut self) {
        self.has_signed_again = false;
        self.hello_faults = 0;
    }

    /// Decides the next step; `rng` gives the jitter.
    pub fn next(&mut self, reaction: Reaction, rng: &mut impl Rng) -> NextStep {
        match reaction {
            // A crowd of machines may wake up together.
            Reaction::ReconnectNow => NextStep::Wait(between(Duration::ZERO, self.floor, rng)),
            Reaction::ReconnectSoon if self.attempt == 0 => {
                self.attempt += 1;
                NextStep::Wait(between(self.floor, SHUTDOWN_WAIT_MAX, rng))
            }
            Reaction::ReconnectAfter(least) => NextStep::Wait(self.scheduled(rng).max(least)),
            Reaction::SignAgain if !self.has_signed_again => {
                self.has_signed_again = true;
                NextStep::Wait(self.floor)
            }
            Reaction::Reconnect | Reaction::ReconnectSoon | Reaction::SignAgain => {
                NextStep::Wait(self.scheduled(rng))
            }
            Reaction::HelloFault => {
                self.hello_faults = self.hello_faults.saturating_add(1);
                let wait = if self.hello_faults == 1 { FAULT_FIRST_WAIT } else { REFUSED_WAIT };
                NextStep::WaitDisabled(DisabledReason::HelloRefused, wait)
            }
            Reaction::Contested => {
                let factor = 1_u32.checked_shl(self.takeovers).unwrap_or(u32::MAX);
                self.takeovers = self.takeovers.saturating_add(1);
                NextStep::Wait(TAKEOVER_WAIT.saturating_mul(factor).min(TAKEOVER_WAIT_MAX))
            }
            Reaction::Disable(reason, every) => NextStep::WaitDisabled(reason, every),
            Reaction::Park(reason) => NextStep::Park(reason),
        }
    }

    fn scheduled(&mut self, rng: &mut impl Rng) -> Duration {
        let last = self.schedule.len().saturating_sub(1);
        let bound = self.schedule.get(self.attempt.min(last)).copied().unwrap_or(self.floor);
        self.attempt = self.attempt.saturating_add(1);
        between(self.floor, bound, rng)
    }
}

fn between(least: Duration, most: Duration, rng: &mut impl Rng) -> Duration {
    if most <= least { least } else { rng.random_range(least..=most) }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    /// Daemon spec §18.4: the whole table.
    #[test]
    fn every_close_code_has_its_reaction() {
        use DisabledReason as D;
        use Reaction as R;
        use Role::{ControlPlane as C, Session as S};
        let ten_minutes = Duration::from_mins(10);
        let table = [
            (1000, "disconnected", C, R::Reconnect),
            (1000, "disconnected_stale", S, R::Reconnect),
            (1000, "session_replaced", S, R::Contested),
            (1000, "session_replaced", C, R::Reconnect),
            (1001, "shutting down", C, R::ReconnectSoon),
            (1001, "shutting down", S, R::ReconnectSoon),
            (1006, "", C, R::Reconnect),
            (1005, "", S, R::Reconnect),
            (1008, "capacity", S, R::ReconnectAfter(Duration::from_secs(30))),
            (1008, "expired", S, R::SignAgain),
            (1008, "ttl_too_long", S, R::SignAgain),
            (1008, "timestamp_skew", C, R::SignAgain),
            (1008, "hello_timeout", C, R::SignAgain),
            (1008, "bad_signature", C, R::HelloFault),
            (1008, "malformed", C, R::HelloFault),
            (1008, "attestation_mismatch", S, R::HelloFault),
            (1008, "bad_session_pubkey", S, R::HelloFault),
            (1008, "bad_parent_pubkey", S, R::HelloFault),
            (1008, "invalid_json", C, R::Reconnect),
            (1011, "slow_consumer", C, R::Reconnect),
            (1011, "internal", S, R::Reconnect),
            (1008, "unauthorized", C, R::Disable(D::Unauthorized, ten_minutes)),
            (1008, "unauthorized: no such member", C, R::Disable(D::Unauthorized, ten_minutes)),
            (1008, "parent_member_id_mismatch", S, R::Disable(D::Unauthorized, ten_minutes)),
            (1008, "mesh_not_found", C, R::Disable(D::Unauthorized, ten_minutes)),
            (1008, "mesh_archived", C, R::Disable(D::Unauthorized, ten_minutes)),
            (1008, "key_rotated", C, R::Disable(D::Unauthorized, ten_minutes)),
            (1008, "unknown_message_type", S, R::Park(D::SessionsUnsupported)),
            (1008, "no_hello", S, R::Park(D::SessionsUnsupported)),
            (1008, "unknown_message_type", C, R::Reconnect),
            (1009, "", C, R::Reconnect),
            (4001, "kicked", S, R::Park(D::Kicked)),
            (4001, "kicked_stale", S, R::Park(D::Kicked)),
            (4001, "kicked", C, R::Reconnect),
            (4002, "banned", C, R::Disable(D::Revoked, Duration::from_mins(15))),
            (4002, "revoked", S, R::Disable(D::Revoked, Duration::from_mins(15))),
            (4003, "replaced_by_newer_connection", C, R::Park(D::Replaced)),
            (4003, "replaced_by_newer_connection", S, R::Reconnect),
            (4004, "member_already_connected", C, R::Park(D::MemberAlreadyConnected)),
            (
                4010,
                "{\"kind\":\"feature_unavailable\"}",
                C,
                R::Disable(D::FeatureMissing, Duration::from_mins(5)),
            ),
            (4011, "", C, R::Disable(D::FeatureMissing, Duration::from_mins(5))),
            (4012, "", S, R::Disable(D::FeatureMissing, Duration::from_mins(5))),
            (4999, "never heard of", C, R::Reconnect),
        ];
        for (code, reason, role, expected) in table {
            assert_eq!(reaction(code, reason, role), expected, "{code} {reason} {role:?}");
        }
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    #[test]
    fn waits_grow_along_the_schedule_and_keep_the_floor() {
        let mut rng = rng();
        for _ in 0..200 {
            let mut backoff = Backoff::standard();
            for bound in [1, 2, 4, 8, 16, 30, 30, 30] {
                let NextStep::Wait(wait) = backoff.next(Reaction::Reconnect, &mut rng) else {
                    panic!()
                };
                assert!(
                    wait >= limits::RECONNECT_FLOOR && wait <= Duration::from_secs(bound),
                    "{wait:?}"
                );
            }
        }
    }

    #[test]
    fn a_restarting_broker_is_dialled_within_two_seconds_once() {
        let mut rng = rng();
        let mut backoff = Backoff::standard();
        let NextStep::Wait(first) = backoff.next(Reaction::ReconnectSoon, &mut rng) else {
            panic!()
        };
        assert!(first >= limits::RECONNECT_FLOOR && first <= SHUTDOWN_WAIT_MAX);
        for _ in 0..8 {
            backoff.next(Reaction::ReconnectSoon, &mut rng);
        }
        let waits: Vec<_> = (0..50)
            .filter_map(|_| match backoff.next(Reaction::ReconnectSoon, &mut rng) {
                NextStep::Wait(wait) => Some(wait),
                _ => None,
            })
            .collect();
        assert!(
            waits.iter().any(|wait| *wait > Duration::from_secs(5)),
            "a broker that always says 1001 is no hot loop"
        );
    }

    #[test]
    fn a_wrong_clock_gets_one_quick_retry_per_accepted_hello() {
        let mut rng = rng();
        let mut backoff = Backoff::standard();
        assert_eq!(
            backoff.next(Reaction::SignAgain, &mut rng),
            NextStep::Wait(limits::RECONNECT_FLOOR)
        );
        for _ in 0..5 {
            backoff.next(Reaction::SignAgain, &mut rng);
        }
        backoff.hello_accepted();
        assert_eq!(
            backoff.next(Reaction::SignAgain, &mut rng),
            NextStep::Wait(limits::RECONNECT_FLOOR)
        );
    }

    #[test]
    fn faults_and_contested_keys_slow_down() {
        let mut rng = rng();
        let mut backoff = Backoff::standard();
        let refused =
            |secs| NextStep::WaitDisabled(DisabledReason::HelloRefused, Duration::from_secs(secs));
        assert_eq!(backoff.next(Reaction::HelloFault, &mut rng), refused(5));
        assert_eq!(backoff.next(Reaction::HelloFault, &mut rng), refused(600));
        let waits: Vec<_> = (0..7).map(|_| backoff.next(Reaction::Contested, &mut rng)).collect();
        let expected =
            [30, 60, 120, 240, 480, 600, 600].map(|secs| NextStep::Wait(Duration::from_secs(secs)));
        assert_eq!(waits, expected);
        for _ in 0..100 {
            backoff.next(Reaction::Contested, &mut rng);
        }
    }
}
