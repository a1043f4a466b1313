//! What the parts of a running daemon share.

use std::sync::Arc;

use claudemesh_ipc::Paths;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::EventBus;
use crate::evidence::Evidence;
use crate::home::config::{Config, ConfigError};
use crate::identity::{Ephemeral, Identity};
use crate::inbox::Inbox;
use crate::local_token::LocalTokens;
use crate::metrics::Figures;
use crate::outbox::Outbox;
use crate::resources::Resources;
use crate::sessions::Sessions;
use crate::settings::Settings;

/// Handles to everything below the local API. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    /// Where the files lie.
    pub paths: Arc<Paths>,
    /// How this daemon ends, where it leaves nothing behind.
    pub(crate) ephemeral: Option<Ephemeral>,
    /// The settings in force.
    pub settings: SharedSettings,
    /// Messages on their way out.
    pub outbox: Outbox,
    /// Messages that came in.
    pub inbox: Inbox,
    /// What happens.
    pub events: EventBus,
    /// The registered sessions.
    pub sessions: Sessions,
    /// What the agents' own records show.
    pub(crate) evidence: Evidence,
    /// Keys that were ours, and those that are to be.
    pub identity: Identity,
    /// What the process itself uses.
    pub(crate) resources: Arc<Resources>,
    /// What is counted.
    pub(crate) figures: Figures,
    /// What proves a client's right on TCP.
    pub(crate) local_token: Arc<LocalTokens>,
    /// Every task of the daemon.
    pub tasks: TaskTracker,
    /// Cancelled when the daemon stops taking work.
    pub shutdown: CancellationToken,
}

impl Context {
    /// As [`memberships`], for this daemon.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn memberships(&self) -> Result<Config, ConfigError> {
        memberships(&self.paths, self.ephemeral.as_ref())
    }
}

/// The memberships of a daemon: those of `config.json`, unless it has some for itself. Blocks.
///
/// # Errors
/// [`ConfigError`].
pub(crate) fn memberships(
    paths: &Paths,
    ephemeral: Option<&Ephemeral>,
) -> Result<Config, ConfigError> {
    let path = paths.membership_file();
    let own = ephemeral.and_then(|ephemeral| ephemeral.config(&path));
    own.unwrap_or_else(|| Config::read(&path))
}

/// Settings that a reload may replace.
#[derive(Clone)]
pub struct SharedSettings {
    current: Arc<RwLock<Arc<Settings>>>,
}

impl SharedSettings {
    /// Starts with `settings`.
    pub fn new(settings: Settings) -> Self {
        Self { current: Arc::new(RwLock::new(Arc::new(settings))) }
    }

    /// The settings in force now.
    pub fn get(&self) -> Arc<Settings> {
        Arc::clone(&self.current.read())
    }

    /// Puts others in force.
    pub fn set(&self, settings: Settings) {
        *self.current.write() = Arc::new(settings);
    }
}
