//! The overview of a mesh: each family is asked for itself, and one that does not answer is null and named in `warnings`
//! (wire spec §3.22, broker spec §4.8).

use std::collections::BTreeSet;
use std::time::Duration;

use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::wire::MeshInfoResult;

use super::roster::sees;
use super::{Peer, Refusal, Reply};

/// Time for one family; all together must answer within 3 s.
const FAMILY_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest list of names, in bytes, so that the answer fits into a frame with all others.
const NAMES_MAX_BYTES: usize = 512 * 1024;
/// Families this broker does not have; each leaves the list in the change that brings its family.
const MISSING: [&str; 6] = ["memory", "files", "tasks", "streams", "tables", "collections"];

/// `mesh_info`.
pub(super) async fn mesh_info(peer: &Peer, req_id: Option<String>) -> Reply {
    let mut warnings = Vec::new();
    let state_keys = state_keys(peer).await.unwrap_or_else(|why| {
        warnings.push(format!("state: {why}"));
        None
    });
    warnings.extend(MISSING.map(|family| format!("{family}: not available in this version")));
    let mut result = about_peers(peer)?;
    result.state_keys = state_keys;
    result.warnings = warnings;
    result.req_id = req_id;
    Ok(Some(result.into()))
}

/// What memory knows: the presences the caller can see, and the caller.
fn about_peers(peer: &Peer) -> Result<MeshInfoResult, Refusal> {
    let mut state = peer.mesh.lock();
    let own = &peer.own(&mut state)?.presence;
    let names = |presence: &claudemesh_core::presence::Presence| {
        presence.groups.iter().map(|group| format!("@{}", group.name)).collect::<Vec<_>>()
    };
    let (your_name, your_groups) = (own.display_name.clone(), names(own));
    let mut peers = 0;
    let mut groups = BTreeSet::new();
    // A call that is over in a moment is nobody who is there, whoever asks.
    let present = state.presences().filter(|entry| !entry.presence.is_transient());
    for entry in present.filter(|entry| sees(peer, &state, entry)) {
        peers += 1;
        groups.extend(names(&entry.presence));
    }
    Ok(MeshInfoResult {
        mesh: peer.mesh.id.to_string(),
        peers,
        groups: groups.into_iter().collect(),
        your_name,
        your_groups,
        ..MeshInfoResult::default()
    })
}

async fn state_keys(peer: &Peer) -> Result<Option<Vec<String>>, String> {
    let caps =
        peer.mesh.lock().presence(&peer.presence_id).and_then(|entry| entry.presence.session_caps);
    if caps.is_some_and(|caps| !caps.contains(Capability::StateRead)) {
        return Err(format!("missing session capability \"{}\"", Capability::StateRead));
    }
    let asked = peer.broker.store().state_keys(&peer.mesh.id);
    match tokio::time::timeout(FAMILY_TIMEOUT, asked).await {
        Ok(Ok(keys)) if keys.iter().map(String::len).sum::<usize>() <= NAMES_MAX_BYTES => {
            Ok(Some(keys))
        }
        Ok(Ok(_)) => Err("too many names; list them by prefix".to_owned()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the overview could not ask for the keys of the state");
            Err("not available now".to_owned())
        }
        Err(_elapsed) => Err("no answer in time".to_owned()),
    }
}
