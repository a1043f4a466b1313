//! One line for each run in `hooks-audit.jsonl` (daemon spec §16.8): what ran and how it ended, never what it was told or
//! said.

use std::path::PathBuf;
use std::sync::Arc;

use claudemesh_protocol::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};

use super::process::Ended;
use crate::blocking;
use crate::log::Rotating;

/// How far the policies of a hook were enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Enforced {
    /// All of them.
    #[serde(rename = "enforced")]
    All,
    /// Some.
    #[serde(rename = "partial")]
    Some,
    /// None, or there are none.
    #[serde(rename = "none")]
    Nothing,
}

/// One run, as it is written down and told.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Record {
    ts: String,
    /// `<stem>`, or `<slug>/<stem>`.
    pub(super) hook: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mesh: Option<String>,
    pub(super) event_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    timed_out: bool,
    duration_ms: u64,
    pub(super) stdin_bytes: usize,
    stdout_bytes: u64,
    stderr_bytes: u64,
    truncated: bool,
    pub(super) replied: bool,
    pub(super) capability_calls: u32,
    pub(super) sandbox: Enforced,
    /// Why it did not run, or why what it said did not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
}

impl Record {
    /// A run that has not begun.
    pub(super) fn begun(
        hook: String,
        mesh: Option<String>,
        event_id: String,
        now: Timestamp,
    ) -> Self {
        Self {
            ts: now.to_iso(),
            hook,
            mesh,
            event_id,
            exit: None,
            signal: None,
            timed_out: false,
            duration_ms: 0,
            stdin_bytes: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: false,
            replied: false,
            capability_calls: 0,
            sandbox: Enforced::Nothing,
            refused: None,
        }
    }

    /// Takes over how the process ended.
    pub(super) fn ended(&mut self, ended: &Ended) {
        self.exit = ended.exit;
        self.signal = ended.signal;
        self.timed_out = ended.timed_out;
        self.duration_ms = u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX);
        self.stdout_bytes = ended.stdout_bytes;
        self.stderr_bytes = ended.stderr_bytes;
        self.truncated = ended.is_truncated();
    }

    /// As the fields of an event; the bus adds mesh and time.
    pub(super) fn fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        }
    }
}

/// The file, opened when the first line is written.
pub(super) struct AuditFile {
    path: PathBuf,
    open: Arc<Mutex<Option<Rotating>>>,
}

impl AuditFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: Arc::default() }
    }

    /// Adds a line. A full disk costs lines, not runs.
    pub(super) async fn write(&self, record: &Record) {
        let Ok(mut line) = serde_json::to_vec(record) else { return };
        line.push(b'\n');
        let (path, open) = (self.path.clone(), Arc::clone(&self.open));
        let written = blocking::run(move || {
            let mut open = open.lock();
            let file = match open.take() {
                Some(file) => open.insert(file),
                None => open.insert(Rotating::quiet(&path)?),
            };
            file.write_line(&line)
        });
        match written.await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "hook_audit_not_written"),
            None => tracing::warn!(error = "the writing panicked", "hook_audit_not_written"),
        }
    }
}
