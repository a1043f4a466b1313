//! SQLite as the broker's store and the daemon use it: opening with the right pragmas, migrations, and one writer that
//! commits in groups. It knows no tables.
//!
//! ```no_run
//! # use claudemesh_sqlite::{Database, Migration, Options, WriteError};
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! const MIGRATIONS: &[Migration] = &[Migration::new("0001_note.sql", "CREATE TABLE note (text TEXT NOT NULL);")];
//!
//! let db = Database::open(Options::new("/tmp/demo.db")).await?;
//! db.migrate(MIGRATIONS).await?;
//! let id: i64 = db
//!     .write(|conn| {
//!         Box::pin(async move {
//!             let id = sqlx::query("INSERT INTO note (text) VALUES ($1)")
//!                 .bind("hi")
//!                 .execute(conn)
//!                 .await?
//!                 .last_insert_rowid();
//!             Ok::<_, WriteError>(id)
//!         })
//!     })
//!     .await?; // on disk now
//! let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM note").fetch_one(db.reader()).await?;
//! db.close().await;
//! # let _ = (id, count);
//! # Ok(())
//! # }
//! ```

mod crash;
mod database;
mod error;
mod migrate;
mod planted;
mod reader;
#[cfg(feature = "simulation")]
pub mod simulation;
mod writer;

pub use crash::{arm_crash_points, crash_point, refusal_point};
pub use database::{Database, Options};
pub use error::{MigrationError, OpenError, WriteError};
pub use migrate::{Migration, MigrationReport, Recorded, pending};
#[cfg(feature = "planted-bugs")]
pub use planted::plant;
pub use planted::planted_bug;
pub use reader::{ReadConnection, Reader};
pub use writer::{BatchWriter, Durability, JobFuture};

/// Waits for a statement on a connection; inside a simulation, runs it to its end before anything else happens.
pub async fn settle<F: Future>(statement: F) -> F::Output {
    #[cfg(feature = "simulation")]
    if simulation::is_active() {
        return simulation::drive(statement);
    }
    statement.await
}
