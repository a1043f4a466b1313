//! Peers whom the broker finds by their exact name: a name that nobody has is tried once more as somebody is really
//! called, and refused with who there is (CLI spec §1.14).

use claudemesh_ipc::Client;
use claudemesh_ipc::api::OpReply;
use claudemesh_ipc::client::PeerFilter;
use claudemesh_protocol::ops::{Operation, OperationKind, Run};
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};
use crate::link;
use crate::verbs::person::{self, Listed};

/// The field that names the peer.
const TARGET: &str = "target";

/// True when the broker did not find the peer that was named.
pub(super) fn is_unknown_peer(
    spec: &Operation,
    failure: &Failure,
    arguments: &Map<String, Value>,
) -> bool {
    matches!(spec.run, Run::Forward(_))
        && failure.code == "not_found"
        && arguments.get(TARGET).is_some_and(Value::is_string)
}

/// Does it with the name as it is really spelled.
///
/// # Errors
/// `refusal`, with who there is; exit 3 when several names differ only in capitals.
pub(super) async fn as_spelled(
    client: &Client,
    kind: OperationKind,
    mesh: Option<&str>,
    arguments: &Map<String, Value>,
    refusal: Failure,
) -> Outcome<OpReply> {
    let typed = arguments.get(TARGET).and_then(Value::as_str).unwrap_or_default();
    let (listed, mut names) = candidates(client, kind, mesh).await?;
    names.sort_unstable();
    names.dedup();
    match person::spelled(typed, &names)? {
        Some(name) if name != typed => {
            let mut arguments = arguments.clone();
            arguments.insert(TARGET.to_owned(), name.into());
            client.op(kind, mesh, arguments).await.map_err(link::failure)
        }
        _ => Err(person::unknown(typed, mesh, listed, &names, refusal)),
    }
}

/// Names that the operation could have meant.
async fn candidates(
    client: &Client,
    kind: OperationKind,
    mesh: Option<&str>,
) -> Outcome<(Listed, Vec<String>)> {
    match kind {
        OperationKind::PeerUnban => {
            let reply = client
                .op(OperationKind::PeerBans, mesh, Map::new())
                .await
                .map_err(link::failure)?;
            let rows = reply.result.get("bans").and_then(Value::as_array);
            let names = rows.into_iter().flatten().filter_map(|row| row.get("name")?.as_str());
            Ok((Listed::Banned, names.map(str::to_owned).collect()))
        }
        OperationKind::PeerBan => {
            let members = client.members(mesh).await.map_err(link::failure)?.members;
            Ok((Listed::Known, members.into_iter().map(|member| member.row.display_name).collect()))
        }
        _ => {
            let peers = client.peers(mesh, PeerFilter::Reachable).await.map_err(link::failure)?;
            let names = peers.peers.into_iter().map(|peer| peer.row.display_name);
            Ok((Listed::Online, names.collect()))
        }
    }
}
