//! One record on its way through: from the bytes that were appended to what they prove.

use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_agents::record::{Format, Reader, Sign};
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::limits::RECEIPT_EVIDENCE_MAX_CHARS;
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::wire::ReceiptState;
use tokio::time::Instant;

use super::file::{self, From, Places, Unusable};
use crate::blocking;
use crate::inbox::{Proof, RecordPlace};

/// Bytes read at once.
const PIECE_BYTES: usize = 1024 * 1024;
/// Longest look: a file system that is away must not keep the other records waiting.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long a sign of a message counts that the session was not handed: whoever put it there says so a moment later.
const UNPROVED_FOR: Duration = Duration::from_secs(30);
/// Such signs kept; further ones prove nothing.
const UNPROVED_MAX: usize = 256;
/// Characters of an entry's name in the evidence.
const ENTRY_CHARS: usize = 8;

/// A record that is read.
pub(super) struct Tail {
    pub(super) session_id: String,
    pub(super) session_name: String,
    pub(super) path: PathBuf,
    pub(super) format: Format,
    /// Where to begin when there is no reader.
    begin: From,
    reader: Option<Reader>,
    place: From,
    /// In context before `begin`.
    open: Vec<String>,
    /// What is noted as read; `None` while nothing is.
    stored: Option<RecordPlace>,
    unproved: Vec<(Proof, Instant)>,
    /// Number of the kernel's notices, and the file they are about.
    pub(super) watched: Option<(i32, u64)>,
    /// A file that is missing is looked for often until then.
    pub(super) awaited_until: Instant,
}

/// What one look brought.
pub(super) struct Look {
    /// What the new bytes, and older ones, say.
    pub(super) proofs: Vec<Proof>,
    /// When a person last typed something.
    pub(super) human_at: Option<Timestamp>,
    /// Up to where nothing is left to be learned.
    pub(super) safe: RecordPlace,
    /// There is more to read.
    pub(super) has_more: bool,
    /// The file is another one than at the last look.
    pub(super) is_other: bool,
}

/// What comes back from the thread that reads.
struct Read {
    reader: Reader,
    signs: Vec<Sign>,
    place: RecordPlace,
    safe: RecordPlace,
    has_more: bool,
    is_other: bool,
}

impl Tail {
    pub(super) fn new(
        (session_id, session_name): (String, String),
        (path, format): (PathBuf, Format),
        (begin, open): (From, Vec<String>),
    ) -> Self {
        let stored = match begin {
            From::Place(place) => Some(place),
            From::Byte(_) => None,
        };
        Self {
            session_id,
            session_name,
            path,
            format,
            begin,
            reader: None,
            place: begin,
            open,
            stored,
            unproved: Vec::new(),
            watched: None,
            awaited_until: Instant::now(),
        }
    }

    /// Reads one piece.
    ///
    /// # Errors
    /// [`Unusable`]; the next look begins where this one did.
    pub(super) async fn look(&mut self, places: &Places) -> Result<Look, Unusable> {
        let (places, path, from, format) =
            (places.clone(), self.path.clone(), self.place, self.format);
        let reader = self.reader.take();
        let open = if reader.is_none() { self.open.clone() } else { Vec::new() };
        // Without an answer the reader is lost, and what was read since the last note is read again.
        self.place = self.begin;
        let read = blocking::run(move || read(&places, &path, from, format, (reader, open)));
        let read = match tokio::time::timeout(LOOK_MAX, read).await {
            Ok(Some(read)) => read?,
            Ok(None) => return Err(std::io::Error::other("the reader panicked").into()),
            Err(_) => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        let Read { reader, signs, place, safe, has_more, is_other } = read;
        self.place = From::Place(place);
        self.reader = Some(reader);
        let human_at = signs.iter().rev().find_map(|sign| match sign {
            Sign::HumanSpoke { at } => Timestamp::parse_iso(at),
            _ => None,
        });
        let mut proofs = self.retried();
        proofs.extend(signs.into_iter().filter_map(|sign| self.proof(sign)));
        Ok(Look { proofs, human_at, safe, has_more, is_other })
    }

    /// Signs that proved nothing yet.
    fn retried(&mut self) -> Vec<Proof> {
        let unproved = std::mem::take(&mut self.unproved);
        let (young, old): (Vec<_>, Vec<_>) =
            unproved.into_iter().partition(|(_, since)| since.elapsed() < UNPROVED_FOR);
        drop(old);
        self.unproved.clone_from(&young);
        young.into_iter().map(|(proof, _)| proof).collect()
    }

    /// These messages were not handed to the session, or not yet.
    pub(super) fn not_handed(&mut self, proofs: Vec<Proof>) {
        let before = std::mem::take(&mut self.unproved);
        for proof in proofs.into_iter().take(UNPROVED_MAX) {
            let known = before.iter().find(|(other, _)| *other == proof).map(|(_, since)| *since);
            self.unproved.push((proof, known.unwrap_or_else(Instant::now)));
        }
    }

    /// Whether a sign may still prove something without anything being appended.
    pub(super) fn is_waiting(&self) -> bool {
        !self.unproved.is_empty()
    }

    /// This much is noted: the reading of a later process begins there.
    pub(super) fn stored(&mut self, place: RecordPlace, open: Vec<String>) {
        self.stored = Some(place);
        self.begin = From::Place(place);
        self.open = open;
    }

    /// It could not be noted: what was read since then is read again.
    pub(super) fn reread(&mut self) {
        self.reader = None;
        self.place = self.begin;
        self.unproved.clear();
    }

    /// Bytes read that are not noted.
    pub(super) fn unstored(&self, safe: &RecordPlace) -> u64 {
        self.stored.map_or(u64::MAX, |stored| safe.offset.saturating_sub(stored.offset))
    }

    /// Messages behind which the model was not asked yet.
    pub(super) fn entered(&self) -> Vec<String> {
        self.reader
            .as_ref()
            .map(|reader| reader.entered().map(str::to_owned).collect())
            .unwrap_or_default()
    }

    fn proof(&self, sign: Sign) -> Option<Proof> {
        let kind = match self.format {
            Format::Claude => "transcript",
            Format::Codex => "rollout",
        };
        let (id, state, entry) = match sign {
            Sign::InContext(shown) => (shown.id, ReceiptState::InContext, shown.entry),
            Sign::TurnEnded { id } => (id, ReceiptState::TurnEnded, String::new()),
            Sign::HumanSpoke { .. } | Sign::Compacted => return None,
        };
        let entry: String = entry.chars().take(ENTRY_CHARS).collect();
        let place = if entry.is_empty() { kind.to_owned() } else { format!("{kind} {entry}") };
        let evidence = format!("{place}, {}", self.session_name);
        Some(Proof { id, state, evidence: sanitized_line(&evidence, RECEIPT_EVIDENCE_MAX_CHARS) })
    }
}

fn read(
    places: &Places,
    path: &Path,
    from: From,
    format: Format,
    (reader, open): (Option<Reader>, Vec<String>),
) -> Result<Read, Unusable> {
    let (file, appended) = places.read(path, from, PIECE_BYTES)?;
    let mut reader = match reader {
        // Another file shows which messages are in context there.
        _ if appended.is_other => Reader::new(format),
        Some(reader) if reader.offset() == appended.from => reader,
        _ => Reader::resume(format, appended.from, open),
    };
    let signs = reader.read(&appended.bytes);
    let place = file::place(&file, reader.offset())?;
    let safe = file::place(&file, reader.safe_offset())?;
    Ok(Read {
        reader,
        signs,
        place,
        safe,
        has_more: appended.has_more,
        is_other: appended.is_other,
    })
}
