//! What happened, in order: the last lines for people, and one hash of all of them to compare two runs by.

use std::collections::VecDeque;
use std::fmt::Write as _;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// Lines kept for the report of a failure.
const LINES_KEPT: usize = 4_000;

/// The record of one run.
pub(crate) struct Trace {
    started: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    hash: Sha256,
    lines: VecDeque<String>,
    kept: usize,
}

impl Trace {
    /// Begins now; keeps the last lines, or all of them.
    pub(crate) fn new(is_whole: bool) -> Self {
        let kept = if is_whole { usize::MAX } else { LINES_KEPT };
        let inner = Inner { hash: Sha256::new(), lines: VecDeque::new(), kept };
        Self { started: Instant::now(), inner: Mutex::new(inner) }
    }

    /// Adds a line, with the virtual time.
    pub(crate) fn note(&self, text: &str) {
        let mut line = String::with_capacity(text.len() + 12);
        // Writing to a string cannot fail.
        let _ = write!(line, "{:>9} {text}", self.started.elapsed().as_millis());
        let mut inner = self.inner.lock();
        inner.hash.update(line.as_bytes());
        inner.hash.update(b"\n");
        if inner.lines.len() >= inner.kept {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// Hash of every line so far, hexadecimal.
    pub(crate) fn digest(&self) -> String {
        hex::encode(self.inner.lock().hash.clone().finalize())
    }

    /// The lines kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.inner.lock().lines.iter().cloned().collect()
    }
}
