//! Reading agents' own records of their conversations, and saying what they prove of messages that came in: that a model
//! had one before it, and that the turn is over (agents spec §1.8, daemon spec §10.7).
//!
//! Hooks name the record of their session. One task reads what is appended, in pieces, notes in one transaction what it
//! shows and how far it was read, and then says the receipts. What is not found proves nothing: a message stays where it
//! was.

mod file;
mod notices;
mod tail;
mod task;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claudemesh_agents::record::Format;
use claudemesh_ipc::api::session::{DeliveryPath, PathState, PathView};
use claudemesh_protocol::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::sessions::Session;
use crate::{blocking, clock};
use file::Places;

pub(crate) use task::run;

/// How long a hook is kept for the size of a record that is new: it has 50 ms for everything.
const SIZE_WAIT: Duration = Duration::from_millis(10);
/// How long it is kept for a look at the record.
const LOOK_WAIT: Duration = Duration::from_millis(20);

/// The records of the sessions. Cloning is cheap.
#[derive(Clone)]
pub struct Evidence {
    shared: Arc<Shared>,
}

struct Shared {
    places: Places,
    state: Mutex<BTreeMap<String, Named>>,
    /// Something is to be looked at.
    wake: Notify,
    /// Looks so far.
    looks: watch::Sender<u64>,
}

/// The record of a session, as its hooks name it.
#[derive(Clone)]
struct Named {
    path: PathBuf,
    format: Format,
    session_name: String,
    noted_at: Timestamp,
    /// Its size when it was named.
    size: u64,
    /// Looks that were asked for, and those that are done.
    wanted: u64,
    done: u64,
    state: PathState,
    since: Timestamp,
    /// Ids of messages that stand in it, behind which the model was not asked yet.
    entered: Vec<String>,
}

impl Evidence {
    /// Nothing is read before [`run`] is.
    pub(crate) fn new(home: Option<&Path>) -> Self {
        let shared = Shared {
            places: Places::of(home),
            state: Mutex::default(),
            wake: Notify::new(),
            looks: watch::Sender::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A hook names the record of its session. Returns when it is sure what of it is older than whatever that hook will
    /// hand over.
    pub(crate) async fn name(&self, session: &Session, path: &str, agent: Option<&str>) {
        let Some(format) = format_of(path, agent).filter(|_| Places::may_hold(path)) else {
            return;
        };
        let path = PathBuf::from(path);
        {
            let mut state = self.shared.state.lock();
            if let Some(named) = state.get_mut(&session.session_id)
                && named.path == path
            {
                named.session_name.clone_from(&session.display_name);
                // Something happened there.
                named.wanted += 1;
                drop(state);
                self.shared.wake.notify_one();
                return;
            }
        }
        let (noted_at, places, there) = (clock::now(), self.shared.places.clone(), path.clone());
        let size = blocking::run(move || places.size(&there).unwrap_or(0));
        // Who does not know reads it all.
        let size = tokio::time::timeout(SIZE_WAIT, size).await.ok().flatten().unwrap_or(0);
        let named = Named {
            path,
            format,
            session_name: session.display_name.clone(),
            noted_at,
            size,
            wanted: 1,
            done: 0,
            state: PathState::Unknown,
            since: noted_at,
            entered: Vec::new(),
        };
        self.shared.state.lock().insert(session.session_id.clone(), named);
        self.shared.wake.notify_one();
    }

    /// What is known about the record of a session.
    pub(crate) fn view(&self, session_id: &str) -> Option<PathView> {
        let state = self.shared.state.lock();
        let named = state.get(session_id)?;
        let since = Some(named.since.to_iso());
        Some(PathView { path: DeliveryPath::Record, state: named.state, since })
    }

    /// Has the record of a session read to its end now, and answers which messages stand in it without a question to the
    /// model behind them; `None` when that cannot be had at once.
    pub(crate) async fn entered(&self, session_id: &str) -> Option<Vec<String>> {
        let mut looks = self.shared.looks.subscribe();
        let wanted = {
            let mut state = self.shared.state.lock();
            let named = state.get_mut(session_id)?;
            named.wanted += 1;
            named.wanted
        };
        self.shared.wake.notify_one();
        let answer = || {
            let state = self.shared.state.lock();
            let named = state.get(session_id)?;
            (named.done >= wanted && named.state == PathState::Readable)
                .then(|| named.entered.clone())
        };
        let done = looks.wait_for(|_| answer().is_some());
        tokio::time::timeout(LOOK_WAIT, done).await.ok()?.ok()?;
        answer()
    }

    /// True when the record of this session was readable at the last look.
    pub(crate) fn is_readable(&self, session_id: &str) -> bool {
        let state = self.shared.state.lock();
        state.get(session_id).is_some_and(|named| named.state == PathState::Readable)
    }
}

/// The form of a record: what the agent is, else what the file is called. `None` for agents whose records nobody reads.
fn format_of(path: &str, agent: Option<&str>) -> Option<Format> {
    match agent {
        Some("claude") => Some(Format::Claude),
        Some("codex") => Some(Format::Codex),
        Some(_) => None,
        None => {
            let name = Path::new(path).file_name()?.to_str()?;
            Some(if name.starts_with("rollout-") { Format::Codex } else { Format::Claude })
        }
    }
}

/// The word under which a form is kept.
const fn format_word(format: Format) -> &'static str {
    match format {
        Format::Claude => "claude",
        Format::Codex => "codex",
    }
}
