//! The daemon's log: JSON lines in `daemon.log`, rotated at 10 MiB, five old ones kept (daemon spec §2); the same on
//! stderr, unless stderr is that file or leads nowhere.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudemesh_ipc::env;
use parking_lot::Mutex;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use crate::home::file::SECRET;
use crate::settings::LogLevel;

const ROTATE_BYTES: u64 = 10 * 1024 * 1024;
const KEPT: u32 = 5;

/// Changes the level of a running log.
#[derive(Clone, Default)]
pub(crate) struct LevelHandle {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

impl LevelHandle {
    /// Puts another level in force; `CLAUDEMESH_LOG` stays above it.
    pub(crate) fn set(&self, level: LogLevel) {
        if let Some(handle) = &self.handle
            && let Err(error) = handle.reload(filter(level))
        {
            tracing::warn!(%error, "log_level_not_changed");
        }
    }
}

/// Starts the log of this process. A second call in one process changes nothing.
pub(crate) fn init(path: &Path) -> io::Result<LevelHandle> {
    let sink = Sink { inner: Arc::new(Mutex::new(Rotating::open(path)?)) };
    let (filter, handle) = reload::Layer::new(filter(LogLevel::Info));
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(sink);
    let started = tracing_subscriber::registry().with(filter).with(json).try_init();
    Ok(LevelHandle { handle: started.is_ok().then_some(handle) })
}

fn filter(level: LogLevel) -> EnvFilter {
    let text =
        env::text(env::LOG).unwrap_or_else(|| format!("warn,claudemesh={0}", level.as_str()));
    let own = [
        "claudemesh_daemon",
        "claudemesh_client",
        "claudemesh_sqlite",
        "claudemesh_crypto",
        "claudemesh_ipc",
    ];
    let text = own.iter().fold(text, |text, name| {
        if env::text(env::LOG).is_some() {
            text
        } else {
            format!("{text},{name}={}", level.as_str())
        }
    });
    EnvFilter::builder().parse_lossy(text)
}

#[derive(Clone)]
struct Sink {
    inner: Arc<Mutex<Rotating>>,
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.inner.lock().write_line(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of lines that begins anew at 10 MiB, with five old ones beside it; nobody else can read them.
pub(crate) struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
    copies_to_stderr: bool,
}

impl Rotating {
    /// A file beside the log, which goes to no terminal.
    pub(crate) fn quiet(path: &Path) -> io::Result<Self> {
        let file = append_to(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, copies_to_stderr: false })
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = append_to(path)?;
        let bytes = file.metadata()?.len();
        let copies_to_stderr = !is_same_file(&file);
        Ok(Self { path: path.to_owned(), file, bytes, copies_to_stderr })
    }

    /// Appends a line, which ends with a line feed.
    pub(crate) fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.copies_to_stderr {
            // Nobody may be reading it any more; the file has the line.
            let _ = io::stderr().lock().write_all(line);
        }
        if self.bytes >= ROTATE_BYTES {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let name = |number: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..KEPT).rev() {
            match std::fs::rename(name(number), name(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, name(1))?;
        self.file = append_to(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().create(true).append(true).mode(SECRET).custom_flags(no_follow).open(path)
}

/// True when stderr is the log already, or the null device.
fn is_same_file(file: &File) -> bool {
    let (Ok(own), Ok(stderr)) =
        (rustix::fs::fstat(file.as_fd()), rustix::fs::fstat(rustix::stdio::stderr()))
    else {
        return true;
    };
    let null = rustix::fs::stat("/dev/null")
        .is_ok_and(|null| null.st_rdev == stderr.st_rdev && null.st_ino == stderr.st_ino);
    null || (own.st_dev == stderr.st_dev && own.st_ino == stderr.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_rotates_and_stays_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let mut log = Rotating::open(&path).unwrap();
        log.copies_to_stderr = false;
        for round in 0..8 {
            log.bytes = ROTATE_BYTES;
            log.write_line(format!("{round}\n").as_bytes()).unwrap();
        }
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (text("daemon.log"), text("daemon.log.1")),
            ("7\n".to_owned(), "6\n".to_owned())
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6);
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
