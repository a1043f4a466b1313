//! Work that would hold up the runtime.

use crate::clock;

/// Runs `work` where it holds nobody up, and answers its result; `None` when it panicked. Inside a simulation it runs at
/// once, since other threads know no order.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if clock::is_simulated() {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}
