//! `peer list`: who is connected (CLI spec §3.4, §3.4.1, §3.4.2).

use std::time::Duration;

use claudemesh_ipc::api::{PeerEntry, PeersReply};
use claudemesh_ipc::client::PeerFilter;
use claudemesh_protocol::ops::OperationKind;
use claudemesh_protocol::{PeerStatus, Timestamp};
use serde_json::{Map, Value, json};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::PeerListArgs;
use crate::link;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};
use crate::select::{Chosen, Several};

/// Keys of one row: those of the wire, and what the daemon adds.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "displayName",
        "pubkey",
        "memberPubkey",
        "sessionId",
        "status",
        "summary",
        "peerRole",
        "noSession",
        "groups",
        "profile",
        "peerType",
        "channel",
        "model",
        "cwd",
        "hostname",
        "connectedAt",
        "stats",
        "visible",
        "allowed_caps",
        "mesh",
        "isSelf",
        "isThisSession",
        "presenceId",
        "memberId",
        "attestation",
        "capabilities",
        "statusSource",
        "statusUpdatedAt",
        "lease",
        "lastSeenAt",
    ],
    id: "pubkey",
};

/// A peer that is alive answers a ping every 30 s (wire spec §1.2); from twice that on its silence is worth saying.
const SILENT_AFTER: Duration = Duration::from_mins(1);

/// Time for one answer of the daemon (CLI spec §9).
const TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the verb.
///
/// # Errors
/// Exit 4 when no mesh could be read.
pub(crate) async fn run(context: &Context, args: &PeerListArgs) -> Outcome<Report> {
    let config = context.config()?;
    let chosen = context.meshes(&config, Several::Aggregate).await?;
    context.admit(chosen.slugs(), None).await?;
    let client = context.client_of(OperationKind::PeerList).await?;
    let client = client.with_timeout(context.budget(TIMEOUT));
    let filter = if args.all { PeerFilter::WithControlPlane } else { PeerFilter::Reachable };
    let slugs = match &chosen {
        Chosen::One(slug) => vec![slug.clone()],
        Chosen::All(slugs) => slugs.clone(),
    };
    let work = settled(&client, async || {
        let reply = client.peers(chosen.one(), filter).await.map_err(link::failure)?;
        let has_failed = |slug: &String| reply.errors.iter().any(|error| error.mesh == *slug);
        if slugs.iter().all(has_failed) { Err(all_failed(&reply)) } else { Ok(reply) }
    });
    let mut reply = context.out.during("reading peers", work).await?;
    if args.online {
        reply.peers.retain(|peer| peer.row.lease.as_deref() != Some("offline"));
    }
    for error in &reply.errors {
        context.out.warning(&format!("{}: {}", error.mesh, error.error));
    }
    Ok(Report::new(document(&chosen, &reply)?, screen(&slugs, &reply, context.out.is_verbose())))
}

fn all_failed(reply: &PeersReply) -> Failure {
    let mut failure = Failure::new(
        claudemesh_protocol::error::ErrorCode::BrokerUnavailable,
        "no mesh could be read",
    );
    for error in &reply.errors {
        failure = failure.detail(format!("{}: {}", error.mesh, error.error));
    }
    failure.action("claudemesh daemon status")
}

fn document(chosen: &Chosen, reply: &PeersReply) -> Outcome<Document> {
    let rows = |slug: &str| -> Outcome<Vec<Value>> {
        let of_mesh = reply.peers.iter().filter(|peer| peer.mesh == slug);
        of_mesh
            .map(|peer| serde_json::to_value(peer).map_err(|error| Failure::internal(&error)))
            .collect()
    };
    match chosen {
        Chosen::One(slug) => {
            let envelope = Map::from_iter([("mesh".to_owned(), Value::from(slug.as_str()))]);
            Ok(Document::List { items: rows(slug)?, envelope })
        }
        Chosen::All(slugs) => {
            let items: Outcome<Vec<Value>> = slugs
                .iter()
                .map(|slug| match reply.errors.iter().find(|error| error.mesh == *slug) {
                    Some(error) => Ok(json!({ "mesh": slug, "error": error.error })),
                    None => Ok(json!({ "mesh": slug, "peers": rows(slug)? })),
                })
                .collect();
            Ok(Document::list(items?))
        }
    }
}

pub(super) fn screen(slugs: &[String], reply: &PeersReply, is_verbose: bool) -> Screen {
    let mut screen = Screen::new();
    for slug in slugs {
        let mut peers: Vec<&PeerEntry> =
            reply.peers.iter().filter(|peer| peer.mesh == *slug).collect();
        peers.sort_by_key(|peer| order(peer));
        screen.section(&format!("peers on {slug} ({})", peers.len()));
        if peers.is_empty() {
            screen.note("(no peers connected)");
        }
        for peer in peers {
            row(&mut screen, peer, is_verbose);
        }
    }
    screen
}

/// This session, own other sessions, others; within these those at work or idle, then who is not to be disturbed.
fn order(peer: &PeerEntry) -> (u8, bool, String) {
    let rank = match (peer.is_this_session, peer.is_self) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    (rank, peer.row.status == PeerStatus::Dnd, peer.row.display_name.to_lowercase())
}

fn row(screen: &mut Screen, peer: &PeerEntry, is_verbose: bool) {
    let row = &peer.row;
    let icon = match row.status {
        PeerStatus::Working => Icon::Busy,
        PeerStatus::Dnd => Icon::Failed,
        PeerStatus::Idle => Icon::Online,
    };
    let mut line = Line::new().icon(icon).foreign(Token::Accent, &row.display_name);
    let mark = match (peer.is_this_session, peer.no_session, peer.is_self) {
        (true, _, _) => " (this session)",
        (_, true, _) => " (no session)",
        (_, _, true) => " (your other session)",
        _ => "",
    };
    line = line.put(Token::Dim, mark);
    let role = row.profile.as_ref().and_then(|profile| profile.role.as_deref());
    let mut tags: Vec<String> = role.map(|role| format!("role:{role}")).into_iter().collect();
    tags.extend(row.groups.iter().map(|group| match &group.role {
        Some(role) => format!("@{}:{role}", group.name),
        None => format!("@{}", group.name),
    }));
    if !tags.is_empty() {
        line = line.foreign(Token::Plain, &format!(" [{}]", tags.join(", ")));
    }
    // What a session may not do stands where no narrow terminal cuts it off.
    if let Some(caps) = &row.allowed_caps {
        line = line.foreign(Token::Warn, &format!(" [caps:{}]", caps.join(",")));
    }
    // Of a member without a session only the daemon is there: its kind says nothing about the member.
    let kind: Vec<&str> = [&row.peer_type, &row.channel, &row.model]
        .into_iter()
        .filter(|_| !peer.no_session)
        .filter_map(|text| text.as_deref())
        .collect();
    if !kind.is_empty() {
        line = line.foreign(Token::Dim, &format!(" ({})", kind.join(", ")));
    }
    let key = if is_verbose { row.pubkey.to_hex() } else { format!("{}…", row.pubkey.short(16)) };
    line = line.put(Token::Dim, format!(" · {key}"));
    if !row.session_id.is_empty() && !peer.no_session {
        let session: String = row.session_id.chars().take(8).collect();
        line = line.foreign(Token::Dim, &format!(" · sid:{session}"));
    }
    let last_seen = row.last_seen_at.as_deref().and_then(Timestamp::parse_iso);
    if let Some(at) = last_seen.filter(|at| Context::now().since(*at) >= SILENT_AFTER) {
        line = line.put(Token::Warn, format!(" · silent for {}", Context::age_of(at)));
    }
    if let Some(summary) = row.summary.as_deref().filter(|summary| !summary.is_empty()) {
        line = line.foreign(Token::Plain, &format!("  — {summary}"));
    }
    screen.line(line.cut());
    if let Some(cwd) = row.cwd.as_deref().filter(|cwd| !cwd.is_empty()) {
        screen.line(Line::new().indent(5).put(Token::Dim, "cwd: ").foreign(Token::Dim, cwd).cut());
    }
    if role.is_none() && row.groups.is_empty() && !peer.no_session {
        screen.line(Line::new().indent(5).put(Token::Dim, "role: (none)  groups: (none)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;
    use crate::output::screen::WithHint;

    fn shown(last_seen: Duration) -> String {
        let entry: PeerEntry = serde_json::from_value(json!({
            "displayName": "Bob", "pubkey": "ab".repeat(32), "status": "idle", "groups": [],
            "sessionId": "00000000-0000-4000-8000-000000000001", "mesh": "home",
            "connectedAt": "2026-01-01T00:00:00.000Z", "peerRole": "session",
            "lastSeenAt": Context::now().minus(last_seen).to_iso(),
        }))
        .unwrap();
        let mut screen = Screen::new();
        row(&mut screen, &entry, false);
        screen.render(Style { colour: false, unicode: true, width: None }, WithHint::Yes)
    }

    #[test]
    fn a_peer_that_says_nothing_for_a_minute_is_marked() {
        assert!(!shown(Duration::from_secs(45)).contains("silent"));
        assert!(shown(Duration::from_secs(125)).contains(" · silent for 2m"));
        assert!(shown(Duration::from_hours(3)).contains(" · silent for 3h"));
    }
}
