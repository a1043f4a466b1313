//! Who is connected and who is a member (MCP spec §7.1, daemon spec §9.7).

use claudemesh_protocol::ops::administration::{MemberEntry, MembersReply};
use claudemesh_protocol::ops::messaging::{ListPeers, PeerEntry, PeersReply};
use claudemesh_protocol::wire::PeerRow;
use claudemesh_protocol::{ErrorCode, PublicKey};

use super::{Answer, Call, Place, WAY_BACK, fields};
use crate::api::Failure;
use crate::mesh::{Line as _, Listing, MeshError};

/// `peer.list`.
pub(super) async fn peers<P: Place>(
    call: Call<'_, P>,
    asked: ListPeers,
) -> Result<Answer, Failure> {
    let listing = if asked.all == Some(true) { Listing::All } else { Listing::Addressable };
    let this_session = call.caller.session.as_ref().and_then(|session| session.key());
    call.each("peers", |mesh: P::Line| async move {
        let found = mesh.peers(listing).await.map_err(unreachable)?;
        let entry = |row: PeerRow, no_session: bool| PeerEntry {
            is_self: is_own(&row, mesh.member().public),
            is_this_session: !no_session && this_session == Some(row.pubkey),
            mesh: mesh.slug().to_owned(),
            no_session,
            row,
        };
        let peers = found.peers.into_iter().map(|row| entry(row, false));
        let peers = peers.chain(found.no_session.into_iter().map(|row| entry(row, true))).collect();
        fields(&PeersReply { peers, errors: Vec::new() })
    })
    .await
}

/// `member.list`.
pub(super) async fn members<P: Place>(call: Call<'_, P>) -> Result<Answer, Failure> {
    call.each("members", |mesh: P::Line| async move {
        let rows = mesh.members().await.map_err(unreachable)?;
        let members = rows.into_iter().map(|row| MemberEntry {
            is_self: row.pubkey == mesh.member().public,
            mesh: mesh.slug().to_owned(),
            row,
        });
        fields(&MembersReply { members: members.collect(), errors: Vec::new() })
    })
    .await
}

fn is_own(row: &PeerRow, member: PublicKey) -> bool {
    row.member_pubkey.unwrap_or(row.pubkey) == member
}

/// A roster that could not be had.
pub(super) fn unreachable(error: MeshError) -> Failure {
    let failure = Failure::new(error.code, error.message);
    match error.code {
        ErrorCode::MemberRevoked => failure.hint(WAY_BACK),
        ErrorCode::BrokerUnavailable => failure.hint(super::STILL_CONNECTING),
        _ => failure,
    }
}
