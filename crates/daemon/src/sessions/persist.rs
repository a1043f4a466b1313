//! `sessions.json`: who was registered, without tokens and keys, so that a restart changes nothing for the agents
//! (daemon spec §8.5).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use claudemesh_crypto::hash::sha256;
use claudemesh_ipc::api::MessageMode;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::{Group, PeerStatus, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Activity, Counts, Session, Sessions, TokenHash};
use crate::blocking;
use crate::home::file::{self, Symlinks};

/// Version written.
const VERSION: u32 = 2;
/// Changes within this time share one write.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Pause before a file that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Whether the file says what is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Saved {
    /// It does, whatever happens next.
    Yes,
    /// It could not be written. Who is registered stays so as long as this process lives.
    No,
}

/// How many changes there were when the file was last written, and when that last failed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tried {
    written: u64,
    failed: u64,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    sessions: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    token_sha256: String,
    /// Version 1 kept the token itself; it is read once and never written again.
    #[serde(default, skip_serializing)]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    token_prefix: String,
    session_id: String,
    mesh: String,
    display_name: String,
    pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Group>,
    #[serde(default)]
    message_mode: MessageMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caps: Option<CapabilitySet>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    share_dirs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default)]
    ambient: bool,
    registered_at: i64,
    /// A restart in the middle of a turn must not open the gate.
    #[serde(default = "idle")]
    status: PeerStatus,
    #[serde(default, skip_serializing_if = "Counts::is_zero")]
    counts: Counts,
}

const fn idle() -> PeerStatus {
    PeerStatus::Idle
}

impl Sessions {
    /// Takes up the sessions of the last run whose process still lives and whose mesh is joined; answers them, for
    /// their connections to be opened. A file that cannot be read counts as empty: sessions register again.
    pub fn rehydrate(&self, is_joined: impl Fn(&str) -> bool) -> Vec<Arc<Session>> {
        let records = match self.read_records() {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(path = %self.shared.file.display(), %error, "sessions_file_ignored");
                return Vec::new();
            }
        };
        let persisted = records.len();
        let mut revived = Vec::new();
        for record in records {
            if is_joined(&record.mesh)
                && let Some(session) = self.revive(record)
            {
                self.shared.state.lock().by_token.insert(session.token_hash, Arc::clone(&session));
                self.watch(&session);
                revived.push(session);
            }
        }
        tracing::info!(revived = revived.len(), persisted, "sessions_rehydrated");
        self.changed();
        revived
    }

    fn read_records(&self) -> std::io::Result<Vec<Record>> {
        let Some(content) = file::read(&self.shared.file, Symlinks::Refuse)? else {
            return Ok(Vec::new());
        };
        let document: Document = serde_json::from_slice(&content.bytes)?;
        Ok(document.sessions)
    }

    fn revive(&self, record: Record) -> Option<Arc<Session>> {
        let token_hash = if let Some(token) = &record.token {
            TokenHash(sha256(token.as_bytes()))
        } else {
            let mut bytes = [0; 32];
            hex::decode_to_slice(&record.token_sha256, &mut bytes).ok()?;
            TokenHash(bytes)
        };
        let processes = &self.shared.processes;
        let start_time = processes.start_time(record.pid);
        let is_other = match (&start_time, &record.start_time) {
            (Some(now), Some(then)) => now != then,
            _ => false,
        };
        if is_other || !processes.is_alive(record.pid) {
            return None;
        }
        let stored = self.shared.key_store.load(&record.mesh, &record.session_id);
        let keys = match stored {
            Ok(Some(stored)) => Some(Arc::new(stored.keys)),
            Ok(None) => {
                tracing::warn!(session_id = record.session_id, "session_rehydrate_no_key");
                None
            }
            Err(error) => {
                tracing::warn!(session_id = record.session_id, %error, "session_rehydrate_no_key");
                None
            }
        };
        let activity = Activity::default();
        activity.restore(record.status);
        activity.counters.restore(record.counts);
        Some(Arc::new(Session {
            token_hash,
            token_prefix: record.token_prefix,
            session_id: record.session_id,
            mesh: record.mesh,
            display_name: record.display_name,
            pid: record.pid,
            start_time: record.start_time.or(start_time),
            cwd: record.cwd,
            role: record.role,
            groups: record.groups,
            message_mode: record.message_mode,
            caps: record.caps,
            share_dirs: record.share_dirs,
            model: record.model,
            kind: record.kind,
            ambient: record.ambient,
            keys,
            registered_at: Timestamp::from_millis(record.registered_at),
            last_seen_at: AtomicI64::new(record.registered_at),
            activity: Arc::new(activity),
            ended: CancellationToken::new(),
        }))
    }

    /// Writes the file 50 ms after each change, at once when somebody waits for it, until shutdown, and then once more.
    /// What finds no room is tried again.
    pub(super) async fn write_changes(self) {
        while self
            .shared
            .shutdown
            .run_until_cancelled(self.shared.changed.notified())
            .await
            .is_some()
        {
            let mut pause = DEBOUNCE;
            loop {
                tokio::select! {
                    biased;
                    () = self.shared.shutdown.cancelled() => break,
                    () = self.shared.is_awaited.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                if self.write().await == Saved::Yes {
                    break;
                }
                pause = RETRY;
            }
        }
        self.write().await;
    }

    /// Returns when everything that has changed until now is in the file, or could not be put there. Then it is tried
    /// again, and nobody need wait for that.
    ///
    /// # Cancel safety
    /// Nobody writes but the registry's own task: it is written also when nobody waits any more.
    pub(crate) async fn saved(&self) -> Saved {
        let wanted = self.shared.changes.load(Ordering::Acquire);
        let mut tried = self.shared.tried.subscribe();
        self.shared.is_awaited.notify_one();
        let told = tried.wait_for(|tried| tried.written.max(tried.failed) >= wanted);
        let told = self.shared.shutdown.run_until_cancelled(told).await;
        match told {
            Some(Ok(tried)) if tried.written >= wanted => Saved::Yes,
            _ => Saved::No,
        }
    }

    async fn write(&self) -> Saved {
        let changes = self.shared.changes.load(Ordering::Acquire);
        let saved = self.write_file().await;
        self.shared.tried.send_modify(|tried| match saved {
            Saved::Yes => tried.written = changes,
            Saved::No => tried.failed = changes,
        });
        saved
    }

    async fn write_file(&self) -> Saved {
        let sessions = self.all().iter().map(|session| Record::of(session)).collect();
        let path = self.shared.file.clone();
        let written = blocking::run(move || {
            let bytes = serde_json::to_vec_pretty(&Document { version: VERSION, sessions })?;
            claudemesh_sqlite::crash_point("sessions.mid_write");
            if claudemesh_sqlite::refusal_point("sessions.full_disk") {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            file::replace_past(&path, &bytes, file::SECRET, Symlinks::Refuse, "sessions.mid_write")
        });
        match written.await {
            Some(Ok(())) => return Saved::Yes,
            Some(Err(error)) => tracing::warn!(%error, "sessions_file_not_written"),
            None => tracing::warn!(error = "the writer panicked", "sessions_file_not_written"),
        }
        Saved::No
    }
}

impl Record {
    fn of(session: &Session) -> Self {
        Self {
            token_sha256: session.token_hash.to_hex(),
            token: None,
            token_prefix: session.token_prefix.clone(),
            session_id: session.session_id.clone(),
            mesh: session.mesh.clone(),
            display_name: session.display_name.clone(),
            pid: session.pid,
            start_time: session.start_time.clone(),
            cwd: session.cwd.clone(),
            role: session.role.clone(),
            groups: session.groups.clone(),
            message_mode: session.message_mode,
            caps: session.caps,
            share_dirs: session.share_dirs.clone(),
            model: session.model.clone(),
            kind: session.kind.clone(),
            ambient: session.ambient,
            registered_at: session.registered_at.as_millis(),
            status: session.activity.status(),
            counts: session.activity.counters.counts(),
        }
    }
}
