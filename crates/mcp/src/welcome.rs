//! The one message that tells a session who it is on the mesh and what waits for it (MCP spec §4.8).

use std::time::Duration;

use claudemesh_ipc::api::{InboxItem, InboxPage, MessageMode, PeersReply, SessionView};
use claudemesh_ipc::client::{Client, PeerFilter};
use claudemesh_protocol::limits::CHANNEL_NAMES_MAX;

use crate::channel::Notification;
use crate::{message, pace, unread, untrusted};

/// Unread messages shown with their first words.
const PREVIEWS: usize = 3;
/// Message ids named in the attributes.
const LATEST_IDS: usize = 10;
/// Time for each of the questions behind the welcome; an unanswered one is shown as unavailable.
pub(crate) const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known when the welcome is due; each part may be missing.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// This session; `None` without a token or without a daemon.
    pub session: Option<SessionView>,
    /// Who is there.
    pub peers: Option<PeersReply>,
    /// What is unread.
    pub unread: Option<InboxPage>,
}

/// A welcome, and the rows it shows, which are read once it has been written.
#[derive(Debug)]
pub(crate) struct Welcome {
    /// What to write.
    pub notification: Notification,
    /// The rows previewed.
    pub previewed: Vec<InboxItem>,
}

/// Asks the daemon, everything at once; what does not answer in time is left out.
pub(crate) async fn facts(client: &Client, mesh: Option<&str>) -> Facts {
    let client = client.clone().with_timeout(QUESTION_TIMEOUT);
    let session = async {
        match client.token() {
            Some(_) => client.session().await.ok(),
            None => None,
        }
    };
    let (session, peers, unread) = tokio::join!(
        session,
        client.peers(mesh, PeerFilter::Reachable),
        unread::page(&client, mesh)
    );
    Facts { session, peers: peers.ok(), unread: unread.ok() }
}

/// Composes the welcome; in mode `inbox` it counts and shows no text.
pub(crate) fn compose(facts: &Facts, mesh: Option<&str>, mode: MessageMode) -> Welcome {
    let session = facts.session.as_ref();
    let key = session
        .and_then(|session| session.session_pubkey)
        .map(claudemesh_protocol::PublicKey::to_hex);
    let name = session.map(|session| untrusted::speaker(&session.display_name));
    let mesh = session.map(|session| session.mesh.as_str()).or(mesh);
    let names = facts.peers.as_ref().map(|peers| other_peers(peers, session.is_some()));
    let unread = facts.unread.as_ref().map(|page| page.items.as_slice());
    let previewed: Vec<InboxItem> = match mode {
        MessageMode::Push => unread.unwrap_or_default().iter().take(PREVIEWS).cloned().collect(),
        MessageMode::Inbox | MessageMode::Off => Vec::new(),
    };

    let mut lines = vec![
        identity_line(session, name.as_deref(), key.as_deref(), mesh),
        peers_line(names.as_deref()),
        unread_line(facts.unread.as_ref()),
    ];
    lines.extend(previewed.iter().map(|item| format!("  {}", message::preview(item))));
    lines.push(
        "Use: claudemesh peer list · claudemesh send <name> \"text\" · claudemesh inbox".to_owned(),
    );
    lines.push("More in the claudemesh skill. This notice needs no reply.".to_owned());

    let count = |count: Option<usize>| count.map(|count| count.to_string()).unwrap_or_default();
    let ids: Vec<String> = unread
        .unwrap_or_default()
        .iter()
        .take(LATEST_IDS)
        .map(|item| item.broker_message_id.clone().unwrap_or_else(|| item.id.clone()))
        .collect();
    let shown: Vec<String> = names.iter().flatten().take(CHANNEL_NAMES_MAX).cloned().collect();
    let notification = Notification::lines("welcome", &lines)
        .with("self_display_name", name.as_deref().unwrap_or_default())
        .with("self_session_pubkey", key.as_deref().unwrap_or_default())
        .with("self_role", session.and_then(|session| session.role.as_deref()).unwrap_or_default())
        .with("mesh_slug", mesh.unwrap_or_default())
        .with("peer_count", &count(names.as_ref().map(Vec::len)))
        .with_list("peer_names", &shown)
        .with("unread_count", &count(unread.map(<[InboxItem]>::len)))
        .with_list("latest_message_ids", &ids)
        .with("message_mode", mode_word(mode));
    Welcome { notification, previewed }
}

/// The word of a message mode.
pub(crate) fn mode_word(mode: MessageMode) -> &'static str {
    match mode {
        MessageMode::Push => "push",
        MessageMode::Inbox => "inbox",
        MessageMode::Off => "off",
    }
}

fn identity_line(
    session: Option<&SessionView>,
    name: Option<&str>,
    key: Option<&str>,
    mesh: Option<&str>,
) -> String {
    let place = mesh.map(|mesh| format!(" on {mesh}")).unwrap_or_default();
    let Some(name) = name else {
        return format!(
            "[claudemesh] connected{place} as this computer's member; this session has no name of its own"
        );
    };
    let key = key
        .map(|key| format!(" ({})", key.chars().take(8).collect::<String>()))
        .unwrap_or_default();
    let role = session
        .and_then(|session| session.role.as_deref())
        .map(|role| format!(" [{}]", untrusted::speaker(role)))
        .unwrap_or_default();
    format!("[claudemesh] connected as **{name}**{key}{role}{place}")
}

fn peers_line(names: Option<&[String]>) -> String {
    match names {
        None => "Peers online: unavailable".to_owned(),
        Some([]) => "Peers online: no other peers".to_owned(),
        Some(names) => format!("Peers online ({}): {}", names.len(), pace::names_and_more(names)),
    }
}

fn unread_line(page: Option<&InboxPage>) -> String {
    match page {
        None => "Unread messages: unavailable".to_owned(),
        Some(page) => {
            let more = if page.next_cursor.is_some() { "+" } else { "" };
            format!("Unread messages: {}{more}", page.items.len())
        }
    }
}

/// Names of everybody but this session; without a session, of everybody but this member.
fn other_peers(peers: &PeersReply, has_session: bool) -> Vec<String> {
    peers
        .peers
        .iter()
        .filter(|peer| !(if has_session { peer.is_this_session } else { peer.is_self }))
        .filter(|peer| peer.row.peer_role.as_deref() != Some("control-plane"))
        .map(|peer| untrusted::speaker(&peer.row.display_name))
        .collect()
}
