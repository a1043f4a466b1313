//! A member takes a new key (broker spec §2.6, wire spec §5.18).

use claudemesh_core::presence::Handshake;
use claudemesh_crypto::statement;
use claudemesh_protocol::wire::{Ack, RotateMemberKey};
use claudemesh_protocol::{ErrorCode, PublicKey, Timestamp, canonical};
use claudemesh_sqlite::crash_point;
use claudemesh_store::{Reroute, RotateKey, Rotation, RotationProof};

use super::{AFTER_COMMIT, Peer, Refusal, Reply, news};
use crate::live::{self, Close};

/// `rotate_member_key`: both keys have signed the change. Every connection of the member is closed after the answer and
/// comes back under the new key; sessions need an attestation by it.
pub(super) async fn rotate(peer: &Peer, frame: RotateMemberKey, req_id: Option<String>) -> Reply {
    let (old, new) = (peer.member_key, frame.new_pubkey);
    check_connection(peer)?;
    if old == new {
        return Err(Refusal::new(ErrorCode::InvalidArgs, "the new key is the old one"));
    }
    let timestamp = Timestamp::from_millis(frame.timestamp);
    if statement::check_window(timestamp, peer.broker.now()).is_err() {
        return Err(Refusal::new(ErrorCode::TimestampSkew, "the clocks differ by more than 60 s"));
    }
    for (key, signature) in [(old, &frame.signature_old), (new, &frame.signature_new)] {
        let text = canonical::member_rotation(&peer.mesh.id, &peer.member_id, old, new, timestamp);
        statement::verify(text, key, signature).map_err(|_| {
            Refusal::new(ErrorCode::BadSignature, "both keys must sign the rotation")
        })?;
    }
    let _no_sends = KeyChange::begin(peer)?;
    let rotation = Rotation {
        mesh_id: peer.mesh.id.clone(),
        member_id: peer.member_id.clone(),
        old,
        new,
        proof: RotationProof {
            signed_at: timestamp,
            by_old: frame.signature_old,
            by_new: frame.signature_new,
        },
        at: peer.broker.now(),
    };
    let event = match peer.broker.store().rotate_key(rotation).await? {
        RotateKey::Rotated(event) => event,
        RotateKey::KeyTaken => {
            return Err(Refusal::new(ErrorCode::InvalidArgs, "this key is in use, or was before"));
        }
        RotateKey::NotFound => {
            return Err(Refusal::new(ErrorCode::Unauthorized, "this key does not count any more"));
        }
    };
    crash_point(AFTER_COMMIT);
    live::mark_stale(&peer.mesh);
    live::refresh(&peer.broker, &peer.mesh).await?;
    news::tell(&peer.mesh, &event);
    move_queue(peer, old, new).await;
    // Before the socket is closed: what follows a close is not written any more.
    if let Some(req_id) = &req_id {
        peer.connection.say(&Ack::bare(req_id).into());
    }
    peer.mesh.lock().change_member_key(&peer.member_id, new, Close::DISCONNECTED);
    tracing::info!(mesh_id = %peer.mesh.id, key = new.short(12), "member key rotated");
    Ok(None)
}

/// While it lives nothing is taken that the member's key signed: every message is older than the change, or newer.
struct KeyChange<'a>(&'a Peer);

impl<'a> KeyChange<'a> {
    fn begin(peer: &'a Peer) -> Result<Self, Refusal> {
        if peer.mesh.lock().changing_key.insert(peer.member_id.clone()) {
            return Ok(Self(peer));
        }
        Err(Refusal::new(ErrorCode::Unavailable, "the key of this member is changing"))
    }
}

impl Drop for KeyChange<'_> {
    fn drop(&mut self) {
        self.0.mesh.lock().changing_key.remove(&self.0.member_id);
    }
}

/// Only the member itself, by its own hello: a session speaks for itself alone.
fn check_connection(peer: &Peer) -> Result<(), Refusal> {
    let mut state = peer.mesh.lock();
    let presence = &peer.own(&mut state)?.presence;
    let is_own = presence.handshake == Handshake::Member && presence.session_key.is_none();
    drop(state);
    if is_own {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::Forbidden, "a key is rotated by the member's own connection"))
}

/// What waits under the old key waits under the new one. The writer does it after every message that was accepted for
/// the old key before.
async fn move_queue(peer: &Peer, old: PublicKey, new: PublicKey) {
    let reroute = Reroute {
        mesh_id: peer.mesh.id.clone(),
        session_key: old,
        member_key: new,
        member_id: peer.member_id.clone(),
        at: peer.broker.now(),
    };
    peer.mesh.lock().queue(new).moving();
    peer.broker.delivery().reroute(&peer.mesh, reroute).await;
}
