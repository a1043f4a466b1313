//! The shared state of a mesh: a value per key, with the number of its writes (broker spec §4.1).

use claudemesh_protocol::limits::STATE_KEYS_MAX;
use claudemesh_protocol::{MemberId, MeshId, Timestamp};

use crate::audit::lock_mesh;
use crate::engine::{Conn, Row};
use crate::{Result, Store, StoreError};

/// One key that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateEntry {
    /// Its name.
    pub key: String,
    /// Its value as compact JSON, never `null`.
    pub value: String,
    /// How often it was written since it was last not there, from 1.
    pub version: u64,
    /// Who wrote it.
    pub updated_by: MemberId,
    /// That member's display name then.
    pub updated_by_name: String,
    /// When.
    pub updated_at: Timestamp,
}

/// What is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateEntries {
    /// In the order of the bytes of their keys.
    All(Vec<StateEntry>),
    /// They have so many bytes, which is more than the caller takes; nothing was read.
    TooLong {
        /// Keys, values and names.
        bytes: u64,
    },
}

/// A write.
#[derive(Debug, Clone)]
pub struct WriteState {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The key.
    pub key: String,
    /// Compact JSON other than `null`; `None` removes the key.
    pub value: Option<String>,
    /// Only when the key has this version; 0: only when it is not set.
    pub if_version: Option<u64>,
    /// Who writes.
    pub by: MemberId,
    /// Its display name.
    pub by_name: String,
    /// Now.
    pub at: Timestamp,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateWritten {
    /// The key has the value.
    Set {
        /// Its version now.
        version: u64,
    },
    /// The key was set and is no more. Written again, it begins at version 1.
    Removed,
    /// There was nothing to remove.
    Absent,
    /// The key has another version; nothing was written.
    Conflict {
        /// The version it has; 0 when it is not set.
        version: u64,
    },
    /// The key would be one too many; nothing was written.
    Full,
}

macro_rules! state_columns {
    () => {
        "SELECT key, value, version, updated_by, updated_by_name, updated_at FROM mesh_state WHERE mesh_id = $1"
    };
}

impl Store {
    /// Writes or removes one key. Writers of one key come one after the other.
    pub async fn write_state(&self, write: WriteState) -> Result<StateWritten> {
        self.write(move |mut conn| {
            Box::pin(async move {
                match &write.value {
                    Some(value) => set(&mut conn, &write, value).await,
                    None => remove(&mut conn, &write).await,
                }
            })
        })
        .await
    }

    /// Reads one key; `None` when it is not set.
    pub async fn state_entry(&self, mesh: &MeshId, key: &str) -> Result<Option<StateEntry>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(concat!(state_columns!(), " AND key = $2"), &[mesh.as_str().into(), key.into()])
            .await?;
        row.as_ref().map(StateEntry::from_row).transpose()
    }

    /// Reads every key that begins with `prefix`, taken literally; a list of more than `max_bytes` is not read.
    pub async fn state_entries(
        &self,
        mesh: &MeshId,
        prefix: &str,
        max_bytes: u64,
    ) -> Result<StateEntries> {
        let values = [mesh.as_str().into(), prefix.into()];
        let mut reader = self.reader().await?;
        let mut conn = reader.conn();
        let bytes = conn
            .number(
                "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM mesh_state
                 WHERE mesh_id = $1 AND substr(key, 1, length($2)) = $2",
                &values,
            )
            .await?;
        let bytes = u64::try_from(bytes).unwrap_or_default();
        if bytes > max_bytes {
            return Ok(StateEntries::TooLong { bytes });
        }
        let rows = conn
            .all(
                concat!(state_columns!(), " AND substr(key, 1, length($2)) = $2 ORDER BY key"),
                &values,
            )
            .await?;
        Ok(StateEntries::All(rows.iter().map(StateEntry::from_row).collect::<Result<_>>()?))
    }

    /// Names of all keys that are set, in the order of their bytes.
    pub async fn state_keys(&self, mesh: &MeshId) -> Result<Vec<String>> {
        let mut reader = self.reader().await?;
        let sql = "SELECT key FROM mesh_state WHERE mesh_id = $1 ORDER BY key";
        let rows = reader.conn().all(sql, &[mesh.as_str().into()]).await?;
        rows.iter().map(|row| row.get("key")).collect()
    }
}

impl StateEntry {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            key: row.get("key")?,
            value: row.get("value")?,
            version: row.count("version")?,
            updated_by: MemberId::new(row.get::<String>("updated_by")?),
            updated_by_name: row.get("updated_by_name")?,
            updated_at: row.time("updated_at")?,
        })
    }
}

async fn set(conn: &mut Conn<'_>, write: &WriteState, value: &str) -> Result<StateWritten> {
    if write.if_version != Some(0)
        && let Some(version) = update(conn, write, value).await?
    {
        return Ok(StateWritten::Set { version });
    }
    // The key is new, or has another version: from here on nobody adds or removes keys of this mesh.
    lock_mesh(conn, "state", &write.mesh_id).await?;
    let known = version_of(conn, write).await?;
    match (known, write.if_version) {
        (Some(version), Some(_)) => Ok(StateWritten::Conflict { version }),
        // Somebody else added it in this very moment.
        (Some(_), None) => match update(conn, write, value).await? {
            Some(version) => Ok(StateWritten::Set { version }),
            None => Err(StoreError::corrupt("mesh_state.version")),
        },
        (None, Some(1..)) => Ok(StateWritten::Conflict { version: 0 }),
        (None, _) => insert(conn, write, value).await,
    }
}

async fn update(conn: &mut Conn<'_>, write: &WriteState, value: &str) -> Result<Option<u64>> {
    let row = conn
        .first(
            "UPDATE mesh_state SET value = $3, bytes = $4, version = version + 1, updated_by = $5,
                updated_by_name = $6, updated_at = $7
             WHERE mesh_id = $1 AND key = $2 AND version = COALESCE($8, version)
             RETURNING version",
            &[
                write.mesh_id.as_str().into(),
                write.key.as_str().into(),
                value.into(),
                bytes_of(write, value).into(),
                write.by.as_str().into(),
                write.by_name.as_str().into(),
                write.at.into(),
                stored_version(write.if_version).into(),
            ],
        )
        .await?;
    row.map(|row| row.count("version")).transpose()
}

async fn insert(conn: &mut Conn<'_>, write: &WriteState, value: &str) -> Result<StateWritten> {
    let keys = conn
        .number(
            "SELECT COUNT(*) FROM mesh_state WHERE mesh_id = $1",
            &[write.mesh_id.as_str().into()],
        )
        .await?;
    if usize::try_from(keys).unwrap_or(usize::MAX) >= STATE_KEYS_MAX {
        return Ok(StateWritten::Full);
    }
    conn.execute(
        "INSERT INTO mesh_state (mesh_id, key, value, bytes, version, updated_by, updated_by_name, updated_at)
         VALUES ($1, $2, $3, $4, 1, $5, $6, $7)",
        &[
            write.mesh_id.as_str().into(),
            write.key.as_str().into(),
            value.into(),
            bytes_of(write, value).into(),
            write.by.as_str().into(),
            write.by_name.as_str().into(),
            write.at.into(),
        ],
    )
    .await?;
    Ok(StateWritten::Set { version: 1 })
}

async fn remove(conn: &mut Conn<'_>, write: &WriteState) -> Result<StateWritten> {
    lock_mesh(conn, "state", &write.mesh_id).await?;
    let rows = conn
        .execute(
            "DELETE FROM mesh_state WHERE mesh_id = $1 AND key = $2 AND version = COALESCE($3, version)",
            &[
                write.mesh_id.as_str().into(),
                write.key.as_str().into(),
                stored_version(write.if_version).into(),
            ],
        )
        .await?;
    if rows > 0 {
        return Ok(StateWritten::Removed);
    }
    match (version_of(conn, write).await?, write.if_version) {
        (None, None | Some(0)) => Ok(StateWritten::Absent),
        (known, _) => Ok(StateWritten::Conflict { version: known.unwrap_or(0) }),
    }
}

async fn version_of(conn: &mut Conn<'_>, write: &WriteState) -> Result<Option<u64>> {
    let row = conn
        .first(
            "SELECT version FROM mesh_state WHERE mesh_id = $1 AND key = $2",
            &[write.mesh_id.as_str().into(), write.key.as_str().into()],
        )
        .await?;
    row.map(|row| row.count("version")).transpose()
}

/// A version that no key can have matches none.
fn stored_version(version: Option<u64>) -> Option<i64> {
    version.map(|version| i64::try_from(version).unwrap_or(i64::MAX))
}

fn bytes_of(write: &WriteState, value: &str) -> i64 {
    i64::try_from(write.key.len() + value.len() + write.by_name.len()).unwrap_or(i64::MAX)
}
