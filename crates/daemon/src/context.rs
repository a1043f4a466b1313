//! What the parts of a running daemon share.

use std::sync::Arc;

use claudemesh_ipc::Paths;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::EventBus;
use crate::identity::Identity;
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
