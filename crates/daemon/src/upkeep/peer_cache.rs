//! `peer-cache.json`: what a status line shows of each mesh, so that it need not ask anybody (daemon spec §7.5, CLI spec
//! §6.5). Written when something has changed, at most once a second, and every 30 s, by which a reader sees that a daemon
//! runs. What is in it can be had again: the disk is not waited for.

use std::collections::BTreeMap;

use claudemesh_protocol::limits::{PEER_CACHE_LEAST, PEER_CACHE_MOST};
use serde::Serialize;
use tokio::time::Instant;

use super::Ticks;
use crate::daemon::Daemon;
use crate::home::file;
use crate::inbox::{InboxFilter, Scope};
use crate::mesh::MeshHandle;
use crate::storage::Causes;
use crate::{blocking, clock};

/// While much happens, the pause is this many times what the last look has cost.
const PAUSE_FACTOR: u32 = 20;

/// One mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Entry {
    /// Members.
    total: usize,
    /// Those of them who have a session or service there; a daemon alone is nobody to talk to.
    online: usize,
    /// Our name there.
    you: String,
    /// Messages nobody has read.
    unread: u64,
    /// Of the connection: `open`, `reconnecting` and so on.
    status: &'static str,
    /// Ids of the agent sessions there, by which a status line finds the mesh of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sessions: Vec<String>,
}

/// An entry as it is written.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    /// RFC 3339.
    updated_at: String,
}

/// Keeps the file until the daemon stops. One that leaves nothing behind writes none, and a simulated one has no reader.
pub(crate) async fn keep(daemon: Daemon) {
    if daemon.context().ephemeral.is_some() || clock::is_simulated() {
        return;
    }
    let events = daemon.context().events.clone();
    let stopping = daemon.stopping();
    let mut ticks = Ticks::of(&daemon, PEER_CACHE_MOST);
    let mut last: Option<BTreeMap<String, Entry>> = None;
    let mut is_failing = false;
    loop {
        let is_due = tokio::select! {
            biased;
            tick = ticks.next() => match tick {
                Some(()) => true,
                None => return,
            },
            () = events.touched() => false,
        };
        let began = Instant::now();
        let now = look(&daemon).await;
        if is_due || last.as_ref() != Some(&now) {
            let written = write(&daemon, &now).await;
            if let (Err(error), false) = (&written, is_failing) {
                tracing::warn!(%error, "peer_cache_not_written");
            }
            is_failing = written.is_err();
            last = Some(now);
        }
        let pause = (began.elapsed() * PAUSE_FACTOR).clamp(PEER_CACHE_LEAST, PEER_CACHE_MOST);
        if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn look(daemon: &Daemon) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    for mesh in daemon.meshes().all() {
        let entry = entry(daemon, &mesh).await;
        all.insert(mesh.slug().to_owned(), entry);
    }
    all
}

async fn entry(daemon: &Daemon, mesh: &MeshHandle) -> Entry {
    let context = daemon.context();
    let filter =
        InboxFilter { mesh: Some(mesh.slug().to_owned()), limit: 1, ..InboxFilter::default() };
    let unread = match context.inbox.unread(&Scope::Everything, &filter).await {
        Ok((_, count)) => count,
        Err(error) => {
            tracing::debug!(mesh = mesh.slug(), error = %Causes(&error), "unread_not_counted");
            0
        }
    };
    let crowd = mesh.crowd();
    let live = context.sessions.live(mesh.slug());
    let mut sessions: Vec<String> = live.iter().map(|session| session.session_id.clone()).collect();
    sessions.sort_unstable();
    let you = mesh.name_of(mesh.member().public).unwrap_or_default();
    Entry {
        total: crowd.members,
        online: crowd.reachable,
        you,
        unread,
        status: mesh.status().as_str(),
        sessions,
    }
}

async fn write(daemon: &Daemon, entries: &BTreeMap<String, Entry>) -> std::io::Result<()> {
    let updated_at = clock::now().to_iso();
    let document: BTreeMap<&str, Written<'_>> = entries
        .iter()
        .map(|(slug, entry)| (slug.as_str(), Written { entry, updated_at: updated_at.clone() }))
        .collect();
    let json = serde_json::to_vec(&document).map_err(std::io::Error::other)?;
    let path = daemon.context().paths.peer_cache_file();
    let written = blocking::run(move || file::replace_lightly(&path, &json, file::SECRET)).await;
    written.unwrap_or_else(|| Err(std::io::Error::other("it panicked")))
}
