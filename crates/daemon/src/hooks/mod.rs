//! User hooks (daemon spec §16): scripts of the user that run when something happens. A peer can neither install nor change
//! nor steer one: which file runs is decided by the user's files alone, and what a peer wrote reaches it as data on its
//! standard input.
//!
//! [`Hooks`] hears of events without holding up whoever tells them ([`listen`]), queues runs ([`queue`]), and runs them
//! ([`execute`], [`process`], [`runner`]). `pre-send` is asked before a message is accepted ([`pre_send`]).

mod answer;
mod audit;
mod event;
mod execute;
mod figures;
mod file;
mod guard;
mod installed;
mod listen;
mod name;
mod pre_send;
mod process;
mod queue;
mod redact;
mod reply;
mod runner;
mod sandbox;
mod section;
mod token;
mod trial;

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use claudemesh_ipc::env;
use claudemesh_protocol::limits::{HOOK_SHUTDOWN_GRACE, HOOKS_AT_ONCE};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Failure;
use crate::blocking;
use crate::context::{Context, SharedSettings};
use crate::events::EventBus;
use crate::mesh::Meshes;
use crate::sessions::Sessions;

pub(crate) use event::AUTO_KEY;
pub use figures::{DURATION_BUCKETS, HookMetrics};
pub use installed::UnusableHooks;
pub(crate) use pre_send::{Asked, without_daemon};
pub use process::{Isolation, Runner};
pub(crate) use reply::HookLetter;
pub use runner::{NOT_BEGUN, RUN_HOOK, become_hook};
pub(crate) use section::Scope;
pub(crate) use token::{Grant, HOOK_SCHEME};

use audit::AuditFile;
use figures::Figures;
use guard::Replies;
use installed::Installed;
use listen::Listening;
use queue::Queue;
use sandbox::Abilities;
use token::Tokens;

/// Time beyond [`HOOK_SHUTDOWN_GRACE`] in which ended processes are buried.
const BURIAL: Duration = Duration::from_millis(500);

/// The hooks of a daemon. Cloning is cheap.
#[derive(Clone)]
pub struct Hooks {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    home: Option<OsString>,
    settings: SharedSettings,
    sessions: Sessions,
    meshes: Meshes,
    events: EventBus,
    installed: RwLock<Arc<Installed>>,
    /// What was warned about since the start: once is enough.
    warned: Mutex<HashSet<String>>,
    listening: Listening,
    queue: Queue,
    tokens: Arc<Tokens>,
    replies: Replies,
    figures: Figures,
    audit: AuditFile,
    /// Set when the daemon serves.
    start: OnceLock<Start>,
    abilities: OnceCell<Abilities>,
    /// Guards that run at once; they are not in the queue, since somebody waits for them.
    guards: Semaphore,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// What hooks need of a daemon that serves.
pub(crate) struct Start {
    /// The program that begins them.
    pub(crate) runner: Runner,
    /// The socket they are told of.
    pub(crate) socket: PathBuf,
    /// Whether they run when the settings say nothing.
    pub(crate) are_on: bool,
}

impl Hooks {
    /// Knows of no hook yet, and runs none before [`Hooks::start`].
    pub(crate) fn new(context: &Context, meshes: Meshes) -> Self {
        let paths = &context.paths;
        let shared = Shared {
            dir: paths.hooks_dir(),
            home: env::path(env::HOME).map(PathBuf::into_os_string),
            settings: context.settings.clone(),
            sessions: context.sessions.clone(),
            meshes,
            events: context.events.clone(),
            installed: RwLock::default(),
            warned: Mutex::default(),
            listening: Listening::default(),
            queue: Queue::default(),
            tokens: Arc::default(),
            replies: Replies::default(),
            figures: Figures::default(),
            audit: AuditFile::new(paths.hooks_audit_file()),
            start: OnceLock::new(),
            abilities: OnceCell::new(),
            guards: Semaphore::new(HOOKS_AT_ONCE),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Loads the hooks and begins to listen. Hooks that cannot be loaded are told in the log, and do not keep the daemon
    /// from starting; what could be a guard lets nothing pass then.
    pub(crate) async fn start(&self, start: Start) {
        if self.shared.start.set(start).is_err() || crate::clock::is_simulated() {
            return;
        }
        match self.read().await {
            Ok(installed) => self.install(installed),
            Err(error) => {
                tracing::warn!(%error, "hooks_config_refused");
                let dir = self.shared.dir.clone();
                let unusable = blocking::run(move || Installed::unusable(&dir)).await;
                self.install(Loaded(unusable.unwrap_or_default()));
            }
        }
        self.listen();
    }

    /// Looks at the user's files.
    ///
    /// # Errors
    /// [`UnusableHooks`]; the hooks in force stay.
    pub(crate) async fn read(&self) -> Result<Loaded, UnusableHooks> {
        let dir = self.shared.dir.clone();
        let loaded = blocking::run(move || Installed::load(&dir)).await;
        loaded.unwrap_or_else(|| Ok(Installed::default())).map(Loaded)
    }

    /// Puts hooks in force. What runs, runs on.
    pub(crate) fn install(&self, loaded: Loaded) {
        let installed = loaded.0;
        if self.are_on() {
            for (path, reason) in &installed.refused {
                if self.is_news(&path.display().to_string()) {
                    tracing::warn!(path = %path.display(), %reason, "hook_refused");
                }
            }
            for name in &installed.missing {
                if self.is_news(&format!("missing {name}")) {
                    tracing::warn!(hook = %name, "hook_has_no_file");
                }
            }
        }
        if installed.len() > 0 {
            tracing::info!(hooks = installed.len(), on = self.are_on(), "hooks_loaded");
        }
        *self.shared.installed.write() = Arc::new(installed);
    }

    /// The figures of all hooks, since the start.
    pub fn metrics(&self) -> Vec<HookMetrics> {
        self.shared.figures.all()
    }

    /// What the token in an `Authorization` header of scheme [`HOOK_SCHEME`] is good for; counts the call.
    ///
    /// # Errors
    /// 401 for no token of a running hook, 429 after too many calls.
    pub(crate) fn admit(&self, token: &str) -> Result<Arc<Grant>, Failure> {
        self.shared.tokens.admit(token)
    }

    /// Ends what runs, with its groups: asked first, then not asked any more. Returns when all of it is gone.
    pub(crate) async fn shutdown(&self) {
        self.shared.stopping.cancel();
        self.shared.queue.clear();
        self.shared.tasks.close();
        let patience = HOOK_SHUTDOWN_GRACE + BURIAL;
        if tokio::time::timeout(patience, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(hooks = self.shared.tasks.len(), "hooks_left_behind");
        }
    }

    /// Whether hooks run at all.
    fn are_on(&self) -> bool {
        let by_default = self.shared.start.get().is_some_and(|start| start.are_on);
        self.shared.settings.get().hooks.enabled.unwrap_or(by_default)
    }

    fn installed(&self) -> Arc<Installed> {
        Arc::clone(&self.shared.installed.read())
    }

    /// True the first time since the start that somebody says this.
    fn is_news(&self, what: &str) -> bool {
        /// What is not remembered any more is said again.
        const REMEMBERED: usize = 4_096;
        let mut warned = self.shared.warned.lock();
        if warned.len() >= REMEMBERED {
            warned.clear();
        }
        warned.insert(what.to_owned())
    }
}

/// Hooks that were read and are not in force yet.
pub(crate) struct Loaded(Installed);
