//! What the process itself uses, and what follows when it nears its limits (daemon spec §1.5).

use std::sync::atomic::{AtomicBool, Ordering};

use claudemesh_protocol::limits::{DAEMON_FDS_MAX, DAEMON_RSS_MAX_BYTES};

/// From this share of the memory on somebody is warned; the service manager restarts at the whole.
const RSS_WARN_PERCENT: u64 = 80;

/// One look at the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Memory that is resident, in bytes.
    rss: u64,
    /// Open descriptors.
    descriptors: u64,
}

impl Usage {
    /// Reads `/proc`; `None` where there is none. Blocks.
    pub(crate) fn now() -> Option<Self> {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
        let descriptors = std::fs::read_dir("/proc/self/fd").ok()?.count();
        Some(Self {
            rss: pages.saturating_mul(page_bytes),
            descriptors: u64::try_from(descriptors).ok()?,
        })
    }
}

/// How near the limits the process was when somebody looked last.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    is_large: AtomicBool,
    is_short_of_descriptors: AtomicBool,
}

impl Resources {
    /// Warns once for each time that a limit comes near.
    pub(crate) fn note(&self, usage: Usage) {
        let is_large = usage.rss >= DAEMON_RSS_MAX_BYTES / 100 * RSS_WARN_PERCENT;
        if is_large && !self.is_large.swap(is_large, Ordering::Relaxed) {
            tracing::warn!(rss = usage.rss, limit = DAEMON_RSS_MAX_BYTES, "memory_high");
        }
        self.is_large.store(is_large, Ordering::Relaxed);
        let is_short = usage.descriptors >= DAEMON_FDS_MAX;
        if is_short && !self.is_short_of_descriptors.swap(is_short, Ordering::Relaxed) {
            let (used, limit) = (usage.descriptors, DAEMON_FDS_MAX);
            tracing::warn!(used, limit, "descriptors_high");
        }
        self.is_short_of_descriptors.store(is_short, Ordering::Relaxed);
    }

    /// Event streams, which stay open for ever, are what is refused first.
    pub(crate) fn is_short_of_descriptors(&self) -> bool {
        self.is_short_of_descriptors.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::now().unwrap();
        assert!(usage.rss > 1024 * 1024 && usage.descriptors >= 3, "{usage:?}");
    }

    #[test]
    fn streams_are_refused_from_the_limit_on_and_taken_again_below() {
        let resources = Resources::default();
        for (descriptors, is_short) in [
            (10, false),
            (DAEMON_FDS_MAX - 1, false),
            (DAEMON_FDS_MAX, true),
            (5_000, true),
            (9, false),
        ] {
            resources.note(Usage { rss: 0, descriptors });
            assert_eq!(resources.is_short_of_descriptors(), is_short, "{descriptors}");
        }
    }

    #[test]
    fn memory_is_warned_about_from_four_fifths_on() {
        let resources = Resources::default();
        for (rss, is_large) in [
            (DAEMON_RSS_MAX_BYTES / 2, false),
            (DAEMON_RSS_MAX_BYTES / 100 * 81, true),
            (DAEMON_RSS_MAX_BYTES / 100 * 79, false),
        ] {
            resources.note(Usage { rss, descriptors: 0 });
            assert_eq!(resources.is_large.load(Ordering::Relaxed), is_large, "{rss}");
        }
    }
}
