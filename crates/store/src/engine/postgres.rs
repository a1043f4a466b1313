//! PostgreSQL: connecting, migrating under an advisory lock, and the statements of the message path that differ from
//! SQLite's. Lists come in as one array per column.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use claudemesh_protocol::limits::{
    DB_IDLE_IN_TRANSACTION_TIMEOUT, DB_KEEPALIVE, DB_MIGRATION_LIMIT, DB_STATEMENT_TIMEOUT,
};
use claudemesh_sqlite::{Migration, MigrationError, Recorded};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};

use super::pool::{Patience, Pool};
use crate::store::PostgresLocation;
use crate::{Result, StoreError};

/// Key of the advisory lock that migrations take: "clmesh" in ASCII.
const MIGRATION_LOCK: i64 = 0x0000_636c_6d65_7368;

/// How often and how long the lock is tried (broker spec §6.3).
const LOCK_RETRY: Duration = Duration::from_secs(2);
const LOCK_PATIENCE: Duration = Duration::from_mins(1);

/// Migrations in order; `include_str!` embeds them.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration::new("0001_account.sql", include_str!("../../migrations/0001_account.sql")),
    Migration::new("0002_mesh.sql", include_str!("../../migrations/0002_mesh.sql")),
    Migration::new("0003_presence.sql", include_str!("../../migrations/0003_presence.sql")),
    Migration::new("0004_message.sql", include_str!("../../migrations/postgres/0004_message.sql")),
    Migration::new("0005_receipt.sql", include_str!("../../migrations/postgres/0005_receipt.sql")),
    Migration::new("0006_presence.sql", include_str!("../../migrations/0006_presence.sql")),
    Migration::new(
        "0007_state_audit.sql",
        include_str!("../../migrations/postgres/0007_state_audit.sql"),
    ),
    Migration::new("0008_admin.sql", include_str!("../../migrations/0008_admin.sql")),
    Migration::new("0009_audit_head.sql", include_str!("../../migrations/0009_audit_head.sql")),
    Migration::new(
        "0010_signed_by_member.sql",
        include_str!("../../migrations/0010_signed_by_member.sql"),
    ),
];

/// The pool, after one connection was made and kept.
pub(crate) async fn connect(location: &PostgresLocation) -> Result<Pool> {
    let options = PgConnectOptions::from_str(&location.url)
        .map_err(|_| StoreError::Unavailable("the database URL cannot be read".into()))?
        .application_name("claudemesh-broker")
        .options(session_settings());
    let pool = Pool::new(options, location.max_connections);
    drop(pool.acquire(Patience::Request).await?);
    Ok(pool)
}

/// How the server guards itself against a broker that has gone silent: locks of such a session would stop all others.
fn session_settings() -> [(&'static str, String); 6] {
    let (idle, interval, count) = DB_KEEPALIVE;
    [
        ("statement_timeout", DB_STATEMENT_TIMEOUT.as_millis().to_string()),
        (
            "idle_in_transaction_session_timeout",
            DB_IDLE_IN_TRANSACTION_TIMEOUT.as_millis().to_string(),
        ),
        ("tcp_keepalives_idle", idle.as_secs().to_string()),
        ("tcp_keepalives_interval", interval.as_secs().to_string()),
        ("tcp_keepalives_count", count.to_string()),
        ("tcp_user_timeout", (idle + interval * count).as_millis().to_string()),
    ]
}

/// Applies pending migrations, each in its own transaction, while holding the lock.
pub(crate) async fn migrate(pool: &Pool) -> Result<()> {
    // A connection of its own: the lock ends with it, whatever happens.
    let mut connection = pool.connect_alone().await?;
    let migrating = async {
        // Altering a large table may take longer than a request may.
        connection.execute("SET statement_timeout = 0").await?;
        let outcome = migrate_locked(&mut connection).await;
        connection.close().await?;
        outcome.map_err(StoreError::Migration)
    };
    match tokio::time::timeout(DB_MIGRATION_LIMIT, migrating).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::Unavailable("the migrations got no answer in time".into())),
    }
}

async fn migrate_locked(connection: &mut PgConnection) -> Result<(), MigrationError> {
    take_lock(connection).await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_migration (
            filename TEXT PRIMARY KEY, sha256 TEXT NOT NULL,
            compatible BOOLEAN NOT NULL, applied_at BIGINT NOT NULL)",
    )
    .execute(&mut *connection)
    .await?;
    let rows: Vec<(String, String, bool)> =
        sqlx::query_as("SELECT filename, sha256, compatible FROM schema_migration")
            .fetch_all(&mut *connection)
            .await?;
    let recorded: BTreeMap<String, Recorded> = rows
        .into_iter()
        .map(|(name, sha256, is_compatible)| (name, Recorded { sha256, is_compatible }))
        .collect();
    for migration in claudemesh_sqlite::pending(MIGRATIONS, &recorded)? {
        apply(connection, migration).await.map_err(|source| MigrationError::Failed {
            name: migration.name().to_owned(),
            source,
        })?;
        tracing::info!(name = migration.name(), "migration applied");
    }
    Ok(())
}

async fn take_lock(connection: &mut PgConnection) -> Result<(), MigrationError> {
    let attempts = LOCK_PATIENCE.as_secs() / LOCK_RETRY.as_secs();
    for _ in 0..=attempts {
        let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(MIGRATION_LOCK)
            .fetch_one(&mut *connection)
            .await?;
        if is_ours {
            return Ok(());
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
    Err(MigrationError::Locked)
}

async fn apply(connection: &mut PgConnection, migration: &Migration) -> Result<(), sqlx::Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut tx = connection.begin().await?;
    tx.execute(sqlx::raw_sql(migration.sql())).await?;
    sqlx::query("INSERT INTO schema_migration (filename, sha256, compatible, applied_at) VALUES ($1, $2, $3, $4)")
        .bind(migration.name())
        .bind(migration.sha256())
        .bind(migration.is_compatible())
        .bind(i64::try_from(now).unwrap_or(i64::MAX))
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// Dedupe rows, of several with one id the first; a known one is left as it is.
pub(crate) const INSERT_DEDUPE: &str = "
    INSERT INTO client_message_dedupe (mesh_id, client_message_id, sender_member_id, broker_message_id,
        request_fingerprint, destination_kind, destination_ref, first_seen_at, expires_at, history_available)
    SELECT c0, c1, c2, c3, decode(c4, 'hex'), c5, c6, c7, c8, 1
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::bigint[],
        $9::bigint[]) WITH ORDINALITY AS r (c0, c1, c2, c3, c4, c5, c6, c7, c8, place)
    ORDER BY place
    ON CONFLICT (mesh_id, client_message_id) DO NOTHING";

/// Message rows; the last column is a number the store does not choose, which only SQLite takes.
pub(crate) const INSERT_MESSAGES: &str = "
    INSERT INTO message (id, mesh_id, sender_member_id, sender_session_pubkey, sender_kind, target_spec, priority,
        nonce, ciphertext, body_version, reply_to, mentions, hops, key_epoch, client_message_id, request_fingerprint,
        created_at, expires_at)
    SELECT c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, decode(c15, 'hex'), c16, c17
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::text[],
        $9::text[], $10::bigint[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::text[], $16::text[],
        $17::bigint[], $18::bigint[], $19::bigint[]) WITH ORDINALITY
        AS r (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, place)
    ORDER BY place
    RETURNING seq, id";

/// Delivery rows; the last column as with messages.
pub(crate) const INSERT_DELIVERIES: &str = "
    INSERT INTO delivery (message_seq, mesh_id, recipient_key, recipient_member_id, recipient_kind, priority, state,
        attempt, claim_id, due_at, expires_at, delivered_at, rerouted_from, wrapped_key)
    SELECT c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13
    FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::bigint[])
        WITH ORDINALITY AS r (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, place)
    ORDER BY place
    RETURNING seq, message_seq, recipient_key";

/// Claimed rows back to held: `seq, recipient key, attempts to uncount`.
pub(crate) const RELEASE: &str = "
    UPDATE delivery SET state = 0, claim_id = NULL, due_at = expires_at,
        attempt = GREATEST(attempt - r.uncounted, 0)
    FROM UNNEST($1::bigint[], $2::text[], $3::bigint[]) AS r (seq, recipient_key, uncounted)
    WHERE delivery.seq = r.seq AND delivery.recipient_key = r.recipient_key AND delivery.state = 1
    RETURNING delivery.seq AS seq";

/// Stored dedupe rows of (mesh, client message id) pairs.
pub(crate) const FIND_DEDUPE: &str = "
    SELECT d.mesh_id, d.client_message_id, d.broker_message_id, d.sender_member_id, d.request_fingerprint,
        d.first_seen_at, d.history_available
    FROM UNNEST($1::text[], $2::text[]) AS wanted (mesh_id, client_message_id)
    JOIN client_message_dedupe d USING (mesh_id, client_message_id)";

/// Open rows that acks by message id mean: `entry, mesh, key, message id, client id`.
pub(crate) const FIND_ACKED: &str = "
    WITH w AS (SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[])
        AS w (entry, mesh_id, recipient_key, message_id, client_message_id))
    SELECT w.entry, d.seq
    FROM w
    JOIN message m ON m.mesh_id = w.mesh_id AND m.id = COALESCE(w.message_id,
        (SELECT broker_message_id FROM client_message_dedupe c
         WHERE c.mesh_id = w.mesh_id AND c.client_message_id = w.client_message_id))
    JOIN delivery d ON d.message_seq = m.seq AND d.recipient_key = w.recipient_key
    WHERE d.state IN (0, 1) AND (d.recipient_kind <> 0 OR NOT EXISTS (
        SELECT 1 FROM w other
        JOIN delivery s ON s.message_seq = m.seq AND s.recipient_key = other.recipient_key
        WHERE other.entry = w.entry AND s.recipient_kind = 1))";

/// Locks the messages that receipts name, so that two replicas do not both raise the same delivery; not the deliveries,
/// or a claim would skip them and hand out younger ones first. A statement of its own: what was said before must be read
/// by a later one, whose snapshot has what the other replica committed while this one waited.
pub(crate) const LOCK_RECEIPTS: &str = "
    SELECT m.seq
    FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[]) AS w (entry, mesh_id, recipient_key, message_id)
    JOIN message m ON m.id = w.message_id AND m.mesh_id = w.mesh_id
    ORDER BY m.seq FOR NO KEY UPDATE OF m";

/// Deliveries that receipts name, with what was said before: `entry, mesh, key, message id`.
pub(crate) const FIND_RECEIPTS: &str = "
    SELECT w.entry, d.seq, d.mesh_id, d.recipient_key, d.recipient_member_id, d.recipient_kind, d.state, m.id,
        m.client_message_id, m.sender_member_id, m.sender_session_pubkey,
        r.ladder, r.side, r.since, r.asserted_by, r.path, r.evidence, r.reason, r.changes
    FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[]) AS w (entry, mesh_id, recipient_key, message_id)
    JOIN message m ON m.id = w.message_id AND m.mesh_id = w.mesh_id
    JOIN delivery d ON d.message_seq = m.seq AND d.recipient_key = w.recipient_key
    LEFT JOIN delivery_receipt r ON r.delivery_seq = d.seq
    ORDER BY m.seq, d.seq";

/// What was said about deliveries.
pub(crate) const KEEP_RECEIPTS: &str = "
    INSERT INTO delivery_receipt (delivery_seq, ladder, side, since, asserted_by, path, evidence, reason, changes)
    SELECT c0, c1, c2, c3, c4, c5, c6, c7, c8
    FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
        $8::text[], $9::bigint[]) AS r (c0, c1, c2, c3, c4, c5, c6, c7, c8)
    ON CONFLICT (delivery_seq) DO UPDATE SET ladder = excluded.ladder, side = excluded.side, since = excluded.since,
        asserted_by = excluded.asserted_by, path = excluded.path, evidence = excluded.evidence,
        reason = excluded.reason, changes = excluded.changes";
