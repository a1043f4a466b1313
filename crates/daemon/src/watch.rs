//! Watching `config.json`: told by the kernel where it can, and by a look every 15 s in any case (daemon spec §1.3).

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::daemon::Daemon;

/// Period of the safety net.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// An editor may write in several steps.
const SETTLE: Duration = Duration::from_millis(50);

/// What tells one content of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: Option<std::time::SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let meta = std::fs::metadata(path).ok()?;
        Some(Self { inode: meta.ino(), bytes: meta.len(), modified: meta.modified().ok() })
    }
}

/// A look at the file, to be compared with later ones; taken before the content it stands for is read.
pub(crate) struct Seen(Option<Stamp>);

impl Seen {
    pub(crate) fn now(path: &Path) -> Self {
        Self(Stamp::of(path))
    }
}

/// Reloads when the file has changed since `seen`.
pub(crate) async fn config(daemon: Daemon, seen: Seen) {
    let path = daemon.context().paths.membership_file();
    let stopping = daemon.stopping();
    let notices = path.parent().and_then(directory_notices);
    let mut last = seen.0;
    loop {
        tokio::select! {
            biased;
            () = changed(notices.as_ref()) => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep_until(crate::clock::next_tick(LOOK_INTERVAL)) => {}
            () = stopping.cancelled() => return,
        }
        let stamp = Stamp::of(&path);
        if stamp == last {
            continue;
        }
        last = stamp;
        match daemon.reload().await {
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "config_not_reloaded"),
        }
    }
}

fn directory_notices(dir: &Path) -> Option<AsyncFd<OwnedFd>> {
    if crate::clock::is_simulated() {
        return None;
    }
    let fd = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let interest = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
    rustix::fs::inotify::add_watch(&fd, dir, interest).ok()?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an owned descriptor is what it asks for"
    )]
    AsyncFd::with_interest(fd, Interest::READABLE).ok()
}

/// Returns after something happened in the directory; never, where the kernel does not tell.
async fn changed(notices: Option<&AsyncFd<OwnedFd>>) {
    let Some(notices) = notices else { return std::future::pending().await };
    let Ok(mut ready) = notices.readable().await else { return std::future::pending().await };
    let mut buffer = [0_u8; 4096];
    // What happened does not matter: the file is looked at. Reading until it is empty re-arms the notice.
    while rustix::io::read(notices.get_ref(), &mut buffer).is_ok_and(|bytes| bytes > 0) {}
    ready.clear_ready();
}
