//! How much of a listing fits one answer (daemon spec §9.5).

use std::io;

use claudemesh_protocol::limits::INBOX_PAGE_MAX_BYTES;
use serde::Serialize;

/// Counts the bytes of a page as it grows.
#[derive(Debug, Default)]
pub(super) struct Fit {
    bytes: usize,
}

impl Fit {
    /// Whether `item` still fits; the first one always does, or a page could be empty for ever.
    pub(super) fn takes(&mut self, item: &impl Serialize) -> bool {
        let before = self.bytes;
        let mut count = Count(0);
        // What has no JSON form is found when the answer is written.
        let _ = serde_json::to_writer(&mut count, item);
        self.bytes = before.saturating_add(count.0);
        before == 0 || self.bytes <= INBOX_PAGE_MAX_BYTES
    }
}

/// Takes everything and keeps its length.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_item_fits_always_and_others_up_to_the_limit() {
        let half = "x".repeat(INBOX_PAGE_MAX_BYTES / 2 - 2);
        let mut fit = Fit::default();
        assert!(fit.takes(&half) && fit.takes(&half) && !fit.takes(&""));
        let mut fit = Fit::default();
        assert!(fit.takes(&"x".repeat(2 * INBOX_PAGE_MAX_BYTES)) && !fit.takes(&1));
        // A control character takes six bytes.
        let mut fit = Fit::default();
        assert!(
            fit.takes(&"\u{1}".repeat(INBOX_PAGE_MAX_BYTES / 6 - 2))
                && !fit.takes(&"more than four")
        );
    }
}
