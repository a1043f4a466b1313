//! The audit log: one hash chain per mesh, appended to and read, never changed (broker spec §4.19, wire spec §5.17).
//!
//! Appends of one mesh happen one after the other: SQLite has one writer, PostgreSQL holds an advisory lock of the mesh
//! from reading the newest entry to the end of the transaction. Whoever appends inside a larger transaction does so as
//! its last step, so that nobody waits for a row while holding that lock.

mod head;
mod verify;

use claudemesh_crypto::audit::{Entry, canonical_payload, link};
use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::canonical::AUDIT_GENESIS;
use claudemesh_protocol::{MemberId, MeshId, Timestamp};
use serde_json::{Map, Value as Json};

use crate::engine::{Bulk, Cell, Conn, Row, Sql, Value};
use crate::{Result, Store, StoreError};

pub use head::{AuditHead, AuditTail};
pub use verify::{AuditFault, AuditVerdict};

/// Columns that one new entry writes.
const WIDTH: usize = 7;

/// The columns that [`AuditEntry::from_row`] reads, and the hash before.
macro_rules! entry_columns {
    () => {
        "SELECT id, event_type, actor_member_id, payload, prev_hash, hash, created_at FROM audit_log"
    };
}
use entry_columns;

/// What an entry concerns: names, numbers, yes and no, and lists and maps of these. Fractions have no place in it, and
/// an absent value leaves no field, because both would be hashed differently elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditPayload(Map<String, Json>);

impl AuditPayload {
    /// Nothing to tell.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more field; `None` adds none.
    #[must_use]
    pub fn with(mut self, field: &'static str, value: impl Into<AuditValue>) -> Self {
        if let Some(value) = value.into().0 {
            self.0.insert(field.to_owned(), value);
        }
        self
    }
}

/// A value of an [`AuditPayload`], or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditValue(Option<Json>);

macro_rules! audit_values {
    ($($from:ty),+) => {
        $(impl From<$from> for AuditValue {
            fn from(value: $from) -> Self {
                Self(Some(value.into()))
            }
        })+
    };
}
audit_values!(&str, String, bool, u32);

impl From<Timestamp> for AuditValue {
    fn from(time: Timestamp) -> Self {
        time.to_iso().into()
    }
}

impl<V: Into<Self>> From<Option<V>> for AuditValue {
    fn from(value: Option<V>) -> Self {
        Self(value.and_then(|value| value.into().0))
    }
}

impl<V: Into<Self>> From<Vec<V>> for AuditValue {
    fn from(values: Vec<V>) -> Self {
        Self(Some(values.into_iter().filter_map(|value| value.into().0).collect()))
    }
}

/// A map; what has no value has no field.
impl<V: Into<Self>> FromIterator<(String, V)> for AuditValue {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(fields: I) -> Self {
        let fields = fields.into_iter().filter_map(|(field, value)| Some((field, value.into().0?)));
        Self(Some(Json::Object(fields.collect())))
    }
}

/// An entry to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAuditEntry {
    /// The mesh.
    pub mesh_id: MeshId,
    /// What happened.
    pub event: AuditEvent,
    /// Who did it; `None` for the broker or its operator.
    pub actor: Option<MemberId>,
    /// What it concerned; never a message, a value or a secret.
    pub payload: AuditPayload,
    /// When.
    pub at: Timestamp,
}

/// A stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number; numbers of one mesh ascend and have gaps.
    pub id: i64,
    /// What happened, in the word of the version that wrote it.
    pub event: String,
    /// Who did it.
    pub actor: Option<MemberId>,
    /// Canonical JSON, as hashed.
    pub payload: String,
    /// Hash over the entry before and this one, 64 hexadecimal characters.
    pub hash: String,
    /// When.
    pub created_at: Timestamp,
}

/// One answer of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPage {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// How many there are in all that match.
    pub total: u64,
}

impl Store {
    /// Appends entries of one mesh in their order, in one transaction.
    pub async fn append_audit_entries(
        &self,
        mesh: &MeshId,
        entries: Vec<NewAuditEntry>,
    ) -> Result<()> {
        let mesh = mesh.clone();
        self.write(move |mut conn| {
            Box::pin(async move { append_all(&mut conn, &mesh, &entries).await })
        })
        .await
    }

    /// Reads the log of a mesh, newest first.
    pub async fn audit_entries(
        &self,
        mesh: &MeshId,
        event: Option<&str>,
        limit: u32,
        offset: u64,
    ) -> Result<AuditPage> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let (count, list) = match event {
            None => (
                "SELECT COUNT(*) FROM audit_log WHERE mesh_id = $1",
                concat!(
                    entry_columns!(),
                    " WHERE mesh_id = $1 ORDER BY id DESC LIMIT $2 OFFSET $3"
                ),
            ),
            Some(_) => (
                "SELECT COUNT(*) FROM audit_log WHERE mesh_id = $1 AND event_type = $2",
                concat!(
                    entry_columns!(),
                    " WHERE mesh_id = $1 AND event_type = $2 ORDER BY id DESC LIMIT $3 OFFSET $4"
                ),
            ),
        };
        let mut values: Vec<Value<'_>> = vec![mesh.as_str().into()];
        values.extend(event.map(Value::from));
        let mut reader = self.reader().await?;
        let mut conn = reader.conn();
        let total = conn.number(count, &values).await?;
        values.extend([limit.into(), offset.into()]);
        let rows = conn.all(list, &values).await?;
        Ok(AuditPage {
            entries: rows.iter().map(AuditEntry::from_row).collect::<Result<_>>()?,
            total: u64::try_from(total).unwrap_or_default(),
        })
    }
}

impl AuditEntry {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.integer("id")?,
            event: row.get("event_type")?,
            actor: row.get::<Option<String>>("actor_member_id")?.map(MemberId::new),
            payload: row.get("payload")?,
            hash: row.get("hash")?,
            created_at: row.time("created_at")?,
        })
    }
}

/// Appends one entry as the last step of a transaction: when this fails, all of it is rolled back.
pub(crate) async fn append_audit(conn: &mut Conn<'_>, entry: &NewAuditEntry) -> Result<()> {
    append_all(conn, &entry.mesh_id, std::slice::from_ref(entry)).await
}

/// Appends entries of one mesh as the last step of a transaction.
pub(crate) async fn append_all(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    entries: &[NewAuditEntry],
) -> Result<()> {
    const INSERT: Sql = Sql::per_engine(
        "INSERT INTO audit_log (mesh_id, event_type, actor_member_id, payload, prev_hash, hash, created_at)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
         FROM json_each($1) WHERE true ORDER BY key",
        "INSERT INTO audit_log (mesh_id, event_type, actor_member_id, payload, prev_hash, hash, created_at)
         SELECT c0, c1, c2, c3, c4, c5, c6
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
            WITH ORDINALITY AS r (c0, c1, c2, c3, c4, c5, c6, place)
         ORDER BY place",
    );
    if entries.is_empty() {
        return Ok(());
    }
    lock_mesh(conn, "audit", mesh).await?;
    let newest = conn
        .first(
            "SELECT hash FROM audit_log WHERE mesh_id = $1 ORDER BY id DESC LIMIT 1",
            &[mesh.as_str().into()],
        )
        .await?;
    let mut prev = newest.map(|row| row.get::<String>("hash")).transpose()?;
    let mut links = Vec::with_capacity(entries.len());
    for entry in entries {
        let payload = canonical_payload(&Json::Object(entry.payload.0.clone()))
            .map_err(|_| StoreError::corrupt("audit_log.payload"))?;
        let hash = link(
            prev.as_deref(),
            &Entry {
                mesh,
                event: entry.event.as_str(),
                actor: entry.actor.as_ref(),
                payload: &payload,
                created_at: entry.at,
            },
        );
        let before = prev.replace(hash.clone()).unwrap_or_else(|| AUDIT_GENESIS.to_owned());
        links.push((entry, payload, before, hash));
    }
    let mut bulk = Bulk::new(WIDTH, links.len());
    for (entry, payload, before, hash) in &links {
        bulk.push([
            Cell::Text(Some(mesh.as_str())),
            Cell::Text(Some(entry.event.as_str())),
            Cell::Text(entry.actor.as_ref().map(MemberId::as_str)),
            Cell::Text(Some(payload)),
            Cell::Text(Some(before)),
            Cell::Text(Some(hash)),
            Cell::Integer(Some(entry.at.as_millis())),
        ]);
    }
    conn.execute(INSERT, &[Value::Bulk(&bulk)]).await.map(drop)
}

/// Lets nobody else pass here for this mesh until the transaction ends; the one writer of SQLite needs no lock.
pub(crate) async fn lock_mesh(conn: &mut Conn<'_>, what: &str, mesh: &MeshId) -> Result<()> {
    if matches!(conn, Conn::Sqlite(_)) {
        return Ok(());
    }
    let sql = "SELECT CAST(1 AS BIGINT) FROM (SELECT pg_advisory_xact_lock(hashtextextended($1, 0))) AS taken";
    conn.number(sql, &[format!("{what}:{mesh}").into()]).await.map(drop)
}
