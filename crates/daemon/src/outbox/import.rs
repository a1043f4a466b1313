//! Taking over the outbox of an older client, whose table has the same name and fewer columns. A row that does not say
//! where it goes is given up, never sent to everybody (daemon spec §11.1).

use std::path::Path;

use claudemesh_protocol::{PublicKey, TargetSpec};
use claudemesh_sqlite::Database;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ColumnIndex, ConnectOptions as _, Connection as _, Decode, Row as _, Sqlite, Type};

use crate::storage::StorageError;

/// Where the table of an older client waits for its import.
const SET_ASIDE: &str = "outbox_of_older_client";
/// Age limit of rows that were accepted without knowing the broker (daemon spec §11.5), in milliseconds.
const LIFE_MS: i64 = 144 * 3_600_000;
/// Code of rows that do not say where they go.
const UNROUTABLE: &str = "legacy_unroutable";
/// Stands for the target of such a row: a topic that does not exist. The row is dead, and nothing is ever sent there.
const NOWHERE: &str = "#unroutable";

/// Renames the table of an older client, if the file has one, so that ours can be made beside it.
pub(super) async fn set_aside(path: &Path) -> Result<(), sqlx::Error> {
    if !std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0) {
        return Ok(());
    }
    let mut conn = SqliteConnectOptions::new().filename(path).connect().await?;
    let result = rename(&mut conn).await;
    conn.close().await?;
    result
}

async fn rename(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let has = |name: &'static str| {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM sqlite_schema WHERE type='table' AND name=$1",
        )
        .bind(name)
    };
    let is_foreign = has("outbox").fetch_one(&mut *conn).await? > 0
        && has("schema_migration").fetch_one(&mut *conn).await? == 0;
    if !is_foreign {
        return Ok(());
    }
    let mut tx = conn.begin().await?;
    let indexes: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE tbl_name='outbox' AND type IN ('index','trigger') \
         AND sql IS NOT NULL",
    )
    .fetch_all(&mut *tx)
    .await?;
    for name in indexes {
        let name = name.replace('"', "\"\"");
        let drop = format!("DROP INDEX IF EXISTS \"{name}\"");
        sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut *tx).await?;
        let drop = format!("DROP TRIGGER IF EXISTS \"{name}\"");
        sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut *tx).await?;
    }
    let rename = format!("ALTER TABLE outbox RENAME TO {SET_ASIDE}");
    sqlx::query(sqlx::AssertSqlSafe(rename)).execute(&mut *tx).await?;
    tx.commit().await
}

/// Takes the rows over, once.
pub(super) async fn run(db: &Database) -> Result<(), StorageError> {
    let waits: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name=$1")
        .bind(SET_ASIDE)
        .fetch_one(db.reader())
        .await?;
    if waits == 0 {
        return Ok(());
    }
    let rows = db.write(|conn| Box::pin(take_over(conn))).await?;
    tracing::warn!(rows, "outbox_of_older_client_imported");
    Ok(())
}

async fn take_over(conn: &mut SqliteConnection) -> Result<usize, StorageError> {
    let select = format!("SELECT * FROM {SET_ASIDE} ORDER BY rowid");
    let rows = sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(&mut *conn).await?;
    for row in &rows {
        insert(conn, &Old::of(row)).await?;
    }
    let drop = format!("DROP TABLE {SET_ASIDE}");
    sqlx::query(sqlx::AssertSqlSafe(drop)).execute(conn).await?;
    Ok(rows.len())
}

/// A row of an older client, as far as it says something.
struct Old {
    id: String,
    client_message_id: String,
    fingerprint: Vec<u8>,
    route: Option<Route>,
    to_raw: String,
    payload: Vec<u8>,
    priority: &'static str,
    enqueued_at: i64,
    attempts: i64,
    status: &'static str,
    last_error: Option<String>,
    delivered_at: Option<i64>,
    broker_message_id: Option<String>,
    sender: Option<PublicKey>,
}

/// Where a row goes, complete.
struct Route {
    mesh: String,
    target: TargetSpec,
    nonce: String,
    ciphertext: String,
}

impl Old {
    fn of(row: &SqliteRow) -> Self {
        let text = |name: &str| value::<String>(row, name).filter(|text| !text.is_empty());
        let number = |name: &str| value::<i64>(row, name);
        let fresh = crate::ids::next;
        let fingerprint =
            value::<Vec<u8>>(row, "request_fingerprint").filter(|bytes| bytes.len() == 32);
        let route = Route::of(&text).filter(|_| fingerprint.is_some());
        let status = match text("status").as_deref() {
            Some("done") => "done",
            Some("aborted") => "aborted",
            Some("pending" | "inflight") if route.is_some() => "pending",
            _ => "dead",
        };
        Self {
            id: text("id").unwrap_or_else(fresh),
            client_message_id: text("client_message_id").unwrap_or_else(fresh),
            fingerprint: fingerprint.unwrap_or_else(|| vec![0; 32]),
            to_raw: text("to_raw").or_else(|| text("target_spec")).unwrap_or_default(),
            payload: value::<Vec<u8>>(row, "payload")
                .or_else(|| value::<String>(row, "payload").map(String::into_bytes))
                .unwrap_or_default(),
            priority: match text("priority").as_deref() {
                Some("now") => "now",
                Some("low") => "low",
                _ => "next",
            },
            enqueued_at: number("enqueued_at").unwrap_or(0),
            attempts: number("attempts").unwrap_or(0).max(0),
            last_error: text("last_error"),
            delivered_at: number("delivered_at"),
            broker_message_id: text("broker_message_id"),
            sender: text("sender_session_pubkey").and_then(|key| key.parse().ok()),
            status,
            route,
        }
    }
}

impl Route {
    fn of(text: &impl Fn(&str) -> Option<String>) -> Option<Self> {
        let target: TargetSpec = text("target_spec")?.parse().ok()?;
        let (nonce, ciphertext) = (text("nonce")?, text("ciphertext")?);
        // A message to a group was not encrypted by older clients; whoever wants that sends it anew.
        matches!(target, TargetSpec::Key(_)).then_some(())?;
        Some(Self { mesh: text("mesh")?, target, nonce, ciphertext })
    }
}

/// A column that may be missing, NULL or of another type.
fn value<'r, T>(row: &'r SqliteRow, name: &str) -> Option<T>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
    for<'n> &'n str: ColumnIndex<SqliteRow>,
{
    row.try_get::<Option<T>, _>(name).ok().flatten()
}

async fn insert(conn: &mut SqliteConnection, old: &Old) -> Result<(), StorageError> {
    let sql = "INSERT INTO outbox (id, client_message_id, request_fingerprint, mesh, to_raw, \
               destination_kind, target_spec, priority, payload, nonce, ciphertext, body_version, \
               sender_session_pubkey, enqueued_at, expires_at, attempts, next_attempt_at, status, \
               last_error, last_error_code, delivered_at, broker_message_id) \
               VALUES ($1,$2,$3,$4,$5,'dm',$6,$7,$8,$9,$10,1,$11,$12,$13,$14,$12,$15,$16,$17,$18,$19) \
               ON CONFLICT DO NOTHING";
    let code = (old.status == "dead").then_some(UNROUTABLE);
    let why = "an older client did not store where this message goes";
    let route = old.route.as_ref();
    sqlx::query(sql)
        .bind(&old.id)
        .bind(&old.client_message_id)
        .bind(&old.fingerprint)
        .bind(route.map_or("", |route| route.mesh.as_str()))
        .bind(&old.to_raw)
        .bind(route.map_or_else(|| NOWHERE.to_owned(), |route| route.target.to_string()))
        .bind(old.priority)
        .bind(&old.payload)
        .bind(route.map_or("", |route| route.nonce.as_str()))
        .bind(route.map_or("", |route| route.ciphertext.as_str()))
        .bind(old.sender.map(PublicKey::to_hex))
        .bind(old.enqueued_at)
        .bind(old.enqueued_at.saturating_add(LIFE_MS))
        .bind(old.attempts)
        .bind(old.status)
        .bind(code.map_or(old.last_error.as_deref(), |_| Some(why)))
        .bind(code)
        .bind(old.delivered_at)
        .bind(&old.broker_message_id)
        .execute(conn)
        .await?;
    Ok(())
}
