//! Who belongs to a mesh, as far as memory knows it.

use claudemesh_protocol::limits::HELLO_NAME_MAX_CHARS;
use claudemesh_protocol::permission::Standing;
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{MemberId, PublicKey, Timestamp, text};
use claudemesh_store::RosterEntry;

use super::MeshState;
use crate::live::connection::Close;
use crate::live::listed::ListedMember;

/// A member of the roster.
pub(super) struct Known {
    entry: RosterEntry,
    listed: ListedMember,
}

impl MeshState {
    pub(in crate::live) fn set_roster(&mut self, roster: Vec<RosterEntry>) {
        self.by_member_key = roster
            .iter()
            .filter_map(|entry| Some((entry.member.pubkey?, entry.member.id.clone())))
            .collect();
        self.by_former_key = roster
            .iter()
            .flat_map(|entry| {
                entry.former_keys.iter().map(|former| (former.key, entry.member.id.clone()))
            })
            .collect();
        self.by_name.clear();
        for entry in &roster {
            self.by_name
                .entry(text::folded_name(&entry.member.display_name))
                .or_insert_with(|| entry.member.id.clone());
        }
        self.roster = roster
            .into_iter()
            .map(|entry| {
                (entry.member.id.clone(), Known { entry, listed: ListedMember::default() })
            })
            .collect();
    }

    /// Members that may receive: bound and not revoked.
    pub(crate) fn roster(&self) -> impl Iterator<Item = &RosterEntry> {
        self.roster.values().map(|known| &known.entry)
    }

    /// The same with their rows of the member list.
    pub(crate) fn listed_roster(&self) -> impl Iterator<Item = (&RosterEntry, &ListedMember)> {
        self.roster.values().map(|known| (&known.entry, &known.listed))
    }

    pub(crate) fn member(&self, id: &MemberId) -> Option<&RosterEntry> {
        self.roster.get(id).map(|known| &known.entry)
    }

    pub(crate) fn member_by_key(&self, key: PublicKey) -> Option<&RosterEntry> {
        self.member(self.by_member_key.get(&key)?)
    }

    /// The member that had this key before.
    pub(crate) fn member_by_former_key(&self, key: PublicKey) -> Option<&RosterEntry> {
        self.member(self.by_former_key.get(&key)?)
    }

    /// The same while messages to that key still reach it.
    pub(crate) fn member_in_grace(&self, key: PublicKey, now: Timestamp) -> Option<&RosterEntry> {
        self.member_by_former_key(key).filter(|entry| {
            entry.former_keys.iter().any(|former| former.key == key && now < former.valid_until)
        })
    }

    /// The member has another key: its presences stand for that one, and its sockets are closed to come back under it.
    pub(crate) fn change_member_key(&mut self, id: &MemberId, key: PublicKey, close: Close) {
        for presence in self.by_member.get(id).cloned().unwrap_or_default() {
            if let Some(entry) = self.presence_mut(&presence) {
                entry.presence.member_key = key;
                if let Some(connection) = &entry.connection {
                    connection.close(close);
                }
            }
        }
    }

    /// A member to change.
    fn member_mut(&mut self, id: &MemberId) -> Option<&mut RosterEntry> {
        let known = self.roster.get_mut(id)?;
        known.listed.forget();
        Some(&mut known.entry)
    }

    /// The name a presence of this member gets instead of the one it wants, because that is another member's. Nobody who
    /// is here catches what is meant for a member that is away.
    pub(crate) fn name_instead(&self, member: &MemberId, wish: &str) -> Option<String> {
        let own = self.member(member).map(|entry| text::folded_name(&entry.member.display_name));
        text::instead_of_taken(wish, HELLO_NAME_MAX_CHARS, |name| {
            own.as_deref() != Some(name) && self.by_name.get(name).is_some_and(|id| id != member)
        })
    }

    /// Remembers what the member's own connection left behind, for matching it while it is away.
    pub(crate) fn set_last_groups(
        &mut self,
        id: &MemberId,
        groups: Vec<claudemesh_protocol::Group>,
    ) {
        if let Some(entry) = self.member_mut(id) {
            entry.last_groups = Some(groups);
        }
    }

    pub(crate) fn note_seen(&mut self, id: &MemberId, at: Timestamp) {
        if let Some(entry) = self.member_mut(id) {
            entry.member.last_seen_at = Some(at);
        }
    }

    pub(crate) fn standing(&self, entry: &RosterEntry) -> Standing {
        if entry.member.user_id.as_ref() == Some(&self.info.owner_user_id) {
            Standing::Owner
        } else if entry.member.role == MemberRole::Admin {
            Standing::Admin
        } else {
            Standing::Member
        }
    }
}
