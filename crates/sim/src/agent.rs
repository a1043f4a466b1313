//! An agent: registers its session, listens, looks at what waited while nobody listened, and sends one letter after the
//! other, each until it knows what became of it.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::inbox::SeenRequest;
use claudemesh_ipc::api::session::{GroupSpec, HookEvent};
use claudemesh_ipc::api::{
    EventKind, EventScope, EventsQuery, InboxQuery, ProfileRequest, RegisterRequest, SendRequest,
    StatusReport,
};
use claudemesh_ipc::{IpcError, SessionToken};
use claudemesh_protocol::{PeerStatus, PublicKey};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::broker_node::MESH;
use crate::daemon_node::{AgentProcesses, DaemonNode};
use crate::ledger::{Ledger, LetterNumber, Outcome, text_of};
use crate::trace::Trace;

/// The group that some agents are in.
pub(crate) const GROUP: &str = "builders";
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// Attempts to send one letter.
const SEND_ATTEMPTS: u32 = 400;
/// Letters that may wait.
const QUEUE: usize = 256;

/// Who a letter goes to, in the words of the local API.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) number: LetterNumber,
    pub(crate) request: SendRequest,
}

/// One agent of a run.
pub(crate) struct Agent {
    pub(crate) index: usize,
    pub(crate) daemon: Arc<DaemonNode>,
    pub(crate) name: String,
    session_id: String,
    token: SessionToken,
    pid: u32,
    is_in_group: bool,
    ledger: Arc<Ledger>,
    trace: Arc<Trace>,
    processes: Arc<AgentProcesses>,
    state: Mutex<State>,
}

struct State {
    /// Cancelled when the session ends.
    life: Option<CancellationToken>,
    key: Option<PublicKey>,
}

/// What distinguishes an agent.
pub(crate) struct Identity {
    pub(crate) index: usize,
    pub(crate) session: [u8; 16],
    pub(crate) token: [u8; 32],
    pub(crate) is_in_group: bool,
}

impl Agent {
    pub(crate) fn new(
        identity: &Identity,
        daemon: Arc<DaemonNode>,
        ledger: Arc<Ledger>,
        trace: Arc<Trace>,
        processes: Arc<AgentProcesses>,
    ) -> Arc<Self> {
        let index = identity.index;
        Arc::new(Self {
            index,
            daemon,
            name: format!("agent-{index}"),
            session_id: uuid_text(identity.session),
            token: SessionToken::from_bytes(&identity.token),
            pid: 1_000 + u32::try_from(index).unwrap_or_default(),
            is_in_group: identity.is_in_group,
            ledger,
            trace,
            processes,
            state: Mutex::new(State { life: None, key: None }),
        })
    }

    /// The process begins: listens until [`Agent::end`].
    pub(crate) fn begin(self: &Arc<Self>, tasks: &tokio_util::task::TaskTracker) {
        let life = CancellationToken::new();
        if self.state.lock().life.replace(life.clone()).is_some() {
            return;
        }
        self.trace.note(&format!("agent {} begins", self.index));
        self.processes.begin(self.pid);
        let agent = Arc::clone(self);
        tasks.spawn(async move {
            // It listens until it is cancelled.
            let _ended = life.run_until_cancelled(Box::pin(agent.listen())).await;
        });
    }

    /// The process ends: without a word, or after it has said so.
    pub(crate) async fn end(&self, manner: Manner) {
        let Some(life) = self.state.lock().life.take() else { return };
        self.trace.note(&format!("agent {} ends: {manner:?}", self.index));
        life.cancel();
        if manner == Manner::SaysGoodbye {
            let client = self.client();
            let said = self.daemon.while_alive(client.deregister_session()).await;
            self.trace.note(&format!(
                "agent {} said goodbye: {}",
                self.index,
                matches!(said, Some(Ok(_)))
            ));
        }
        self.processes.end(self.pid);
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.state.lock().life.is_some()
    }

    /// The session's key, once it had one.
    pub(crate) fn key(&self) -> Option<PublicKey> {
        self.state.lock().key
    }

    /// The person at the agent sets a status by hand; only this enters and leaves `dnd`.
    pub(crate) async fn set_by_hand(&self, status: PeerStatus) {
        let request = ProfileRequest { status: Some(status), ..ProfileRequest::default() };
        let client = self.client();
        let told = self.daemon.while_alive(client.profile(&request)).await;
        let is_told = matches!(told, Some(Ok(_)));
        self.trace.note(&format!("agent {} is {status} by hand: {is_told}", self.index));
    }

    /// Reports a status, or what happened, as a hook does.
    pub(crate) async fn report(&self, status: Option<PeerStatus>, event: Option<HookEvent>) {
        let report = StatusReport {
            session_id: Some(self.session_id.clone()),
            status,
            event,
            ..StatusReport::default()
        };
        let client = self.client();
        let told = self.daemon.while_alive(client.session_status(&report)).await;
        self.trace.note(&format!("agent {} reported: {}", self.index, matches!(told, Some(Ok(_)))));
    }

    fn client(&self) -> claudemesh_ipc::Client {
        self.daemon.client().with_token(Some(self.token.clone()))
    }

    async fn listen(&self) {
        loop {
            if self.register().await {
                self.daemon.while_alive(self.listen_once()).await;
            }
            sleep(PAUSE).await;
        }
    }

    async fn register(&self) -> bool {
        let mut request = RegisterRequest::stored(
            self.token.clone(),
            self.session_id.clone(),
            MESH.to_owned(),
            self.name.clone(),
            self.pid,
        );
        if self.is_in_group {
            request.groups.push(GroupSpec::Text(format!("@{GROUP}")));
        }
        let client = self.daemon.client();
        match self.daemon.while_alive(client.register_session(&request)).await {
            Some(Ok(reply)) => {
                self.state.lock().key = reply.session_pubkey;
                true
            }
            Some(Err(error)) => {
                self.trace.note(&format!("agent {} is not registered: {error}", self.index));
                false
            }
            None => false,
        }
    }

    /// Listens until the stream ends.
    async fn listen_once(&self) {
        let client = self.client();
        let query = EventsQuery { scope: Some(EventScope::Session), ..EventsQuery::default() };
        let Ok(mut events) = client.events(&query, None).await else { return };
        let unread = InboxQuery {
            unread_only: Some(true),
            mark_seen: Some(true),
            limit: Some(1_000),
            ..InboxQuery::default()
        };
        let Ok(page) = client.inbox(&unread).await else { return };
        for item in page.items {
            let body = item.body.as_deref().unwrap_or_default();
            self.trace.note(&format!("agent {} reads {} {body}", self.index, item.id));
        }
        while let Ok(Some(event)) = events.next().await {
            if event.kind != EventKind::Message {
                continue;
            }
            let text = |name: &str| event.data.get(name).and_then(serde_json::Value::as_str);
            let (body, id) = (text("body").unwrap_or_default(), text("id").unwrap_or_default());
            self.trace.note(&format!("agent {} sees {id} {body}", self.index));
            self.ledger.shown(self.index, body, id);
            let pushed = SeenRequest { ids: vec![id.to_owned()], pushed: true, path: None };
            // A mark that gets lost costs a repetition after a restart.
            let _ = client.inbox_seen(&pushed).await;
        }
    }
}

/// How an agent's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Its daemon is told first.
    SaysGoodbye,
    /// Its daemon notices.
    Vanishes,
}

/// Sends letters one after the other, so that the order in which they were accepted is known.
pub(crate) struct Sender {
    queue_tx: mpsc::Sender<Order>,
}

impl Sender {
    /// The sender of an agent, or of a daemon's member without a session.
    pub(crate) fn start(
        daemon: Arc<DaemonNode>,
        agent: Option<Arc<Agent>>,
        ledger: Arc<Ledger>,
        trace: Arc<Trace>,
        tasks: &tokio_util::task::TaskTracker,
    ) -> Self {
        let (queue_tx, mut queue) = mpsc::channel::<Order>(QUEUE);
        tasks.spawn(async move {
            while let Some(order) = queue.recv().await {
                deliver(&daemon, agent.as_deref(), &ledger, &trace, &order).await;
            }
        });
        Self { queue_tx }
    }

    /// Queues a letter; false when too many wait.
    pub(crate) fn send(&self, order: Order) -> bool {
        self.queue_tx.try_send(order).is_ok()
    }

    /// True when no letter waits; one may be on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue_tx.capacity() == self.queue_tx.max_capacity()
    }
}

async fn deliver(
    daemon: &DaemonNode,
    agent: Option<&Agent>,
    ledger: &Ledger,
    trace: &Trace,
    order: &Order,
) {
    let mut is_uncertain = false;
    for _ in 0..SEND_ATTEMPTS {
        if agent.is_some_and(|agent| !agent.is_alive()) {
            return;
        }
        let client = match agent {
            Some(agent) => agent.client(),
            None => daemon.client(),
        };
        match daemon.while_alive(client.send(&order.request)).await {
            Some(Ok(reply)) => {
                trace.note(&format!(
                    "letter {} accepted: {:?} to {}",
                    order.number, reply.status, reply.target
                ));
                return ledger.accepted(order.number);
            }
            // Nobody knows whether it was written: the same again, under the same id.
            None | Some(Err(IpcError::TimedOut(_) | IpcError::Broken(_))) => is_uncertain = true,
            Some(Err(IpcError::NotRunning(_))) => {}
            Some(Err(error)) if is_transient(&error) => {}
            Some(Err(error)) => {
                trace.note(&format!("letter {} refused: {error}", order.number));
                if !is_uncertain {
                    ledger.told(order.number, Outcome::Refused(error.to_string()));
                }
                return;
            }
        }
        sleep(PAUSE).await;
    }
    trace.note(&format!("letter {} given up", order.number));
}

/// True when the same request may go through later.
fn is_transient(error: &IpcError) -> bool {
    matches!(
        error.code().as_str(),
        "daemon_busy"
            | "rate_limited"
            | "shutting_down"
            | "unavailable"
            | "insufficient_storage"
            | "unknown_session"
            | "mesh_not_attached"
            | "timeout"
            | "broker_unavailable"
            | "mesh_not_connected"
            | "target_not_found"
    )
}

/// The request of a letter.
pub(crate) fn request(number: LetterNumber, to: String, client_message_id: &str) -> SendRequest {
    SendRequest {
        to,
        message: text_of(number),
        client_message_id: Some(client_message_id.to_owned()),
        mesh: Some(MESH.to_owned()),
        ..SendRequest::default()
    }
}

/// Version 4 of RFC 9562.
fn uuid_text(mut bytes: [u8; 16]) -> String {
    if let Some(byte) = bytes.get_mut(6) {
        *byte = (*byte & 0x0f) | 0x40;
    }
    if let Some(byte) = bytes.get_mut(8) {
        *byte = (*byte & 0x3f) | 0x80;
    }
    let hex = hex::encode(bytes);
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}
