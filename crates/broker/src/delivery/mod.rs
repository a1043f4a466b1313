//! The message road behind acceptance: one task commits whatever has queued up, rows are pushed in order, held rows are
//! drained, deadlines are kept (broker spec §3.4, §3.5).
//!
//! # When an attempt counts
//! A row that goes back to held keeps its attempt when the task that writes the socket had taken it, whether or not the
//! bytes arrived, and when its claim ran out. It does not when the socket's buffer refused it or still had it as the
//! socket ended. A row that moves to another key starts anew.

mod copies;
mod drain;
mod due;
mod gather;
mod moves;
mod outage;
mod router;
mod writer;

use std::sync::Arc;

use claudemesh_core::queue::Route;
use claudemesh_protocol::wire::Ack;
use claudemesh_protocol::{MemberId, PresenceId, Priority, PublicKey, Timestamp};
use claudemesh_store::{
    AckById, DeliverySeq, DroppedRow, NewMessage, RecipientKind, ReleasedRow, Reroute, Store,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::live::{Connection, InFlight, Mesh, MeshState};
use crate::ops::receipt;
use crate::settings::{Settings, StorageProfile};
use crate::state::Broker;

pub(crate) use drain::{origin_of, wake_key, wake_presence};
pub(crate) use router::{Frame, Sender};

/// Jobs waiting for the writer. A full queue makes the readers of sending sockets wait, which slows exactly the senders.
const QUEUE_JOBS: usize = 4_096;

/// The way to the delivery tasks.
pub(crate) struct Delivery {
    jobs: mpsc::Sender<Job>,
    receiver: Mutex<Option<mpsc::Receiver<Job>>>,
    due: Notify,
    /// Pushes may overtake the commit of their rows: this process alone writes the store.
    overtakes: bool,
}

/// One write of the message path.
pub(crate) enum Job {
    /// Take a message in, push it, answer its sender.
    Accept(Box<Accept>),
    /// Rows that were pushed and acknowledged, with their members; they are out of memory already.
    Ack { mesh: Arc<Mesh>, rows: Vec<(DeliverySeq, MemberId)>, at: Timestamp },
    /// An acknowledgement of something that is not in memory.
    AckById { mesh: Arc<Mesh>, member_id: MemberId, ack: AckById },
    /// Pushed rows that go back to held; their queues wait for it.
    Release { mesh: Arc<Mesh>, rows: Vec<ReleasedRow> },
    /// Rows of an ended session move to its member's queue, which was told so and waits for it. When the session is back
    /// before that is written they stay, and `claimed` of them go back to held.
    Reroute { mesh: Arc<Mesh>, reroute: Reroute, claimed: Vec<(DeliverySeq, Priority)> },
    /// A recipient says how far a message came.
    Receipt(Box<receipt::Pending>),
    /// Told once everything before it is written, or dropped when that was given up.
    Barrier(oneshot::Sender<()>),
    /// A sender was banned: what it sent and nobody has acknowledged is given up. `done` is told.
    DropFrom { mesh: Arc<Mesh>, sender: MemberId, done: oneshot::Sender<()> },
}

/// A message to accept with everything decided about it.
pub(crate) struct Accept {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) message: Arc<NewMessage>,
    /// What recipients are told; `None` when that cannot be written.
    pub(crate) frame: Option<Box<Frame>>,
    pub(crate) sender: Sender,
    /// Whose budget was charged.
    pub(crate) sender_member: MemberId,
    pub(crate) accepted_at: Timestamp,
    /// End of the claims of rows that are pushed at once.
    pub(crate) claimed_until: Timestamp,
    pub(crate) priority: Priority,
    /// In the order of the message's deliveries.
    pub(crate) plans: Vec<Plan>,
    pub(crate) connection: Arc<Connection>,
    /// The answer if it is accepted.
    pub(crate) ack: Box<Ack>,
}

/// What was decided about one delivery.
pub(crate) struct Plan {
    /// The row's number, where it is known before the commit.
    pub(crate) seq: Option<DeliverySeq>,
    pub(crate) key: PublicKey,
    /// The session's presence the decision was made for; `None` for a row of a member key.
    pub(crate) presence: Option<PresenceId>,
    pub(crate) member_id: MemberId,
    pub(crate) kind: RecipientKind,
    pub(crate) route: Route,
    /// The content key for this recipient, as JSON.
    pub(crate) wrapped_key: Option<Arc<str>>,
    pub(crate) push: Pushed,
}

/// How far the direct push of a row has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Not tried.
    NotYet,
    /// On its way.
    Done,
    /// Nobody took it; it goes back to held once it is stored, and its queue was told so.
    Refused,
}

impl Delivery {
    pub(crate) fn new(settings: &Settings) -> Self {
        let (jobs, receiver) = mpsc::channel(QUEUE_JOBS);
        let overtakes = settings.profile == StorageProfile::Embedded;
        Self { jobs, receiver: Mutex::new(Some(receiver)), due: Notify::new(), overtakes }
    }

    /// Hands a job to the writer; waits while its queue is full. A stopping broker takes none.
    ///
    /// # Errors
    /// The job, when the writer has ended.
    pub(crate) async fn enqueue(&self, job: Job) -> Result<(), Job> {
        self.jobs.send(job).await.map_err(|refused| refused.0)
    }

    /// Hands rows back to held. Their queues must have been told by `releasing`.
    pub(crate) async fn release(&self, mesh: &Arc<Mesh>, rows: Vec<(DeliverySeq, InFlight)>) {
        let rows: Vec<ReleasedRow> = rows
            .into_iter()
            .map(|(seq, row)| ReleasedRow {
                seq,
                recipient_key: row.key,
                was_written: row.was_written,
            })
            .collect();
        self.give_back(mesh, rows).await;
    }

    /// Moves the rows of a key that has ended, after everything that was accepted for it before; nothing of them is
    /// claimed. The queue they go to must have been told by `moving`.
    pub(crate) async fn reroute(&self, mesh: &Arc<Mesh>, reroute: Reroute) {
        let job = Job::Reroute { mesh: Arc::clone(mesh), reroute, claimed: Vec::new() };
        if self.enqueue(job).await.is_err() {
            tracing::info!(mesh_id = %mesh.id, "the next start moves what waits for a key that has ended");
        }
    }

    async fn give_back(&self, mesh: &Arc<Mesh>, rows: Vec<ReleasedRow>) {
        if rows.is_empty() {
            return;
        }
        if let Err(Job::Release { mesh, rows }) =
            self.enqueue(Job::Release { mesh: Arc::clone(mesh), rows }).await
        {
            // The broker stops; its next start releases all claims.
            let mut state = mesh.lock();
            for row in rows {
                state.queue(row.recipient_key).released();
            }
        }
    }

    /// The number of a new row, where pushes overtake commits.
    pub(crate) fn numbered_row(&self, store: &Store) -> Option<DeliverySeq> {
        self.overtakes.then(|| store.next_delivery_seq()).flatten()
    }

    /// Waits until what was handed to the writer before now is in the store, or will not be: who asks the store then reads
    /// what its own acknowledgements have done.
    pub(crate) async fn settled(&self) {
        let (barrier, reached) = oneshot::channel();
        if self.enqueue(Job::Barrier(barrier)).await.is_ok() {
            // Without an answer nothing more will be written.
            let _ = reached.await;
        }
    }

    /// Makes the timer look at its deadlines now.
    pub(crate) fn wake_due(&self) {
        self.due.notify_one();
    }
}

/// Rows that the store gave up are not waited for any more.
pub(crate) fn forget_dropped(state: &mut MeshState, dropped: &[DroppedRow]) {
    for row in dropped {
        // An acknowledgement that comes now is too late, and must not count it out once more.
        state.take_in_flight(row.seq);
        state.sub_open(&row.recipient_member_id, 1);
    }
}

/// Starts the writer and the timer.
pub(crate) fn start(broker: &Broker) {
    let receiver = broker.delivery().receiver.lock().take();
    if let Some(receiver) = receiver {
        broker.spawn(writer::run(broker.clone(), receiver));
        broker.spawn(due::run(broker.clone()));
    }
}
