//! Messages of one socket enter the inbox in the order they came: behind one that could not be stored, none is, until the
//! broker sends them all again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The messages of one socket on their way into the inbox. Clones are the same line.
#[derive(Debug, Clone, Default)]
pub struct Line {
    is_broken: Arc<AtomicBool>,
}

impl Line {
    /// True when a message of it could not be stored: nothing behind it will be.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    /// True for clones.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.is_broken, &other.is_broken)
    }

    pub(super) fn enter(&self) -> Place {
        Place { line: self.clone(), is_settled: false }
    }
}

/// The place of one message. It travels with the write and comes back after the commit; lost on the way, wherever that
/// is, it breaks the line before anything later is written.
pub(super) struct Place {
    line: Line,
    is_settled: bool,
}

impl Place {
    /// True when an earlier message could not be stored.
    pub(super) fn is_cut_off(&self) -> bool {
        self.line.is_broken()
    }

    /// The message is stored, or never can be.
    pub(super) fn settled(mut self) {
        self.is_settled = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_settled {
            self.line.is_broken.store(true, Ordering::Release);
        }
    }
}
