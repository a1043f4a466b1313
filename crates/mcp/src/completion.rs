//! `completion/complete`: names of peers and meshes for arguments that take one (MCP spec §3). Best effort: a daemon that
//! is not there has no proposals.

use std::collections::BTreeSet;

use claudemesh_ipc::client::PeerFilter;
use claudemesh_protocol::limits::MCP_COMPLETIONS_MAX;
use claudemesh_protocol::ops::policy::TARGET_FIELDS;
use claudemesh_protocol::text::sanitized_line;
use serde_json::{Map, Value, json};

use crate::road::Road;
use crate::{untrusted, welcome};

/// Longest name that is proposed, in characters.
const NAME_MAX_CHARS: usize = 64;

/// No proposals.
pub(crate) fn none() -> Value {
    json!({ "completion": { "values": [], "total": 0, "hasMore": false } })
}

/// The answer to `completion/complete`.
pub(crate) async fn complete(params: &Map<String, Value>, road: &Road) -> Value {
    let argument = |key: &str| params.get("argument")?.get(key)?.as_str();
    let (Some(name), Some(begun)) = (argument("name"), argument("value")) else { return none() };
    let begun = begun.to_lowercase();
    let found: BTreeSet<String> = names(name, road)
        .await
        .into_iter()
        .filter(|proposal| proposal.to_lowercase().starts_with(&begun))
        .collect();
    let total = found.len();
    let values: Vec<String> = found.into_iter().take(MCP_COMPLETIONS_MAX).collect();
    json!({ "completion": { "values": values, "total": total, "hasMore": total > MCP_COMPLETIONS_MAX } })
}

async fn names(argument: &str, road: &Road) -> Vec<String> {
    let Some(standing) = road.current() else { return Vec::new() };
    let client = standing.client.with_timeout(welcome::QUESTION_TIMEOUT);
    if matches!(argument, "mesh" | "mesh_slug") {
        let health = client.health().await;
        return health
            .map(|health| health.meshes.into_iter().map(|mesh| mesh.slug).collect())
            .unwrap_or_default();
    }
    if !TARGET_FIELDS.contains(&argument) {
        return Vec::new();
    }
    let mesh = standing.session.as_ref().map(|session| session.mesh.as_str());
    let peers = client.peers(mesh, PeerFilter::Reachable).await;
    peers
        .map(|reply| reply.peers.into_iter().map(|peer| peer.row.display_name))
        .into_iter()
        .flatten()
        .map(|name| sanitized_line(&untrusted::neutral(&name), NAME_MAX_CHARS))
        .collect()
}
