//! What a member lets others do to it (broker spec §4.22, wire spec §3.22).

use std::collections::BTreeMap;

use claudemesh_protocol::limits::{GRANTS_MAX, SESSION_KEY_MEMORY};
use claudemesh_protocol::permission::Grant;
use claudemesh_protocol::wire::{GrantsResult, SetGrants};
use claudemesh_protocol::{ErrorCode, MemberId, MeshId, PublicKey};
use claudemesh_store::{Grants, MergeGrants};

use super::{Peer, Refusal, Reply};
use crate::live;
use crate::state::Broker;

/// `set_grants`.
pub(super) async fn set(peer: &Peer, set: SetGrants, req_id: Option<String>) -> Reply {
    let grants = merge(&peer.broker, &peer.mesh.id, &peer.member_id, set.grants).await?;
    // The next message is judged by it, whoever's it is.
    live::refresh(&peer.broker, &peer.mesh).await?;
    Ok(Some(GrantsResult { grants, req_id }.into()))
}

/// `get_grants`.
pub(super) fn get(peer: &Peer, req_id: Option<String>) -> GrantsResult {
    let state = peer.mesh.lock();
    let grants = state.member(&peer.member_id).map(|entry| entry.member.grants.clone());
    drop(state);
    GrantsResult { grants: grants.unwrap_or_default(), req_id }
}

/// Merges entries into what a member grants. Keys of sessions count for their members, so that a block outlives the
/// session; a key nobody is known to have is kept as it is.
///
/// # Errors
/// `invalid_args` for an own key or too many entries, `not_found` for a member that is gone.
pub(crate) async fn merge(
    broker: &Broker,
    mesh: &MeshId,
    member: &MemberId,
    changes: BTreeMap<PublicKey, Option<Vec<Grant>>>,
) -> Result<Grants, Refusal> {
    let invalid = |text: String| Refusal::new(ErrorCode::InvalidArgs, text);
    if changes.len() > GRANTS_MAX {
        return Err(invalid(format!("at most {GRANTS_MAX} entries")));
    }
    let mut normalised = BTreeMap::new();
    for (key, granted) in changes {
        let (key, owner) = owner_of(broker, mesh, key).await?;
        if owner.as_ref() == Some(member) {
            return Err(invalid(
                "a member grants itself nothing and cannot block itself".to_owned(),
            ));
        }
        let granted = granted.map(|mut list| {
            list.sort_unstable();
            list.dedup();
            list
        });
        if normalised.insert(key, granted).is_some() {
            return Err(invalid("two keys of one member; give each member once".to_owned()));
        }
    }
    match broker.store().merge_grants(mesh, member, normalised, broker.now()).await? {
        MergeGrants::Merged(grants) => {
            broker.live().roster_changed(mesh);
            Ok(grants)
        }
        MergeGrants::TooMany => Err(invalid(format!("at most {GRANTS_MAX} entries"))),
        MergeGrants::NotFound => Err(Refusal::new(ErrorCode::NotFound, "member not found")),
    }
}

/// The member key that an entry for `key` is kept under, and whose it is.
async fn owner_of(
    broker: &Broker,
    mesh_id: &MeshId,
    key: PublicKey,
) -> Result<(PublicKey, Option<MemberId>), Refusal> {
    if let Some(mesh) = broker.live().loaded(mesh_id) {
        live::refresh(broker, &mesh).await?;
        let state = mesh.lock();
        let member = state.member_by_key(key).or_else(|| state.member_by_former_key(key));
        let id = member
            .map(|entry| entry.member.id.clone())
            .or_else(|| state.session(key).map(|entry| entry.presence.member_id.clone()));
        if let Some(entry) = id.as_ref().and_then(|id| state.member(id)) {
            return Ok((entry.member.pubkey.unwrap_or(key), id));
        }
    }
    let store = broker.store();
    if let Some(member) = store.member_by_key(mesh_id, &key).await? {
        return Ok((key, Some(member.id)));
    }
    let not_before = broker.now().minus(SESSION_KEY_MEMORY);
    if let Some(seen) = store.session_key(mesh_id, &key, not_before).await?
        && let Some(member) = store.member(mesh_id, &seen.member_id).await?
    {
        return Ok((member.pubkey.unwrap_or(key), Some(member.id)));
    }
    Ok((key, None))
}
