//! Statuses that a hook reported for a program that has not connected yet (`pending_status`, broker spec §1.2, §2.3).

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::status::PeerStatus;

use crate::engine::Conn;
use crate::{Result, Store};

/// One report that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingStatus {
    /// Row id.
    pub id: String,
    /// Process id, when the hook gave one; without it only the named session is meant.
    pub pid: Option<i64>,
    /// Working directory.
    pub cwd: String,
    /// The client's name for its session.
    pub session_id: String,
    /// The status.
    pub status: PeerStatus,
    /// Now.
    pub created_at: Timestamp,
}

/// Whose waiting status a new presence takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingStatusOf {
    /// Its process id.
    pub pid: i64,
    /// Its working directory.
    pub cwd: String,
    /// Its session id.
    pub session_id: String,
    /// Older reports are void.
    pub not_before: Timestamp,
}

impl Store {
    /// Keeps a report for whoever connects soon.
    pub async fn keep_pending_status(&self, pending: PendingStatus) -> Result<()> {
        self.write(move |mut conn| {
            Box::pin(async move {
                conn.execute(
                    "INSERT INTO pending_status (id, pid, cwd, session_id, status, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6)",
                    &[
                        pending.id.as_str().into(),
                        pending.pid.into(),
                        pending.cwd.as_str().into(),
                        pending.session_id.as_str().into(),
                        pending.status.as_str().into(),
                        pending.created_at.into(),
                    ],
                )
                .await
                .map(drop)
            })
        })
        .await
    }

    /// Deletes what lives for seconds: remembered hellos past their end at `now`, and statuses that waited since before
    /// `pending_before`. Answers how many of each.
    pub async fn purge_short_lived(
        &self,
        now: Timestamp,
        pending_before: Timestamp,
    ) -> Result<(u64, u64)> {
        self.write(move |mut conn| {
            Box::pin(async move {
                let hellos = conn
                    .execute("DELETE FROM hello_seen WHERE expires_at <= $1", &[now.into()])
                    .await?;
                let pending = conn
                    .execute(
                        "DELETE FROM pending_status WHERE created_at < $1",
                        &[pending_before.into()],
                    )
                    .await?;
                Ok((hellos, pending))
            })
        })
        .await
    }
}

/// Takes the newest report that waits for this program; all that waited for it are void then.
pub(crate) async fn take(conn: &mut Conn<'_>, of: &PendingStatusOf) -> Result<Option<PeerStatus>> {
    let rows = conn
        .all(
            "DELETE FROM pending_status
             WHERE cwd = $1 AND (pid = $2 OR (pid IS NULL AND session_id = $3))
             RETURNING status, created_at, id",
            &[of.cwd.as_str().into(), of.pid.into(), of.session_id.as_str().into()],
        )
        .await?;
    let mut newest: Option<(Timestamp, PeerStatus)> = None;
    for row in &rows {
        let at = row.time("created_at")?;
        if at >= of.not_before && newest.is_none_or(|(best, _)| at >= best) {
            newest = Some((at, row.parsed("status")?));
        }
    }
    Ok(newest.map(|(_, status)| status))
}
