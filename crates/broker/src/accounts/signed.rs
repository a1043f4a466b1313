//! Requests signed by a member key instead of carrying a bearer (wire spec appendix A).

use std::collections::HashMap;

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use claudemesh_crypto::hash::sha256;
use claudemesh_crypto::statement;
use claudemesh_protocol::limits::HELLO_REPLAY_WINDOW;
use claudemesh_protocol::{ErrorCode, PublicKey, SignatureBytes, Timestamp, canonical};
use claudemesh_store::{HelloSeen, Member, Mesh};
use parking_lot::Mutex;

use crate::edge::error::{ApiError, ApiResult};
use crate::edge::limit::Limited;
use crate::state::Broker;

const PUBKEY: &str = "x-member-pubkey";
const TIMESTAMP: &str = "x-timestamp";
const SIGNATURE: &str = "x-signature";
/// Signed requests remembered at once; above it further ones wait, they are never let through unremembered.
const REMEMBERED_MAX: usize = 50_000;

/// Signatures of the last two minutes, so that none is taken twice.
#[derive(Default)]
pub(crate) struct SignedReplay {
    seen: Mutex<HashMap<[u8; 32], Timestamp>>,
}

enum Remembered {
    New,
    Repeated,
    Full,
}

impl SignedReplay {
    fn remember(&self, signature: &SignatureBytes, now: Timestamp) -> Remembered {
        let hash = sha256(signature.as_bytes());
        let mut seen = self.seen.lock();
        if seen.len() >= REMEMBERED_MAX {
            seen.retain(|_, until| *until > now);
        }
        if seen.get(&hash).is_some_and(|until| *until > now) {
            return Remembered::Repeated;
        }
        if seen.len() >= REMEMBERED_MAX {
            return Remembered::Full;
        }
        seen.insert(hash, now.plus(HELLO_REPLAY_WINDOW));
        Remembered::New
    }

    /// Drops what may be forgotten.
    pub(crate) fn forget_old(&self, now: Timestamp) {
        self.seen.lock().retain(|_, until| *until > now);
    }
}

/// True when the request is signed.
pub(crate) fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key(SIGNATURE)
}

/// The member of `mesh` that signed this request; nobody is a member of a mesh that does not exist.
///
/// # Errors
/// `malformed`, `timestamp_skew` with `serverTime`, `bad_signature` (a repeat too), `unauthorized`, `revoked`.
pub(crate) async fn signer(
    broker: &Broker,
    mesh: Option<Mesh>,
    parts: &Parts,
    body: &[u8],
) -> ApiResult<(Mesh, Member)> {
    let key: PublicKey = header(&parts.headers, PUBKEY)?;
    let millis: i64 = header(&parts.headers, TIMESTAMP)?;
    let signature: SignatureBytes = header(&parts.headers, SIGNATURE)?;
    let (timestamp, now) = (Timestamp::from_millis(millis), broker.now());
    if statement::check_window(timestamp, now).is_err() {
        return Err(ApiError::new(
            ErrorCode::TimestampSkew,
            "the clock of this machine is off by more than 60 s",
        )
        .with("serverTime", now.as_millis()));
    }
    let target =
        parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |target| target.as_str());
    let text = canonical::signed_http(parts.method.as_str(), target, &sha256(body), timestamp);
    let bad_signature = |sentence| {
        ApiError::new(ErrorCode::BadSignature, sentence).with_status(StatusCode::UNAUTHORIZED)
    };
    statement::verify(text, key, &signature)
        .map_err(|_| bad_signature("the signature does not fit this request"))?;
    match broker.signed_replay().remember(&signature, now) {
        Remembered::New => {}
        Remembered::Repeated => return Err(bad_signature("this request was made before")),
        Remembered::Full => return Err(Limited { retry_after_seconds: 60 }.into()),
    }
    let nobody = || ApiError::new(ErrorCode::Unauthorized, "this key is no member of the mesh");
    let mesh = mesh.ok_or_else(nobody)?;
    let member = broker.store().member_by_key(&mesh.id, &key).await?.ok_or_else(nobody)?;
    if member.revoked.is_some() {
        return Err(ApiError::new(ErrorCode::Revoked, "this member was removed from the mesh")
            .with_status(StatusCode::FORBIDDEN));
    }
    // Memory knows its own process only: after a restart, and on another node, the store does.
    let request = HelloSeen {
        pubkey: key,
        timestamp,
        signature_hash: sha256(signature.as_bytes()),
        expires_at: now.plus(HELLO_REPLAY_WINDOW),
    };
    if !broker.store().remember_signed(request).await? {
        return Err(bad_signature("this request was made before"));
    }
    Ok((mesh, member))
}

fn header<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> ApiResult<T> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ApiError::field(name, "the header of a signed request"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_once_and_forgotten_after_its_window() {
        let replay = SignedReplay::default();
        let signature = SignatureBytes::from_bytes([7; 64]);
        let now = Timestamp::from_millis(1_000_000);
        assert!(matches!(replay.remember(&signature, now), Remembered::New));
        assert!(matches!(replay.remember(&signature, now), Remembered::Repeated));
        replay.forget_old(now.plus(HELLO_REPLAY_WINDOW));
        assert!(replay.seen.lock().is_empty());
    }
}
