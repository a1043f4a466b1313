//! The kernel's notices of files that change. Where it gives none, files are looked at from time to time.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes for notices read at once: an event has 16, without a name.
const BUFFER_BYTES: usize = 4_096;

/// Files that are watched.
pub(super) struct Notices(Option<AsyncFd<OwnedFd>>);

impl Notices {
    /// In a simulation, and where the kernel has no room left, there are none.
    pub(super) fn open() -> Self {
        if crate::clock::is_simulated() {
            return Self(None);
        }
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an owned descriptor is what it asks for"
        )]
        Self(fd.and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE).ok()))
    }

    /// Watches the file that lies there now; answers its number, `None` when it cannot be watched.
    pub(super) fn watch(&self, path: &Path) -> Option<i32> {
        let interest = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF
            | WatchFlags::DONT_FOLLOW;
        inotify::add_watch(self.0.as_ref()?.get_ref(), path, interest).ok()
    }

    /// Watches it no longer.
    pub(super) fn forget(&self, watch: i32) {
        if let Some(notices) = &self.0 {
            // One whose file is gone has gone with it.
            let _ = inotify::remove_watch(notices.get_ref(), watch);
        }
    }

    /// Numbers of files that have changed, at least one; waits for ever where there are no notices.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn changed(&self) -> Vec<i32> {
        let Some(notices) = &self.0 else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = notices.readable().await else {
                return std::future::pending().await;
            };
            let changed = read(notices.get_ref());
            ready.clear_ready();
            if !changed.is_empty() {
                return changed;
            }
        }
    }
}

fn read(fd: &OwnedFd) -> Vec<i32> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); BUFFER_BYTES];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut changed = Vec::new();
    while let Ok(event) = reader.next() {
        let is_lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        // Then nobody knows which: the look from time to time finds them.
        if !is_lost && changed.last() != Some(&event.wd()) {
            changed.push(event.wd());
        }
    }
    changed
}
