//! Removing members for good, and letting them in again (broker spec §4.25, wire spec §3.22).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::limits::BAN_REASON_MAX_CHARS;
use claudemesh_protocol::wire::{Ban, BanAck, BanRow, ErrorFrame, ListBansResult, Unban, UnbanAck};
use claudemesh_protocol::{ErrorCode, MemberId, text};
use claudemesh_sqlite::crash_point;
use claudemesh_store::{Ban as StoredBan, NewBan};
use tokio::sync::oneshot;

use super::selector::{self, Named};
use super::{AFTER_COMMIT, Peer, Refusal, Reply, news};
use crate::delivery::{Job, forget_dropped};
use crate::live::{self, Close, MeshState};

/// How long a ban waits until what its member had just sent is given up.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);

/// `ban`. The ban stands in the store before anything else happens; a hello that was under way finds it there.
pub(super) async fn ban(peer: &Peer, ban: Ban, req_id: Option<String>) -> Reply {
    let target = ban.target.trim();
    if target.is_empty() {
        return Err(Refusal::new(ErrorCode::Invalid, "the target is empty"));
    }
    let reason = ban.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| reason.chars().count() > BAN_REASON_MAX_CHARS) {
        return Err(Refusal::new(ErrorCode::InvalidArgs, "a reason has at most 500 characters"));
    }
    let (member_id, name, sentence) = {
        let state = peer.mesh.lock();
        let (id, name) = find(peer, &state, target)?;
        (id, name, live::removed_sentence(&state.info.name))
    };
    let banned = peer
        .broker
        .store()
        .ban_member(NewBan {
            mesh_id: peer.mesh.id.clone(),
            member_id: member_id.clone(),
            by: peer.member_id.clone(),
            reason: reason.map(|reason| text::sanitized_line(reason, BAN_REASON_MAX_CHARS)),
            at: peer.broker.now(),
        })
        .await?
        .ok_or_else(|| selector::not_found("member"))?;
    crash_point(AFTER_COMMIT);
    live::mark_stale(&peer.mesh);
    live::refresh(&peer.broker, &peer.mesh).await?;
    {
        let mut state = peer.mesh.lock();
        for entry in state.of_member(&member_id) {
            if let Some(connection) = &entry.connection {
                connection.refuse(ErrorFrame::new(ErrorCode::Revoked, sentence.as_str(), None));
            }
        }
        forget_dropped(&mut state, &banned.dropped);
    }
    live::evict_member(&peer.broker, &peer.mesh.id, &member_id, Close::BANNED).await;
    news::tell(&peer.mesh, &banned.event);
    drop_accepted(peer, &member_id).await;
    tracing::info!(mesh_id = %peer.mesh.id, "member banned");
    Ok(Some(BanAck { banned: name, req_id }.into()))
}

/// The member to ban.
fn find(peer: &Peer, state: &MeshState, target: &str) -> Result<(MemberId, String), Refusal> {
    let found = match selector::member_by_name(state, target) {
        Some(id) => Some(id),
        None => match selector::by_key(state, target)? {
            Some(Named::Member(id)) => Some(id),
            Some(Named::Session(presence)) => {
                state.presence(&presence).map(|entry| entry.presence.member_id.clone())
            }
            None => None,
        },
    };
    let id = found.ok_or_else(|| selector::not_found("member"))?;
    if id == peer.member_id {
        return Err(Refusal::new(ErrorCode::Invalid, "nobody bans itself"));
    }
    if selector::is_protected_member(peer, state, &id) {
        return Err(selector::protected("banned"));
    }
    let name = state.member(&id).map(|entry| entry.member.display_name.clone());
    Ok((id, name.unwrap_or_default()))
}

/// Gives up what the member had sent and the writer had not written yet when the ban was. From here on the writer takes
/// nothing of it any more; what a crash leaves between the two, the next start gives up.
async fn drop_accepted(peer: &Peer, member: &MemberId) {
    let (done, is_done) = oneshot::channel();
    let job = Job::DropFrom { mesh: Arc::clone(&peer.mesh), sender: member.clone(), done };
    if peer.broker.delivery().enqueue(job).await.is_ok() {
        // While the store is away the ban is answered all the same; the job waits for it.
        let _done_or_waiting = tokio::time::timeout(DROP_TIMEOUT, is_done).await;
    }
}

/// `unban`, by exact name or key.
pub(super) async fn unban(peer: &Peer, unban: Unban, req_id: Option<String>) -> Reply {
    let target = unban.target.trim();
    if target.is_empty() {
        return Err(Refusal::new(ErrorCode::Invalid, "the target is empty"));
    }
    let bans = peer.broker.store().bans(&peer.mesh.id).await?;
    let key = target.to_ascii_lowercase();
    let mut found =
        bans.into_iter().filter(|ban| ban.member.display_name == target || ban.key.to_hex() == key);
    let ban = found.next().ok_or_else(|| selector::not_found("ban"))?;
    if found.next().is_some() {
        return Err(Refusal::new(
            ErrorCode::AmbiguousPrefix,
            "several banned members have this name; give the key",
        ));
    }
    let now = peer.broker.now();
    let store = peer.broker.store();
    let member = store
        .unban_member(&peer.mesh.id, &ban.member.id, &peer.member_id, now)
        .await?
        .ok_or_else(|| selector::not_found("ban"))?;
    crash_point(AFTER_COMMIT);
    peer.broker.live().roster_changed(&peer.mesh.id);
    tracing::info!(mesh_id = %peer.mesh.id, "member unbanned");
    Ok(Some(UnbanAck { unbanned: member.display_name, req_id }.into()))
}

/// `list_bans`.
pub(super) async fn list_bans(peer: &Peer, req_id: Option<String>) -> Reply {
    let bans = peer.broker.store().bans(&peer.mesh.id).await?;
    Ok(Some(ListBansResult { bans: bans.into_iter().map(row).collect(), req_id }.into()))
}

fn row(ban: StoredBan) -> BanRow {
    BanRow {
        name: ban.member.display_name,
        pubkey: ban.key,
        revoked_at: ban.at.to_iso(),
        revoked_by: ban.by,
        reason: ban.reason,
    }
}
