//! SQLite: opening, and the statements of the message path that differ from PostgreSQL's. Lists come in as one JSON
//! array, so that the number of statements does not depend on their length.

use claudemesh_sqlite::{Database, Migration, OpenError, Options};

use crate::store::SqliteLocation;
use crate::{Result, StoreError};

/// Migrations in order; `include_str!` embeds them.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration::new("0001_account.sql", include_str!("../../migrations/0001_account.sql")),
    Migration::new("0002_mesh.sql", include_str!("../../migrations/0002_mesh.sql")),
    Migration::new("0003_presence.sql", include_str!("../../migrations/0003_presence.sql")),
    Migration::new("0004_message.sql", include_str!("../../migrations/sqlite/0004_message.sql")),
    Migration::new("0005_receipt.sql", include_str!("../../migrations/sqlite/0005_receipt.sql")),
    Migration::new("0006_presence.sql", include_str!("../../migrations/0006_presence.sql")),
    Migration::new(
        "0007_state_audit.sql",
        include_str!("../../migrations/sqlite/0007_state_audit.sql"),
    ),
    Migration::new("0008_admin.sql", include_str!("../../migrations/0008_admin.sql")),
    Migration::new("0009_audit_head.sql", include_str!("../../migrations/0009_audit_head.sql")),
    Migration::new(
        "0010_signed_by_member.sql",
        include_str!("../../migrations/0010_signed_by_member.sql"),
    ),
];

pub(crate) async fn open(location: &SqliteLocation) -> Result<Database> {
    let options =
        Options::new(&location.path).readers(location.readers).max_pages(location.max_pages);
    Database::open(options).await.map_err(|error| match error {
        OpenError::File { path, source } => {
            StoreError::Unavailable(format!("{}: {source}", path.display()).into())
        }
        OpenError::Database { source, .. } => source.into(),
        other => StoreError::Unavailable(other.to_string().into()),
    })
}

/// Dedupe rows, of several with one id the first; a known one is left as it is. `$1`: JSON array of arrays.
pub(crate) const INSERT_DEDUPE: &str = "
    INSERT INTO client_message_dedupe (mesh_id, client_message_id, sender_member_id, broker_message_id,
        request_fingerprint, destination_kind, destination_ref, first_seen_at, expires_at, history_available)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4), value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, 1
    FROM json_each($1) WHERE true ORDER BY key
    ON CONFLICT (mesh_id, client_message_id) DO NOTHING";

macro_rules! insert_messages {
    ($returning:literal) => {
        concat!(
            "INSERT INTO message (id, mesh_id, sender_member_id, sender_session_pubkey, sender_kind, target_spec,
                priority, nonce, ciphertext, body_version, reply_to, mentions, hops, key_epoch, client_message_id,
                request_fingerprint, created_at, expires_at, seq)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
                value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
                value ->> 14, unhex(value ->> 15), value ->> 16, value ->> 17, value ->> 18
             FROM json_each($1) WHERE true ORDER BY key ",
            $returning
        )
    };
}

macro_rules! insert_deliveries {
    ($returning:literal) => {
        concat!(
            "INSERT INTO delivery (message_seq, mesh_id, recipient_key, recipient_member_id, recipient_kind, priority,
                state, attempt, claim_id, due_at, expires_at, delivered_at, rerouted_from, wrapped_key, seq)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
                value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
                value ->> 14
             FROM json_each($1) WHERE true ORDER BY key ",
            $returning
        )
    };
}

/// So many rows of a `VALUES` list, a power of two, with fifteen cells each.
macro_rules! rows_of_fifteen {
    (1) => {
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    };
    (2) => {
        concat!(rows_of_fifteen!(1), ", ", rows_of_fifteen!(1))
    };
    (4) => {
        concat!(rows_of_fifteen!(2), ", ", rows_of_fifteen!(2))
    };
    (8) => {
        concat!(rows_of_fifteen!(4), ", ", rows_of_fifteen!(4))
    };
    (16) => {
        concat!(rows_of_fifteen!(8), ", ", rows_of_fifteen!(8))
    };
    (32) => {
        concat!(rows_of_fifteen!(16), ", ", rows_of_fifteen!(16))
    };
}

/// Message rows, the last cell their number or null. `$1`: JSON array of arrays.
pub(crate) const INSERT_MESSAGES: &str = insert_messages!("RETURNING seq, id");
/// Message rows that all have a number.
pub(crate) const INSERT_NUMBERED_MESSAGES: &str = insert_messages!("");

/// Delivery rows, the last cell their number or null. `$1`: JSON array of arrays.
pub(crate) const INSERT_DELIVERIES: &str =
    insert_deliveries!("RETURNING seq, message_seq, recipient_key");
/// Delivery rows that all have a number.
pub(crate) const INSERT_NUMBERED_DELIVERIES: &str = insert_deliveries!("");

/// Rows of one [`INSERT_DELIVERY_ROWS`].
pub(crate) const DELIVERY_ROWS: usize = 32;
/// [`DELIVERY_ROWS`] delivery rows that all have a number, each cell a parameter. It takes half the time of reading them
/// out of JSON; with many more rows in one statement binding them takes longer than that saves.
pub(crate) const INSERT_DELIVERY_ROWS: &str = concat!(
    "INSERT INTO delivery (message_seq, mesh_id, recipient_key, recipient_member_id, recipient_kind, priority, state,
        attempt, claim_id, due_at, expires_at, delivered_at, rerouted_from, wrapped_key, seq)
     VALUES ",
    rows_of_fifteen!(32)
);

/// Claimed rows back to held. `$1`: JSON array of `[seq, recipient key, attempts to uncount]`.
pub(crate) const RELEASE: &str = "
    UPDATE delivery SET state = 0, claim_id = NULL, due_at = expires_at, attempt = MAX(attempt - (r.value ->> 2), 0)
    FROM json_each($1) r
    WHERE delivery.seq = (r.value ->> 0) AND delivery.recipient_key = (r.value ->> 1) AND delivery.state = 1
    RETURNING delivery.seq AS seq";

/// Stored dedupe rows of (mesh, client message id) pairs. `$1`: JSON array of arrays.
pub(crate) const FIND_DEDUPE: &str = "
    SELECT d.mesh_id, d.client_message_id, d.broker_message_id, d.sender_member_id, d.request_fingerprint,
        d.first_seen_at, d.history_available
    FROM json_each($1) wanted
    JOIN client_message_dedupe d ON d.mesh_id = wanted.value ->> 0 AND d.client_message_id = wanted.value ->> 1";

/// Open rows that acks by message id mean. `$1`: JSON array of `[entry, mesh, key, message id, client id]`.
pub(crate) const FIND_ACKED: &str = "
    SELECT CAST(wanted.value ->> 0 AS INTEGER) AS entry, d.seq
    FROM json_each($1) wanted
    JOIN message m ON m.mesh_id = wanted.value ->> 1 AND m.id = COALESCE(wanted.value ->> 3,
        (SELECT broker_message_id FROM client_message_dedupe c
         WHERE c.mesh_id = wanted.value ->> 1 AND c.client_message_id = wanted.value ->> 4))
    JOIN delivery d ON d.message_seq = m.seq AND d.recipient_key = wanted.value ->> 2
    WHERE d.state IN (0, 1) AND (d.recipient_kind <> 0 OR NOT EXISTS (
        SELECT 1 FROM json_each($1) other
        JOIN delivery s ON s.message_seq = m.seq AND s.recipient_key = other.value ->> 2
        WHERE other.value ->> 0 = wanted.value ->> 0 AND s.recipient_kind = 1))";

/// Deliveries that receipts name, with what was said before. `$1`: JSON array of `[entry, mesh, key, message id]`.
pub(crate) const FIND_RECEIPTS: &str = "
    SELECT CAST(wanted.value ->> 0 AS INTEGER) AS entry, d.seq, d.mesh_id, d.recipient_key, d.recipient_member_id,
        d.recipient_kind, d.state, m.id, m.client_message_id, m.sender_member_id, m.sender_session_pubkey,
        r.ladder, r.side, r.since, r.asserted_by, r.path, r.evidence, r.reason, r.changes
    FROM json_each($1) wanted
    JOIN message m ON m.id = wanted.value ->> 3 AND m.mesh_id = wanted.value ->> 1
    JOIN delivery d ON d.message_seq = m.seq AND d.recipient_key = wanted.value ->> 2
    LEFT JOIN delivery_receipt r ON r.delivery_seq = d.seq";

/// What was said about deliveries. `$1`: JSON array of arrays.
pub(crate) const KEEP_RECEIPTS: &str = "
    INSERT INTO delivery_receipt (delivery_seq, ladder, side, since, asserted_by, path, evidence, reason, changes)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8
    FROM json_each($1) WHERE true ORDER BY key
    ON CONFLICT (delivery_seq) DO UPDATE SET ladder = excluded.ladder, side = excluded.side, since = excluded.since,
        asserted_by = excluded.asserted_by, path = excluded.path, evidence = excluded.evidence,
        reason = excluded.reason, changes = excluded.changes";
