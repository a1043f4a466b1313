//! Rows of `peers_list` and `members_list` as ready JSON, kept until what they say changes.
//!
//! After a restart every daemon asks for both lists at once. In a mesh of a thousand that is a million rows each, of which
//! no more than a few differ from the ones before.

use std::cell::RefCell;

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::wire::{MemberRow, PeerRow};

/// Who looks at a presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Its own member, to whom nothing is hidden.
    Own,
    /// Another member of a mesh that shows paths.
    WholePath,
    /// Another member; of the working directory it sees the last segment.
    LastSegment,
}

/// A presence's row as its own member sees it, and as the others do.
///
/// Everybody who may change a presence gets it from the mesh by `&mut`, and the mesh forgets the row then. The last proof
/// of life is not part of that: it changes with every frame, stands at the end, and is compared each time.
#[derive(Debug, Default)]
pub(crate) struct ListedPresence {
    own: RefCell<Option<WrittenPresence>>,
    others: RefCell<Option<WrittenPresence>>,
}

#[derive(Debug)]
struct WrittenPresence {
    view: View,
    text: String,
    /// Where the last proof of life begins in the text.
    seen_from: usize,
    seen_at: Timestamp,
}

impl ListedPresence {
    /// The presence may say something else from now on.
    pub(super) fn forget(&mut self) {
        *self.own.get_mut() = None;
        *self.others.get_mut() = None;
    }

    /// Appends the row; `row` makes it, without lease and last proof of life, where it is not known.
    pub(crate) fn append_to(
        &self,
        out: &mut String,
        view: View,
        seen_at: Timestamp,
        row: impl FnOnce() -> PeerRow,
    ) -> serde_json::Result<()> {
        let slot = if view == View::Own { &self.own } else { &self.others };
        let mut slot = slot.borrow_mut();
        let known = match slot.take().filter(|known| known.view == view) {
            Some(mut known) => {
                if known.seen_at != seen_at {
                    known.see(seen_at);
                }
                known
            }
            None => WrittenPresence::of(view, &row(), seen_at)?,
        };
        out.push_str(&known.text);
        *slot = Some(known);
        Ok(())
    }
}

impl WrittenPresence {
    fn of(view: View, row: &PeerRow, seen_at: Timestamp) -> serde_json::Result<Self> {
        let mut text = serde_json::to_string(row)?;
        // The brace that ends the object.
        text.pop();
        text.push_str(r#","lastSeenAt":""#);
        let mut written = Self { view, seen_from: text.len(), text, seen_at };
        written.see(seen_at);
        Ok(written)
    }

    fn see(&mut self, at: Timestamp) {
        self.text.truncate(self.seen_from);
        self.text.push_str(&at.to_iso());
        self.text.push_str(r#""}"#);
        self.seen_at = at;
    }
}

/// A member's row, with whether it was written as online.
#[derive(Debug, Default)]
pub(crate) struct ListedMember(RefCell<Option<(bool, String)>>);

impl ListedMember {
    /// The member may be another one from now on.
    pub(super) fn forget(&mut self) {
        *self.0.get_mut() = None;
    }

    /// Appends the row; `row` makes it where it is not known.
    pub(crate) fn append_to(
        &self,
        out: &mut String,
        is_online: bool,
        row: impl FnOnce() -> MemberRow,
    ) -> serde_json::Result<()> {
        let mut slot = self.0.borrow_mut();
        let known = match slot.take().filter(|(was_online, _)| *was_online == is_online) {
            Some(known) => known,
            None => (is_online, serde_json::to_string(&row())?),
        };
        out.push_str(&known.1);
        *slot = Some(known);
        Ok(())
    }
}
