//! `mesh-state-<slug>.json`: what is remembered about one mesh between runs (daemon spec §2): which keys its members had
//! before, which our own member had, and which key its broker signs with (§17.4).
//!
//! What if the power goes between these two lines? The file is replaced as a whole, after what it says is in force. What
//! is lost with it is comfort: messages under a former key of somebody are shown as unverified, ours that come too late
//! are counted as unreadable for another reason, and a broker's key is taken for the first one once more.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudemesh_protocol::{MemberId, MeshId, PublicKey, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::home::file::{self, Symlinks};

/// Version of the file.
const VERSION: u32 = 1;
/// Former keys of others that are remembered; those whose time ends first make way.
const FORMER_MAX: usize = 4_096;
/// Former keys of our own that are remembered; the oldest make way.
const OWN_FORMER_MAX: usize = 64;

/// A key that a member had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FormerKey {
    /// The member.
    pub member_id: MemberId,
    /// What it sent under this key before then is its own.
    pub until: Timestamp,
}

/// Former keys of members, by key.
pub(crate) type FormerKeys = Arc<BTreeMap<PublicKey, FormerKey>>;

/// The key that a broker says it signs with, beside the one that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokerKey {
    /// None was remembered; now this one is. [`MeshState::save`] writes it down.
    First,
    /// The remembered one.
    Same,
    /// Another one.
    Changed {
        /// The remembered one, which stays.
        pinned: PublicKey,
    },
}

/// What is remembered about one mesh.
pub(crate) struct MeshState {
    path: PathBuf,
    known: Mutex<Known>,
    /// One write at a time, each with what is known by then.
    writing: Mutex<()>,
}

#[derive(Clone)]
struct Known {
    mesh_id: MeshId,
    former: FormerKeys,
    /// Oldest first.
    own_former: Vec<PublicKey>,
    /// The key that its broker signs with.
    broker_key: Option<PublicKey>,
    /// Another one that the broker named last, and nobody has trusted.
    other_broker_key: Option<PublicKey>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    mesh_id: MeshId,
    #[serde(default)]
    former_keys: Vec<FormerEntry>,
    #[serde(default)]
    own_former_keys: Vec<PublicKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broker_pubkey: Option<PublicKey>,
}

#[derive(Serialize, Deserialize)]
struct FormerEntry {
    pubkey: PublicKey,
    member_id: MemberId,
    grace_until: String,
}

impl MeshState {
    /// Reads what is remembered; nothing, when the file is missing, damaged, or of another mesh with this slug.
    pub(crate) fn open(path: &Path, mesh_id: &MeshId) -> Self {
        let document = read(path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "mesh_state_ignored");
            None
        });
        let document = document.filter(|document| document.mesh_id == *mesh_id);
        let (mut former, mut own_former, mut broker_key) = (BTreeMap::new(), Vec::new(), None);
        if let Some(document) = document {
            broker_key = document.broker_pubkey;
            own_former = document.own_former_keys;
            for entry in document.former_keys {
                let Some(until) = Timestamp::parse_iso(&entry.grace_until) else { continue };
                former.insert(entry.pubkey, FormerKey { member_id: entry.member_id, until });
            }
        }
        let known = Known {
            mesh_id: mesh_id.clone(),
            former: Arc::new(former),
            own_former,
            broker_key,
            other_broker_key: None,
        };
        Self { path: path.to_owned(), known: Mutex::new(known), writing: Mutex::new(()) }
    }

    /// The mesh it is about.
    pub(crate) fn is_of(&self, mesh_id: &MeshId) -> bool {
        self.known.lock().mesh_id == *mesh_id
    }

    /// Former keys of the members.
    pub(crate) fn former_keys(&self) -> FormerKeys {
        Arc::clone(&self.known.lock().former)
    }

    /// True for a key that our member had before, however long ago.
    pub(crate) fn was_ours(&self, key: PublicKey) -> bool {
        self.known.lock().own_former.contains(&key)
    }

    /// A member has another key now. [`MeshState::save`] writes it down.
    pub(crate) fn note_former(&self, key: PublicKey, former: FormerKey, now: Timestamp) {
        let mut known = self.known.lock();
        let mut all = BTreeMap::clone(&known.former);
        // A message of that time may lie in a queue for as long again.
        all.retain(|_, former| former.until.plus(claudemesh_protocol::limits::KEY_GRACE_MAX) > now);
        all.insert(key, former);
        while all.len() > FORMER_MAX {
            let first = all.iter().min_by_key(|(_, former)| former.until).map(|(key, _)| *key);
            let Some(first) = first else { break };
            all.remove(&first);
        }
        known.former = Arc::new(all);
    }

    /// Our member has another key now. [`MeshState::save`] writes it down.
    pub(crate) fn note_own(&self, key: PublicKey) {
        let mut known = self.known.lock();
        known.own_former.retain(|former| *former != key);
        known.own_former.push(key);
        let surplus = known.own_former.len().saturating_sub(OWN_FORMER_MAX);
        known.own_former.drain(..surplus);
    }

    /// The broker has named the key that it signs with.
    pub(crate) fn see_broker(&self, key: PublicKey) -> BrokerKey {
        let mut known = self.known.lock();
        match known.broker_key {
            None => {
                known.broker_key = Some(key);
                BrokerKey::First
            }
            Some(pinned) if pinned == key => {
                known.other_broker_key = None;
                BrokerKey::Same
            }
            Some(pinned) => {
                known.other_broker_key = Some(key);
                BrokerKey::Changed { pinned }
            }
        }
    }

    /// The remembered key of the broker and the other one that it named last; `None` while there is no other.
    pub(crate) fn changed_broker_key(&self) -> Option<(PublicKey, PublicKey)> {
        let known = self.known.lock();
        known.broker_key.zip(known.other_broker_key)
    }

    /// Remembers the other key in place of the first, when it is still this one. [`MeshState::save`] writes it down.
    pub(crate) fn trust_broker(&self, key: PublicKey) -> bool {
        let mut known = self.known.lock();
        let is_named = known.other_broker_key == Some(key);
        if is_named {
            known.broker_key = known.other_broker_key.take();
        }
        is_named
    }

    /// Writes the file. Blocks.
    ///
    /// # Errors
    /// Any I/O error; the old content is then still there.
    pub(crate) fn save(&self) -> io::Result<()> {
        let _turn = self.writing.lock();
        let known = self.known.lock().clone();
        let entry = |(pubkey, former): (&PublicKey, &FormerKey)| FormerEntry {
            pubkey: *pubkey,
            member_id: former.member_id.clone(),
            grace_until: former.until.to_iso(),
        };
        let document = Document {
            version: VERSION,
            mesh_id: known.mesh_id,
            former_keys: known.former.iter().map(entry).collect(),
            own_former_keys: known.own_former,
            broker_pubkey: known.broker_key,
        };
        let json = serde_json::to_vec_pretty(&document)?;
        file::replace(&self.path, &json, file::SECRET, Symlinks::Refuse)
    }
}

fn read(path: &Path) -> io::Result<Option<Document>> {
    let Some(content) = file::read(path, Symlinks::Refuse)? else { return Ok(None) };
    let document: Document = serde_json::from_slice(&content.bytes)?;
    if document.version != VERSION {
        return Err(io::Error::other("written by another version"));
    }
    Ok(Some(document))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);
    const DAY: Duration = Duration::from_hours(24);

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32])
    }

    fn former(until: Timestamp) -> FormerKey {
        FormerKey { member_id: MemberId::new("m"), until }
    }

    #[test]
    fn what_is_remembered_comes_back_for_the_same_mesh_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh-state-home.json");
        let mesh = MeshId::new("M");
        let state = MeshState::open(&path, &mesh);
        state.note_former(key(1), former(NOW.plus(DAY)), NOW);
        state.note_own(key(2));
        state.save().unwrap();
        let again = MeshState::open(&path, &mesh);
        assert_eq!(again.former_keys().get(&key(1)), Some(&former(NOW.plus(DAY))));
        assert!(again.was_ours(key(2)) && !again.was_ours(key(1)));
        let other = MeshState::open(&path, &MeshId::new("N"));
        assert!(other.former_keys().is_empty() && !other.was_ours(key(2)));
        std::fs::write(&path, "damaged").unwrap();
        assert!(MeshState::open(&path, &mesh).former_keys().is_empty());
    }

    /// Daemon spec §17.4: pinned on first use; another key stays another one until somebody trusts it.
    #[test]
    fn the_first_key_of_a_broker_is_kept_until_another_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mesh) = (dir.path().join("mesh-state-home.json"), MeshId::new("M"));
        let state = MeshState::open(&path, &mesh);
        assert_eq!(state.see_broker(key(1)), BrokerKey::First);
        assert_eq!(state.see_broker(key(1)), BrokerKey::Same);
        state.save().unwrap();
        let state = MeshState::open(&path, &mesh);
        assert_eq!(state.see_broker(key(2)), BrokerKey::Changed { pinned: key(1) });
        assert_eq!(state.changed_broker_key(), Some((key(1), key(2))));
        assert!(!state.trust_broker(key(3)));
        assert!(state.trust_broker(key(2)));
        assert_eq!(state.changed_broker_key(), None);
        state.save().unwrap();
        let state = MeshState::open(&path, &mesh);
        assert_eq!(state.see_broker(key(2)), BrokerKey::Same);
        assert_eq!(state.see_broker(key(1)), BrokerKey::Changed { pinned: key(2) });
        assert_eq!(state.see_broker(key(2)), BrokerKey::Same);
        assert_eq!(state.changed_broker_key(), None, "it is the old one again");
    }

    #[test]
    fn old_and_surplus_keys_are_forgotten() {
        let state = MeshState::open(Path::new("/nonexistent/state.json"), &MeshId::new("M"));
        state.note_former(key(1), former(NOW), NOW);
        state.note_former(key(2), former(NOW.plus(40 * DAY)), NOW.plus(31 * DAY));
        assert_eq!(state.former_keys().keys().copied().collect::<Vec<_>>(), [key(2)]);
        for byte in 0..=200 {
            state.note_own(key(byte));
        }
        assert!(state.was_ours(key(200)) && !state.was_ours(key(0)));
    }
}
