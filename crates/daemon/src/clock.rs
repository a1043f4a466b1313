//! The daemon's wall clock, and the moments of its periodic work.

use std::sync::OnceLock;
use std::time::Duration;

use claudemesh_client::clock;
use claudemesh_protocol::Timestamp;
use tokio::time::Instant;

pub(crate) use clock::jitter;

/// Now, in Unix milliseconds.
pub fn now() -> Timestamp {
    Timestamp::from_millis(clock::wall_clock_millis())
}

/// When work of this period is due next. All of one period is due at the same moments, and what is due at a multiple of it
/// at some of them, so that an idle process wakes up once for everything (daemon spec §1.3).
pub(crate) fn next_tick(period: Duration) -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    if is_simulated() {
        // What ran in this process before must not shift anything.
        return now + period;
    }
    let since = now.saturating_duration_since(*BEGAN.get_or_init(|| now));
    let periods = since.as_nanos() / period.as_nanos().max(1);
    let into = since.as_nanos() - periods * period.as_nanos();
    let into = Duration::from_nanos(u64::try_from(into).unwrap_or(0));
    now + period.saturating_sub(into)
}

/// True on the thread of a simulation, where the kernel's notices would come at times of their own.
pub(crate) fn is_simulated() -> bool {
    #[cfg(feature = "simulation")]
    return clock::simulation::is_active();
    #[cfg(not(feature = "simulation"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_periodic_is_due_at_the_same_moments() {
        let period = Duration::from_secs(15);
        let first = next_tick(period);
        assert!(first > Instant::now() && first <= Instant::now() + period);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(next_tick(period), first, "whoever comes later waits for the same moment");
        tokio::time::sleep_until(first).await;
        assert_eq!(next_tick(period), first + period);
        let longer = next_tick(2 * period);
        assert!(longer == first + period || longer == first + 2 * period);
    }
}
