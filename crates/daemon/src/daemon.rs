//! A running daemon: the shared parts, the attached meshes, and what concerns several of them at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use claudemesh_ipc::api::EventKind;
use claudemesh_protocol::{PeerStatus, PublicKey, Timestamp};
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::context::Context;
use crate::events::Event;
use crate::home::config::{Config, ConfigError};
use crate::hooks::{Hooks, UnusableHooks};
use crate::inbox::Answerer;
use crate::log::LevelHandle;
use crate::mesh::{MeshHandle, Meshes, Via};
use crate::pressure::{Level, Pressure};
use crate::sessions::{NewSession, Opening, RegisterError, Registered, Session, TokenHash};
use crate::settings::{Changes, Settings, SettingsError};

/// How long what was on its way to a session that has ended may take to be stored.
const LAST_ARRIVALS: Duration = Duration::from_secs(5);
/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Version of the layout of the daemon directory.
pub const LAYOUT_VERSION: u32 = 1;

/// Handle of a running daemon. Cloning is cheap.
#[derive(Clone)]
pub struct Daemon {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    meshes: Meshes,
    pressure: Pressure,
    started_at: Timestamp,
    stopping: CancellationToken,
    exit_code: AtomicU8,
    default_mesh: Mutex<Option<String>>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    /// One registration at a time; locked by threads that may block, never by a task.
    registering: Mutex<()>,
    log_level: LevelHandle,
    hooks: Hooks,
}

/// What a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Slugs of meshes attached.
    pub attached: Vec<String>,
    /// Slugs of meshes detached.
    pub detached: Vec<String>,
    /// Settings that changed.
    pub settings: Changes,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// `config.toml`.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// `config.json`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `hooks.toml`.
    #[error(transparent)]
    Hooks(#[from] UnusableHooks),
    /// The reading task was lost.
    #[error("the files could not be read")]
    Lost,
}

impl Daemon {
    pub(crate) fn new(context: Context, meshes: Meshes, log_level: LevelHandle) -> Self {
        let pressure = Pressure::new(context.paths.daemon_dir().to_owned(), context.events.clone());
        let shared = Shared {
            hooks: Hooks::new(&context, meshes.clone()),
            pressure,
            meshes,
            started_at: crate::clock::now(),
            stopping: CancellationToken::new(),
            exit_code: AtomicU8::new(0),
            default_mesh: Mutex::new(None),
            reloading: tokio::sync::Mutex::new(()),
            registering: Mutex::new(()),
            log_level,
            context,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The shared parts.
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    /// The user's hooks.
    pub fn hooks(&self) -> &Hooks {
        &self.shared.hooks
    }

    /// The attached meshes.
    pub fn meshes(&self) -> &Meshes {
        &self.shared.meshes
    }

    /// When it started.
    pub fn started_at(&self) -> Timestamp {
        self.shared.started_at
    }

    /// Asks it to stop: no more requests, then the orderly end.
    pub fn stop(&self) {
        self.shared.stopping.cancel();
    }

    /// The same, to end with another code than 0.
    pub(crate) fn stop_with(&self, code: u8) {
        self.shared.exit_code.store(code, Ordering::Relaxed);
        self.stop();
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.shared.exit_code.load(Ordering::Relaxed)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stopping.is_cancelled()
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.shared.stopping.clone()
    }

    pub(crate) fn pressure(&self) -> &Pressure {
        &self.shared.pressure
    }

    /// Whether a send is taken now.
    pub(crate) async fn measure_pressure(&self) -> Level {
        let context = self.context();
        self.pressure().measure(&context.outbox, &context.settings.get()).await
    }

    /// The mesh that is meant where none is named.
    pub(crate) fn default_mesh(&self) -> Option<String> {
        let configured = self.context().settings.get().daemon.default_mesh.clone();
        configured.or_else(|| self.shared.default_mesh.lock().clone())
    }

    /// Reads `config.toml`, `config.json` and the hooks again and applies what can be applied to a running daemon.
    ///
    /// # Errors
    /// [`ReloadError`]; everything stays as it is then, but for [`ReloadError::Hooks`], after which only the hooks do.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let _one_at_a_time = self.shared.reloading.lock().await;
        let context = self.context().clone();
        let (settings, config) = blocking::run(move || {
            let settings = Settings::read(&context.paths.settings_file())?;
            let config = context.memberships()?;
            Ok::<_, ReloadError>((settings, config))
        })
        .await
        .ok_or(ReloadError::Lost)??;
        let hooks = self.hooks().read().await;
        let settings = self.apply_settings(settings);
        // A mistake in there keeps no mesh from being attached.
        let hooks = hooks.map(|hooks| self.hooks().install(hooks));
        let (attached, detached) = self.apply_meshes(&config).await;
        self.meshes().reconnect_disabled();
        hooks?;
        Ok(Reloaded { attached, detached, settings })
    }

    fn apply_settings(&self, settings: Settings) -> Changes {
        for key in settings.unknown_keys() {
            tracing::warn!(key, "config_unknown_key");
        }
        let context = self.context();
        let changes = context.settings.get().changes(&settings);
        self.shared.log_level.set(settings.daemon.log_level);
        crate::live::apply(&settings, context, self.meshes());
        context.settings.set(settings);
        for key in &changes.applied {
            tracing::info!(key, "setting_applied");
        }
        for key in &changes.needs_restart {
            tracing::warn!(key, "setting_needs_restart");
        }
        changes
    }

    /// Keeps every reload waiting until it is dropped.
    pub(crate) async fn hold_reloads(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shared.reloading.lock().await
    }

    /// Attaches and detaches so that exactly the joined meshes are attached.
    pub(crate) async fn apply_meshes(&self, config: &Config) -> (Vec<String>, Vec<String>) {
        if config.is_open_to_others() {
            tracing::warn!(path = %config.path().display(), "file_perms_wide");
        }
        *self.shared.default_mesh.lock() = config.default_mesh().map(str::to_owned);
        let changes = self.meshes().apply(config.meshes().cloned().collect());
        for slug in &changes.detached {
            if changes.attached.contains(slug) {
                // The same mesh under other terms: its sessions connect again.
                self.open_sessions(slug);
            } else {
                self.mesh_left(slug).await;
            }
        }
        for slug in &changes.attached {
            tracing::info!(mesh = slug, "mesh_attached");
        }
        (changes.attached, changes.detached)
    }

    /// Opens the connections of a mesh's registered sessions.
    pub(crate) fn open_sessions(&self, slug: &str) {
        let Some(mesh) = self.meshes().get(slug) else { return };
        for session in self.context().sessions.live(slug) {
            mesh.open_session(&session);
        }
    }

    async fn mesh_left(&self, slug: &str) {
        tracing::info!(mesh = slug, "mesh_detached");
        let context = self.context();
        for session in context.sessions.remove_mesh(slug) {
            context.sessions.publish_ended(&session, "mesh_left");
        }
        match context.outbox.mesh_left(slug).await {
            Ok(rows) => {
                for row in rows {
                    let Ok(Value::Object(data)) = serde_json::to_value(row) else { continue };
                    context.events.publish(Event::of_mesh(EventKind::OutboxDead, slug, data));
                }
            }
            Err(error) => {
                let error = crate::storage::Causes(&error);
                tracing::error!(mesh = slug, %error, "outbox_of_left_mesh_kept");
            }
        }
    }

    /// Registers a session and opens its connection; those that make way are closed first.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub(crate) async fn register(
        &self,
        new: NewSession,
        mesh: &MeshHandle,
    ) -> Result<Registered, RegisterError> {
        let (daemon, mesh) = (self.clone(), mesh.clone());
        // Whoever asked may hang up: what was begun is done all the same.
        let registered = blocking::run(move || daemon.register_now(new, &mesh))
            .await
            .ok_or_else(|| RegisterError::KeyStore(std::io::Error::other("it panicked")))??;
        // A full disk must not keep an agent from working: should this process die now, the session registers again, and
        // what it was told stands with the messages themselves.
        let _is_tried_again = self.context().sessions.saved().await;
        Ok(registered)
    }

    /// Blocks while the keys of the session are read or made. One at a time, so that of two registrations of one session
    /// the connection is the later one's.
    fn register_now(
        &self,
        new: NewSession,
        mesh: &MeshHandle,
    ) -> Result<Registered, RegisterError> {
        let _turn = self.shared.registering.lock();
        let sessions = &self.context().sessions;
        let registered = sessions.register(new, mesh.member().public, crate::clock::now())?;
        if registered.is_repeat {
            return Ok(registered);
        }
        for old in &registered.replaced {
            if let (Some(mesh), Some(key)) = (self.meshes().get(&old.mesh), old.key()) {
                mesh.close_session(&key);
            }
            sessions.publish_ended(old, "replaced");
            if old.key() != registered.session.key() {
                self.leave_to_member(old);
            }
        }
        mesh.open_session(&registered.session);
        sessions.publish_registered(&registered.session);
        Ok(registered)
    }

    /// Ends a session: its connection is closed as meant, its entry dropped.
    pub(crate) fn end_session(&self, hash: TokenHash, reason: &str) -> Option<Arc<Session>> {
        let sessions = &self.context().sessions;
        let session = sessions.remove(hash)?;
        if let (Some(mesh), Some(key)) = (self.meshes().get(&session.mesh), session.key())
            // Else it is back already, and the connection is its new one.
            && sessions.by_key(&session.mesh, &key).is_none()
        {
            mesh.close_session(&key);
        }
        sessions.publish_ended(&session, reason);
        self.leave_to_member(&session);
        Some(session)
    }

    /// What an ended session was never handed becomes its member's: now, and once more when what was on its way to it has
    /// been stored.
    fn leave_to_member(&self, session: &Session) {
        let Some(key) = session.key() else { return };
        let (daemon, slug) = (self.clone(), session.mesh.clone());
        self.context().tasks.spawn(async move {
            daemon.leave_key_to_member(&slug, key).await;
            tokio::select! {
                biased;
                () = daemon.shared.stopping.cancelled() => return,
                () = tokio::time::sleep(LAST_ARRIVALS) => {}
            }
            daemon.leave_key_to_member(&slug, key).await;
        });
    }

    /// As when the session of this key ends, unless it lives.
    pub(crate) async fn leave_key_to_member(&self, slug: &str, key: PublicKey) {
        if self.context().sessions.by_key(slug, &key).is_none()
            && let Some(mesh) = self.meshes().get(slug)
        {
            mesh.session_ended(key).await;
        }
    }

    /// A reply names a message: the first one settles it, and it is announced to nobody any more. Best effort: a mark
    /// that is lost costs an announcement.
    pub(crate) async fn settle(
        &self,
        mesh: &MeshHandle,
        reply_to_id: &str,
        session: Option<&Session>,
    ) {
        let by = match session {
            Some(session) => Answerer::Session {
                id: session.session_id.clone(),
                name: session.display_name.clone(),
            },
            None => Answerer::Person,
        };
        let inbox = &self.context().inbox;
        let now = crate::clock::now();
        if let Err(error) = inbox.settle(mesh.slug(), reply_to_id, by, now).await {
            let error = crate::storage::Causes(&error);
            tracing::warn!(mesh = mesh.slug(), %error, "answer_not_recorded");
        }
    }

    /// Sessions say themselves what they are doing.
    pub(crate) async fn set_status_by_hand(&self, slug: &str, roads: &[Via], status: PeerStatus) {
        let context = self.context();
        for via in roads {
            let Via::Session(key) = via else { continue };
            let Some(session) = context.sessions.by_key(slug, key) else { continue };
            let change = session.activity.set_by_hand(status);
            if change.status.is_some() {
                context.sessions.status_changed(&session);
            }
            if change.opening == Opening::All {
                context.inbox.release(&session).await;
            }
        }
    }

    /// Opens the gates of sessions that said by hand that they work, and never said that they stopped.
    pub(crate) async fn expire_statuses(&self) {
        let context = self.context();
        for session in context.sessions.all() {
            if session.activity.expire() {
                context.sessions.status_changed(&session);
                context.inbox.release(&session).await;
            }
        }
    }

    /// Keys whose stored pairs are still needed: of live sessions, and of those with unfinished messages.
    pub(crate) async fn keys_in_use(&self) -> Result<Vec<PublicKey>, crate::storage::StorageError> {
        let context = self.context();
        let mut keys: Vec<_> =
            context.sessions.all().iter().filter_map(|session| session.key()).collect();
        for mesh in self.meshes().all() {
            keys.extend(context.outbox.waiting_senders(mesh.slug()).await?);
        }
        keys.extend(context.inbox.unseen_recipients().await?);
        Ok(keys)
    }
}
