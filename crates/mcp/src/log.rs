//! The server's log: short lines on standard error, JSON lines in `mcp-<pid>.log` (MCP spec §3).
//!
//! Standard output belongs to the protocol; nothing is ever logged there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudemesh_protocol::limits::MCP_LOG_MAX_BYTES;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging to standard error and to `file`. A second call in one process changes nothing.
pub(crate) fn start(file: PathBuf) {
    let short = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(false)
        .compact()
        .with_filter(LevelFilter::WARN);
    let full = tracing_subscriber::fmt::layer()
        .json()
        .with_writer(CappedFile::new(file, MCP_LOG_MAX_BYTES))
        .with_filter(LevelFilter::DEBUG);
    let _ = tracing_subscriber::registry().with(short).with(full).try_init();
}

/// A log file, 0600, that keeps its last half when it has grown to its limit.
///
/// It is opened with the first line for which its directory exists: the directory comes with the first daemon, and a
/// server may be there before it. Lines that cannot be written are dropped; a log must not stop its program.
#[derive(Debug, Clone)]
struct CappedFile {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    max_bytes: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl CappedFile {
    fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { path, max_bytes, open: None })) }
    }
}

impl Inner {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(Open::at(&self.path)?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if open.bytes.saturating_add(length) > self.max_bytes {
            open.keep_last(self.max_bytes / 2)?;
        }
        open.file.write_all(line)?;
        open.bytes += length;
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(no_follow);
        let mut file = options.open(path)?;
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, bytes })
    }

    fn keep_last(&mut self, bytes: u64) -> io::Result<()> {
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(self.bytes.saturating_sub(bytes)))?;
        self.file.read_to_end(&mut tail)?;
        let first_line_end = tail.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let kept = tail.get(first_line_end..).unwrap_or_default();
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(kept)?;
        self.bytes = u64::try_from(kept.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

impl Write for CappedFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.inner.lock().write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for CappedFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_private_and_keeps_its_last_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon/mcp-1.log");
        let mut file = CappedFile::new(path.clone(), 100);
        file.write_all(b"before the directory is there\n").unwrap();
        std::fs::create_dir(dir.path().join("daemon")).unwrap();
        for number in 0..100 {
            file.write_all(format!("line {number:04}\n").as_bytes()).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 100);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line ") && text.ends_with("line 0099\n"), "{text}");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("target"), dir.path().join("mcp-1.log"))
            .unwrap();
        CappedFile::new(dir.path().join("mcp-1.log"), 100).write_all(b"line\n").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("target")).unwrap(), "x");
    }
}
