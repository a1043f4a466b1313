//! Who is there, and who belongs here (wire spec §3.2).

use claudemesh_core::grants;
use claudemesh_core::presence::{Lease, Presence};
use claudemesh_protocol::permission::Grant;
use claudemesh_protocol::wire::{
    ListPeers, MemberRow, MembersList, PeerRow, PeersList, Profile, ServerFrame,
};
use claudemesh_protocol::{Group, PublicKey, Timestamp};
use claudemesh_store::RosterEntry;

use super::Peer;
use crate::live::{Entry, MeshState};

/// `list_peers`: live and leased presences by connect time. Left out are hidden ones of other members, and members that
/// do not let the asker see them.
pub(super) fn list_peers(peer: &Peer, query: ListPeers, req_id: Option<String>) -> ServerFrame {
    let state = peer.mesh.lock();
    let mut shown: Vec<&Entry> = state
        .presences()
        .filter(|entry| {
            let presence = &entry.presence;
            presence.member_id == peer.member_id
                || (presence.is_visible && may_read(peer, &state, presence))
        })
        .collect();
    shown.sort_unstable_by(|left, right| {
        let order = |entry: &Entry| (entry.presence.connected_at, entry.presence.recipient_key());
        order(left).cmp(&order(right))
    });
    let with_lease = query.debug == Some(true);
    let peers = shown.into_iter().map(|entry| row(peer, &state, entry, with_lease)).collect();
    PeersList { peers, req_id }.into()
}

fn may_read(peer: &Peer, state: &MeshState, presence: &Presence) -> bool {
    state.member(&presence.member_id).is_some_and(|entry| {
        grants::allows(&entry.member.grants, peer.member_key, peer.session_key, Grant::Read)
    })
}

fn row(peer: &Peer, state: &MeshState, entry: &Entry, with_lease: bool) -> PeerRow {
    let presence = &entry.presence;
    let is_own = presence.member_id == peer.member_id;
    let client = &presence.client;
    let is_plain_profile = presence.profile == Profile::default();
    PeerRow {
        pubkey: presence.recipient_key(),
        member_pubkey: Some(presence.member_key),
        display_name: presence.display_name.clone(),
        status: presence.status.status,
        summary: presence.summary.clone(),
        groups: presence.groups.clone(),
        session_id: client.session_id.clone(),
        connected_at: presence.connected_at.to_iso(),
        cwd: Some(if is_own || state.info.settings.show_paths {
            client.cwd.clone()
        } else {
            last_segment(&client.cwd).to_owned()
        }),
        peer_role: Some(presence.role.as_str().to_owned()),
        hostname: client.hostname.clone(),
        peer_type: client.peer_type.clone(),
        channel: client.channel.clone(),
        model: client.model.clone(),
        stats: presence.stats,
        visible: is_own.then_some(presence.is_visible),
        profile: (!is_plain_profile).then(|| presence.profile.clone()),
        presence_id: Some(presence.id.clone()),
        member_id: Some(presence.member_id.clone()),
        attestation: presence.attestation.clone(),
        capabilities: Some(client.capabilities.clone()),
        allowed_caps: presence
            .session_caps
            .map(|caps| caps.iter().map(|capability| capability.as_str().to_owned()).collect()),
        status_source: Some(presence.status.source),
        status_updated_at: Some(presence.status.updated_at.to_iso()),
        lease: with_lease
            .then(|| if entry.lease == Lease::Online { "online" } else { "offline" }.to_owned()),
        last_seen_at: Some(entry.last_seen().to_iso()),
    }
}

/// The last part of a path of either kind of machine.
fn last_segment(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default()
}

/// `list_members`: the roster, by join time.
pub(super) fn list_members(peer: &Peer, req_id: Option<String>) -> ServerFrame {
    let state = peer.mesh.lock();
    let mut members: Vec<(Timestamp, PublicKey, MemberRow)> = state
        .roster()
        .filter_map(|entry| {
            let member = &entry.member;
            let pubkey = member.pubkey?;
            let online = state.of_member(&member.id).any(|entry| !entry.presence.is_transient());
            let row = MemberRow {
                member_id: member.id.clone(),
                pubkey,
                display_name: member.display_name.clone(),
                role: member.role,
                role_tag: member.role_tag.clone(),
                groups: if online {
                    member.default_groups.clone()
                } else {
                    groups_when_absent(entry)
                },
                joined_at: member.joined_at.to_iso(),
                last_seen_at: member.last_seen_at.map(Timestamp::to_iso),
                online,
            };
            Some((member.joined_at, pubkey, row))
        })
        .collect();
    members.sort_unstable_by_key(|(joined_at, pubkey, _)| (*joined_at, *pubkey));
    let members = members.into_iter().map(|(_, _, row)| row).collect();
    MembersList { members, req_id }.into()
}

/// Every group by which a message may find the member while it is away, so that whoever writes to one of them wraps a key
/// for it: those it was last in, and its defaults, which count while nothing else is known (broker spec §3.2).
fn groups_when_absent(entry: &RosterEntry) -> Vec<Group> {
    let mut groups = entry.member.default_groups.clone();
    for last in entry.last_groups.iter().flatten() {
        if !groups.iter().any(|group| group.name == last.name) {
            groups.push(last.clone());
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_members_see_the_last_segment_of_a_path() {
        assert_eq!(last_segment("/home/a/project"), "project");
        assert_eq!(last_segment("/home/a/project/"), "project");
        assert_eq!(last_segment(r"C:\work\app"), "app");
        assert_eq!(last_segment(""), "");
        assert_eq!(last_segment("/"), "");
    }
}
