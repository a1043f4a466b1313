//! `keypair-archive.json`: the X25519 halves of member keys that were rotated out, kept as long as mail for them may
//! still come (daemon spec §19.2). What signs is never kept.
//!
//! What if the power goes between these two lines? The file is replaced as a whole. A key is in it before the broker hears
//! of the next one, so there is no moment in which mail can come that nothing here opens. A key that stands in it too
//! early, because its rotation was never registered, is merely the member's own key once more, and goes with the record
//! of that rotation.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::exchange::ExchangeSecret;
use claudemesh_protocol::encoding::{b64, b64_decode_array};
use claudemesh_protocol::limits::KEY_GRACE_MAX;
use claudemesh_protocol::{PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::home::file::{self, Symlinks};
use crate::ids;
use crate::settings::CryptoSettings;

/// Version of the file.
const SCHEMA_VERSION: u32 = 1;
/// In front of the id of a key.
const KEY_ID_PREFIX: &str = "k_";

/// A former key of our member in one mesh.
///
/// # Security
/// Holds a secret; no `Debug`.
pub(crate) struct ArchivedKey {
    /// Its name in the file.
    pub key_id: String,
    /// Slug of the mesh.
    pub mesh: String,
    /// The identity it belonged to.
    pub public: PublicKey,
    /// Opens what was sealed for that identity.
    pub exchange: ExchangeSecret,
    created_at: Timestamp,
    /// When another key took its place.
    pub rotated_out_at: Timestamp,
    /// From then on nothing is opened with it.
    pub expires_at: Timestamp,
}

#[cfg(test)]
impl ArchivedKey {
    /// What is kept of a key, for tests of what it opens.
    pub(crate) fn of(keys: &KeyPair) -> Arc<Self> {
        let at = Timestamp::from_millis(0);
        Arc::new(Self {
            key_id: "k_test".to_owned(),
            mesh: "test".to_owned(),
            public: keys.public(),
            exchange: keys.exchange().clone(),
            created_at: at,
            rotated_out_at: at,
            expires_at: at,
        })
    }
}

/// What a clean-up did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// Keys whose time had passed.
    pub removed: usize,
    /// Keys that are left.
    pub kept: usize,
}

/// The archive of one daemon directory. Its methods block while the file is written.
pub(crate) struct Archive {
    path: PathBuf,
    /// Oldest first.
    keys: Vec<Arc<ArchivedKey>>,
    /// The file is there and could not be read: writing would lose what is in it.
    is_unreadable: bool,
    /// Ids of keys that had to go before their time, because there were too many.
    force_expired: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema_version: u32,
    max_archived_keys: usize,
    keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key_id: String,
    mesh: String,
    ed25519_pubkey: String,
    x25519_pubkey: String,
    x25519_privkey: String,
    created_at: String,
    rotated_out_at: String,
    expires_at: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.x25519_privkey.zeroize();
    }
}

/// Why a file is no archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    Malformed,
    DuplicateKeyId,
}

impl Defect {
    const fn log_name(self) -> &'static str {
        match self {
            Self::Malformed => "keypair_archive_malformed",
            Self::DuplicateKeyId => "keypair_archive_duplicate_key_id",
        }
    }
}

impl Archive {
    /// Reads the file; a missing one is an empty archive. One that is damaged is moved aside and never keeps the daemon from
    /// starting. Keys whose time has passed go.
    pub(crate) fn open(path: PathBuf, now: Timestamp) -> Self {
        let mut archive =
            Self { path, keys: Vec::new(), is_unreadable: false, force_expired: Vec::new() };
        match file::read(&archive.path, Symlinks::Refuse) {
            Ok(None) => {}
            Ok(Some(content)) => {
                if content.is_open_to_others() {
                    tracing::warn!(path = %archive.path.display(), "keypair_archive_perms");
                }
                match parse(&content.bytes) {
                    Ok(keys) => archive.keys = keys,
                    Err(defect) => archive.set_aside(defect, now),
                }
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                // Somebody put a link in its place; what it points to is nothing of ours.
                archive.set_aside(Defect::Malformed, now);
            }
            Err(error) => {
                tracing::error!(path = %archive.path.display(), %error, "keypair_archive_unreadable");
                archive.is_unreadable = true;
            }
        }
        if let Err(error) = archive.clean_up(now) {
            tracing::warn!(path = %archive.path.display(), %error, "keypair_archive_not_written");
        }
        archive
    }

    fn set_aside(&mut self, defect: Defect, now: Timestamp) {
        let mut kept = self.path.as_os_str().to_owned();
        kept.push(format!(".malformed-{}", now.as_millis()));
        let kept = PathBuf::from(kept);
        match std::fs::rename(&self.path, &kept) {
            Ok(()) => tracing::error!(kept = %kept.display(), "{}", defect.log_name()),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "{}", defect.log_name());
                self.is_unreadable = true;
            }
        }
    }

    /// The keys of a mesh that still open something, newest first.
    pub(crate) fn of_mesh(&self, mesh: &str, now: Timestamp) -> Vec<Arc<ArchivedKey>> {
        let is_usable = |key: &&Arc<ArchivedKey>| key.mesh == mesh && key.expires_at > now;
        self.keys.iter().rev().filter(is_usable).cloned().collect()
    }

    /// Ids of keys that had to go before their time since the start.
    pub(crate) fn force_expired(&self) -> &[String] {
        &self.force_expired
    }

    /// Keeps the half of `keys` that opens mail; on disk when this returns. The same key of the same mesh is kept once, with
    /// its newest times. Of more keys of a mesh than the settings allow the oldest go at once.
    ///
    /// # Errors
    /// Any I/O error; the archive is then as it was, in memory and on disk.
    pub(crate) fn add(
        &mut self,
        mesh: &str,
        keys: &KeyPair,
        joined_at: Option<Timestamp>,
        settings: &CryptoSettings,
        now: Timestamp,
    ) -> io::Result<()> {
        let grace = settings.key_grace_period.min(KEY_GRACE_MAX);
        let predecessor = self.keys.iter().rev().find(|key| key.mesh == mesh);
        let added = ArchivedKey {
            key_id: format!("{KEY_ID_PREFIX}{}", ids::next()),
            mesh: mesh.to_owned(),
            public: keys.public(),
            exchange: keys.exchange().clone(),
            created_at: predecessor.map(|key| key.rotated_out_at).or(joined_at).unwrap_or(now),
            rotated_out_at: now,
            expires_at: now.plus(grace),
        };
        let is_same = |key: &&Arc<ArchivedKey>| key.mesh == mesh && key.public == added.public;
        let mut next: Vec<_> = self.keys.iter().filter(|key| !is_same(key)).cloned().collect();
        next.push(Arc::new(added));
        let of_mesh = next.iter().filter(|key| key.mesh == mesh).count();
        let mut surplus = of_mesh.saturating_sub(settings.max_archived_keys);
        let mut dropped = Vec::new();
        next.retain(|key| {
            let goes = key.mesh == mesh && surplus > 0;
            if goes {
                surplus -= 1;
                dropped.push(key.key_id.clone());
            }
            !goes
        });
        self.replace(next, settings.max_archived_keys)?;
        for key_id in &dropped {
            tracing::warn!(key_id, mesh, "keypair_archive_force_expired");
        }
        self.force_expired.extend(dropped);
        Ok(())
    }

    /// Forgets a key that was not rotated out after all.
    ///
    /// # Errors
    /// As [`Archive::add`].
    pub(crate) fn remove(&mut self, mesh: &str, public: PublicKey) -> io::Result<()> {
        let stays = |key: &&Arc<ArchivedKey>| key.mesh != mesh || key.public != public;
        let next: Vec<_> = self.keys.iter().filter(stays).cloned().collect();
        if next.len() == self.keys.len() { Ok(()) } else { self.replace(next, 0) }
    }

    /// Removes the keys whose time has passed.
    ///
    /// # Errors
    /// As [`Archive::add`]. Such keys open nothing in any case.
    pub(crate) fn clean_up(&mut self, now: Timestamp) -> io::Result<Cleaned> {
        let next: Vec<_> = self.keys.iter().filter(|key| key.expires_at > now).cloned().collect();
        let removed = self.keys.len() - next.len();
        if removed > 0 {
            self.replace(next, 0)?;
            tracing::info!(removed, "keypair_archive_cleaned");
        }
        Ok(Cleaned { removed, kept: self.keys.len() })
    }

    /// Writes `next` and then takes it over. An archive without keys is no file.
    fn replace(&mut self, next: Vec<Arc<ArchivedKey>>, max_archived_keys: usize) -> io::Result<()> {
        if self.is_unreadable {
            return Err(io::Error::other("its present content cannot be read"));
        }
        if next.is_empty() {
            file::remove_for_good(&self.path)?;
        } else {
            let max_archived_keys = max_archived_keys.max(next.len());
            let document = Document {
                schema_version: SCHEMA_VERSION,
                max_archived_keys,
                keys: next.iter().map(|key| entry_of(key)).collect(),
            };
            let json = Zeroizing::new(serde_json::to_vec_pretty(&document)?);
            file::replace(&self.path, &json, file::SECRET, Symlinks::Refuse)?;
        }
        self.keys = next;
        Ok(())
    }
}

fn entry_of(key: &ArchivedKey) -> Entry {
    Entry {
        key_id: key.key_id.clone(),
        mesh: key.mesh.clone(),
        ed25519_pubkey: b64(key.public.as_bytes()),
        x25519_pubkey: b64(key.exchange.public().as_bytes()),
        x25519_privkey: b64(key.exchange.as_bytes()),
        created_at: key.created_at.to_iso(),
        rotated_out_at: key.rotated_out_at.to_iso(),
        expires_at: key.expires_at.to_iso(),
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Arc<ArchivedKey>>, Defect> {
    let document: Document = serde_json::from_slice(bytes).map_err(|_| Defect::Malformed)?;
    if document.schema_version != SCHEMA_VERSION {
        return Err(Defect::Malformed);
    }
    let mut ids = BTreeSet::new();
    if !document.keys.iter().all(|entry| ids.insert(entry.key_id.as_str())) {
        return Err(Defect::DuplicateKeyId);
    }
    let mut keys = Vec::with_capacity(document.keys.len());
    for entry in &document.keys {
        keys.push(Arc::new(key_of(entry).ok_or(Defect::Malformed)?));
    }
    keys.sort_by_key(|key| key.rotated_out_at);
    Ok(keys)
}

/// `None` when a field has a wrong form, or the two halves do not belong together.
fn key_of(entry: &Entry) -> Option<ArchivedKey> {
    let secret = Zeroizing::new(b64_decode_array::<32>(&entry.x25519_privkey).ok()?);
    let exchange = ExchangeSecret::from_bytes(*secret);
    let is_pair = b64(exchange.public().as_bytes()) == entry.x25519_pubkey;
    let is_named = entry.key_id.strip_prefix(KEY_ID_PREFIX).is_some_and(|id| !id.is_empty());
    if !is_pair || !is_named {
        return None;
    }
    Some(ArchivedKey {
        key_id: entry.key_id.clone(),
        mesh: entry.mesh.clone(),
        public: PublicKey::from_bytes(b64_decode_array(&entry.ed25519_pubkey).ok()?),
        exchange,
        created_at: Timestamp::parse_iso(&entry.created_at)?,
        rotated_out_at: Timestamp::parse_iso(&entry.rotated_out_at)?,
        expires_at: Timestamp::parse_iso(&entry.expires_at)?,
    })
}

/// The time until the first of these keys goes; `None` for none.
pub(crate) fn next_expiry(archive: &Archive, now: Timestamp) -> Option<Duration> {
    archive.keys.iter().map(|key| key.expires_at.since(now)).min()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);
    const DAY: Duration = Duration::from_hours(24);

    struct Scene {
        dir: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("keypair-archive.json")
        }

        fn open(&self, now: Timestamp) -> Archive {
            Archive::open(self.path(), now)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    fn add(archive: &mut Archive, mesh: &str, now: Timestamp) -> KeyPair {
        let keys = KeyPair::generate();
        archive.add(mesh, &keys, None, &CryptoSettings::default(), now).unwrap();
        keys
    }

    fn publics(archive: &Archive, mesh: &str, now: Timestamp) -> Vec<PublicKey> {
        archive.of_mesh(mesh, now).iter().map(|key| key.public).collect()
    }

    #[test]
    fn keys_come_back_newest_first_and_open_what_they_opened() {
        let scene = Scene::new();
        let mut archive = scene.open(NOW);
        let first = add(&mut archive, "home", NOW);
        let second = add(&mut archive, "home", NOW.plus(DAY));
        let other = add(&mut archive, "work", NOW);
        assert_eq!(std::fs::metadata(scene.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(scene.path()).unwrap();
        assert!(!text.contains(&*first.to_hex()), "what signs is not kept");
        let archive = scene.open(NOW.plus(DAY));
        let now = NOW.plus(DAY);
        assert_eq!(publics(&archive, "home", now), [second.public(), first.public()]);
        assert_eq!(publics(&archive, "work", now), [other.public()]);
        let kept = archive.of_mesh("home", now);
        assert!(kept[1].exchange == *first.exchange());
        assert!(kept.iter().all(|key| key.key_id.starts_with("k_")));
    }

    #[test]
    fn keys_go_with_their_time_and_the_file_with_the_last() {
        let scene = Scene::new();
        let mut archive = scene.open(NOW);
        add(&mut archive, "home", NOW);
        let late = NOW.plus(7 * DAY);
        assert_eq!(publics(&archive, "home", late), [], "also before anybody cleans up");
        assert_eq!(archive.clean_up(late).unwrap(), Cleaned { removed: 1, kept: 0 });
        assert!(!scene.path().exists());
        add(&mut archive, "home", NOW);
        assert_eq!(publics(&scene.open(late), "home", NOW), [], "a start cleans up");
        assert!(!scene.path().exists());
    }

    #[test]
    fn the_grace_is_thirty_days_at_most() {
        let scene = Scene::new();
        let mut archive = scene.open(NOW);
        let settings = CryptoSettings { key_grace_period: 100 * DAY, ..CryptoSettings::default() };
        archive.add("home", &KeyPair::generate(), None, &settings, NOW).unwrap();
        assert_eq!(archive.of_mesh("home", NOW.plus(30 * DAY)).len(), 0);
        assert_eq!(archive.of_mesh("home", NOW.plus(29 * DAY)).len(), 1);
    }

    /// Daemon spec §19 Accept 3: 9 rotations: 8 archived keys, counter 1.
    #[test]
    fn of_nine_keys_the_oldest_goes() {
        let scene = Scene::new();
        let mut archive = scene.open(NOW);
        let other = add(&mut archive, "work", NOW);
        let keys: Vec<_> =
            (0..9_u32).map(|n| add(&mut archive, "home", NOW.plus(DAY * n / 24))).collect();
        let kept = publics(&archive, "home", NOW);
        assert_eq!(kept.len(), 8);
        assert!(!kept.contains(&keys[0].public()));
        assert_eq!(archive.force_expired().len(), 1);
        assert_eq!(publics(&scene.open(NOW), "home", NOW), kept);
        assert_eq!(publics(&archive, "work", NOW), [other.public()]);
    }

    #[test]
    fn one_key_stands_once_and_can_be_taken_out() {
        let scene = Scene::new();
        let mut archive = scene.open(NOW);
        let keys = KeyPair::generate();
        for at in [NOW, NOW.plus(DAY)] {
            archive.add("home", &keys, None, &CryptoSettings::default(), at).unwrap();
        }
        assert_eq!(publics(&archive, "home", NOW.plus(7 * DAY)), [keys.public()]);
        archive.remove("home", keys.public()).unwrap();
        assert!(!scene.path().exists());
    }

    /// Daemon spec §19 Accept 3: a file with a key id twice is quarantined, and the daemon is up. So is every other damage.
    #[test]
    fn damaged_files_are_moved_aside() {
        let scene = Scene::new();
        let mut archive = scene.open(NOW);
        add(&mut archive, "home", NOW);
        add(&mut archive, "home", NOW);
        let good = std::fs::read_to_string(scene.path()).unwrap();
        let document: serde_json::Value = serde_json::from_str(&good).unwrap();
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut changed = document.clone();
            change(&mut changed);
            changed.to_string()
        };
        let id = document["keys"][0]["key_id"].clone();
        let foreign = document["keys"][0]["x25519_pubkey"].clone();
        for bad in [
            "{".to_owned(),
            "[]".to_owned(),
            with(&|document| document["schema_version"] = 2.into()),
            with(&|document| document["keys"][1]["key_id"] = id.clone()),
            with(&|document| document["keys"][1]["x25519_pubkey"] = foreign.clone()),
            with(&|document| document["keys"][1]["expires_at"] = "soon".into()),
            with(&|document| document["keys"][1]["x25519_privkey"] = "AAAA".into()),
        ] {
            let scene = Scene::new();
            std::fs::write(scene.path(), &bad).unwrap();
            let mut archive = scene.open(NOW);
            assert_eq!(archive.of_mesh("home", NOW).len(), 0, "{bad}");
            let name = format!("keypair-archive.json.malformed-{}", NOW.as_millis());
            assert_eq!(scene.names(), std::slice::from_ref(&name));
            assert_eq!(std::fs::read_to_string(scene.dir.path().join(name)).unwrap(), bad);
            add(&mut archive, "home", NOW);
            assert_eq!(scene.open(NOW).of_mesh("home", NOW).len(), 1);
        }
    }

    #[test]
    fn a_wide_mode_is_read_and_a_link_is_not_followed() {
        let scene = Scene::new();
        let keys = add(&mut scene.open(NOW), "home", NOW);
        std::fs::set_permissions(scene.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(publics(&scene.open(NOW), "home", NOW), [keys.public()]);
        let elsewhere = scene.dir.path().join("elsewhere");
        std::fs::rename(scene.path(), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, scene.path()).unwrap();
        let mut archive = scene.open(NOW);
        assert_eq!(archive.of_mesh("home", NOW).len(), 0);
        let before = std::fs::read(&elsewhere).unwrap();
        add(&mut archive, "home", NOW);
        assert_eq!(std::fs::read(&elsewhere).unwrap(), before);
    }

    /// An archive that is there and cannot be read is not written over.
    #[test]
    fn what_cannot_be_read_is_not_replaced() {
        let scene = Scene::new();
        std::fs::create_dir(scene.path()).unwrap();
        let mut archive = scene.open(NOW);
        let added =
            archive.add("home", &KeyPair::generate(), None, &CryptoSettings::default(), NOW);
        assert!(added.is_err());
        assert_eq!(archive.of_mesh("home", NOW).len(), 0);
    }
}
