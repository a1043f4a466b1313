//! Keeping a task alive: a panic is caught, told and answered with another start.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

/// Wait before the first restart.
const RESTART_FIRST: Duration = Duration::from_secs(1);
/// Longest wait before a restart.
const RESTART_MAX: Duration = Duration::from_secs(30);

/// Runs `task` until `stop`; when it panics, or ends before that, it is started again after a growing wait.
pub(super) async fn supervise<F: Future<Output = ()>>(
    name: &'static str,
    mesh: &str,
    stop: &CancellationToken,
    mut task: impl FnMut() -> F,
) {
    let mut wait = RESTART_FIRST;
    loop {
        let started = tokio::time::Instant::now();
        let ended = AssertUnwindSafe(task()).catch_unwind().await;
        if stop.is_cancelled() {
            return;
        }
        if started.elapsed() > RESTART_MAX {
            wait = RESTART_FIRST;
        }
        match ended {
            Ok(()) => tracing::warn!(task = name, mesh, "task_ended_early"),
            Err(_panic) => tracing::error!(task = name, mesh, "task_panicked"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = wait.saturating_mul(2).min(RESTART_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panicking_task_is_started_again_until_it_is_stopped() {
        let stop = CancellationToken::new();
        let runs = Arc::new(AtomicU32::new(0));
        let task = || {
            let (runs, stop) = (Arc::clone(&runs), stop.clone());
            async move {
                match runs.fetch_add(1, Ordering::Relaxed) {
                    0 | 1 => panic!("on purpose"),
                    2 => {}
                    _ => stop.cancel(),
                }
            }
        };
        supervise("test", "mesh", &stop, task).await;
        assert_eq!(runs.load(Ordering::Relaxed), 4);
    }
}
