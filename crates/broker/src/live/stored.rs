//! Presences to and from their rows in the store.

use std::collections::{BTreeMap, HashSet, VecDeque};

use claudemesh_core::presence::{ClientInfo, Handshake, Lease, Presence};
use claudemesh_core::stats;
use claudemesh_core::status::StatusRecord;
use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::wire::{Profile, SetProfile, Stats};
use claudemesh_protocol::{MeshId, PeerRole, PublicKey, Timestamp};
use claudemesh_store::{PeerState, PresenceRow, PresenceState};

use super::Entry;
use super::listed::ListedPresence;

/// What the presence tells about itself.
pub(crate) fn state_of(presence: &Presence) -> PresenceState {
    PresenceState {
        status: presence.status.status,
        status_source: presence.status.source,
        status_updated_at: presence.status.updated_at,
        summary: presence.summary.clone(),
        groups: presence.groups.clone(),
        is_visible: presence.is_visible,
        profile: profile_to_keep(presence),
        stats: presence.stats,
    }
}

fn profile_to_keep(presence: &Presence) -> SetProfile {
    let profile = presence.profile.clone();
    SetProfile {
        avatar: profile.avatar,
        title: profile.title,
        bio: profile.bio,
        capabilities: profile.capabilities,
        role: profile.role,
    }
}

pub(super) fn row_of(
    presence: &Presence,
    mesh_id: &MeshId,
    node_id: &str,
    now: Timestamp,
) -> PresenceRow {
    PresenceRow {
        id: presence.id.clone(),
        mesh_id: mesh_id.clone(),
        member_id: presence.member_id.clone(),
        session_id: presence.client.session_id.clone(),
        session_pubkey: presence.session_key,
        display_name: presence.display_name.clone(),
        role: presence.role,
        pid: presence.client.pid,
        cwd: Some(presence.client.cwd.clone()),
        hostname: presence.client.hostname.clone(),
        host_fingerprint: presence.client.host_fingerprint.clone(),
        peer_type: presence.client.peer_type.clone(),
        channel: presence.client.channel.clone(),
        model: presence.client.model.clone(),
        capabilities: presence.client.capabilities.clone(),
        attestation: presence.attestation.as_ref().and_then(attestation_text),
        state: state_of(presence),
        node_id: node_id.to_owned(),
        connected_at: presence.connected_at,
        last_ping_at: now,
        lease_until: None,
    }
}

pub(super) fn attestation_text(attestation: &ParentAttestation) -> Option<String> {
    serde_json::to_string(attestation).ok()
}

/// A presence of the previous run, waiting for its client.
pub(super) fn leased_entry(
    row: PresenceRow,
    member_key: PublicKey,
    saved: Option<PeerState>,
) -> Entry {
    let attestation: Option<ParentAttestation> =
        row.attestation.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let handshake =
        if row.role == PeerRole::Session { Handshake::Session } else { Handshake::Member };
    let lease = Lease::Until(row.lease_until.unwrap_or(row.last_ping_at));
    let presence = Presence {
        id: row.id,
        member_id: row.member_id,
        member_key,
        session_key: row.session_pubkey,
        handshake,
        role: row.role,
        display_name: row.display_name,
        client: ClientInfo {
            session_id: row.session_id,
            pid: row.pid,
            cwd: row.cwd.unwrap_or_default(),
            hostname: row.hostname,
            host_fingerprint: row.host_fingerprint,
            peer_type: row.peer_type,
            channel: row.channel,
            model: row.model,
            capabilities: row.capabilities,
        },
        status: StatusRecord {
            status: row.state.status,
            source: row.state.status_source,
            updated_at: row.state.status_updated_at,
        },
        summary: row.state.summary,
        groups: row.state.groups,
        is_visible: row.state.is_visible,
        profile: profile_of(row.state.profile),
        stats: row.state.stats,
        session_caps: match handshake {
            Handshake::Session => attestation.as_ref().and_then(|one| one.allowed_caps),
            Handshake::Member => None,
        },
        attestation,
        connected_at: row.connected_at,
    };
    Entry {
        presence,
        lease,
        connection: None,
        lost_seen_at: row.last_ping_at,
        hello_timestamp: Timestamp::ZERO,
        is_unsaved: false,
        unacked: VecDeque::new(),
        owed: BTreeMap::new(),
        is_copying: false,
        known_senders: HashSet::new(),
        is_pulling: false,
        pulled_at: None,
        earlier_stats: saved.map(|saved| saved.stats).unwrap_or_default(),
        listed: ListedPresence::default(),
    }
}

pub(super) fn profile_of(saved: SetProfile) -> Profile {
    Profile {
        role: saved.role,
        title: saved.title,
        bio: saved.bio,
        avatar: saved.avatar,
        capabilities: saved.capabilities,
    }
}

/// What a presence itself has counted.
pub(super) fn counted_by(entry: &Entry) -> Stats {
    stats::counted(entry.earlier_stats, entry.presence.stats.unwrap_or_default())
}

/// What to keep of a presence for the return of its member or session; the counters are those of earlier connections.
pub(super) fn peer_state_of(entry: &Entry, mesh_id: &MeshId, now: Timestamp) -> Option<PeerState> {
    let presence = &entry.presence;
    if presence.is_transient() {
        return None;
    }
    Some(PeerState {
        mesh_id: mesh_id.clone(),
        member_id: presence.member_id.clone(),
        session_pubkey: match presence.handshake {
            Handshake::Member => None,
            Handshake::Session => presence.session_key,
        },
        groups: presence.groups.clone(),
        profile: profile_to_keep(presence),
        is_visible: presence.is_visible,
        last_summary: presence.summary.clone(),
        last_display_name: Some(presence.display_name.clone()),
        stats: entry.earlier_stats,
        last_seen_at: now,
    })
}
