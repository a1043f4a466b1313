//! Key pairs of agent sessions, one file each, made once and used again whenever that session comes back, so that
//! messages waiting for it still reach and open (daemon spec §8.6).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use claudemesh_crypto::KeyPair;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::{PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::home::file::{self, Symlinks};

/// Files unused for this long are removed.
pub const KEEP_UNUSED: Duration = Duration::from_hours(90 * 24);

/// A stored key pair.
#[derive(Clone)]
pub struct StoredKey {
    /// The pair.
    pub keys: KeyPair,
    /// UUID of the agent session.
    pub session_id: String,
    /// What the session may do, fixed when the file was made.
    pub allowed_caps: Option<CapabilitySet>,
}

/// The directory of key files.
#[derive(Debug, Clone)]
pub struct KeyStore {
    dir: PathBuf,
}

/// Form of a file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    version: u32,
    mesh_slug: String,
    session_id: String,
    public_key: PublicKey,
    secret_key: Secret,
    created_at: String,
    last_used_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allowed_caps: Option<CapabilitySet>,
}

/// 128 hex, wiped on drop.
struct Secret(Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl KeyStore {
    pub(super) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The key pair of a session, made when there is none; the first of two that make it at once wins. A damaged file
    /// is replaced once. `None` when the names are not fit for a path: the caller then uses a key in memory.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn load_or_create(
        &self,
        slug: &str,
        session_id: &str,
        caps: Option<CapabilitySet>,
        now: Timestamp,
    ) -> io::Result<Option<StoredKey>> {
        let Some(path) = self.path_of(slug, session_id) else { return Ok(None) };
        if let Some(stored) = read_or_discard(&path)? {
            touch(&path);
            return Ok(Some(stored));
        }
        if let Some(dir) = path.parent() {
            file::create_private_dir(dir)?;
        }
        let keys = KeyPair::generate();
        let record = Record {
            version: 1,
            mesh_slug: slug.to_owned(),
            session_id: session_id.to_owned(),
            public_key: keys.public(),
            secret_key: Secret(keys.to_hex()),
            created_at: now.to_iso(),
            last_used_at: now.to_iso(),
            allowed_caps: caps,
        };
        let bytes = Zeroizing::new(serde_json::to_vec_pretty(&record)?);
        if file::create_if_absent(&path, &bytes, file::SECRET)? {
            return Ok(Some(StoredKey {
                keys,
                session_id: session_id.to_owned(),
                allowed_caps: caps,
            }));
        }
        read_or_discard(&path)
    }

    /// The key pair of a session, when it is stored.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn load(&self, slug: &str, session_id: &str) -> io::Result<Option<StoredKey>> {
        self.path_of(slug, session_id).map_or(Ok(None), |path| read(&path))
    }

    /// The stored key pair with this public key, of a session that may have ended. Reads the files of the mesh; for
    /// the rare message that was addressed to an ended session.
    ///
    /// # Errors
    /// Any I/O error except a missing directory.
    pub fn load_by_key(&self, slug: &str, key: &PublicKey) -> io::Result<Option<StoredKey>> {
        if !is_slug(slug) {
            return Ok(None);
        }
        for path in files_of(&self.dir.join(slug))? {
            // A file that cannot be read says nothing about the others.
            if let Ok(Some(stored)) = read(&path)
                && stored.keys.public() == *key
            {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// Removes files unused for 90 days, unless `is_needed` says that a message waits for the key.
    ///
    /// # Errors
    /// Any I/O error except a missing directory.
    pub fn prune(&self, is_needed: impl Fn(&str, &PublicKey) -> bool) -> io::Result<u64> {
        let mut removed = 0;
        for dir in files_of(&self.dir)? {
            let slug = dir.file_name().map(|name| name.to_string_lossy().into_owned());
            for path in files_of(&dir)? {
                let age = SystemTime::now()
                    .duration_since(std::fs::metadata(&path)?.modified()?)
                    .unwrap_or_default();
                let is_old = age > KEEP_UNUSED && path.extension().is_some_and(|ext| ext == "json");
                if !is_old {
                    continue;
                }
                let stored = read(&path).ok().flatten();
                let waits = stored.is_some_and(|stored| {
                    slug.as_deref().is_some_and(|slug| is_needed(slug, &stored.keys.public()))
                });
                if !waits {
                    std::fs::remove_file(&path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    fn path_of(&self, slug: &str, session_id: &str) -> Option<PathBuf> {
        (is_slug(slug) && is_uuid(session_id))
            .then(|| self.dir.join(slug).join(format!("{}.json", session_id.to_ascii_lowercase())))
    }
}

/// Reads a file; a damaged one is removed and counts as none.
fn read_or_discard(path: &Path) -> io::Result<Option<StoredKey>> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(path = %path.display(), %error, "session_key_file_replaced");
            std::fs::remove_file(path)?;
            Ok(None)
        }
        read => read,
    }
}

fn read(path: &Path) -> io::Result<Option<StoredKey>> {
    let Some(content) = file::read(path, Symlinks::Refuse)? else { return Ok(None) };
    parse(&content.bytes).map(Some)
}

/// What a file says; `InvalidData` when it is no key file.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<StoredKey> {
    let damaged = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    // serde's own message could quote what stands in the file.
    let record: Record = serde_json::from_slice(bytes)
        .map_err(|error| damaged(format!("line {}, column {}", error.line(), error.column())))?;
    let keys =
        KeyPair::from_hex(&record.secret_key.0).map_err(|error| damaged(error.to_string()))?;
    if keys.public() != record.public_key {
        return Err(damaged("the public key does not belong to the secret one".to_owned()));
    }
    Ok(StoredKey { keys, session_id: record.session_id, allowed_caps: record.allowed_caps })
}

/// Sets the time of the last use; a failure only makes the file look older.
fn touch(path: &Path) {
    let touched = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(path = %path.display(), %error, "cannot touch a session key file");
    }
}

fn files_of(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn is_slug(text: &str) -> bool {
    !text.is_empty()
        && !matches!(text, "." | "..")
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// 8-4-4-4-12 hexadecimal characters.
pub(crate) fn is_uuid(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6f1b2c3d-0000-4000-8000-0123456789ab";
    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    /// Daemon spec §8 Accept 5: same UUID launched twice concurrently 100×: one key file, both processes agree on the pubkey.
    #[test]
    fn two_who_make_it_at_once_agree() {
        let dir = tempfile::tempdir().unwrap();
        let store = KeyStore::new(dir.path().join("sessions"));
        for round in 0..25 {
            let slug = format!("mesh-{round}");
            let keys: Vec<_> = std::thread::scope(|scope| {
                let make = || store.load_or_create(&slug, ID, None, NOW).unwrap().unwrap();
                let handles: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                handles.into_iter().map(|handle| handle.join().unwrap().keys.public()).collect()
            });
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
            assert_eq!(files_of(&dir.path().join("sessions").join(&slug)).unwrap().len(), 1);
        }
    }

    /// Daemon spec §8 Accept 7: register with session_id `../../x`: key file never created outside the sessions dir.
    #[test]
    fn names_unfit_for_a_path_make_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = KeyStore::new(dir.path().join("sessions"));
        for (slug, id) in [("dev", "../../x"), ("..", ID), ("", ID), ("a/b", ID), ("dev", "x")] {
            assert!(store.load_or_create(slug, id, None, NOW).unwrap().is_none(), "{slug} {id}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_are_private_stable_and_found_by_key() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let store = KeyStore::new(dir.path().to_owned());
        let caps = CapabilitySet::parse(["dm"]).ok();
        let made = store.load_or_create("dev", ID, caps, NOW).unwrap().unwrap();
        let again = store.load_or_create("dev", ID, None, NOW).unwrap().unwrap();
        assert!(made.keys == again.keys && again.allowed_caps == caps);
        let path = dir.path().join("dev").join(format!("{ID}.json"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let found = store.load_by_key("dev", &made.keys.public()).unwrap().unwrap();
        assert_eq!(found.session_id, ID);
        assert!(store.load_by_key("dev", &KeyPair::generate().public()).unwrap().is_none());
        std::fs::write(&path, "{").unwrap();
        let replaced = store.load_or_create("dev", ID, None, NOW).unwrap().unwrap();
        assert!(replaced.keys != made.keys);
    }

    #[test]
    fn only_long_unused_files_without_waiting_messages_are_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let store = KeyStore::new(dir.path().to_owned());
        let ids =
            ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002", ID];
        let keys = ids
            .map(|id| store.load_or_create("dev", id, None, NOW).unwrap().unwrap().keys.public());
        for id in &ids[..2] {
            let path = dir.path().join("dev").join(format!("{id}.json"));
            let long_ago = SystemTime::now() - KEEP_UNUSED - Duration::from_mins(1);
            std::fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }
        assert_eq!(store.prune(|_, key| *key == keys[0]).unwrap(), 1);
        assert!(store.load("dev", ids[0]).unwrap().is_some());
        assert!(store.load("dev", ids[1]).unwrap().is_none());
        assert!(store.load("dev", ids[2]).unwrap().is_some());
    }
}
