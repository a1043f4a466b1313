//! A throwaway PostgreSQL for tests: found on this machine, started in a temporary directory as an unprivileged user,
//! reached over a Unix socket, gone when the tests are.
//!
//! Test runners start one process per test. So that not each of them starts a server, all processes of a user share
//! one: whoever comes first starts it, everyone holds a shared lock while running, and a small watcher stops the server
//! and removes its directory once nobody has held the lock for a moment. The kernel drops locks of killed processes.
//!
//! `CLAUDEMESH_TEST_PG=<url>` uses an existing server instead; `CLAUDEMESH_TEST_PG=skip` skips ([`is_skipped`]).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

/// Environment variable: the URL of a server to use, or `skip`.
pub const ENV: &str = "CLAUDEMESH_TEST_PG";

/// Time for `initdb` and the first start.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Pause between two looks at a starting server.
const START_POLL: Duration = Duration::from_millis(25);

/// Name of the role and of the database that always exist.
const ROLE: &str = "postgres";

/// Stops the shared server and removes its directory when nobody uses it. `$1` lock file, `$2` server directory.
const WATCHER: &str = r#"
while sleep 2; do
    if flock --exclusive --nonblock 9; then
        pid=$(head -n 1 "$2/data/postmaster.pid" 2>/dev/null)
        [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null
        while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
        rm -rf "$2"
        exit 0
    fi
done 9>>"$1"
"#;

/// Why there is no PostgreSQL to test with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// No server binaries on this machine.
    #[error(
        "no PostgreSQL server found in PATH or /usr/lib/postgresql/*/bin\nhint: apt-get install -y postgresql, or set {ENV} to the URL of a server, or {ENV}=skip"
    )]
    NotInstalled,
    /// A file or process could not be made.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server or `initdb` did not come up.
    #[error("PostgreSQL did not start: {log}")]
    NotStarted {
        /// The end of its log.
        log: String,
    },
    /// The server refused something.
    #[error("PostgreSQL refused a test database")]
    Refused(#[from] sqlx::Error),
}

/// True when `CLAUDEMESH_TEST_PG=skip` asks to leave PostgreSQL tests out. Never so in CI.
pub fn is_skipped() -> bool {
    std::env::var(ENV).is_ok_and(|value| value == "skip")
}

/// A database of its own for one test, on the shared server. It is dropped with the value.
///
/// # Errors
/// [`PostgresError`]; the test should fail with it.
pub async fn database() -> Result<TestDatabase, PostgresError> {
    let options = match std::env::var(ENV) {
        Ok(url) => PgConnectOptions::from_str(&url)?,
        Err(_) => tokio::task::spawn_blocking(shared_server)
            .await
            .map_err(|error| io_error("start the shared server", io::Error::other(error)))??,
    };
    TestDatabase::create(options).await
}

/// A database that exists as long as this value.
#[derive(Debug)]
pub struct TestDatabase {
    server: PgConnectOptions,
    name: String,
}

impl TestDatabase {
    async fn create(server: PgConnectOptions) -> Result<Self, PostgresError> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)
            .map_err(|error| io_error("draw a database name", io::Error::other(error)))?;
        let name = format!("claudemesh_test_{:016x}", u64::from_ne_bytes(random));
        let mut connection = connect(&server).await?;
        let sql = format!("CREATE DATABASE {name}");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(Self { server, name })
    }

    /// URL of the database, as a broker takes it.
    pub fn url(&self) -> String {
        self.server.clone().database(&self.name).to_url_lossy().to_string()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server = self.server.clone();
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A runtime of its own: the test's may be the one that is dropping this. A failure leaves a database behind on
        // a server that is about to go.
        let dropping = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let mut connection = connect(&server).await.ok()?;
                sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.ok()
            })
        });
        let _ = dropping.join();
    }
}

async fn connect(server: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    server.connect().await
}

/// Whether a server keeps what it acknowledged when the machine stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As in production; benchmarks want this.
    Full,
    /// Without fsync; tests of behaviour want this.
    None,
}

/// A server of one process, stopped and removed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    // Removed after the process has ended, hence the order.
    _directory: tempfile::TempDir,
    options: PgConnectOptions,
}

impl Server {
    /// Starts a server.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn start(durability: Durability) -> Result<Self, PostgresError> {
        tokio::task::spawn_blocking(move || Self::start_blocking(durability))
            .await
            .map_err(|error| io_error("start a server", io::Error::other(error)))?
    }

    fn start_blocking(durability: Durability) -> Result<Self, PostgresError> {
        let directory = tempfile::Builder::new()
            .prefix("claudemesh-pg-")
            .tempdir()
            .map_err(|source| io_error("make a temporary directory", source))?;
        let (process, options) = start_in(directory.path(), durability)?;
        Ok(Self { process, _directory: directory, options })
    }

    /// A database on this server.
    ///
    /// # Errors
    /// [`PostgresError::Refused`].
    pub async fn database(&self) -> Result<TestDatabase, PostgresError> {
        TestDatabase::create(self.options.clone()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The postmaster's children end when it is gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Joins the shared server, starting it when it is not running. The lock is held until the process ends.
fn shared_server() -> Result<PgConnectOptions, PostgresError> {
    static SERVER: OnceLock<Result<PgConnectOptions, PostgresError>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let uid = rustix::process::getuid().as_raw();
        let root = std::env::temp_dir().join(format!("claudemesh-test-pg-{uid}"));
        make_directory(&root)?;
        let users = open_lock(&root.join("users.lock"))?;
        users.lock_shared().map_err(|source| io_error("lock the shared server", source))?;
        // Held for the life of the process: this is what keeps the watcher from stopping the server.
        std::mem::forget(users);
        let starting = open_lock(&root.join("start.lock"))?;
        starting.lock().map_err(|source| io_error("lock the start of the server", source))?;
        let directory = root.join("server");
        if is_running(&directory) {
            return Ok(socket_options(&directory));
        }
        let _ = fs::remove_dir_all(&directory);
        make_directory(&directory)?;
        let (process, options) = start_in(&directory, Durability::None)?;
        // Not ours to wait for: it outlives this process until the watcher ends it.
        drop(process);
        watch(&root, &directory)?;
        Ok(options)
    });
    match server {
        Ok(options) => Ok(options.clone()),
        Err(error) => Err(PostgresError::NotStarted { log: error_chain(error) }),
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn io_error(what: impl Into<String>, source: io::Error) -> PostgresError {
    PostgresError::Io { what: what.into(), source }
}

fn make_directory(path: &Path) -> Result<(), PostgresError> {
    match fs::DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io_error(format!("make {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn open_lock(path: &Path) -> Result<File, PostgresError> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| io_error(format!("open {}", path.display()), source))
}

fn socket_options(directory: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass().socket(directory).username(ROLE).database(ROLE)
}

/// True when the process named in the server's own file is alive.
fn is_running(directory: &Path) -> bool {
    let pid = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
    let pid = pid.lines().next().and_then(|line| line.parse::<i32>().ok());
    let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return false };
    rustix::process::test_kill_process(pid).is_ok()
}

fn watch(root: &Path, directory: &Path) -> Result<(), PostgresError> {
    Command::new("sh")
        .args(["-c", WATCHER, "claudemesh-test-pg-watcher"])
        .arg(root.join("users.lock"))
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map(drop)
        .map_err(|source| io_error("start the watcher of the shared server", source))
}

/// Makes a cluster below `directory` and starts a server on it.
fn start_in(
    directory: &Path,
    durability: Durability,
) -> Result<(Child, PgConnectOptions), PostgresError> {
    let binaries = find_binaries().ok_or(PostgresError::NotInstalled)?;
    let owner = owner();
    let log_path = directory.join("log");
    let log =
        File::create(&log_path).map_err(|source| io_error("make the server's log", source))?;
    if let Some((uid, gid)) = owner {
        chown(directory, Some(uid), Some(gid))
            .map_err(|source| io_error("give the server its directory", source))?;
    }
    let command = |name: &str| -> Result<Command, PostgresError> {
        let mut command = Command::new(binaries.join(name));
        if let Some((uid, gid)) = owner {
            command.uid(uid).gid(gid);
        }
        let output =
            log.try_clone().map_err(|source| io_error("share the server's log", source))?;
        let errors =
            log.try_clone().map_err(|source| io_error("share the server's log", source))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).current_dir(directory);
        // Out of the test's process group, which a test runner may kill as a whole.
        command.process_group(0);
        Ok(command)
    };
    let not_started = || PostgresError::NotStarted { log: tail(&log_path) };
    let made = command("initdb")?
        .arg("--pgdata=data")
        .args(["--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"])
        .arg(format!("--username={ROLE}"))
        .status()
        .map_err(|source| io_error("run initdb", source))?;
    if !made.success() {
        return Err(not_started());
    }
    let mut server = command("postgres")?;
    server.args(["-D", "data", "-c", "listen_addresses="]);
    server.arg("-c").arg(format!("unix_socket_directories={}", directory.display()));
    server.args(["-c", "max_connections=300", "-c", "shared_buffers=64MB"]);
    if durability == Durability::None {
        server.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
    }
    let mut process = server.spawn().map_err(|source| io_error("run postgres", source))?;
    let deadline = Instant::now() + START_DEADLINE;
    while !is_ready(directory) {
        let has_ended = process.try_wait().is_ok_and(|status| status.is_some());
        if has_ended || Instant::now() > deadline {
            let _ = process.kill();
            return Err(not_started());
        }
        std::thread::sleep(START_POLL);
    }
    Ok((process, socket_options(directory)))
}

/// The last line of the server's own file says `ready` once it takes connections.
fn is_ready(directory: &Path) -> bool {
    let status = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
    status.lines().last().is_some_and(|line| line.trim() == "ready")
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
}

/// The newest installed server.
fn find_binaries() -> Option<PathBuf> {
    let has_both =
        |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(folder) = std::env::split_paths(&path).find(has_both) {
        return Some(folder);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<(u32, PathBuf)> = versions
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| has_both(folder))
        .collect();
    folders.sort();
    folders.pop().map(|(_, folder)| folder)
}

/// PostgreSQL refuses to run as root: its own user then, or `nobody`. Other users run it themselves.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2);
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}
