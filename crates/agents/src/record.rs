//! What an agent's own record of a conversation proves about a message (agents spec §1.8).
//!
//! Agents append each step of a conversation to a file: Claude Code its transcript, Codex its rollout. [`Reader`] is fed
//! what was appended and says what follows from it, never more: a message counts as in context when a frame with its id
//! ([`crate::render`]) stands in something that entered the conversation, and the model was asked after it. Both formats
//! are unofficial, so what is not understood is passed over, and proves nothing.
//!
//! Frames are text, and anybody can write text: whoever takes a sign as evidence first makes sure that the message had been
//! handed to this very session.

mod claude;
mod codex;

use serde_json::Value;

use crate::render;

/// Longest line read: a request with pictures in it may be long, and one that is longer proves nothing.
const LINE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Messages that wait for the end of their turn; the oldest make room.
const OPEN_MAX: usize = 1_024;

/// Whose record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A transcript of Claude Code.
    Claude,
    /// A rollout of Codex.
    Codex,
}

/// What a record shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// The model was asked with this message before it.
    InContext(Shown),
    /// The turn in which it was shown has ended.
    TurnEnded {
        /// Id of the message.
        id: String,
    },
    /// A person typed a prompt.
    HumanSpoke {
        /// When, as the agent wrote it; empty where it did not.
        at: String,
    },
    /// The conversation was summed up: what was in context may be gone.
    Compacted,
}

/// A message that entered the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Id of the message.
    pub id: String,
    /// Which way it came in, in the agent's word: the hook's event, `prompt`, `peer`, `channel`, `tool`.
    pub way: String,
    /// The agent's name of the entry; empty where it has none.
    pub entry: String,
    /// When, as the agent wrote it.
    pub at: String,
}

/// What one entry of a record means.
enum Step {
    /// This text entered the conversation.
    Enters(Entering),
    /// The model is asked, or has answered.
    Asked,
    /// The turn is over.
    Ended,
    Human(Entering),
    Compacted,
    /// Nothing that matters here.
    Other,
}

struct Entering {
    texts: Vec<String>,
    /// An id that the agent itself keeps beside the text.
    id: Option<String>,
    way: String,
    entry: String,
    at: String,
}

/// Reads one record, piece by piece.
pub struct Reader {
    format: Format,
    line: Vec<u8>,
    is_line_too_long: bool,
    /// Bytes of the record before the line that is being read.
    lines_end: u64,
    /// Bytes of that line so far.
    line_bytes: u64,
    /// Entered, and the model was not asked yet; with the place of the line.
    entered: Vec<(Shown, u64)>,
    /// In context, and the turn goes on.
    open: Vec<String>,
}

impl Reader {
    /// A reader at the beginning of a record.
    pub const fn new(format: Format) -> Self {
        Self::resume(format, 0, Vec::new())
    }

    /// A reader at byte `offset` of a record, with the messages that were in context before it while their turn goes on. At
    /// an offset of [`Reader::safe_offset`] it says what the other reader would have said; in the middle of a line it
    /// begins with the next one.
    pub const fn resume(format: Format, offset: u64, open: Vec<String>) -> Self {
        Self {
            format,
            line: Vec::new(),
            is_line_too_long: false,
            lines_end: offset,
            line_bytes: 0,
            entered: Vec::new(),
            open,
        }
    }

    /// Where the next piece begins.
    pub const fn offset(&self) -> u64 {
        self.lines_end + self.line_bytes
    }

    /// Where another reader may begin that knows nothing but which messages are in context: nothing before it can prove
    /// anything any more.
    pub fn safe_offset(&self) -> u64 {
        self.entered.iter().map(|(_, at)| *at).min().unwrap_or(self.lines_end)
    }

    /// True when the message entered the conversation, and it is not proved that the model was asked with it.
    pub fn has_entered(&self, id: &str) -> bool {
        self.entered.iter().any(|(shown, _)| shown.id == id)
    }

    /// Ids of such messages.
    pub fn entered(&self) -> impl Iterator<Item = &str> {
        self.entered.iter().map(|(shown, _)| shown.id.as_str())
    }

    /// Takes what was appended; a line that has not ended yet is kept for the next time.
    pub fn read(&mut self, appended: &[u8]) -> Vec<Sign> {
        let mut signs = Vec::new();
        for piece in appended.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            self.line_bytes += piece.len() as u64;
            self.is_line_too_long |= self.line.len() + text.len() > LINE_MAX_BYTES;
            if self.is_line_too_long {
                self.line.clear();
            } else {
                self.line.extend_from_slice(text);
            }
            if is_whole {
                let entry = serde_json::from_slice::<Value>(&self.line);
                self.line.clear();
                self.is_line_too_long = false;
                if let Ok(entry) = entry {
                    self.take(&entry, &mut signs);
                }
                self.lines_end += std::mem::take(&mut self.line_bytes);
            }
        }
        signs
    }

    fn take(&mut self, entry: &Value, signs: &mut Vec<Sign>) {
        let step = match self.format {
            Format::Claude => claude::step(entry),
            Format::Codex => codex::step(entry),
        };
        match step {
            Step::Enters(entering) => self.enters(entering),
            Step::Human(entering) => {
                signs.push(Sign::HumanSpoke { at: entering.at.clone() });
                self.enters(entering);
            }
            Step::Asked => {
                for (shown, _) in self.entered.drain(..) {
                    self.open.push(shown.id.clone());
                    signs.push(Sign::InContext(shown));
                }
                let surplus = self.open.len().saturating_sub(OPEN_MAX);
                self.open.drain(..surplus);
            }
            Step::Ended => {
                signs.extend(self.open.drain(..).map(|id| Sign::TurnEnded { id }));
            }
            Step::Compacted => signs.push(Sign::Compacted),
            Step::Other => {}
        }
    }

    fn enters(&mut self, entering: Entering) {
        let Entering { texts, id, way, entry, at } = entering;
        let framed = texts.iter().flat_map(|text| render::read(text)).map(|found| found.id);
        for id in id.into_iter().chain(framed) {
            if !self.has_entered(&id) && self.entered.len() < OPEN_MAX {
                let (way, entry, at) = (way.clone(), entry.clone(), at.clone());
                self.entered.push((Shown { id, way, entry, at }, self.lines_end));
            }
        }
    }
}

/// A text of an entry; empty where there is none.
fn text_at<'a>(entry: &'a Value, pointer: &str) -> &'a str {
    entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Every text in a value.
fn texts_in(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(parts) => parts.iter().flat_map(texts_in).collect(),
        Value::Object(map) => map.values().flat_map(texts_in).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
