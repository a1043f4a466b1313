//! The mesh as a whole: counters, and how long a message takes (MCP spec §7.14).

use std::time::Duration;

use claudemesh_ipc::api::{MeshStatus, MessageMode};
use claudemesh_protocol::ops::administration::{
    PeerStats, Ping, PingReport, PingResult, StatsList,
};
use claudemesh_protocol::status::Priority;
use claudemesh_protocol::{PeerStatus, PublicKey};

use super::roster::unreachable;
use super::{Answer, Call, Place, fields};
use crate::api::{Api, Failure};
use crate::mesh::{Line as _, Listing, MeshHandle, Via};

/// Time for one ping; three of them fit into the operation's own time.
const PING_WAIT: Duration = Duration::from_secs(4);

/// `mesh.stats`.
pub(super) async fn stats<P: Place>(call: Call<'_, P>) -> Result<Answer, Failure> {
    call.each("peers", |mesh: P::Line| async move {
        let peers = mesh.peers(Listing::Addressable).await.map_err(unreachable)?.peers;
        let mut peers: Vec<PeerStats> = peers
            .into_iter()
            .map(|row| PeerStats {
                display_name: row.display_name,
                pubkey: row.pubkey,
                stats: row.stats,
            })
            .collect();
        peers.sort_by(|left, right| {
            (&left.display_name, left.pubkey).cmp(&(&right.display_name, right.pubkey))
        });
        fields(&StatsList { peers })
    })
    .await
}

/// `mesh.ping`: a message from the caller's session to its own member, through the broker and back to this daemon, which
/// shows it to nobody.
pub(super) async fn ping(call: Call<'_, Api>, asked: Ping) -> Result<Answer, Failure> {
    let mesh = call.one_mesh()?;
    let peers = match mesh.peers(Listing::Addressable).await {
        Ok(found) => Some(found),
        Err(error) if mesh.status() == MeshStatus::Open => return Err(unreachable(error)),
        Err(_) => None,
    };
    let from = sender(call, &mesh);
    let mut priorities = asked.priorities.unwrap_or_else(|| vec![Priority::Now, Priority::Next]);
    priorities.dedup();
    let mut results = Vec::with_capacity(priorities.len());
    for priority in priorities {
        results.push(measured(&mesh, from, priority).await);
    }
    let session = call.caller.session.as_ref();
    let mode = session.map(|session| session.message_mode);
    let report = PingReport {
        ws_status: mesh.status().as_str().to_owned(),
        your_status: session.map_or(PeerStatus::Idle, |session| session.activity.status()),
        peers_online: peers.map_or(0, |found| (found.peers.len() + found.no_session.len()) as u64),
        message_mode: mode.map(word),
        channel: if mode == Some(MessageMode::Push) { "enabled" } else { "off" }.to_owned(),
        results,
    };
    let mut result = fields(&report)?;
    result.insert("mesh".to_owned(), mesh.slug().into());
    Ok(Answer::on(&mesh, result))
}

/// The word of a mode.
fn word(mode: MessageMode) -> String {
    match mode {
        MessageMode::Push => "push",
        MessageMode::Inbox => "inbox",
        MessageMode::Off => "off",
    }
    .to_owned()
}

/// The session that pings: the caller's, else any of ours that is connected.
fn sender(call: Call<'_, Api>, mesh: &MeshHandle) -> Option<PublicKey> {
    let mut roads = call.place.presences(mesh, call.caller).into_iter();
    roads.find_map(|via| match via {
        Via::Session(key) if mesh.session_status(&key) == Some(MeshStatus::Open) => Some(key),
        _ => None,
    })
}

async fn measured(mesh: &MeshHandle, from: Option<PublicKey>, priority: Priority) -> PingResult {
    let mut result =
        PingResult { priority, ok: false, send_ack_ms: None, loopback_ms: None, note: None };
    let Some(from) = from else {
        result.note = Some("no session of yours is connected, so nobody can send it".to_owned());
        return result;
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match mesh.ping(from, priority, PING_WAIT).await {
        Ok(times) => {
            result.send_ack_ms = Some(millis(times.acknowledged));
            result.loopback_ms = times.came_back.map(millis);
            result.ok = result.loopback_ms.is_some();
            if !result.ok {
                let seconds = PING_WAIT.as_secs();
                result.note = Some(format!("accepted, and not back within {seconds} s"));
            }
        }
        Err(error) => result.note = Some(format!("{}: {}", error.code, error.message)),
    }
    result
}
