//! Messages that came in (daemon spec §13): stored before they are acknowledged, each once for each own key.

mod announce;
mod digest;
mod evidence;
mod fit;
mod insert;
mod line;
mod list;
mod mark;
mod prune;
mod rekey;
mod row;
mod search;
mod settle;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::{PublicKey, Timestamp};
use claudemesh_sqlite::{Database, Migration};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use evidence::{Proof, Proved, RecordPlace, RecordRead};
pub use insert::Inserted;
pub use line::Line;
pub use list::{Cursor, InboxFilter, Page};
pub use mark::{Marked, Stamp};
pub use prune::Retention;
pub use row::NewItem;
pub use search::{Findings, SearchFilter};
pub use settle::{Answerer, Standing, Subject};

use crate::events::EventBus;
use crate::sessions::Sessions;
use crate::storage::{self, UnusableDatabase};
use digest::Digests;

/// Schema steps.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("0001_inbox.sql", include_str!("inbox/schema.sql")),
    Migration::new("0002_handover.sql", include_str!("inbox/handover.sql")),
    Migration::new("0003_told.sql", include_str!("inbox/told.sql")),
    Migration::new("0004_evidence.sql", include_str!("inbox/evidence.sql")),
];

/// Whose messages a caller sees and changes (daemon spec §13.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them: a caller without a session.
    Everything,
    /// Those of one session and of its member.
    Session(SessionScope),
}

/// What of the inbox belongs to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionScope {
    /// Mesh slug.
    pub mesh: String,
    /// UUID of the agent session: what was handed or read is remembered under it.
    pub session_id: String,
    /// Its key, when it has one.
    pub key: Option<PublicKey>,
    /// The member's key.
    pub member_key: PublicKey,
    /// What was received earlier and read by anybody counts as read for it.
    pub registered_at: Timestamp,
}

/// The inbox. Cloning is cheap.
#[derive(Clone)]
pub struct Inbox {
    db: Database,
    digests: Arc<Digests>,
    events: EventBus,
    sessions: Sessions,
    index: Arc<search::Index>,
}

impl Inbox {
    /// Opens the database. A damaged one is moved aside and an empty one takes its place: what was not acknowledged is
    /// still at the broker.
    ///
    /// # Errors
    /// [`UnusableDatabase`] when it is of a newer program, or not even an empty one can be made.
    pub async fn open(
        path: &Path,
        max_pages: Option<u32>,
        settings: InboxSettings,
    ) -> Result<Self, UnusableDatabase> {
        let db = match storage::open(path, MIGRATIONS, max_pages).await {
            Err(UnusableDatabase::Corrupt { reason, .. }) => {
                let kept = quarantine(path, settings.now).map_err(|source| {
                    claudemesh_sqlite::OpenError::File { path: path.to_owned(), source }
                })?;
                tracing::error!(reason, kept = %kept.display(), "inbox_corruption_recovered");
                storage::open(path, MIGRATIONS, max_pages).await?
            }
            opened => opened?,
        };
        let index = search::Index::prepare(&db, &settings).await;
        let digests = Arc::new(Digests::new(&settings));
        let InboxSettings { events, sessions, .. } = settings;
        Ok(Self { db, digests, events, sessions, index })
    }

    /// The database, for size measurements.
    pub fn database(&self) -> &Database {
        &self.db
    }

    /// Other age from which group messages are only counted.
    pub fn set_digest_after(&self, age: Duration) {
        self.digests.set_late_after(age);
    }

    /// Finishes what was submitted and closes the database.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// What the inbox needs besides its file.
pub struct InboxSettings {
    /// Where arrivals are published.
    pub events: EventBus,
    /// Whose gates decide when.
    pub sessions: Sessions,
    /// Who waits for the digest timers at shutdown.
    pub tasks: TaskTracker,
    /// Sends open digests at once.
    pub shutdown: CancellationToken,
    /// Age from which group messages are only counted (daemon spec §13.2).
    pub digest_after: Duration,
    /// Whether messages can be searched (daemon spec §13.6).
    pub is_searchable: bool,
    /// Now, for the name of a file that is moved aside.
    pub now: Timestamp,
}

fn quarantine(path: &Path, now: Timestamp) -> std::io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let kept = beside(&format!(".corrupt-{}", now.as_millis()));
    std::fs::rename(path, &kept)?;
    for side_file in ["-wal", "-shm"] {
        match std::fs::rename(
            beside(side_file),
            beside(&format!(".corrupt-{}{side_file}", now.as_millis())),
        ) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(kept)
}
