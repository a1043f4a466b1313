//! Old messages go, in small steps so that no arrival waits for long (daemon spec §13.5).

use std::time::Duration;

use claudemesh_protocol::Timestamp;
use tokio::time::Instant;

use super::Inbox;
use crate::storage::{Causes, StorageError};

/// Rows removed by one commit: each takes its entries in eleven indexes and the search along, about two pages, and
/// whatever comes in meanwhile waits behind the whole step (daemon spec §13: at most 100 ms).
const STEP_ROWS: i64 = 50;
/// Steps after which the log is copied back beside the writer, long before a commit would have to do it.
const STEPS_PER_COPY: u32 = 10;
/// Longest rest between two steps.
const REST_MAX: Duration = Duration::from_millis(100);

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long.
    pub age: Duration,
    /// How much, in bytes of used pages.
    pub max_bytes: u64,
}

impl Inbox {
    /// Removes what is too old or has expired, then, while the database is too large, the oldest seen and at last the
    /// oldest messages. Answers how many.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StorageError> {
        let cutoff = now.minus(retention.age).as_millis();
        let (mut removed, mut steps) = (0, 0);
        for condition in [
            format!("received_at<{cutoff} ORDER BY received_at"),
            format!("expires_at<{} ORDER BY expires_at", now.as_millis()),
        ] {
            loop {
                let step = self.step(&condition, &mut steps).await?;
                removed += step;
                if step == 0 {
                    break;
                }
            }
        }
        while self.used_bytes().await? > retention.max_bytes {
            let mut step =
                self.step("seen_at IS NOT NULL ORDER BY received_at", &mut steps).await?;
            if step == 0 {
                step = self.step("1=1 ORDER BY received_at", &mut steps).await?;
            }
            removed += step;
            if step == 0 {
                break;
            }
        }
        if removed > 0 {
            tracing::info!(removed, "inbox_prune_completed");
        }
        Ok(removed)
    }

    /// Removes some, and then rests for as long as that took: half of the writer and of the disk is for what comes in.
    async fn step(&self, condition: &str, steps: &mut u32) -> Result<u64, StorageError> {
        let began = Instant::now();
        let removed = self.remove_oldest(condition).await?;
        if removed == 0 {
            return Ok(0);
        }
        *steps += 1;
        let rest = began.elapsed().min(REST_MAX);
        if steps.is_multiple_of(STEPS_PER_COPY)
            && let Err(error) = self.db.copy_log_back().await
        {
            // The writer does it then.
            tracing::debug!(error = %Causes(&error), "inbox_log_not_copied");
        }
        tokio::time::sleep(rest).await;
        Ok(removed)
    }

    async fn remove_oldest(&self, condition: &str) -> Result<u64, StorageError> {
        let sql = format!(
            "DELETE FROM inbox WHERE seq IN (SELECT seq FROM inbox WHERE {condition} \
             LIMIT {STEP_ROWS})"
        );
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let ran = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(conn).await?;
                    Ok(ran.rows_affected())
                })
            })
            .await
    }

    /// Bytes of the pages in use; pages that deletion freed are used again before the file grows.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn used_bytes(&self) -> Result<u64, StorageError> {
        crate::storage::used_bytes(&self.db).await
    }
}
