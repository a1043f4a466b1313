//! `GET /v1/peers` and the member list (daemon spec §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use claudemesh_ipc::api::peer::MemberEntry;
use claudemesh_ipc::api::{MembersReply, MeshError, PeerEntry, PeersReply};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::wire::PeerRow;
use serde::Deserialize;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input};
use crate::mesh::{Listing, MeshHandle};

#[derive(Deserialize)]
struct Query {
    mesh: Option<String>,
    all: Option<bool>,
}

pub(super) async fn peers(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<PeersReply>, Failure> {
    let query: Query = input::query(&request)?;
    let reply = api.peers(&caller, query.mesh.as_deref(), listing(query.all)).await?;
    Ok(Json(reply))
}

impl Api {
    /// The peers of the chosen meshes; a mesh that cannot answer is named, and only when none can it is a failure.
    pub(super) async fn peers(
        &self,
        caller: &Caller,
        mesh: Option<&str>,
        listing: Listing,
    ) -> Result<PeersReply, Failure> {
        caller.need_capability(Capability::Read)?;
        let meshes = self.meshes(mesh, caller)?;
        let this_session = caller.session.as_ref().and_then(|session| session.key());
        let asked = meshes.iter().map(|mesh| async move { (mesh, mesh.peers(listing).await) });
        let mut reply = PeersReply::default();
        for (mesh, answer) in futures_util::future::join_all(asked).await {
            let entry = |row: PeerRow, no_session: bool| PeerEntry {
                is_self: is_member(&row, mesh),
                is_this_session: !no_session && this_session == Some(row.pubkey),
                mesh: mesh.slug().to_owned(),
                no_session,
                row,
            };
            match answer {
                Ok(peers) => {
                    reply.peers.extend(peers.peers.into_iter().map(|row| entry(row, false)));
                    reply.peers.extend(peers.no_session.into_iter().map(|row| entry(row, true)));
                }
                Err(error) => reply.errors.push(mesh_error(mesh, error.code)),
            }
        }
        refuse_when_all_failed(meshes.len(), &reply.errors)?;
        Ok(reply)
    }

    /// The members of the chosen meshes, likewise.
    pub(super) async fn members(
        &self,
        caller: &Caller,
        mesh: Option<&str>,
    ) -> Result<MembersReply, Failure> {
        caller.need_capability(Capability::Read)?;
        let meshes = self.meshes(mesh, caller)?;
        let asked = meshes.iter().map(|mesh| async move { (mesh, mesh.members().await) });
        let mut reply = MembersReply::default();
        for (mesh, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok(rows) => reply.members.extend(rows.into_iter().map(|row| MemberEntry {
                    is_self: row.pubkey == mesh.member().public,
                    mesh: mesh.slug().to_owned(),
                    row,
                })),
                Err(error) => reply.errors.push(mesh_error(mesh, error.code)),
            }
        }
        refuse_when_all_failed(meshes.len(), &reply.errors)?;
        Ok(reply)
    }
}

/// `all=true` shows daemons' own connections too.
pub(super) fn listing(all: Option<bool>) -> Listing {
    if all == Some(true) { Listing::All } else { Listing::Addressable }
}

fn is_member(row: &PeerRow, mesh: &MeshHandle) -> bool {
    row.member_pubkey.unwrap_or(row.pubkey) == mesh.member().public
}

fn mesh_error(mesh: &MeshHandle, code: ErrorCode) -> MeshError {
    MeshError { mesh: mesh.slug().to_owned(), error: code.as_str().to_owned() }
}

/// Never an empty list because a connection is down.
fn refuse_when_all_failed(asked: usize, errors: &[MeshError]) -> Result<(), Failure> {
    if asked == 0 || errors.len() < asked {
        return Ok(());
    }
    let errors = serde_json::to_value(errors).unwrap_or_default();
    Err(Failure::new(ErrorCode::BrokerUnavailable, "no broker connection is open")
        .with("errors", errors))
}
