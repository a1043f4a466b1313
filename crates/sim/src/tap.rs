//! A tap on one direction of a connection: takes the WebSocket frames out of the bytes, writes them to the trace, and
//! looks for what must never be on the wire.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::overheard::{Direction, Ear};
use crate::trace::Trace;

/// Begin of every text that only sender and recipient may read.
pub(crate) const SECRET_MARK: &str = "for-your-eyes-only";

/// Longest part of a frame that stands in the trace.
const SHOWN_MAX_BYTES: usize = 400;

/// Reads along on one direction.
pub(crate) struct Tap {
    name: String,
    trace: Arc<Trace>,
    /// Somebody hostile listens too.
    ear: Option<(Ear, Direction)>,
    buffer: Vec<u8>,
    is_upgraded: bool,
}

/// What was found on the wire that must not be there.
pub(crate) struct Leak(pub(crate) String);

struct Frame {
    opcode: u8,
    payload: Vec<u8>,
}

impl Tap {
    pub(crate) fn new(name: String, trace: Arc<Trace>, ear: Option<(Ear, Direction)>) -> Self {
        Self { name, trace, ear, buffer: Vec::new(), is_upgraded: false }
    }

    /// Takes the next bytes.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> Result<(), Leak> {
        self.buffer.extend_from_slice(bytes);
        if !self.is_upgraded {
            // The heads hold a random key and the time of day, and say nothing.
            let Some(end) = find(&self.buffer, b"\r\n\r\n") else { return Ok(()) };
            self.buffer.drain(..end + 4);
            self.is_upgraded = true;
            self.trace.note(&format!("{} upgrade", self.name));
        }
        while let Some(frame) = self.next_frame() {
            self.judge(&frame)?;
        }
        Ok(())
    }

    fn judge(&self, frame: &Frame) -> Result<(), Leak> {
        let text = String::from_utf8_lossy(&frame.payload);
        match frame.opcode {
            0..=2 => {
                let mut end = text.len().min(SHOWN_MAX_BYTES);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                let hash = claudemesh_crypto::hash::sha256(&frame.payload);
                let hash = hex::encode(hash.get(..4).unwrap_or_default());
                let shown = text.get(..end).unwrap_or_default();
                self.trace.note(&format!("{} {hash} {shown}", self.name));
                if let Some((ear, direction)) = &self.ear {
                    ear.hear(*direction, &text);
                }
                if text.contains(SECRET_MARK) || holds_secret(&text) {
                    return Err(Leak(format!("{}: {shown}", self.name)));
                }
            }
            8 => self.trace.note(&format!("{} close {:?}", self.name, frame.payload)),
            opcode => self.trace.note(&format!("{} control {opcode}", self.name)),
        }
        Ok(())
    }

    /// RFC 6455 §5.2.
    fn next_frame(&mut self) -> Option<Frame> {
        let first = *self.buffer.first()?;
        let second = *self.buffer.get(1)?;
        let (length, mut at) = match second & 0x7f {
            126 => {
                let bytes: [u8; 2] = self.buffer.get(2..4)?.try_into().ok()?;
                (usize::from(u16::from_be_bytes(bytes)), 4)
            }
            127 => {
                let bytes: [u8; 8] = self.buffer.get(2..10)?.try_into().ok()?;
                (usize::try_from(u64::from_be_bytes(bytes)).ok()?, 10)
            }
            length => (usize::from(length), 2),
        };
        let mut mask = [0; 4];
        if second & 0x80 != 0 {
            mask = self.buffer.get(at..at + 4)?.try_into().ok()?;
            at += 4;
        }
        let payload = self.buffer.get(at..at.checked_add(length)?)?;
        let payload =
            payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        self.buffer.drain(..at + length);
        Some(Frame { opcode: first & 0x0f, payload })
    }
}

/// Whether a string of the document is base64 of a text with the mark.
fn holds_secret(text: &str) -> bool {
    fn search(value: &Value) -> bool {
        match value {
            Value::String(text) => STANDARD
                .decode(text)
                .is_ok_and(|bytes| find(&bytes, SECRET_MARK.as_bytes()).is_some()),
            Value::Array(list) => list.iter().any(search),
            Value::Object(fields) => fields.values().any(search),
            _ => false,
        }
    }
    serde_json::from_str(text).is_ok_and(|value| search(&value))
}

/// Where `wanted` begins in `bytes`.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
