//! Fetching the roster: one task per mesh, asked by whoever needs it, never more often than it helps (daemon spec §7.5).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use claudemesh_client::{Connection, RequestError};
use claudemesh_protocol::MemberId;
use claudemesh_protocol::limits::REQUEST_TIMEOUT;
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::wire::{ClientFrame, MemberRow, PeerRow, ServerFrame};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Mesh;
use super::roster::member_of;
use crate::clock;

/// Period of refreshes while somebody is there to see them (daemon spec §7.5).
const PERIOD: Duration = Duration::from_secs(30);
/// Least time between two fetches, so that a crowd of arrivals costs a few lists and not a list each.
const LEAST_GAP: Duration = Duration::from_millis(250);
/// The same while somebody waits for the answer. It grows with the time of the answer, so that callers in a row keep the
/// broker busy half of the time at most, however long its lists are.
const LEAST_GAP_AWAITED: Duration = Duration::from_millis(5);

/// Asks for fetches and tells when they are done.
pub(super) struct Refresh {
    asked: AtomicU64,
    /// The last request whose end is waited for.
    awaited: AtomicU64,
    hurry: Notify,
    wanted: Notify,
    answered: Mutex<Answered>,
    /// Wakes those who wait, in the order in which they came.
    told: Notify,
}

/// The newest fetch.
#[derive(Debug, Clone, Default)]
struct Answered {
    /// Every request up to this number is answered by it.
    up_to: u64,
    error: Option<RequestError>,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            asked: AtomicU64::new(0),
            awaited: AtomicU64::new(0),
            hurry: Notify::new(),
            wanted: Notify::new(),
            answered: Mutex::default(),
            told: Notify::new(),
        }
    }
}

impl Refresh {
    /// Asks for a fetch without waiting.
    pub(super) fn soon(&self) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.wanted.notify_one();
        number
    }

    /// Asks for a fetch that begins from now on and waits for its end; the caller limits the time.
    pub(super) async fn now(&self) -> Result<(), RequestError> {
        let number = self.soon();
        self.answer_to(number).await
    }

    /// Waits for the end of what others have asked for so far and asks for nothing; the caller limits the time.
    pub(super) async fn under_way(&self) -> Result<(), RequestError> {
        self.answer_to(self.asked.load(Ordering::Relaxed)).await
    }

    async fn answer_to(&self, number: u64) -> Result<(), RequestError> {
        self.awaited.fetch_max(number, Ordering::Relaxed);
        self.hurry.notify_one();
        loop {
            let told = self.told.notified();
            {
                let answered = self.answered.lock();
                if answered.up_to >= number {
                    return answered.error.clone().map_or(Ok(()), Err);
                }
            }
            told.await;
        }
    }

    /// The pause after the fetch that began at `started` and answered everything up to `up_to`.
    async fn rest(&self, started: Instant, up_to: u64) {
        let awaited_gap = (2 * started.elapsed()).clamp(LEAST_GAP_AWAITED, LEAST_GAP);
        loop {
            let is_awaited = self.awaited.load(Ordering::Relaxed) > up_to;
            let gap = if is_awaited { awaited_gap } else { LEAST_GAP };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(started + gap) => return,
                () = self.hurry.notified() => {}
            }
        }
    }
}

/// Runs until the mesh stops.
pub(super) async fn run(mesh: Arc<Mesh>) {
    loop {
        tokio::select! {
            biased;
            () = mesh.stop.cancelled() => return,
            () = mesh.refresh.wanted.notified() => {}
            () = tokio::time::sleep(PERIOD) => {
                if !mesh.has_audience() || !mesh.is_open() {
                    continue;
                }
            }
        }
        let started = Instant::now();
        let up_to = mesh.refresh.asked.load(Ordering::Relaxed);
        let error = fetch(&mesh).await.err();
        *mesh.refresh.answered.lock() = Answered { up_to, error };
        mesh.refresh.told.notify_waiters();
        tokio::select! {
            biased;
            () = mesh.stop.cancelled() => return,
            () = mesh.refresh.rest(started, up_to) => {}
        }
    }
}

async fn fetch(mesh: &Mesh) -> Result<(), RequestError> {
    let connection = mesh.control().ok_or(RequestError::NotOpen)?;
    let asked_at = clock::now();
    let is_legacy = mesh.negotiated().is_legacy;
    let (peers, mut members) = lists(&connection, is_legacy, REQUEST_TIMEOUT).await?;
    // Who is a member again was not removed for good.
    mesh.removed
        .lock()
        .retain(|key, at| *at >= asked_at || members.iter().all(|member| member.pubkey != *key));
    mesh.learn_former_keys(&mut members);
    mesh.roster.replace(peers, members, asked_at);
    mesh.context.events.touch();
    mesh.prove_senders().await;
    Ok(())
}

/// Presences and members, both within `limit`.
pub(super) async fn lists(
    connection: &Connection,
    is_legacy: bool,
    limit: Duration,
) -> Result<(Vec<PeerRow>, Vec<MemberRow>), RequestError> {
    let (peers, members) =
        tokio::join!(list_peers(connection, limit), list_members(connection, limit));
    let peers = peers?;
    let members = match members {
        Ok(members) => members,
        Err(RequestError::Refused(error)) if error.code == "unknown_message_type" => {
            members_of(&peers)
        }
        // An old broker drops frames it does not know without an answer.
        Err(RequestError::Timeout) if is_legacy => members_of(&peers),
        Err(error) => return Err(error),
    };
    Ok((peers, members))
}

async fn list_peers(
    connection: &Connection,
    limit: Duration,
) -> Result<Vec<PeerRow>, RequestError> {
    match connection.request(&ClientFrame::ListPeers(Box::default()), limit).await? {
        ServerFrame::PeersList(list) => Ok(list.peers),
        _ => Err(RequestError::UnexpectedReply),
    }
}

async fn list_members(
    connection: &Connection,
    limit: Duration,
) -> Result<Vec<MemberRow>, RequestError> {
    match connection.request(&ClientFrame::ListMembers(Box::default()), limit).await? {
        ServerFrame::MembersList(list) => Ok(list.members),
        _ => Err(RequestError::UnexpectedReply),
    }
}

/// At a broker without `list_members`: the members that are there.
fn members_of(peers: &[PeerRow]) -> Vec<MemberRow> {
    let mut members: Vec<MemberRow> = Vec::new();
    for row in peers {
        let pubkey = member_of(row);
        if members.iter().any(|member| member.pubkey == pubkey) {
            continue;
        }
        members.push(MemberRow {
            member_id: row.member_id.clone().unwrap_or_else(|| MemberId::new("")),
            pubkey,
            display_name: row.display_name.clone(),
            role: MemberRole::Member,
            role_tag: None,
            groups: Vec::new(),
            joined_at: row.connected_at.clone(),
            last_seen_at: None,
            online: true,
            former_keys: Vec::new(),
        });
    }
    members
}
