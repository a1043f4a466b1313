//! `claudemesh broker …`: the command line of the server (broker spec §6.1, §6.2).

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_protocol::Slug;
use claudemesh_store::{MeshSettings, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::SystemClock;
use crate::data_dir::{self, BrokerRecord, DataDirLock};
use crate::logging::{self, LevelHandle};
use crate::secrets::{self, BrokerKeys};
use crate::serve::{StartError, StartOptions, start, store_location};
use crate::settings::{CONFIG_VARIABLE, Links, Resolved, Settings, Sources, StorageProfile};
use crate::{provision, settings};

/// Exit code of a success.
const EXIT_SUCCESS: u8 = 0;
/// Exit code of a failure without a code of its own.
const EXIT_FAILURE: u8 = 1;
/// Exit code when the thing asked for does not exist.
const EXIT_NOT_FOUND: u8 = 5;
/// Exit code of a wrong configuration.
const EXIT_CONFIG: u8 = 78;
/// Exit code of a process that a second signal ended.
const EXIT_INTERRUPTED: i32 = 130;
/// Time for the answer to a health check.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Most of a health answer that is read, in bytes.
const HEALTHCHECK_MAX_BYTES: u64 = 4 * 1024;

/// Run and look after the server.
#[derive(Debug, Clone, clap::Args)]
pub struct BrokerArgs {
    /// TOML file with settings in lower case; the environment wins over it
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do; without it, serve
    #[command(subcommand)]
    pub command: Option<BrokerCommand>,
}

/// What `claudemesh broker` can do.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum BrokerCommand {
    /// Run the server in the foreground
    Serve,
    /// Ask a running server whether it takes work; exit 0 when it does
    Healthcheck {
        /// Its address, by default the one of this configuration
        #[arg(long, value_name = "IP:PORT")]
        address: Option<SocketAddr>,
    },
    /// Check the settings and print the effective values with their source
    CheckConfig,
    /// Bring the database up to date without serving
    Migrate {
        /// Only print what would be applied
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the one-time code that makes the first account
    SetupCode,
    /// Make members with keys for load tests and bots, in a stopped server's data or a server database
    Provision {
        /// Name of the mesh; made when it does not exist
        #[arg(long, value_name = "SLUG")]
        mesh: Slug,
        /// How many members
        #[arg(long, value_name = "N")]
        members: usize,
        /// File for the keys, readable by you only
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// Runs a command with the settings of this process's environment.
pub async fn run(args: BrokerArgs) -> ExitCode {
    ExitCode::from(execute(args, Sources::of_process()).await)
}

/// Runs a command and returns the exit code of the process.
pub async fn execute(args: BrokerArgs, mut sources: Sources) -> u8 {
    if let Some(path) = &args.config {
        sources = sources.with(CONFIG_VARIABLE, &path.to_string_lossy());
    }
    let resolved = match Settings::resolve(&sources) {
        Ok(resolved) => resolved,
        Err(error) => return failed(&error.to_string(), EXIT_CONFIG),
    };
    match args.command.unwrap_or(BrokerCommand::Serve) {
        BrokerCommand::Serve => serve(resolved, sources).await,
        BrokerCommand::Healthcheck { address } => healthcheck(&resolved.settings, address).await,
        BrokerCommand::CheckConfig => check_config(&resolved),
        BrokerCommand::Migrate { dry_run } => migrate(&resolved.settings, dry_run).await,
        BrokerCommand::SetupCode => setup_code(&resolved.settings),
        BrokerCommand::Provision { mesh, members, out } => {
            provision_members(&resolved.settings, mesh, members, out).await
        }
    }
}

/// Serves until a signal asks it to stop.
async fn serve(resolved: Resolved, sources: Sources) -> u8 {
    let Resolved { settings, warnings, .. } = resolved;
    let (subscriber, level) =
        logging::subscriber(&settings.log_level, settings.log_format, std::io::stderr);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("a subscriber is installed already");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    claudemesh_sqlite::arm_crash_points();
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        return failed("cannot listen for signals", EXIT_FAILURE);
    };
    let starting = start(StartOptions::new(settings));
    let started = tokio::select! {
        started = starting => started,
        _ = terminate.recv() => return EXIT_SUCCESS,
        _ = interrupt.recv() => return EXIT_SUCCESS,
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(%error, "the broker did not start");
            return error.exit_code();
        }
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload_level(&sources, &level),
        }
    }
    tokio::select! {
        () = running.shutdown() => EXIT_SUCCESS,
        _ = terminate.recv() => exit_at_once(),
        _ = interrupt.recv() => exit_at_once(),
    }
}

/// A second signal does not wait for anything.
#[expect(
    clippy::exit,
    reason = "returning would wait for the tasks that the second signal wants gone"
)]
fn exit_at_once() -> u8 {
    std::process::exit(EXIT_INTERRUPTED)
}

/// Reads the settings again and takes over the log level; everything else needs a restart.
fn reload_level(sources: &Sources, level: &LevelHandle) {
    match Settings::resolve(sources) {
        Ok(resolved) => {
            level.set(&resolved.settings.log_level);
            tracing::info!(level = resolved.settings.log_level, "log level read again");
        }
        Err(error) => tracing::warn!(%error, "the settings cannot be read again; nothing changed"),
    }
}

fn check_config(resolved: &Resolved) -> u8 {
    let mut text = String::new();
    for line in &resolved.effective {
        text.push_str(
            &[&line.name, " = ", &line.shown, "  (", &line.origin.to_string(), ")\n"].concat(),
        );
    }
    for warning in &resolved.warnings {
        complain(&format!("warning: {warning}"));
    }
    print(&text)
}

async fn migrate(settings: &Settings, is_dry_run: bool) -> u8 {
    match migrated(settings, is_dry_run).await {
        Ok(text) => print(&text),
        Err(error) => failed(&error.to_string(), error.exit_code()),
    }
}

async fn migrated(settings: &Settings, is_dry_run: bool) -> Result<String, StartError> {
    let (_lock, store) = open_stopped(settings).await?;
    let names = store.pending_migrations().await.map_err(StartError::Store)?;
    if !is_dry_run {
        store.migrate().await.map_err(StartError::Store)?;
    }
    store.close().await;
    let verb = if is_dry_run { "pending" } else { "applied" };
    if names.is_empty() {
        return Ok("the database is up to date\n".to_owned());
    }
    let lines: Vec<String> = names.iter().map(|name| format!("{verb} {name}")).collect();
    Ok(lines.join("\n") + "\n")
}

/// Opens the store of a broker that does not run here: the embedded one under its lock.
async fn open_stopped(settings: &Settings) -> Result<(Option<DataDirLock>, Store), StartError> {
    data_dir::prepare(&settings.data_dir)?;
    let lock = match settings.profile {
        StorageProfile::Embedded => Some(DataDirLock::take(&settings.data_dir)?),
        StorageProfile::Server => None,
    };
    let store = Store::open(&store_location(settings, None)).await.map_err(StartError::Store)?;
    Ok((lock, store))
}

fn setup_code(settings: &Settings) -> u8 {
    match std::fs::read_to_string(settings.setup_code_path()) {
        Ok(code) => print(&format!("{}\n", code.trim())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => failed(
            "there is no setup code; hint: it exists while the broker runs and has no account",
            EXIT_NOT_FOUND,
        ),
        Err(error) => failed(&format!("the setup code cannot be read: {error}"), EXIT_FAILURE),
    }
}

async fn provision_members(settings: &Settings, slug: Slug, members: usize, out: PathBuf) -> u8 {
    match provisioned(settings, slug, members).await {
        Err(ProvisionFailure::Start(error)) => failed(&error.to_string(), error.exit_code()),
        Err(ProvisionFailure::Provision(error)) => failed(&error.to_string(), EXIT_FAILURE),
        Ok(made) => {
            let text = match serde_json::to_string_pretty(&made) {
                Ok(text) => zeroize::Zeroizing::new(text),
                Err(error) => return failed(&error.to_string(), EXIT_FAILURE),
            };
            match secrets::replace_secret_file(&out, &text) {
                Ok(()) => {
                    print(&format!("{} members written to {}\n", made.members.len(), out.display()))
                }
                Err(error) => failed(&error.to_string(), EXIT_FAILURE),
            }
        }
    }
}

enum ProvisionFailure {
    Start(StartError),
    Provision(provision::ProvisionError),
}

impl<E: Into<StartError>> From<E> for ProvisionFailure {
    fn from(error: E) -> Self {
        Self::Start(error.into())
    }
}

async fn provisioned(
    settings: &Settings,
    slug: Slug,
    members: usize,
) -> Result<provision::Provisioned, ProvisionFailure> {
    let (_lock, store) = open_stopped(settings).await?;
    store.migrate().await.map_err(StartError::Store)?;
    let now = SystemClock.now();
    let keys = BrokerKeys::establish(settings, &store, now).await?;
    let listen = SocketAddr::new(settings.bind, settings.port);
    let url = settings.ws_url.clone().unwrap_or_else(|| Links::new(settings, listen).local_ws_url);
    let request = provision::Request { slug, members, url, settings: MeshSettings::default() };
    let made = provision::members(&store, &keys.at_rest, &request, now)
        .await
        .map_err(ProvisionFailure::Provision)?;
    store.close().await;
    Ok(made)
}

async fn healthcheck(settings: &Settings, address: Option<SocketAddr>) -> u8 {
    let recorded = || {
        let record = BrokerRecord::read(&settings.record_path())?;
        record.url.strip_prefix("http://")?.parse().ok()
    };
    let configured = || {
        let links = Links::new(settings, SocketAddr::new(settings.bind, settings.port));
        links.local_url.strip_prefix("http://").and_then(|address| address.parse().ok())
    };
    let Some(address) = address.or_else(recorded).or_else(configured) else {
        return failed("no address to ask", EXIT_FAILURE);
    };
    match tokio::time::timeout(HEALTHCHECK_TIMEOUT, ready_status(address)).await {
        Ok(Ok(200)) => EXIT_SUCCESS,
        Ok(Ok(status)) => {
            failed(&format!("{address} is not ready (status {status})"), EXIT_FAILURE)
        }
        Ok(Err(error)) => failed(&format!("{address} does not answer: {error}"), EXIT_FAILURE),
        Err(_elapsed) => failed(&format!("{address} does not answer in time"), EXIT_FAILURE),
    }
}

/// One request by hand: a health check must not need a whole HTTP client.
async fn ready_status(address: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(HEALTHCHECK_MAX_BYTES).read_to_end(&mut answer).await?;
    let status = std::str::from_utf8(&answer)
        .ok()
        .and_then(|text| text.strip_prefix("HTTP/1.1 "))
        .and_then(|text| text.get(..3)?.parse().ok());
    status.ok_or_else(|| std::io::Error::other("not an HTTP answer"))
}

/// Prints to stdout; a reader that went away is no failure.
fn print(text: &str) -> u8 {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => EXIT_FAILURE,
        _ => EXIT_SUCCESS,
    }
}

fn complain(sentence: &str) {
    // When stderr is gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{sentence}");
}

fn failed(sentence: &str, code: u8) -> u8 {
    complain(&format!("claudemesh broker: {sentence}"));
    code
}

/// Where the data of the broker of this environment lies, for programs that look for its files.
///
/// # Errors
/// [`settings::SettingsError`] when the environment holds wrong values.
pub fn data_dir_of(sources: &Sources) -> Result<PathBuf, settings::SettingsError> {
    Settings::resolve(sources).map(|resolved| resolved.settings.data_dir)
}
