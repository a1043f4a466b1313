//! The broker signs the newest entry of every mesh's audit log once an hour, and tells the daemons of the mesh, so that
//! somebody outside of the database knows how far the log had come (broker spec §4.19).
//!
//! On one database several brokers may do this at once: the store keeps one of their heads, and each broker tells its own
//! connections of whatever head was kept.

use claudemesh_core::presence::{Handshake, Presence};
use claudemesh_crypto::audit::Head;
use claudemesh_protocol::MeshId;
use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::wire::{self, Push};
use claudemesh_store::{AuditHead, AuditTail, StoreError};
use serde_json::json;

use crate::live::{self, Mesh};
use crate::state::Broker;

/// The system event that tells a signed head.
const EVENT: &str = "audit_head";

impl Broker {
    /// One round: signs the logs that have new entries and were not signed for an hour, and tells what is new. A log
    /// that does not go on from its newest head is left alone, and reported.
    ///
    /// # Errors
    /// [`StoreError`]; the next round does what is left.
    pub async fn sign_audit_heads(&self) -> Result<(), StoreError> {
        for mesh in self.store().unsigned_audit_meshes(self.now()).await? {
            sign(self, &mesh).await?;
        }
        for mesh in self.live().all() {
            tell_newest(self, &mesh).await?;
        }
        Ok(())
    }
}

async fn sign(broker: &Broker, mesh: &MeshId) -> Result<(), StoreError> {
    let (after, entry, entries, hash) = match broker.store().audit_tail(mesh).await? {
        AuditTail::Signed => return Ok(()),
        AuditTail::Broken { at, fault } => {
            tracing::error!(mesh_id = %mesh, at, ?fault, "the audit log was changed; it is not signed any more");
            return Ok(());
        }
        AuditTail::Unsigned { after, entry, entries, hash } => (after, entry, entries, hash),
    };
    let key = broker.signing_key();
    let at = broker.now();
    let Ok(signature) = (Head { mesh, entry, entries, hash: &hash, at }).sign(key) else {
        tracing::error!(mesh_id = %mesh, "the id of this mesh cannot be signed");
        return Ok(());
    };
    let head = AuditHead {
        entry,
        entries,
        hash,
        signed_at: at,
        broker_pubkey: key.public().to_hex(),
        signature: signature.to_hex(),
    };
    // When it is not kept, another broker was faster, or the log was changed just now; the next round sees which.
    broker.store().keep_audit_head(mesh, head, after).await.map(drop)
}

/// Tells the daemons that are here of a head they have not heard of.
async fn tell_newest(broker: &Broker, mesh: &Mesh) -> Result<(), StoreError> {
    let Some(head) = broker.store().audit_head(&mesh.id).await? else { return Ok(()) };
    let mut state = mesh.lock();
    if state.told_head >= head.entry {
        return Ok(());
    }
    state.told_head = head.entry;
    let created_at = head.signed_at.to_iso();
    let data = json!(on_the_wire(head));
    let push = Push::system(&mesh.id, live::event_id(), created_at, EVENT, data);
    state.announce(push, wants);
    drop(state);
    Ok(())
}

/// One connection of a machine is enough, and only those that ask for it: older clients would show it to somebody.
fn wants(presence: &Presence) -> bool {
    presence.handshake == Handshake::Member && presence.client.has(capability::AUDIT_HEADS)
}

/// A head as peers and administrators read it.
pub(crate) fn on_the_wire(head: AuditHead) -> wire::AuditHead {
    wire::AuditHead {
        entry: head.entry,
        entries: head.entries,
        hash: head.hash,
        signed_at: head.signed_at.to_iso(),
        signature: head.signature,
        broker_pubkey: head.broker_pubkey,
    }
}
