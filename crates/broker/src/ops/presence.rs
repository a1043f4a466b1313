//! What a presence tells about itself: status, summary, visibility, profile, counters (wire spec §3.2).

use std::time::Duration;

use claudemesh_core::presence::Presence;
use claudemesh_core::status::StatusChange;
use claudemesh_protocol::limits::{
    AVATAR_MAX_CHARS, BIO_MAX_CHARS, PROFILE_CAPABILITIES_MAX, PROFILE_WORD_MAX_CHARS,
    SUMMARY_MAX_CHARS, TITLE_MAX_CHARS,
};
use claudemesh_protocol::wire::{Ack, SetProfile, SetStats, SetStatus, SetSummary, SetVisible};
use claudemesh_protocol::{ErrorCode, StatusSource};
use serde_json::json;

use super::{Peer, Refusal, Reply};
use crate::delivery;
use crate::live::{Subject, peer_event, save_states, state_of};

/// Changes what the own presence says about itself, first in the store, then in memory: what is acknowledged survives,
/// and what could not be written is not seen by anybody.
///
/// Frames of a connection are handled one by one, so nobody else changes the same words meanwhile; statuses do change,
/// and are left alone.
pub(super) async fn change(
    peer: &Peer,
    apply: impl FnOnce(&mut Presence) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let changed = {
        let mut state = peer.mesh.lock();
        let mut presence = peer.own(&mut state)?.presence.clone();
        apply(&mut presence)?;
        presence
    };
    let saved = vec![(peer.presence_id.clone(), state_of(&changed))];
    peer.broker.store().save_presence_states(saved).await?;
    let mut state = peer.mesh.lock();
    let entry = peer.own(&mut state)?;
    let now = &mut entry.presence;
    now.summary = changed.summary;
    now.groups = changed.groups;
    now.is_visible = changed.is_visible;
    now.profile = changed.profile;
    entry.is_unsaved |= entry.presence.status != changed.status;
    Ok(())
}

/// `set_status`. Inferred statuses are a daemon's business.
pub(super) async fn set_status(peer: &Peer, set: SetStatus) -> Reply {
    let source = set.source.unwrap_or(StatusSource::Manual);
    let now = peer.broker.now();
    let window = Duration::from_secs(peer.broker.limits().hook_fresh_window_seconds);
    let saved = {
        let mut state = peer.mesh.lock();
        let entry = peer.own(&mut state)?;
        if source == StatusSource::Jsonl && !entry.presence.acknowledges() {
            return Err(Refusal::new(
                ErrorCode::InvalidArgs,
                "only a daemon reports inferred statuses",
            ));
        }
        let change = entry.presence.status.report(set.status, source, now, window);
        entry.is_unsaved |= change == StatusChange::Refreshed;
        (change == StatusChange::Changed).then(|| state_of(&entry.presence))
    };
    if let Some(saved) = saved {
        delivery::wake_presence(&peer.broker, &peer.mesh, &peer.presence_id);
        save_states(&peer.broker, vec![(peer.presence_id.clone(), saved)]).await;
    }
    Ok(None)
}

/// `set_summary`; empty clears it.
pub(super) async fn set_summary(peer: &Peer, set: SetSummary) -> Reply {
    let summary = set.summary.trim();
    within("summary", summary, SUMMARY_MAX_CHARS)?;
    change(peer, |presence| {
        presence.summary = (!summary.is_empty()).then(|| summary.to_owned());
        Ok(())
    })
    .await?;
    Ok(None)
}

/// `set_visible`; others are told when it changed.
pub(super) async fn set_visible(peer: &Peer, set: SetVisible, req_id: Option<String>) -> Reply {
    let mut has_changed = false;
    change(peer, |presence| {
        has_changed = presence.is_visible != set.visible;
        presence.is_visible = set.visible;
        Ok(())
    })
    .await?;
    if has_changed {
        let mut state = peer.mesh.lock();
        let subject = Subject::of(&peer.own(&mut state)?.presence);
        let event = if set.visible { "peer_visible" } else { "peer_hidden" };
        let push = peer_event(&peer.mesh.id, event, &subject, json!({}), peer.broker.now());
        state.announce(push, |other| other.id != peer.presence_id);
    }
    if set.visible {
        delivery::wake_presence(&peer.broker, &peer.mesh, &peer.presence_id);
    }
    Ok(Some(success(req_id).into()))
}

/// `set_profile` merges what is given.
pub(super) async fn set_profile(peer: &Peer, set: SetProfile, req_id: Option<String>) -> Reply {
    let texts = [
        ("avatar", &set.avatar, AVATAR_MAX_CHARS),
        ("title", &set.title, TITLE_MAX_CHARS),
        ("bio", &set.bio, BIO_MAX_CHARS),
        ("role", &set.role, PROFILE_WORD_MAX_CHARS),
    ];
    for (field, text, max) in texts {
        within(field, text.as_deref().unwrap_or_default(), max)?;
    }
    let capabilities = set.capabilities.as_deref().unwrap_or_default();
    if capabilities.len() > PROFILE_CAPABILITIES_MAX {
        return Err(too_large("capabilities", PROFILE_CAPABILITIES_MAX, "entries"));
    }
    for word in capabilities {
        within("capabilities", word, PROFILE_WORD_MAX_CHARS)?;
    }
    change(peer, |presence| {
        let profile = &mut presence.profile;
        profile.avatar = set.avatar.or_else(|| profile.avatar.take());
        profile.title = set.title.or_else(|| profile.title.take());
        profile.bio = set.bio.or_else(|| profile.bio.take());
        profile.role = set.role.or_else(|| profile.role.take());
        profile.capabilities = set.capabilities.or_else(|| profile.capabilities.take());
        Ok(())
    })
    .await?;
    Ok(Some(success(req_id).into()))
}

/// `set_stats` replaces the counters of this connection; the next sweep writes them.
pub(super) fn set_stats(peer: &Peer, set: &SetStats) -> Reply {
    let mut state = peer.mesh.lock();
    let entry = peer.own(&mut state)?;
    entry.presence.stats = Some(set.stats);
    entry.is_unsaved = true;
    drop(state);
    Ok(None)
}

/// `set_visible` and `set_profile` are acknowledged with or without a request id (wire spec §1.4).
fn success(req_id: Option<String>) -> Ack {
    Ack { id: req_id.clone().unwrap_or_default(), req_id, ..Ack::default() }
}

fn within(field: &str, text: &str, max_chars: usize) -> Result<(), Refusal> {
    if text.chars().count() > max_chars {
        return Err(too_large(field, max_chars, "characters"));
    }
    Ok(())
}

fn too_large(field: &str, max: usize, unit: &str) -> Refusal {
    Refusal::new(ErrorCode::TooLarge, format!("{field} has at most {max} {unit}"))
}
