//! Ending connections of others: for good (`kick`) or until they come back by themselves (`disconnect`)
//! (broker spec §4.25, wire spec §3.22).

use std::time::Duration;

use claudemesh_core::presence::Presence;
use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::wire::{Disconnect, DisconnectAck, Kick, KickAck};
use claudemesh_protocol::{ErrorCode, MemberId, PeerRole, PresenceId, Timestamp};
use claudemesh_store::AuditPayload;

use super::selector::{self, Named};
use super::{Done, Peer, Refusal, Trace};
use crate::live::{self, Close, Entry, MeshState};

/// What to do about a daemon.
const CONTROL_PLANE_HINT: &str =
    "a daemon would connect again at once: remove its member with ban, or use disconnect";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Kick,
    Disconnect,
}

/// Exactly one way of choosing.
enum Selector {
    Target(String),
    /// Silent since before this time.
    Stale(Timestamp),
    All,
}

/// `kick`: control-plane connections are left alone.
pub(super) async fn kick(peer: &Peer, kick: Kick, req_id: Option<String>) -> Result<Done, Refusal> {
    let (ack, audit) = end(peer, kick, Mode::Kick).await?;
    Ok(Done { frame: Some(KickAck { req_id, ..ack }.into()), audit })
}

/// `disconnect`: control-plane connections too.
pub(super) async fn disconnect(
    peer: &Peer,
    disconnect: Disconnect,
    req_id: Option<String>,
) -> Result<Done, Refusal> {
    let (ack, audit) = end(peer, disconnect.0, Mode::Disconnect).await?;
    Ok(Done { frame: Some(DisconnectAck(KickAck { req_id, ..ack }).into()), audit })
}

async fn end(peer: &Peer, kick: Kick, mode: Mode) -> Result<(KickAck, Option<Trace>), Refusal> {
    let selector = Selector::read(peer, kick)?;
    let close = match (mode, &selector) {
        (Mode::Kick, Selector::Stale(_)) => Close::KICKED_STALE,
        (Mode::Kick, _) => Close::KICKED,
        (Mode::Disconnect, Selector::Stale(_)) => Close::DISCONNECTED_STALE,
        (Mode::Disconnect, _) => Close::DISCONNECTED,
    };
    let (chosen, departed) = {
        let mut state = peer.mesh.lock();
        peer.own(&mut state)?;
        let chosen = choose(peer, &state, &selector, mode)?;
        let departed = live::remove_all(&peer.broker, &peer.mesh, &mut state, &chosen.ids, close);
        (chosen, departed)
    };
    live::settle_all(&peer.broker, &peer.mesh, departed).await;
    let audit = trace(mode, &chosen);
    let is_nobody = chosen.ids.is_empty() && !chosen.skipped.is_empty();
    let ack = KickAck {
        affected: chosen.names.clone(),
        kicked: chosen.names,
        skipped_control_plane: chosen.skipped,
        hint: is_nobody.then(|| CONTROL_PLANE_HINT.to_owned()),
        req_id: None,
    };
    Ok((ack, audit))
}

impl Selector {
    fn read(peer: &Peer, kick: Kick) -> Result<Self, Refusal> {
        let invalid = |text: &str| Refusal::new(ErrorCode::Invalid, text);
        match (kick.target, kick.stale, kick.all.unwrap_or(false)) {
            (Some(target), None, false) => match target.trim() {
                "" => Err(invalid("the target is empty")),
                target => Ok(Self::Target(target.to_owned())),
            },
            (None, Some(millis), false) => {
                Ok(Self::Stale(peer.broker.now().minus(Duration::from_millis(millis))))
            }
            (None, None, true) => Ok(Self::All),
            _ => Err(invalid("give exactly one of target, stale and all")),
        }
    }
}

/// Who is ended and who is left alone.
#[derive(Default)]
struct Chosen {
    ids: Vec<PresenceId>,
    names: Vec<String>,
    skipped: Vec<String>,
    members: Vec<MemberId>,
}

fn choose(
    peer: &Peer,
    state: &MeshState,
    selector: &Selector,
    mode: Mode,
) -> Result<Chosen, Refusal> {
    let mut matched: Vec<&Entry> = match selector {
        Selector::Target(text) => matching(state, text)?,
        Selector::Stale(before) => {
            state.presences().filter(|entry| entry.last_seen() < *before).collect()
        }
        Selector::All => state.presences().collect(),
    };
    let has_matched = !matched.is_empty();
    matched.retain(|entry| entry.presence.id != peer.presence_id);
    if matched.is_empty() {
        return Err(match selector {
            Selector::Target(_) if has_matched => {
                Refusal::new(ErrorCode::Invalid, "this is your own connection")
            }
            Selector::Target(_) => selector::not_found("peer"),
            Selector::Stale(_) | Selector::All => selector::not_found("another peer"),
        });
    }
    let is_everybody_protected =
        matched.iter().all(|entry| selector::is_protected(peer, state, &entry.presence));
    if is_everybody_protected && matches!(selector, Selector::Target(_)) {
        let what = if mode == Mode::Kick { "kicked" } else { "disconnected" };
        return Err(selector::protected(what));
    }
    matched.retain(|entry| !selector::is_protected(peer, state, &entry.presence));
    matched.sort_unstable_by(|left, right| {
        let order = |one: &Presence| (one.connected_at, one.recipient_key());
        order(&left.presence).cmp(&order(&right.presence))
    });
    let mut chosen = Chosen::default();
    for Entry { presence, .. } in matched {
        let name = presence.display_name.clone();
        if mode == Mode::Kick && presence.role == PeerRole::ControlPlane {
            push_new(&mut chosen.skipped, name);
            continue;
        }
        chosen.ids.push(presence.id.clone());
        push_new(&mut chosen.names, name);
        push_new(&mut chosen.members, presence.member_id.clone());
    }
    Ok(chosen)
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, one: T) {
    if !list.contains(&one) {
        list.push(one);
    }
}

/// Presences of the member or session that `text` names.
fn matching<'a>(state: &'a MeshState, text: &str) -> Result<Vec<&'a Entry>, Refusal> {
    let named_member = selector::member_by_name(state, text);
    let by_name: Vec<&Entry> = state
        .presences()
        .filter(|entry| {
            let presence = &entry.presence;
            presence.display_name == text || Some(&presence.member_id) == named_member.as_ref()
        })
        .collect();
    if !by_name.is_empty() {
        return Ok(by_name);
    }
    Ok(match selector::by_key(state, text)? {
        None => Vec::new(),
        Some(Named::Member(member)) => state.of_member(&member).collect(),
        Some(Named::Session(id)) => state.presence(&id).into_iter().collect(),
    })
}

/// Only who was really ended leaves a trace.
fn trace(mode: Mode, chosen: &Chosen) -> Option<Trace> {
    let members: Vec<&str> = chosen.members.iter().map(MemberId::as_str).collect();
    let action = if mode == Mode::Kick { "kick" } else { "disconnect" };
    (!chosen.ids.is_empty()).then(|| Trace {
        event: AuditEvent::MemberKicked,
        payload: AuditPayload::new()
            .with("action", action)
            .with("names", chosen.names.clone())
            .with("memberIds", members),
    })
}
