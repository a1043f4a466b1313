//! How the road to the daemon stands, for those who want to use it: told by [`crate::link`], asked by tool calls.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::MCP_DAEMON_READY_BUDGET;
use tokio::sync::{Notify, watch};

use crate::session::Standing;
use crate::tools::Failure;

/// How long somebody waits for what would only be good to know.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the road stands.
#[derive(Clone)]
enum State {
    /// It is being opened.
    Opening,
    /// The daemon knows this session.
    Open(Box<Standing>),
    /// It was not reached; the link tries again later, or when it is asked to.
    Closed(Trouble),
}

/// Why the daemon cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Its own code, or `daemon_unreachable`.
    pub code: ErrorCode,
    /// Why, in words.
    pub reason: String,
}

impl Trouble {
    /// The daemon is not there.
    pub(crate) fn unreachable(reason: impl Into<String>) -> Self {
        Self { code: ErrorCode::DaemonUnreachable, reason: reason.into() }
    }
}

impl From<claudemesh_ipc::IpcError> for Trouble {
    fn from(error: claudemesh_ipc::IpcError) -> Self {
        Self { code: error.code(), reason: error.to_string() }
    }
}

/// The road, as those see it who use it.
#[derive(Clone)]
pub(crate) struct Road {
    state_rx: watch::Receiver<State>,
    hurry: Arc<Notify>,
}

/// The road, as the link sees it that keeps it open.
pub(crate) struct RoadWorks {
    state_tx: watch::Sender<State>,
    hurry: Arc<Notify>,
}

/// A road that is being opened.
pub(crate) fn road() -> (RoadWorks, Road) {
    let (state_tx, state_rx) = watch::channel(State::Opening);
    let hurry = Arc::new(Notify::new());
    (RoadWorks { state_tx, hurry: Arc::clone(&hurry) }, Road { state_rx, hurry })
}

impl RoadWorks {
    /// A new try begins.
    pub(crate) fn opening(&self) {
        self.state_tx.send_replace(State::Opening);
    }

    /// The daemon knows the session.
    pub(crate) fn open(&self, standing: &Standing) {
        self.state_tx.send_replace(State::Open(Box::new(standing.clone())));
    }

    /// The try failed.
    pub(crate) fn closed(&self, trouble: &Trouble) {
        self.state_tx.send_replace(State::Closed(trouble.clone()));
    }

    /// Waits for `wait`, or until somebody needs the road now.
    pub(crate) async fn rest(&self, wait: Duration) {
        // Either way the next try begins.
        let _ = tokio::time::timeout(wait, self.hurry.notified()).await;
    }
}

impl Road {
    /// The standing, when the road is open now.
    pub(crate) fn current(&self) -> Option<Standing> {
        match &*self.state_rx.borrow() {
            State::Open(standing) => Some(standing.as_ref().clone()),
            State::Opening | State::Closed(_) => None,
        }
    }

    /// The standing, when the road is open, or opens within [`PATIENCE`] by a try that is under way.
    pub(crate) async fn current_soon(&self) -> Option<Standing> {
        let mut state_rx = self.state_rx.clone();
        let settled = state_rx.wait_for(|state| !matches!(state, State::Opening));
        // Too late, or the server is ending: as it stands now.
        let _ = tokio::time::timeout(PATIENCE, settled).await.is_ok();
        self.current()
    }

    /// The standing, once a try under way has ended; a road that is closed is tried again at once.
    ///
    /// # Errors
    /// Why the daemon cannot be used.
    pub(crate) async fn standing(&self) -> Result<Standing, Failure> {
        let mut state_rx = self.state_rx.clone();
        if matches!(&*state_rx.borrow_and_update(), State::Closed(_)) {
            self.hurry.notify_one();
            return settled(&mut state_rx, true).await;
        }
        settled(&mut state_rx, false).await
    }

    /// The standing after the one that just proved to be gone.
    ///
    /// # Errors
    /// Why the daemon cannot be used.
    pub(crate) async fn next_standing(&self) -> Result<Standing, Failure> {
        let mut state_rx = self.state_rx.clone();
        let is_known_lost = !matches!(&*state_rx.borrow_and_update(), State::Open(_));
        self.hurry.notify_one();
        settled(&mut state_rx, !is_known_lost).await
    }
}

/// Waits for the end of the try under way, or first for the beginning of the next one.
async fn settled(
    state_rx: &mut watch::Receiver<State>,
    next_only: bool,
) -> Result<Standing, Failure> {
    let wait = async {
        if next_only && state_rx.changed().await.is_err() {
            return None;
        }
        let state = state_rx.wait_for(|state| !matches!(state, State::Opening)).await;
        state.ok().map(|state| state.clone())
    };
    match tokio::time::timeout(MCP_DAEMON_READY_BUDGET, wait).await {
        Ok(Some(State::Open(standing))) => Ok(*standing),
        Ok(Some(State::Closed(trouble))) => {
            Err(Failure::unreachable(trouble.code, &trouble.reason))
        }
        Ok(Some(State::Opening) | None) => {
            Err(Failure::unreachable(ErrorCode::DaemonUnreachable, "this server is ending"))
        }
        Err(_) => Err(Failure::unreachable(
            ErrorCode::DaemonUnreachable,
            "it did not become ready in time",
        )),
    }
}
