//! Which machine and which member this daemon is: the host's fingerprint and what follows from another one, the keys
//! that were rotated out, and the way from one member key to the next (daemon spec §4, §19).

mod archive;
mod ephemeral;
mod host;
mod pending;
mod record;
mod rotation;
mod state;
mod surroundings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::daemon::Daemon;
use crate::settings::CryptoSettings;

pub(crate) use archive::ArchivedKey;
pub use archive::Cleaned;
pub use ephemeral::{Ephemeral, fresh_dir, living};
pub use host::HostSources;
pub(crate) use record::check;
pub use record::{AcceptError, ForeignHost, accept_host, host_fingerprint};
pub(crate) use rotation::{RotationError, tend};
pub(crate) use state::{BrokerKey, FormerKey, FormerKeys, MeshState};
pub use surroundings::Surroundings;

use archive::Archive;

/// The keys of our members besides those in `config.json`. Cloning is cheap.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    host: HostSources,
    archive: Mutex<Archive>,
    states: Mutex<BTreeMap<String, Arc<MeshState>>>,
    /// One rotation at a time.
    rotating: tokio::sync::Mutex<()>,
    /// A broker refused a key of ours, or something changed about the keys that are kept.
    look: Notify,
}

impl Daemon {
    /// As [`accept_host`], for this daemon. Blocks.
    pub(crate) fn accept_host(&self) -> Result<String, AcceptError> {
        let (context, host) = (self.context(), &self.context().identity.shared.host);
        let settings = context.settings.get();
        accept_host(context.paths.daemon_dir(), &settings.clone, host, crate::clock::now())
    }
}

impl Identity {
    /// Reads what the daemon directory keeps. Blocks.
    pub fn open(daemon_dir: &Path, host: HostSources, now: Timestamp) -> Self {
        let archive = Archive::open(daemon_dir.join("keypair-archive.json"), now);
        Self {
            shared: Arc::new(Shared {
                dir: daemon_dir.to_owned(),
                host,
                archive: Mutex::new(archive),
                states: Mutex::default(),
                rotating: tokio::sync::Mutex::default(),
                look: Notify::new(),
            }),
        }
    }

    /// Former keys of our member in a mesh that still open mail, newest first.
    pub(crate) fn archived(&self, mesh: &str, now: Timestamp) -> Vec<Arc<ArchivedKey>> {
        self.shared.archive.lock().of_mesh(mesh, now)
    }

    /// Ids of archived keys that had to go before their time, because there were too many
    /// (`cm_daemon_archive_force_expired_total`).
    pub fn force_expired(&self) -> Vec<String> {
        self.shared.archive.lock().force_expired().to_vec()
    }

    /// What is remembered about a mesh. The file is read once; that blocks.
    pub(crate) fn state(&self, slug: &str, mesh_id: &MeshId) -> Arc<MeshState> {
        let mut states = self.shared.states.lock();
        if let Some(state) = states.get(slug)
            && state.is_of(mesh_id)
        {
            return Arc::clone(state);
        }
        let path = self.shared.dir.join(format!("mesh-state-{slug}.json"));
        let state = Arc::new(MeshState::open(&path, mesh_id));
        states.insert(slug.to_owned(), Arc::clone(&state));
        state
    }

    /// A broker calls a key of ours unknown: a rotation may have got that far and no further.
    pub(crate) fn key_refused(&self) {
        self.shared.look.notify_one();
    }

    /// Removes archived keys whose time has passed. Blocks.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub(crate) fn clean_up(&self, now: Timestamp) -> std::io::Result<Cleaned> {
        self.shared.archive.lock().clean_up(now)
    }

    fn archive(
        &self,
        mesh: &str,
        keys: &KeyPair,
        joined_at: Option<Timestamp>,
        settings: &CryptoSettings,
        now: Timestamp,
    ) -> std::io::Result<()> {
        self.shared.archive.lock().add(mesh, keys, joined_at, settings, now)
    }

    fn unarchive(&self, mesh: &str, key: PublicKey) -> std::io::Result<()> {
        self.shared.archive.lock().remove(mesh, key)
    }

    fn next_expiry(&self, now: Timestamp) -> Option<Duration> {
        archive::next_expiry(&self.shared.archive.lock(), now)
    }
}
