//! Start and end of the daemon, in the order of daemon spec §1.2 and §1.3, with the exit codes of §1.4.

mod socket;
mod stop;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_client::{Dialer, Proxies, ProxyDialer};
use claudemesh_ipc::{Client, Paths, env};
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::limits::STATS_EVERY;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{self, Context, SharedSettings};
use crate::daemon::{Daemon, LAYOUT_VERSION, VERSION};
use crate::events::EventBus;
use crate::evidence::{self, Evidence};
use crate::home::config::ConfigError;
use crate::home::file::{self, FileLock, Symlinks};
use crate::identity::{Ephemeral, ForeignHost, HostSources, Identity, Surroundings};
use crate::inbox::{Inbox, InboxSettings};
use crate::local_token::LocalTokens;
use crate::log::{self, LevelHandle};
use crate::mesh::{
    AgeSettings, FeatureTerms, LegacyBrokers, MeshContext, MeshSettings, Meshes, Standing,
};
use crate::metrics::Figures;
use crate::outbox::Outbox;
use crate::sessions::{Processes, SessionLimits, Sessions, SessionsSettings, SystemProcesses};
use crate::settings::{Settings, SettingsError};
use crate::storage::UnusableDatabase;
use crate::{api, hooks, identity, live, network, upkeep, watch};

/// How often the lock is tried: a client that only asks whether it is taken holds it for a moment.
const LOCK_TRIES: u32 = 10;
const LOCK_STEP: Duration = Duration::from_millis(20);
/// Bytes on their way in one direction of a connection without a socket.
const LOCAL_STREAM_BYTES: usize = 64 * 1024;

/// How to start.
#[derive(Clone)]
pub struct Options {
    /// Where the files lie.
    pub paths: Paths,
    /// Whether `ws://` to another machine is allowed.
    pub plain: PlainHttp,
    /// How processes are looked at.
    pub processes: Arc<dyn Processes>,
    /// How brokers are dialled.
    pub dialer: Arc<dyn Dialer>,
    /// Number of this process.
    pub pid: u32,
    /// Whether the local API listens on TCP too, whatever the settings say.
    pub tcp: Option<bool>,
    /// Where this machine is asked who it is.
    pub host: HostSources,
    /// What surrounds this process.
    pub surroundings: Surroundings,
    /// What begins the processes of hooks.
    pub hook_runner: hooks::Runner,
    ephemeral: Option<Ephemeral>,
    log_level: LevelHandle,
}

impl Options {
    /// The daemon of these paths, with what the environment says.
    pub fn from_env(paths: Paths) -> Self {
        Self {
            paths,
            plain: plain_from_env(),
            processes: Arc::new(SystemProcesses::new()),
            dialer: dialer_from_env(),
            pid: std::process::id(),
            tcp: None,
            host: HostSources::default(),
            surroundings: Surroundings::of_this_process(),
            hook_runner: hooks::Runner::default(),
            ephemeral: None,
            log_level: LevelHandle::default(),
        }
    }

    /// The same for a daemon that leaves nothing behind. What surrounds the process changes nothing about that: whoever
    /// starts it decides.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: Ephemeral) -> Self {
        self.paths = self.paths.ephemeral(ephemeral.dir());
        self.ephemeral = Some(ephemeral);
        self
    }
}

/// Whether the owner of this machine allows `ws://` to another one.
pub(crate) fn plain_from_env() -> PlainHttp {
    if env::is_on(env::ALLOW_INSECURE) { PlainHttp::Allowed } else { PlainHttp::LoopbackOnly }
}

/// TCP, through the proxy that the environment names.
pub(crate) fn dialer_from_env() -> Arc<dyn Dialer> {
    Arc::new(ProxyDialer::new(Proxies::new(
        env::text_any_case(env::HTTPS_PROXY).as_deref(),
        env::text_any_case(env::NO_PROXY).as_deref(),
    )))
}

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Another one holds the lock.
    #[error("daemon already running (pid {pid})")]
    AlreadyRunning {
        /// What the pid file says.
        pid: String,
    },
    /// The daemon directory belongs to somebody else, or others may write to it.
    #[error("{} {reason}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file of the daemon cannot be used.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `config.toml`.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The files were made on another machine.
    #[error(transparent)]
    ForeignHost(#[from] ForeignHost),
    /// `config.json`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The outbox, or an inbox of a newer program.
    #[error(transparent)]
    Database(#[from] UnusableDatabase),
    /// The socket.
    #[error("cannot listen on {}: {source}", .path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl BootError {
    /// The exit code of daemon spec §1.4.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::AlreadyRunning { .. } | Self::File { .. } => 1,
            Self::Directory { .. } | Self::Settings(_) | Self::Config(_) => 3,
            Self::ForeignHost(_) => 4,
            Self::Database(_) => 5,
            Self::Listen { .. } => 7,
        }
    }
}

/// A daemon that serves. Dropping it without [`Running::shutdown`] leaves its tasks to the runtime.
pub struct Running {
    daemon: Daemon,
    door: api::Door,
    socket: PathBuf,
    lock: Arc<FileLock>,
}

impl Running {
    /// Its handle.
    pub const fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client of it, without a session.
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// A connection to the local API that takes no socket, for whoever holds the daemon in its own process.
    pub fn local_stream(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(LOCAL_STREAM_BYTES);
        let pid = i32::try_from(std::process::id()).ok();
        self.door.admit(theirs, api::Transport::Socket(pid));
        ours
    }

    /// Returns when somebody asked it to stop.
    pub async fn stop_asked(&self) {
        self.daemon.stopping().cancelled().await;
    }

    /// Stops it in order; takes at most 8 s, and then the rest is given up.
    pub async fn shutdown(self) {
        stop::shutdown(&self.daemon, &self.socket).await;
        drop(self.lock);
    }
}

/// Runs the daemon until a signal or a request ends it, and answers its exit code. Starts the log of the process.
pub async fn run(options: Options) -> ExitCode {
    ExitCode::from(run_for_code(options).await)
}

/// As [`run`], with the code as a number.
pub async fn run_for_code(options: Options) -> u8 {
    let (ephemeral, plain) = (options.ephemeral.clone(), options.plain);
    let code = run_to_the_end(options).await;
    if let Some(ephemeral) = ephemeral {
        // One that did not start is a member all the same.
        ephemeral.leave(plain).await;
        let dir = ephemeral.dir().to_owned();
        if let Some(Err(error)) = crate::blocking::run(move || ephemeral.remove()).await {
            tracing::error!(dir = %dir.display(), %error, "ephemeral_dir_not_removed");
        }
    }
    code
}

async fn run_to_the_end(mut options: Options) -> u8 {
    claudemesh_sqlite::arm_crash_points();
    let prepared = prepare_dirs(&options.paths).and_then(|()| {
        let path = options.paths.log_file();
        log::init(&path).map_err(|source| BootError::File { path, source })
    });
    match prepared {
        Ok(level) => options.log_level = level,
        Err(error) => return refused(&error),
    }
    match Box::pin(start(options)).await {
        Ok(running) => stop::run_until_signal(running).await,
        Err(error) => not_started(&error),
    }
}

/// Tells the log and the person why. Under a service manager that tries again and again both are one file, and a host that
/// is refused is told there in one line.
fn not_started(error: &BootError) -> u8 {
    let BootError::ForeignHost(foreign) = error else {
        tracing::error!(error = %crate::storage::Causes(error), "daemon_not_started");
        return refused(error);
    };
    let (stored, current) = (&foreign.stored, &foreign.current);
    tracing::error!(%stored, %current, remedy = "daemon accept-host or daemon remint", "host_fingerprint_mismatch");
    if foreign.is_repeated && !io::stderr().is_terminal() {
        return error.exit_code();
    }
    refused(error)
}

fn refused(error: &BootError) -> u8 {
    use std::io::Write as _;
    // A broken pipe is no reason to end otherwise than said.
    let _ = writeln!(io::stderr().lock(), "{error}");
    error.exit_code()
}

/// What writers that died left half done goes, wherever files of ours lie.
fn remove_abandoned(paths: &Paths) {
    let now = crate::clock::now();
    let of_sessions = std::fs::read_dir(paths.sessions_dir()).into_iter().flatten().flatten();
    let dirs = [paths.root().to_owned(), paths.daemon_dir().to_owned()];
    for dir in dirs.into_iter().chain(of_sessions.map(|entry| entry.path())) {
        file::remove_abandoned(&dir, now);
    }
}

/// Starts the daemon: when this returns, its socket answers.
///
/// # Errors
/// [`BootError`].
pub async fn start(options: Options) -> Result<Running, BootError> {
    let paths = Arc::new(options.paths);
    prepare_dirs(&paths)?;
    let ephemeral = options.ephemeral;
    let lock = match &ephemeral {
        Some(ephemeral) => ephemeral.lock(),
        None => Arc::new(take_lock(&paths).await?),
    };
    replace(&paths.pid_file(), options.pid.to_string().as_bytes(), file::SECRET)?;
    let settings = Settings::read(&paths.settings_file())?;
    options.log_level.set(settings.daemon.log_level);
    let (dir, now) = (paths.daemon_dir(), crate::clock::now());
    let checked = identity::check(dir, &settings.clone, &options.host, now)?;
    options.surroundings.tell(ephemeral.is_some());
    for key in settings.unknown_keys() {
        tracing::warn!(key, "config_unknown_key");
    }
    let seen = watch::Seen::now(&paths.membership_file());
    let config = context::memberships(&paths, ephemeral.as_ref())?;
    let mesh_settings =
        mesh_settings(&settings, options.plain, options.dialer, options.pid, checked.fingerprint);
    let standing = ephemeral.as_ref().map_or_else(Standing::default, Ephemeral::standing);
    let mesh_settings = MeshSettings { standing, ..mesh_settings };
    let (mut context, ended) =
        open_context(Arc::clone(&paths), settings, options.host, options.processes).await?;
    context.ephemeral = ephemeral;
    if checked.is_foreign {
        context.figures.clone_suspected();
    }
    ensure_small_files(&paths)?;
    let meshes = Meshes::new(MeshContext {
        outbox: context.outbox.clone(),
        inbox: context.inbox.clone(),
        events: context.events.clone(),
        sessions: context.sessions.clone(),
        figures: context.figures.clone(),
        identity: context.identity.clone(),
        settings: Arc::new(mesh_settings),
    });
    let daemon = Daemon::new(context, meshes, options.log_level);
    let (listener, socket) = match socket::bind(&paths) {
        Ok(bound) => bound,
        Err((path, source)) => {
            daemon.stop();
            daemon.context().outbox.close().await;
            daemon.context().inbox.close().await;
            return Err(BootError::Listen { path, source });
        }
    };
    let tcp = open_tcp(&daemon, options.tcp).await?;
    let tasks = &daemon.context().tasks;
    let door = api::Door::new(daemon.clone());
    let hooks = daemon.hooks().clone();
    hooks
        .start(hooks::Start {
            runner: options.hook_runner,
            socket: socket.clone(),
            are_on: !options.surroundings.is_ci(),
        })
        .await;
    tasks.spawn(hooks.clone().run(door.api()));
    daemon.finish_rotations(&config).await;
    // Attaching only starts the connections. Who asks first must find the meshes and sessions that there are.
    daemon.apply_meshes(&config).await;
    for session in daemon.context().sessions.rehydrate(|slug| config.mesh(slug).is_some()) {
        if let Some(mesh) = daemon.meshes().get(&session.mesh) {
            mesh.open_session(&session);
        }
    }
    let tcp_port = tcp.as_ref().map(api::TcpDoor::port);
    tasks.spawn(api::serve(door.clone(), listener));
    if let Some(tcp) = tcp {
        tasks.spawn(tcp.serve(door.clone()));
    }
    tasks.spawn(upkeep::leave_to_members(daemon.clone()));
    tasks.spawn(upkeep::reap_sessions(daemon.clone(), ended));
    tasks.spawn(upkeep::prune(daemon.clone()));
    tasks.spawn(upkeep::watch_pressure(daemon.clone()));
    tasks.spawn(upkeep::watch_resources(daemon.clone()));
    tasks.spawn(upkeep::keep_lock(daemon.clone(), Arc::clone(&lock)));
    tasks.spawn(watch::config(daemon.clone(), seen));
    tasks.spawn(stop::when_over(daemon.clone()));
    tasks.spawn(identity::tend(daemon.clone()));
    tasks.spawn(upkeep::keep_peer_cache(daemon.clone()));
    tasks.spawn(network::watch(daemon.clone()));
    tasks.spawn(evidence::run(daemon.clone()));
    hooks.started();
    let slugs: Vec<_> = config.meshes().map(|mesh| mesh.slug.as_str()).collect();
    tracing::info!(version = VERSION, pid = std::process::id(), sock = %socket.display(), tcp = tcp_port, meshes = ?slugs, "daemon_started");
    Ok(Running { daemon, door, socket, lock })
}

fn mesh_settings(
    settings: &Settings,
    plain: PlainHttp,
    dialer: Arc<dyn Dialer>,
    pid: u32,
    host_fingerprint: String,
) -> MeshSettings {
    let cwd = std::env::current_dir().unwrap_or_default();
    MeshSettings {
        plain,
        hostname: hostname::get().ok().and_then(|name| name.into_string().ok()),
        cwd: cwd.to_string_lossy().into_owned(),
        standing: Standing::default(),
        host_fingerprint: Some(host_fingerprint),
        legacy: if settings.features.strict { LegacyBrokers::Refused } else { LegacyBrokers::Used },
        features: FeatureTerms::of(&settings.features),
        dialer,
        pid,
        stats_every: STATS_EVERY,
        max_age: AgeSettings {
            fixed: settings.outbox.max_age_hours_override,
            default: settings.outbox.max_age_hours_default,
            cap: settings.outbox.max_age_hours_cap,
            ..AgeSettings::default()
        },
        timing: live::timing(settings).into(),
    }
}

async fn open_context(
    paths: Arc<Paths>,
    settings: Settings,
    host: HostSources,
    processes: Arc<dyn Processes>,
) -> Result<(Context, crate::sessions::EndedSessions), BootError> {
    let path = paths.local_token_file();
    let local_token =
        LocalTokens::load(&path).map_err(|source| BootError::File { path, source })?;
    let (events, tasks, shutdown) = (EventBus::new(), TaskTracker::new(), CancellationToken::new());
    let now = crate::clock::now();
    let identity = Identity::open(paths.daemon_dir(), host, now);
    let outbox = Outbox::open(&paths.outbox_file(), settings.outbox.max_pages, now).await?;
    let (sessions, ended) = Sessions::new(SessionsSettings {
        file: paths.sessions_file(),
        key_dir: paths.sessions_dir().to_owned(),
        processes,
        limits: SessionLimits {
            max: settings.sessions.max,
            unverified_ttl: settings.sessions.unverified_ttl,
        },
        events: events.clone(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    });
    let inbox_settings = InboxSettings {
        events: events.clone(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
        sessions: sessions.clone(),
        digest_after: settings.inbox.digest_after,
        is_searchable: settings.inbox.fts,
        now,
    };
    let inbox =
        match Inbox::open(&paths.inbox_file(), settings.inbox.max_pages, inbox_settings).await {
            Ok(inbox) => inbox,
            Err(error) => {
                outbox.close().await;
                return Err(error.into());
            }
        };
    let settings = SharedSettings::new(settings);
    let evidence = Evidence::new(paths.root().parent());
    let context = Context {
        paths,
        settings,
        outbox,
        inbox,
        events,
        sessions,
        evidence,
        identity,
        ephemeral: None,
        resources: Arc::default(),
        figures: Figures::default(),
        local_token: Arc::new(local_token),
        tasks,
        shutdown,
    };
    Ok((context, ended))
}

/// The daemon directory: ours, and nobody else's to write to.
fn prepare_dirs(paths: &Paths) -> Result<(), BootError> {
    use std::os::unix::fs::MetadataExt as _;
    let path = paths.daemon_dir().to_owned();
    // An ephemeral daemon has made its own, and changes nothing in the home.
    let root = Some(paths.root()).filter(|_| !paths.are_ephemeral());
    for dir in root.into_iter().chain([paths.daemon_dir()]) {
        file::create_private_dir(dir)
            .map_err(|source| BootError::File { path: dir.to_owned(), source })?;
    }
    let meta = std::fs::metadata(&path)
        .map_err(|source| BootError::File { path: path.clone(), source })?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(BootError::Directory { path, reason: "belongs to another user" });
    }
    if meta.mode() & 0o022 != 0 {
        let reason = "may be written by others; run chmod 700 on it";
        return Err(BootError::Directory { path, reason });
    }
    Ok(())
}

async fn take_lock(paths: &Paths) -> Result<FileLock, BootError> {
    let path = paths.lock_file();
    for _ in 0..LOCK_TRIES {
        match FileLock::try_take(&path) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) => tokio::time::sleep(LOCK_STEP).await,
            Err(source) => return Err(BootError::File { path, source }),
        }
    }
    let pid = std::fs::read_to_string(paths.pid_file()).unwrap_or_default();
    Err(BootError::AlreadyRunning { pid: pid.trim().to_owned() })
}

fn ensure_small_files(paths: &Paths) -> Result<(), BootError> {
    remove_abandoned(paths);
    let version = paths.schema_version_file();
    replace(&version, format!("{LAYOUT_VERSION}\n").as_bytes(), file::PUBLIC)
}

/// The listeners for SDKs, when the settings or whoever started the daemon want them. The port file says whether there are
/// any.
async fn open_tcp(daemon: &Daemon, asked: Option<bool>) -> Result<Option<api::TcpDoor>, BootError> {
    let context = daemon.context();
    let path = context.paths.http_port_file();
    file::remove(&path).map_err(|source| BootError::File { path, source })?;
    let settings = context.settings.get();
    if !asked.unwrap_or(settings.ipc.tcp_enabled) {
        return Ok(None);
    }
    Ok(api::TcpDoor::open(&context.paths, settings.ipc.http_port).await)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), BootError> {
    file::replace(path, bytes, mode, Symlinks::Refuse)
        .map_err(|source| BootError::File { path: path.to_owned(), source })
}
