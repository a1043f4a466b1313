//! Who is in the mesh and who is there, as far as this daemon knows: a snapshot that readers share and never wait for
//! (daemon spec §7.5).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::wire::{MemberRow, PeerRow};
use claudemesh_protocol::{GroupName, PeerRole, PublicKey, Timestamp};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::identity::{FormerKey, FormerKeys};

/// One snapshot of presences and members.
#[derive(Debug, Clone, Default)]
pub(crate) struct RosterView {
    /// Presences, as `peers_list` gave them.
    pub peers: Vec<PeerRow>,
    /// Connections that come to send something and go again (`transient`): nobody is there, but what they say is proved
    /// by their rows.
    pub passing: Vec<PeerRow>,
    /// Members, absent ones included.
    pub members: Vec<MemberRow>,
    /// When it was fetched; `None` before the first answer.
    pub fetched_at: Option<Instant>,
    /// When it was asked for: what happened before then is in it.
    pub asked_at: Option<Timestamp>,
    /// Members behind sessions that were here and may be gone: what is said about their messages still counts.
    pub former: Arc<BTreeMap<PublicKey, PublicKey>>,
    /// Keys that members had before: what they sent under these is still theirs.
    pub rotated: FormerKeys,
}

/// Who is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Peers {
    /// Presences.
    pub peers: Vec<PeerRow>,
    /// One row for each other member who is reachable without a session: only its daemon is there.
    pub no_session: Vec<PeerRow>,
}

/// Members in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crowd {
    /// All of them.
    pub members: usize,
    /// Those who have a session or service there.
    pub reachable: usize,
}

/// What a listing of peers contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// What people can name.
    Addressable,
    /// The connections of daemons too, and those that only pass by.
    All,
}

/// Sessions remembered after they have left.
const FORMER_MAX: usize = 4_096;

/// The member key behind a presence.
pub(super) fn member_of(row: &PeerRow) -> PublicKey {
    row.member_pubkey.unwrap_or(row.pubkey)
}

/// True for the presences of sessions; old brokers say no role.
pub(super) fn is_session(row: &PeerRow) -> bool {
    row.peer_role.as_deref().is_none_or(|role| role == PeerRole::Session.as_str())
}

/// True for presences people can name: sessions and services, but no daemon's own connection.
pub(super) fn is_addressable(row: &PeerRow) -> bool {
    row.peer_role.as_deref() != Some(PeerRole::ControlPlane.as_str())
}

/// True when the presence's program says it can do `capability`.
pub(super) fn lists(row: &PeerRow, capability: &str) -> bool {
    row.capabilities.as_ref().is_some_and(|words| words.iter().any(|word| word == capability))
}

impl RosterView {
    /// The member with this key.
    pub(crate) fn member(&self, key: PublicKey) -> Option<&MemberRow> {
        self.members.iter().find(|member| member.pubkey == key)
    }

    /// The member that had this key at that time: its present one, or one that was rotated out since.
    pub(super) fn member_at(&self, key: PublicKey, at: Timestamp) -> Option<&MemberRow> {
        self.member(key).or_else(|| {
            let former = self.rotated.get(&key).filter(|former| at < former.until)?;
            self.members.iter().find(|member| member.member_id == former.member_id)
        })
    }

    /// The keys that may have signed for a recipient at that time: the present one of the member behind it, then those
    /// that it had before. None for somebody we do not know.
    pub(super) fn signing_keys(
        &self,
        recipient: PublicKey,
        at: Timestamp,
    ) -> impl Iterator<Item = PublicKey> {
        let behind = || self.member_at(self.member_behind(recipient)?, at);
        let member = self.member_at(recipient, at).or_else(behind);
        let former = member.into_iter().flat_map(move |row| self.former_of(row, at));
        member.map(|row| row.pubkey).into_iter().chain(former)
    }

    fn former_of(&self, row: &MemberRow, at: Timestamp) -> impl Iterator<Item = PublicKey> {
        let is_of =
            move |former: &FormerKey| former.member_id == row.member_id && at < former.until;
        self.rotated.iter().filter(move |(_, former)| is_of(former)).map(|(key, _)| *key)
    }

    /// What a receipt about a former key of a member is about: its present key, and the keys it had before; nothing, for
    /// everybody who never changed a key.
    pub(super) fn succession(
        &self,
        recipient: PublicKey,
        at: Timestamp,
    ) -> Option<(PublicKey, Vec<PublicKey>)> {
        if self.rotated.is_empty() {
            return None;
        }
        let row = self.member_at(recipient, at)?;
        let former: Vec<_> = self.former_of(row, at).collect();
        (!former.is_empty()).then_some((row.pubkey, former))
    }

    /// The presences that have this key as their session key or member key.
    pub(super) fn presences(&self, key: PublicKey) -> impl Iterator<Item = &PeerRow> {
        self.peers.iter().filter(move |row| row.pubkey == key || member_of(row) == key)
    }

    /// The presence that has exactly this key as its own.
    pub(super) fn presence(&self, key: PublicKey) -> Option<&PeerRow> {
        self.peers.iter().find(|row| row.pubkey == key)
    }

    /// What the broker listed for exactly this key, also of one that only passes by.
    pub(super) fn listed(&self, key: PublicKey) -> Option<&PeerRow> {
        self.presence(key).or_else(|| self.passing.iter().find(|row| row.pubkey == key))
    }

    /// The member behind a session that is or was here.
    pub(crate) fn member_behind(&self, session: PublicKey) -> Option<PublicKey> {
        let present = self.listed(session).map(member_of);
        present.or_else(|| self.former.get(&session).copied())
    }

    /// The name of a session or member.
    pub(crate) fn name_of(&self, key: PublicKey) -> Option<String> {
        let session = self.presence(key).filter(|row| is_session(row));
        let name = session.map(|row| &row.display_name);
        let name = name.or_else(|| self.member(key).map(|row| &row.display_name));
        name.filter(|name| !name.is_empty()).cloned()
    }

    /// Every key the member behind `key` is known by: the key itself, its member key, and those of its presences.
    pub(crate) fn keys_of_member(&self, key: PublicKey) -> Vec<PublicKey> {
        let member = self.presence(key).map_or(key, member_of);
        let rows = self.peers.iter().filter(|row| member_of(row) == member);
        let mut keys: Vec<_> = rows.map(|row| row.pubkey).chain([key, member]).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Keys of a member's live sessions on all its machines, except one.
    pub(crate) fn live_sessions(
        &self,
        member: PublicKey,
        except: Option<PublicKey>,
    ) -> Vec<PublicKey> {
        let rows = self.peers.iter().filter(|row| is_session(row) && member_of(row) == member);
        rows.map(|row| row.pubkey).filter(|key| Some(*key) != except).collect()
    }

    /// Who is there, as the member `own` lists it. With [`Listing::All`] daemons' own connections too.
    pub(crate) fn listed_for(&self, own: PublicKey, listing: Listing) -> Peers {
        let peers: Vec<PeerRow> = match listing {
            Listing::Addressable => {
                self.peers.iter().filter(|row| is_addressable(row)).cloned().collect()
            }
            Listing::All => self.peers.iter().chain(&self.passing).cloned().collect(),
        };
        let has_session = |member: PublicKey| {
            self.peers.iter().any(|row| is_session(row) && member_of(row) == member)
        };
        let mut no_session: Vec<PeerRow> = Vec::new();
        for row in self.peers.iter().filter(|row| !is_addressable(row)) {
            let member = member_of(row);
            let is_listed = no_session.iter().any(|listed| listed.pubkey == member);
            if member == own || has_session(member) || is_listed {
                continue;
            }
            let name = self.member(member).map_or(&row.display_name, |row| &row.display_name);
            no_session.push(PeerRow {
                pubkey: member,
                member_pubkey: Some(member),
                display_name: name.clone(),
                peer_role: Some("member".to_owned()),
                ..row.clone()
            });
        }
        Peers { peers, no_session }
    }

    /// How many members there are, and how many have a session or service there.
    pub(super) fn crowd(&self) -> Crowd {
        let rows = self.peers.iter().filter(|row| is_addressable(row));
        let there: HashSet<PublicKey> = rows.map(member_of).collect();
        let reachable = self.members.iter().filter(|row| there.contains(&row.pubkey)).count();
        Crowd { members: self.members.len(), reachable }
    }

    /// True when the key belongs to somebody here, present or absent.
    pub(super) fn knows(&self, key: PublicKey) -> bool {
        self.member(key).is_some() || self.presences(key).next().is_some()
    }

    /// Visible presences that a message to `group` reaches; everybody for `None`. Own presences of `except` are left
    /// out (wire spec §4.3).
    pub(super) fn audience(
        &self,
        group: Option<&GroupName>,
        except: PublicKey,
    ) -> impl Iterator<Item = &PeerRow> {
        self.peers.iter().filter(move |row| {
            let is_member = group.is_none_or(|group| {
                row.groups.iter().any(|membership| membership.name.is_within(group))
            });
            row.visible != Some(false) && member_of(row) != except && is_member
        })
    }
}

/// How long the broker may go on listing a session that we have ended: until it has read the close of its socket.
const GOODBYE: Duration = Duration::from_secs(10);

/// The shared snapshot of one mesh.
#[derive(Default)]
pub(super) struct Roster {
    view: RwLock<Arc<RosterView>>,
    /// Own sessions that ended lately; as many as end within [`GOODBYE`].
    ended: Mutex<HashMap<PublicKey, Instant>>,
}

impl Roster {
    /// Nobody yet, but what is remembered of keys that members had before.
    pub(super) fn knowing(rotated: FormerKeys) -> Self {
        let roster = Self::default();
        roster.set_rotated(rotated);
        roster
    }

    /// Another set of keys that members had before.
    pub(super) fn set_rotated(&self, rotated: FormerKeys) {
        let mut view = self.view.write();
        *view = Arc::new(RosterView { rotated, ..RosterView::clone(&view) });
    }

    /// The snapshot as it stands.
    pub(super) fn view(&self) -> Arc<RosterView> {
        Arc::clone(&self.view.read())
    }

    /// Age of the snapshot; `None` before the first.
    pub(super) fn age(&self) -> Option<Duration> {
        self.view.read().fetched_at.map(|at| at.elapsed())
    }

    /// Takes what the broker answered.
    pub(super) fn replace(
        &self,
        mut peers: Vec<PeerRow>,
        mut members: Vec<MemberRow>,
        asked_at: Timestamp,
    ) {
        let mut ended = self.ended.lock();
        ended.retain(|_, at| at.elapsed() < GOODBYE);
        peers.retain(|row| !ended.contains_key(&row.pubkey));
        // Whoever reads the proofs has taken them out: half a kilobyte each, for nobody else.
        for row in &mut members {
            row.former_keys = Vec::new();
        }
        let fetched_at = Some(Instant::now());
        let mut view = self.view.write();
        let former = with_present(&view.former, &peers);
        let (passing, peers) = peers.into_iter().partition(|row| lists(row, capability::TRANSIENT));
        let (asked_at, rotated) = (Some(asked_at), Arc::clone(&view.rotated));
        *view =
            Arc::new(RosterView { peers, passing, members, fetched_at, asked_at, former, rotated });
    }

    /// An own session has ended: it is gone from here on, whatever the broker still lists.
    pub(super) fn end_own(&self, key: PublicKey) {
        self.ended.lock().insert(key, Instant::now());
        self.remove_presence(key);
    }

    /// An own session begins, perhaps with a key that was here before.
    pub(super) fn begin_own(&self, key: PublicKey) {
        self.ended.lock().remove(&key);
    }

    /// Patches the snapshot: the presence of `key` has gone. True when there was one.
    pub(super) fn remove_presence(&self, key: PublicKey) -> bool {
        let mut view = self.view.write();
        if view.presence(key).is_none() {
            return false;
        }
        let mut patched = RosterView::clone(&view);
        patched.peers.retain(|row| row.pubkey != key);
        for member in &mut patched.members {
            let key = member.pubkey;
            member.online = patched.peers.iter().any(|row| member_of(row) == key);
        }
        *view = Arc::new(patched);
        true
    }
}

/// Remembers the sessions that are here; when there are too many, those that are not are forgotten.
fn with_present(
    former: &Arc<BTreeMap<PublicKey, PublicKey>>,
    peers: &[PeerRow],
) -> Arc<BTreeMap<PublicKey, PublicKey>> {
    let sessions = || {
        let known = peers.iter().filter(|row| row.member_pubkey.is_some());
        known.map(|row| (row.pubkey, member_of(row))).filter(|(key, member)| key != member)
    };
    if sessions().all(|(key, member)| former.get(&key) == Some(&member)) {
        return Arc::clone(former);
    }
    let mut all = BTreeMap::clone(former);
    all.extend(sessions());
    if all.len() > FORMER_MAX {
        all = sessions().take(FORMER_MAX).collect();
    }
    Arc::new(all)
}

#[cfg(test)]
pub(super) mod fixture {
    //! A small mesh for the tests of this module's neighbours.

    use claudemesh_protocol::wire::{MemberRow, PeerRow};
    use claudemesh_protocol::{Group, MemberId, PublicKey};
    use serde_json::json;

    use super::RosterView;

    /// A key of one repeated byte.
    pub(crate) fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32])
    }

    /// A session `key(session)` of member `key(member)`.
    pub(crate) fn session(name: &str, session: u8, member: u8) -> PeerRow {
        serde_json::from_value(json!({
            "pubkey": key(session), "memberPubkey": key(member), "displayName": name, "status": "idle",
            "peerRole": "session", "groups": [],
            "capabilities": ["client_ack", "group_e2e", "body_meta"],
        }))
        .unwrap()
    }

    /// The control-plane presence of member `key(member)`.
    pub(crate) fn daemon(name: &str, member: u8) -> PeerRow {
        PeerRow { peer_role: Some("control-plane".to_owned()), ..session(name, member, member) }
    }

    /// A member, absent unless a presence says otherwise.
    pub(crate) fn member(name: &str, byte: u8) -> MemberRow {
        serde_json::from_value(json!({
            "memberId": MemberId::new(format!("m{byte}")), "pubkey": key(byte), "displayName": name, "role": "member",
            "joinedAt": "2026-01-01T00:00:00.000Z", "online": false,
        }))
        .unwrap()
    }

    /// Puts a presence into a group.
    pub(crate) fn in_group(mut row: PeerRow, name: &str) -> PeerRow {
        row.groups.push(Group::plain(name.parse().unwrap()));
        row
    }

    /// A snapshot.
    pub(crate) fn view(peers: Vec<PeerRow>, members: Vec<MemberRow>) -> RosterView {
        let former = super::with_present(&std::sync::Arc::default(), &peers);
        let fetched_at = Some(tokio::time::Instant::now());
        RosterView { peers, members, fetched_at, former, ..RosterView::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{daemon, key, member, session};
    use super::*;

    #[test]
    fn a_presence_that_left_is_patched_out_and_its_member_goes_offline() {
        let roster = Roster::default();
        let mut dana = member("dana", 2);
        dana.online = true;
        let peers = vec![session("dana", 20, 2), daemon("eve", 3)];
        roster.replace(peers, vec![dana, member("eve", 3)], Timestamp::from_millis(1));
        assert!(roster.remove_presence(key(20)));
        assert!(!roster.remove_presence(key(20)));
        let view = roster.view();
        assert!(view.presence(key(20)).is_none());
        assert!(!view.member(key(2)).unwrap().online && view.member(key(3)).unwrap().online);
        assert!(view.knows(key(2)) && !view.knows(key(20)));
    }

    #[test]
    fn one_that_only_sends_something_is_not_there_and_its_sender_is_known() {
        let roster = Roster::default();
        let mut passing = session("dana", 20, 2);
        passing.capabilities = Some(vec!["transient".to_owned()]);
        roster.replace(vec![passing], vec![member("dana", 2)], Timestamp::from_millis(1));
        let view = roster.view();
        assert!(view.peers.is_empty() && view.presences(key(20)).next().is_none());
        assert_eq!(view.listed(key(20)).map(member_of), Some(key(2)));
        assert_eq!(view.member_behind(key(20)), Some(key(2)));
    }

    #[test]
    fn an_own_session_that_ended_is_not_listed_again_until_it_returns() {
        let roster = Roster::default();
        let fetch = || {
            roster.replace(vec![session("mine", 20, 2)], Vec::new(), Timestamp::from_millis(1));
            roster.view().presence(key(20)).is_some()
        };
        assert!(fetch());
        roster.end_own(key(20));
        assert!(roster.view().presence(key(20)).is_none());
        assert!(!fetch(), "the broker has not read the close yet");
        roster.begin_own(key(20));
        assert!(fetch());
    }
}
