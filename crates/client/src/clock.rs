//! The wall clock and the jitter of the client side: the one place that reads them, so that a simulation can give both.

use std::time::SystemTime;

use claudemesh_crypto::random;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// The wall clock in Unix milliseconds; it also notices sleep, which the monotonic clock of some systems does not.
pub fn wall_clock_millis() -> i64 {
    #[cfg(feature = "simulation")]
    if let Some(millis) = simulation::now() {
        return millis;
    }
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// Random numbers for waits; for nothing secret.
pub fn jitter() -> StdRng {
    StdRng::from_seed(random::bytes())
}

/// The clock of a simulation's thread: never in a release.
#[cfg(feature = "simulation")]
pub mod simulation {
    use std::cell::RefCell;
    use std::sync::Arc;

    /// Tells Unix milliseconds.
    pub type SimulatedClock = Arc<dyn Fn() -> i64 + Send + Sync>;

    thread_local! {
        static CLOCK: RefCell<Option<SimulatedClock>> = const { RefCell::new(None) };
    }

    /// Puts `clock` in place of the system's on this thread until the guard is dropped.
    #[must_use = "dropping the guard takes the clock away"]
    pub fn install(clock: SimulatedClock) -> Installed {
        CLOCK.set(Some(clock));
        Installed(())
    }

    /// Takes the clock away when dropped.
    pub struct Installed(());

    impl Drop for Installed {
        fn drop(&mut self) {
            CLOCK.set(None);
        }
    }

    /// Whether this thread has a simulated clock.
    pub fn is_active() -> bool {
        CLOCK.with_borrow(Option::is_some)
    }

    pub(super) fn now() -> Option<i64> {
        CLOCK.with_borrow(|clock| clock.as_ref().map(|clock| clock()))
    }
}
