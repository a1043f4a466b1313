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
use std::os::unix::net::UnixListener;
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

/// Time for an orderly stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two looks at a starting or stopping server.
const POLL: Duration = Duration::from_millis(25);

/// Name of the server's socket below its directory.
const SOCKET: &str = ".s.PGSQL.5432";

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
    /// The server went on running after it was asked to stop.
    #[error("PostgreSQL did not stop: {log}")]
    NotStopped {
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
        Err(_) => blocking("start the shared server", shared_server).await?,
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

/// A server of one process, stopped and removed when dropped. Unlike the shared one it may be stopped in between.
#[derive(Debug)]
pub struct Server {
    /// Absent while stopped.
    process: Option<Child>,
    durability: Durability,
    options: PgConnectOptions,
    // Removed after the process has ended, which `drop` waits for.
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts a server.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn start(durability: Durability) -> Result<Self, PostgresError> {
        Self::start_below(std::env::temp_dir(), durability).await
    }

    /// Starts a server in a directory of its own below `parent`, which may be on another disk. The server's user must
    /// be able to enter `parent`.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn start_below(
        parent: PathBuf,
        durability: Durability,
    ) -> Result<Self, PostgresError> {
        blocking("start a server", move || {
            let directory = tempfile::Builder::new()
                .prefix("claudemesh-pg-")
                .tempdir_in(parent)
                .map_err(|source| io_error("make a temporary directory", source))?;
            let (process, options) = start_in(directory.path(), durability)?;
            Ok(Self { process: Some(process), durability, options, directory })
        })
        .await
    }

    /// A database on this server.
    ///
    /// # Errors
    /// [`PostgresError::Refused`].
    pub async fn database(&self) -> Result<TestDatabase, PostgresError> {
        TestDatabase::create(self.options.clone()).await
    }

    /// Stops the server as its operator would: sessions are cut off, what was committed is kept. From then on
    /// connecting is refused, as it is over TCP, until [`Server::start_again`]. Nothing to do when it is stopped.
    ///
    /// # Errors
    /// [`PostgresError`]; the server may then be running still.
    pub async fn stop(&mut self) -> Result<(), PostgresError> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let directory = self.directory.path().to_owned();
        blocking("stop a server", move || {
            let stopped = stop_process(&mut process, &directory);
            if stopped.is_err() {
                kill(&mut process);
            }
            stopped
        })
        .await
    }

    /// Ends the server with `kill -9`, as a crash would: nothing is written out, the next start recovers from its log.
    /// From then on connecting is refused until [`Server::start_again`]. Nothing to do when it is stopped.
    pub async fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Waiting for a process that was killed takes no time worth a thread of its own, but may not be skipped.
            let _ = tokio::task::spawn_blocking(move || kill(&mut process)).await;
        }
    }

    /// Process ids of the server's children, which serve connections or do its chores; empty while stopped.
    pub fn children(&self) -> Vec<u32> {
        let Some(process) = &self.process else { return Vec::new() };
        let pid = process.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// Directory of the data files.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Starts the server on the same data and the same socket, when it was stopped or has ended by itself. Nothing to do
    /// when it is running.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn start_again(&mut self) -> Result<(), PostgresError> {
        if let Some(process) = &mut self.process {
            if !process.try_wait().is_ok_and(|status| status.is_some()) {
                return Ok(());
            }
            self.process = None;
        }
        let directory = self.directory.path().to_owned();
        let durability = self.durability;
        let process = blocking("start a server again", move || {
            let deadline = Instant::now() + START_DEADLINE;
            loop {
                match Programs::find(&directory)?.serve(durability) {
                    // After a crash the old children may hold the shared memory for a moment.
                    Err(PostgresError::NotStarted { .. }) if Instant::now() < deadline => {
                        std::thread::sleep(POLL);
                    }
                    started => return started,
                }
            }
        })
        .await?;
        self.process = Some(process);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            kill(process);
        }
    }
}

/// The postmaster's children end when it is gone.
fn kill(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

/// Runs what waits for processes and files.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, PostgresError> + Send + 'static,
) -> Result<T, PostgresError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| io_error(what, io::Error::other(error)))?
}

fn stop_process(process: &mut Child, directory: &Path) -> Result<(), PostgresError> {
    let pid = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        rustix::process::kill_process(pid, rustix::process::Signal::INT)
            .map_err(|error| io_error("signal the server", error.into()))?;
    }
    let deadline = Instant::now() + STOP_DEADLINE;
    while !process.try_wait().is_ok_and(|status| status.is_some()) {
        if Instant::now() > deadline {
            return Err(PostgresError::NotStopped { log: tail(&directory.join("log")) });
        }
        std::thread::sleep(POLL);
    }
    // A socket nobody listens on. Without the file connecting would fail in a way that only a local server has.
    UnixListener::bind(directory.join(SOCKET))
        .map(drop)
        .map_err(|source| io_error("leave a dead socket", source))
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
    let programs = Programs::find(directory)?;
    programs.make_cluster()?;
    Ok((programs.serve(durability)?, socket_options(directory)))
}

/// The installed programs, working in one server directory as the user they may run as.
struct Programs<'d> {
    binaries: PathBuf,
    owner: Option<(u32, u32)>,
    directory: &'d Path,
}

impl<'d> Programs<'d> {
    fn find(directory: &'d Path) -> Result<Self, PostgresError> {
        let binaries = find_binaries().ok_or(PostgresError::NotInstalled)?;
        Ok(Self { binaries, owner: owner(), directory })
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn not_started(&self) -> PostgresError {
        PostgresError::NotStarted { log: tail(&self.log_path()) }
    }

    /// A program that writes to the log and knows the directory as its own.
    fn command(&self, name: &str) -> Result<Command, PostgresError> {
        let mut command = Command::new(self.binaries.join(name));
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(|source| io_error("open the server's log", source))?;
        let errors =
            log.try_clone().map_err(|source| io_error("share the server's log", source))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir(self.directory);
        // Out of the test's process group, which a test runner may kill as a whole.
        command.process_group(0);
        Ok(command)
    }

    fn make_cluster(&self) -> Result<(), PostgresError> {
        if let Some((uid, gid)) = self.owner {
            chown(self.directory, Some(uid), Some(gid))
                .map_err(|source| io_error("give the server its directory", source))?;
        }
        let made = self
            .command("initdb")?
            .arg("--pgdata=data")
            .args(["--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"])
            .arg(format!("--username={ROLE}"))
            .status()
            .map_err(|source| io_error("run initdb", source))?;
        if made.success() { Ok(()) } else { Err(self.not_started()) }
    }

    /// Starts the server and waits until it takes connections.
    fn serve(&self, durability: Durability) -> Result<Child, PostgresError> {
        let mut server = self.command("postgres")?;
        server.args(["-D", "data", "-c", "listen_addresses="]);
        server.arg("-c").arg(format!("unix_socket_directories={}", self.directory.display()));
        server.args(["-c", "max_connections=300", "-c", "shared_buffers=64MB"]);
        if durability == Durability::None {
            server.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        let mut process = server.spawn().map_err(|source| io_error("run postgres", source))?;
        let deadline = Instant::now() + START_DEADLINE;
        while !is_ready(self.directory, process.id()) {
            let has_ended = process.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || Instant::now() > deadline {
                kill(&mut process);
                return Err(self.not_started());
            }
            std::thread::sleep(POLL);
        }
        Ok(process)
    }
}

/// The last line of the server's own file says `ready` once it takes connections. A server that crashed leaves such a
/// file behind: the first line tells whose it is.
fn is_ready(directory: &Path, pid: u32) -> bool {
    let status = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
    status.lines().next().is_some_and(|line| line.trim() == pid.to_string())
        && status.lines().last().is_some_and(|line| line.trim() == "ready")
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
