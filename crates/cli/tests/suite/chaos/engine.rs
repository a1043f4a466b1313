//! The broker's database: where it stands, how it is hit, and what is asked of it after every hit.

use std::path::{Path, PathBuf};
use std::process::Command;

use claudemesh_testkit::postgres::{Durability, Server, TestDatabase};
use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::disk::Disk;
use super::plan::EngineKind;
use super::process::signal_process;

/// What must be empty in any committed state of the broker: a message without its record of the id, a delivery without
/// its message, a message stored twice.
const FAULTS: &str = "
    SELECT 'message without dedupe record: ' || m.client_message_id FROM message m
    WHERE m.client_message_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM client_message_dedupe c
        WHERE c.mesh_id = m.mesh_id AND c.client_message_id = m.client_message_id AND c.broker_message_id = m.id)
    UNION ALL
    SELECT 'delivery without message: ' || CAST(d.seq AS TEXT) FROM delivery d
    WHERE NOT EXISTS (SELECT 1 FROM message m WHERE m.seq = d.message_seq)
    UNION ALL
    SELECT 'message without delivery: ' || m.id FROM message m
    WHERE NOT EXISTS (SELECT 1 FROM delivery d WHERE d.message_seq = m.seq)
    UNION ALL
    SELECT 'stored twice: ' || m.client_message_id FROM message m WHERE m.client_message_id IS NOT NULL
    GROUP BY m.mesh_id, m.client_message_id HAVING COUNT(*) > 1
    LIMIT 20";

/// Deliveries that are neither taken, dropped nor expired.
const OPEN: &str = "SELECT COUNT(*) FROM delivery WHERE state IN (0, 1)";

/// Every delivery, in the order of storing.
const DELIVERIES: &str = "
    SELECT COALESCE(m.client_message_id, ''), d.recipient_key, d.recipient_member_id, CAST(d.state AS BIGINT),
        CAST(d.attempt AS BIGINT), d.rerouted_from, d.seq, d.delivered_at
    FROM delivery d JOIN message m ON m.seq = d.message_seq ORDER BY d.seq";

/// Reads every index against its table, and every table.
const AMCHECK: [&str; 2] = [
    "SELECT bt_index_check(c.oid, true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE a.amname = 'btree' AND n.nspname = 'public' AND i.indisvalid",
    "SELECT 'heap: ' || v.msg FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
     LATERAL verify_heapam(c.oid) v WHERE c.relkind = 'r' AND n.nspname = 'public' LIMIT 20",
];

/// One delivery row.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub client_message_id: String,
    pub recipient_key: String,
    pub recipient_member_id: String,
    /// 2: taken; 0 and 1 are open; 3 dropped, 4 expired.
    pub state: i64,
    pub attempt: i64,
    pub rerouted_from: Option<String>,
    pub seq: i64,
    pub delivered_at: Option<i64>,
}

type DeliveryRow = (String, String, String, i64, i64, Option<String>, i64, Option<i64>);

impl From<DeliveryRow> for Delivery {
    fn from(row: DeliveryRow) -> Self {
        Self {
            client_message_id: row.0,
            recipient_key: row.1,
            recipient_member_id: row.2,
            state: row.3,
            attempt: row.4,
            rerouted_from: row.5,
            seq: row.6,
            delivered_at: row.7,
        }
    }
}

impl Delivery {
    /// For whoever looks for the cause of a failure.
    pub fn line(&self) -> String {
        let Self { client_message_id, recipient_key, seq, state, attempt, .. } = self;
        let (from, at) = (self.rerouted_from.as_deref().unwrap_or("-"), self.delivered_at);
        format!(
            "{seq}\t{client_message_id}\t{recipient_key}\tstate {state}\tattempt {attempt}\tfrom {from}\tat {}\n",
            at.unwrap_or_default()
        )
    }
}

/// The engine below the broker.
#[expect(clippy::large_enum_variant, reason = "there is one in a run")]
pub enum Engine {
    Sqlite { file: PathBuf },
    // In the order of their ends: the server's files go before their disk.
    Postgres { encryption_key: String, database: TestDatabase, server: Server, disk: Disk },
}

impl Engine {
    /// An empty database: the embedded one below `data_dir`, a server's on a disk of its own at `server_dir`.
    pub async fn start(kind: EngineKind, data_dir: &Path, server_dir: &Path) -> Self {
        match kind {
            EngineKind::Sqlite => Self::Sqlite { file: data_dir.join("broker.db") },
            EngineKind::Postgres => {
                let disk = Disk::open_to_all(server_dir);
                let server =
                    Server::start_below(server_dir.to_owned(), Durability::Full).await.unwrap();
                let database = server.database().await.unwrap();
                let options: PgConnectOptions = database.url().parse().unwrap();
                let mut connection = options.connect().await.unwrap();
                sqlx::query("CREATE EXTENSION amcheck").execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                let encryption_key = format!("{:064x}", rand::random::<u128>());
                Self::Postgres { encryption_key, database, server, disk }
            }
        }
    }

    /// What tells the broker where its database is.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Sqlite { .. } => Vec::new(),
            Self::Postgres { encryption_key, database, .. } => vec![
                ("STORAGE_PROFILE", "server".to_owned()),
                ("DATABASE_URL", database.url()),
                ("BROKER_ENCRYPTION_KEY", encryption_key.clone()),
            ],
        }
    }

    /// The server, when there is one.
    pub fn server(&mut self) -> Option<&mut Server> {
        match self {
            Self::Sqlite { .. } => None,
            Self::Postgres { server, .. } => Some(server),
        }
    }

    /// Leaves `slack_bytes` on the server's disk; false when there is none that can be full.
    pub fn fill_disk(&self, slack_bytes: u64) -> bool {
        match self {
            Self::Postgres { disk: disk @ Disk::Volume(_), .. } => {
                disk.fill(None, slack_bytes);
                true
            }
            _ => false,
        }
    }

    /// Makes room on the server's disk.
    pub fn free_disk(&self) {
        if let Self::Postgres { disk, .. } = self {
            disk.free(None);
        }
    }

    /// `kill -9` of one process that serves a connection; the server then ends all others and recovers.
    pub fn kill_backend(&self, choice: usize) -> bool {
        let Self::Postgres { server, .. } = self else { return false };
        let backends: Vec<u32> =
            server.children().into_iter().filter(|pid| is_backend(*pid)).collect();
        let Some(pid) = backends.get(choice % backends.len().max(1)) else { return false };
        signal_process(*pid, Signal::KILL);
        true
    }

    /// A look at the database as the killed process left it: faults found. `scratch` is an empty directory.
    pub async fn check(&self, scratch: PathBuf) -> Vec<String> {
        match self {
            Self::Sqlite { file } => check_file(file.clone(), scratch, Some(FAULTS)).await,
            Self::Postgres { database, .. } => match connect(database).await {
                Ok(mut connection) => check_server(&mut connection).await,
                // Down or recovering: the check after its next start sees the same data.
                Err(_) => Vec::new(),
            },
        }
    }

    /// Open deliveries; `None` when the database does not answer.
    pub async fn open_deliveries(&self) -> Option<i64> {
        match self {
            Self::Sqlite { file } => {
                let mut connection = read_only(file).await.ok()?;
                sqlx::query_scalar(OPEN).fetch_one(&mut connection).await.ok()
            }
            Self::Postgres { database, .. } => {
                let mut connection = connect(database).await.ok()?;
                sqlx::query_scalar(OPEN).fetch_one(&mut connection).await.ok()
            }
        }
    }

    /// Every delivery row.
    pub async fn deliveries(&self) -> Vec<Delivery> {
        let rows: Vec<DeliveryRow> = match self {
            Self::Sqlite { file } => {
                let mut connection = read_only(file).await.unwrap();
                sqlx::query_as(DELIVERIES).fetch_all(&mut connection).await.unwrap()
            }
            Self::Postgres { database, .. } => {
                let mut connection = connect(database).await.unwrap();
                sqlx::query_as(DELIVERIES).fetch_all(&mut connection).await.unwrap()
            }
        };
        rows.into_iter().map(Delivery::from).collect()
    }

    /// What the server said, when there is one.
    pub fn log(&self) -> Option<PathBuf> {
        match self {
            Self::Sqlite { .. } => None,
            Self::Postgres { server, .. } => Some(server.data_dir().with_file_name("log")),
        }
    }

    /// Where the broker's bytes lie on disk.
    pub fn directory(&self) -> PathBuf {
        match self {
            Self::Sqlite { file } => file.parent().unwrap().to_owned(),
            Self::Postgres { server, .. } => server.data_dir(),
        }
    }
}

async fn connect(database: &TestDatabase) -> Result<PgConnection, sqlx::Error> {
    let options: PgConnectOptions = database.url().parse()?;
    tokio::time::timeout(std::time::Duration::from_secs(5), options.connect())
        .await
        .map_err(|_| sqlx::Error::PoolTimedOut)?
}

async fn check_server(connection: &mut PgConnection) -> Vec<String> {
    let mut faults = Vec::new();
    if let Err(error) = sqlx::query(AMCHECK[0]).fetch_all(&mut *connection).await {
        faults.push(format!("index: {error}"));
    }
    for sql in [AMCHECK[1], FAULTS] {
        match sqlx::query_scalar::<_, String>(sql).fetch_all(&mut *connection).await {
            Ok(found) => faults.extend(found),
            Err(error) => faults.push(error.to_string()),
        }
    }
    // The server may go down while it is asked; what it did say counts.
    faults.retain(|fault| !is_about_connection(fault));
    faults
}

fn is_about_connection(fault: &str) -> bool {
    [
        "terminating connection",
        "communicating with database",
        "Broken pipe",
        "unexpected end",
        "shutting down",
    ]
    .iter()
    .any(|words| fault.contains(words))
}

/// Faults of an SQLite database whose process is dead. A copy is looked at: opening the file itself would repair what
/// the next start must be able to repair alone.
pub async fn check_file(
    file: PathBuf,
    scratch: PathBuf,
    question: Option<&'static str>,
) -> Vec<String> {
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let copy = scratch.join(&name);
    let copied = copy.clone();
    let is_there = tokio::task::spawn_blocking(move || {
        for end in ["", "-wal"] {
            let from = file.with_file_name(format!("{name}{end}"));
            if from.exists() {
                std::fs::copy(&from, copied.with_file_name(format!("{name}{end}"))).unwrap();
            }
        }
        copied.exists()
    });
    // A process that died in its first moments has no database yet.
    if !is_there.await.unwrap() {
        return Vec::new();
    }
    let mut faults = match inspect(&copy, question).await {
        Ok(faults) => faults,
        Err(error) => vec![error.to_string()],
    };
    for fault in &mut faults {
        fault.insert_str(0, &format!("{}: ", copy.file_name().unwrap().to_string_lossy()));
    }
    faults
}

async fn inspect(file: &Path, question: Option<&'static str>) -> Result<Vec<String>, sqlx::Error> {
    let mut connection = SqliteConnectOptions::new().filename(file).connect().await?;
    let mut faults: Vec<String> =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut connection).await?;
    faults.retain(|line| line != "ok");
    let has_tables: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_schema WHERE name = 'delivery'")
            .fetch_one(&mut connection)
            .await?;
    if let Some(question) = question.filter(|_| has_tables > 0) {
        faults.extend(sqlx::query_scalar::<_, String>(question).fetch_all(&mut connection).await?);
    }
    connection.close().await?;
    Ok(faults)
}

/// A reader beside a living writer, or of a file nobody has open.
pub async fn read_only(file: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new().filename(file).read_only(true).connect().await
}

/// True for processes that serve a connection; the others do chores and carry their names.
fn is_backend(pid: u32) -> bool {
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&title).contains("claudemesh_test_")
}

/// Environment of a command.
pub fn with_environment(mut command: Command, variables: Vec<(&'static str, String)>) -> Command {
    command.envs(variables);
    command
}
