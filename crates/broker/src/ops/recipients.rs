//! Who receives a send, by target, grants, encryption policy and backlog (broker spec §3.1 steps 6 to 9, §3.2).

use std::collections::HashMap;
use std::sync::Arc;

use claudemesh_core::grants;
use claudemesh_core::presence::Presence;
use claudemesh_core::target::{self, Audience, Direct, KeyFact, PresentPeer, Reach};
use claudemesh_protocol::permission::Grant;
use claudemesh_protocol::status::GroupEncryption;
use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::wire::{Send, WrappedKey};
use claudemesh_protocol::{ErrorCode, MemberId, PublicKey};
use claudemesh_store::{RecipientKind, SessionKeySeen};

use super::send::Checked;
use super::{Peer, Refusal};
use crate::live::MeshState;

pub(super) fn not_found() -> Refusal {
    Refusal::new(
        ErrorCode::TargetNotFound,
        "invalid target: nobody of that name or key is known here",
    )
}

/// A delivery before its route is decided.
pub(super) struct Recipient {
    pub(super) key: PublicKey,
    pub(super) member_id: MemberId,
    pub(super) kind: RecipientKind,
    /// As JSON, as it is stored and pushed.
    pub(super) wrapped_key: Option<Arc<str>>,
    pub(super) rerouted_from: Option<PublicKey>,
    pub(super) is_absent: bool,
}

/// What the recipients of a send come to.
#[derive(Default)]
pub(super) struct Resolved {
    pub(super) recipients: Vec<Recipient>,
    pub(super) recipient_online: Option<bool>,
    pub(super) rerouted_to: Option<PublicKey>,
    pub(super) skipped_no_key: Option<usize>,
    pub(super) unreadable_by: Option<Vec<MemberId>>,
}

fn grants_to_sender(peer: &Peer, state: &MeshState, recipient: &MemberId, grant: Grant) -> bool {
    recipient == &peer.member_id
        || state.member(recipient).is_some_and(|entry| {
            grants::allows(&entry.member.grants, peer.member_key, peer.session_key, grant)
        })
}

pub(super) fn direct(
    peer: &Peer,
    state: &MeshState,
    key: PublicKey,
    ended: Option<&SessionKeySeen>,
) -> Result<Resolved, Refusal> {
    let is_sender_alone = |member: &MemberId| {
        member == &peer.member_id
            && !state.of_member(member).any(|entry| entry.presence.id != peer.presence_id)
    };
    let fact = if let Some(entry) = state.session(key) {
        KeyFact::Session {
            member: &entry.presence.member_id,
            is_sender: entry.presence.id == peer.presence_id,
        }
    } else if let Some(entry) = state.member_by_key(key) {
        let member = &entry.member.id;
        KeyFact::Member { member, is_sender_alone: is_sender_alone(member) }
    } else if let Some((member, member_key)) = state
        .member_in_grace(key, peer.broker.now())
        .and_then(|entry| Some((&entry.member.id, entry.member.pubkey?)))
    {
        // Its key has changed since; what is written to the old one reaches it for a while.
        let is_sender_alone = is_sender_alone(member);
        KeyFact::EndedSession { member, member_key, is_sender_alone }
    } else {
        ended
            .and_then(|seen| {
                let member = &state.member(&seen.member_id)?.member;
                Some(KeyFact::EndedSession {
                    member: &member.id,
                    member_key: member.pubkey?,
                    is_sender_alone: is_sender_alone(&member.id),
                })
            })
            .unwrap_or(KeyFact::Unknown)
    };
    let direct = target::direct(fact).ok_or_else(not_found)?;
    let (member, row_key, kind, rerouted_to) = match direct {
        Direct::Session(member) => (member, key, RecipientKind::Session, None),
        Direct::Member(member) => (member, key, RecipientKind::Member, None),
        Direct::Rerouted { member, to } => (member, to, RecipientKind::Member, Some(to)),
    };
    if !grants_to_sender(peer, state, member, Grant::Dm) {
        return Err(Refusal::new(
            ErrorCode::Forbidden,
            "blocked by recipient grants (sender lacks dm capability)",
        ));
    }
    let is_here = |presence: &Presence| !presence.is_transient() && presence.id != peer.presence_id;
    let is_online = kind == RecipientKind::Session
        || state.of_member(member).any(|entry| is_here(&entry.presence));
    Ok(Resolved {
        recipients: vec![Recipient {
            key: row_key,
            member_id: member.clone(),
            kind,
            wrapped_key: None,
            rerouted_from: rerouted_to.map(|_| key),
            is_absent: !is_online,
        }],
        recipient_online: Some(is_online),
        rerouted_to,
        ..Resolved::default()
    })
}

pub(super) fn multicast(
    peer: &Peer,
    state: &MeshState,
    reach: Reach<'_>,
    send: &Send,
    checked: &Checked,
) -> Result<Resolved, Refusal> {
    let is_encrypted = checked.body_version == 2;
    if !is_encrypted && state.info.settings.group_encryption == GroupEncryption::Required {
        return Err(Refusal::new(
            ErrorCode::EncryptionRequired,
            "forbidden plaintext: broadcast and group messages of this mesh must be encrypted",
        ));
    }
    let Audience { present, absent } = audience_of(peer, state, reach);
    let mut resolved = Resolved::default();
    let (mut skipped, now) = (0, peer.broker.now());
    let mut keys: HashMap<PublicKey, &WrappedKey> = HashMap::new();
    for key in send.wrapped_keys.iter().flatten() {
        // Of several for one member the first counts.
        keys.entry(key.to).or_insert(key);
    }
    let everyone = present
        .iter()
        .map(|receiver| (receiver, false))
        .chain(absent.iter().map(|receiver| (receiver, true)));
    for (receiver, is_absent) in everyone {
        if !grants_to_sender(peer, state, receiver.member, Grant::Broadcast) {
            continue;
        }
        let Some((entry, member_key)) =
            state.member(receiver.member).and_then(|entry| Some((entry, entry.member.pubkey?)))
        else {
            continue;
        };
        let wrapped_key = if is_encrypted {
            // Sealed for a key that has changed since: its member opens it for a while.
            let for_former = || {
                let former = entry.former_keys.iter().rev();
                former
                    .filter(|former| now < former.valid_until)
                    .find_map(|former| keys.get(&former.key))
            };
            let key = keys.get(&member_key).or_else(for_former);
            let Some(key) = key.and_then(|key| serde_json::to_string(key).ok()) else {
                skipped += 1;
                continue;
            };
            Some(key.into())
        } else {
            None
        };
        let kind =
            if receiver.key == member_key { RecipientKind::Member } else { RecipientKind::Session };
        resolved.recipients.push(Recipient {
            key: receiver.key,
            member_id: receiver.member.clone(),
            kind,
            wrapped_key,
            rerouted_from: None,
            is_absent,
        });
    }
    if is_encrypted {
        resolved.skipped_no_key = (skipped > 0).then_some(skipped);
        resolved.unreadable_by =
            Some(unreadable_by(state, &resolved.recipients)).filter(|members| !members.is_empty());
    }
    Ok(resolved)
}

fn audience_of<'a>(peer: &Peer, state: &'a MeshState, reach: Reach<'_>) -> Audience<'a> {
    let present = state.presences().map(|entry| PresentPeer {
        member: &entry.presence.member_id,
        key: entry.presence.recipient_key(),
        groups: &entry.presence.groups,
        is_visible: entry.presence.is_visible,
        is_transient: entry.presence.is_transient(),
    });
    let roster = state.roster().filter_map(|entry| {
        Some(target::RosterEntry {
            id: &entry.member.id,
            key: entry.member.pubkey?,
            groups: entry.last_groups.as_deref().unwrap_or(&entry.member.default_groups),
        })
    });
    target::audience(reach, &peer.member_id, present, roster)
}

/// Members among the recipients with a connected client that cannot open group bodies.
fn unreadable_by(state: &MeshState, recipients: &[Recipient]) -> Vec<MemberId> {
    let mut members: Vec<MemberId> = recipients
        .iter()
        .filter(|recipient| {
            state
                .receivers(recipient.key)
                .any(|entry| !entry.presence.client.has(capability::GROUP_E2E))
        })
        .map(|recipient| recipient.member_id.clone())
        .collect();
    members.sort_unstable_by(|left, right| left.as_str().cmp(right.as_str()));
    members.dedup();
    members
}

/// Step 9.
pub(super) fn within_backlog(
    peer: &Peer,
    state: &MeshState,
    mut resolved: Resolved,
    is_direct: bool,
) -> Result<Resolved, Refusal> {
    let limits = peer.broker.limits();
    let rows = resolved.recipients.len() as u64;
    let queue_full = |text: &str| Refusal::new(ErrorCode::QueueFull, text);
    if state.open_total() + rows > limits.backlog_per_mesh {
        return Err(queue_full("too many undelivered messages wait in this mesh; try again later"));
    }
    let is_over = |member: &MemberId| state.open_rows(member) >= limits.backlog_per_member;
    if is_direct {
        if resolved.recipients.iter().any(|recipient| is_over(&recipient.member_id)) {
            return Err(queue_full(
                "the recipient has too many undelivered messages; try again later",
            ));
        }
    } else {
        resolved.recipients.retain(|recipient| !is_over(&recipient.member_id));
    }
    Ok(resolved)
}
