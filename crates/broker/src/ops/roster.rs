//! Who is there, and who belongs here (wire spec §3.2).

use claudemesh_core::grants;
use claudemesh_core::presence::{Lease, Presence};
use claudemesh_protocol::limits::LISTED_FORMER_KEYS_MAX;
use claudemesh_protocol::permission::Grant;
use claudemesh_protocol::wire::{FormerKeyRow, ListPeers, MemberRow, PeerRow, Profile};
use claudemesh_protocol::{ErrorCode, Group, PublicKey, Timestamp};
use claudemesh_store::RosterEntry;
use serde_json::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Peer, Refusal, Reply};
use crate::live::{Entry, ListedMember, MeshState, View};

/// Bytes of one piece of a list, or a little more.
const PIECE_BYTES: usize = 14 * 1024;
/// Room in a piece for the row that passes that.
const ROW_ROOM_BYTES: usize = 2 * 1024;

/// `list_peers`: live and leased presences by connect time. Left out are hidden ones of other members, and members that
/// do not let the asker see them.
pub(super) fn list_peers(peer: &Peer, query: ListPeers, req_id: Option<&str>) -> Reply {
    let mut list = List::begin("peers_list", "peers");
    {
        let state = peer.mesh.lock();
        let mut shown: Vec<&Entry> =
            state.presences().filter(|entry| sees(peer, &state, entry)).collect();
        shown.sort_unstable_by(|left, right| {
            let order =
                |entry: &Entry| (entry.presence.connected_at, entry.presence.recipient_key());
            order(left).cmp(&order(right))
        });
        let others =
            if state.info.settings.show_paths { View::WholePath } else { View::LastSegment };
        let with_lease = query.debug == Some(true);
        list.rows(&shown, |out, entry| {
            let is_own = entry.presence.member_id == peer.member_id;
            let view = if is_own { View::Own } else { others };
            if with_lease {
                let lease = if entry.lease == Lease::Online { "online" } else { "offline" };
                let row = PeerRow {
                    lease: Some(lease.to_owned()),
                    last_seen_at: Some(entry.last_seen().to_iso()),
                    ..row(entry, view)
                };
                out.push_str(&serde_json::to_string(&row)?);
                return Ok(());
            }
            entry.listed.append_to(out, view, entry.last_seen(), || row(entry, view))
        })?;
    }
    list.say(peer, req_id);
    Ok(None)
}

/// An answer made of rows that are JSON already. It is made in pieces, so that memory holds of a long list what was not
/// written yet, and finds room for that where smaller things were.
struct List {
    done: Vec<Utf8Bytes>,
    text: String,
}

impl List {
    fn begin(word: &str, field: &str) -> Self {
        Self { done: Vec::new(), text: format!(r#"{{"type":"{word}","{field}":["#) }
    }

    fn rows<T>(
        &mut self,
        rows: &[T],
        mut append: impl FnMut(&mut String, &T) -> serde_json::Result<()>,
    ) -> Result<(), Refusal> {
        for (place, row) in rows.iter().enumerate() {
            if place > 0 {
                self.text.push(',');
            }
            if self.text.len() >= PIECE_BYTES {
                let next = String::with_capacity(PIECE_BYTES + ROW_ROOM_BYTES);
                self.done.push(std::mem::replace(&mut self.text, next).into());
            }
            append(&mut self.text, row).map_err(|error| {
                tracing::error!(%error, "cannot write a list as JSON");
                Refusal::new(ErrorCode::Internal, "the request failed at the broker")
            })?;
        }
        Ok(())
    }

    fn say(mut self, peer: &Peer, req_id: Option<&str>) {
        self.text.push(']');
        if let Some(req_id) = req_id {
            self.text.push_str(r#","_reqId":"#);
            self.text.push_str(&json!(req_id).to_string());
        }
        self.text.push('}');
        self.done.push(self.text.into());
        peer.connection.say_pieces(self.done.into_iter());
    }
}

/// True when the asker's lists show this presence.
pub(super) fn sees(peer: &Peer, state: &MeshState, entry: &Entry) -> bool {
    let presence = &entry.presence;
    presence.member_id == peer.member_id || (presence.is_visible && may_read(peer, state, presence))
}

fn may_read(peer: &Peer, state: &MeshState, presence: &Presence) -> bool {
    state.member(&presence.member_id).is_some_and(|entry| {
        grants::allows(&entry.member.grants, peer.member_key, peer.session_key, Grant::Read)
    })
}

/// What a presence says, without lease and last proof of life.
fn row(entry: &Entry, view: View) -> PeerRow {
    let presence = &entry.presence;
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
        cwd: Some(match view {
            View::Own | View::WholePath => client.cwd.clone(),
            View::LastSegment => last_segment(&client.cwd).to_owned(),
        }),
        peer_role: Some(presence.role.as_str().to_owned()),
        hostname: client.hostname.clone(),
        peer_type: client.peer_type.clone(),
        channel: client.channel.clone(),
        model: client.model.clone(),
        stats: presence.stats,
        visible: (view == View::Own).then_some(presence.is_visible),
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
        lease: None,
        last_seen_at: None,
    }
}

/// The last part of a path of either kind of machine.
fn last_segment(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default()
}

/// `list_members`: the roster, by join time.
pub(super) fn list_members(peer: &Peer, req_id: Option<&str>) -> Reply {
    let mut list = List::begin("members_list", "members");
    let now = peer.broker.now();
    {
        let state = peer.mesh.lock();
        let mut members: Vec<(Timestamp, PublicKey, &RosterEntry, &ListedMember)> = state
            .listed_roster()
            .filter_map(|(entry, listed)| {
                Some((entry.member.joined_at, entry.member.pubkey?, entry, listed))
            })
            .collect();
        members.sort_unstable_by_key(|(joined_at, pubkey, ..)| (*joined_at, *pubkey));
        list.rows(&members, |out, (_, pubkey, entry, listed)| {
            let member = &entry.member;
            let online = state.of_member(&member.id).any(|entry| !entry.presence.is_transient());
            listed.append_to(out, online, || MemberRow {
                member_id: member.id.clone(),
                pubkey: *pubkey,
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
                former_keys: former_keys(entry, now),
            })
        })?;
    }
    list.say(peer, req_id);
    Ok(None)
}

/// The member's keys of the last days, as far back as each change is proved by the key that came after.
fn former_keys(entry: &RosterEntry, now: Timestamp) -> Vec<FormerKeyRow> {
    let newest_first = entry.former_keys.iter().rev();
    newest_first
        .take_while(|former| now < former.valid_until)
        .map_while(|former| Some((former.key, former.proof?)))
        .take(LISTED_FORMER_KEYS_MAX)
        .map(|(pubkey, proof)| FormerKeyRow {
            pubkey,
            timestamp: proof.signed_at.as_millis(),
            signature_old: proof.by_old,
            signature_new: proof.by_new,
        })
        .collect()
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
