//! The message road behind acceptance: one task commits whatever has queued up, rows are pushed in order, held rows are
//! drained, deadlines are kept (broker spec §3.4, §3.5).

mod drain;
mod due;
mod router;
mod writer;

use std::sync::Arc;

use claudemesh_core::queue::Route;
use claudemesh_protocol::wire::{Ack, Push, WrappedKey};
use claudemesh_protocol::{MemberId, Priority, PublicKey, Timestamp};
use claudemesh_store::{AckById, DeliverySeq, NewMessage, RecipientKind, Reroute};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::live::{Connection, InFlight, Mesh};
use crate::settings::Settings;
use crate::state::Broker;

pub(crate) use drain::{origin_of, wake_key, wake_presence};
pub(crate) use router::Sender;

/// Jobs waiting for the writer. A full queue makes the readers of sending sockets wait, which slows exactly the senders.
const QUEUE_JOBS: usize = 4_096;

/// The way to the delivery tasks.
pub(crate) struct Delivery {
    jobs: mpsc::Sender<Job>,
    receiver: Mutex<Option<mpsc::Receiver<Job>>>,
    due: Notify,
}

/// One write of the message path.
pub(crate) enum Job {
    /// Take a message in, push it, answer its sender.
    Accept(Box<Accept>),
    /// Rows that were pushed and acknowledged; they are out of memory already.
    Ack { deliveries: Vec<DeliverySeq>, at: Timestamp },
    /// An acknowledgement of something that is not in memory.
    AckById { mesh: Arc<Mesh>, member_id: MemberId, ack: AckById },
    /// Pushed rows that go back to held; their queues wait for it.
    Release { mesh: Arc<Mesh>, rows: Vec<Returned> },
    /// Rows of an ended session move to its member's queue.
    Reroute { mesh: Arc<Mesh>, reroute: Reroute },
}

/// A row that goes back to held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Returned {
    seq: DeliverySeq,
    key: PublicKey,
}

/// A message to accept with everything decided about it.
pub(crate) struct Accept {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) message: Box<NewMessage>,
    /// The push without what differs per recipient.
    pub(crate) push: Box<Push>,
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
    pub(crate) key: PublicKey,
    pub(crate) member_id: MemberId,
    pub(crate) kind: RecipientKind,
    pub(crate) route: Route,
    pub(crate) wrapped_key: Option<WrappedKey>,
}

impl Delivery {
    pub(crate) fn new(_settings: &Settings) -> Self {
        let (jobs, receiver) = mpsc::channel(QUEUE_JOBS);
        Self { jobs, receiver: Mutex::new(Some(receiver)), due: Notify::new() }
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
        self.give_back(mesh, rows.into_iter().map(|(seq, row)| (seq, row.key)).collect()).await;
    }

    /// As [`Delivery::release`], by number and key.
    pub(crate) async fn give_back(&self, mesh: &Arc<Mesh>, rows: Vec<(DeliverySeq, PublicKey)>) {
        if rows.is_empty() {
            return;
        }
        let rows = rows.into_iter().map(|(seq, key)| Returned { seq, key }).collect();
        if let Err(Job::Release { mesh, rows }) =
            self.enqueue(Job::Release { mesh: Arc::clone(mesh), rows }).await
        {
            // The broker stops; its next start releases all claims.
            let mut state = mesh.lock();
            for row in rows {
                state.queue(row.key).released();
            }
        }
    }

    /// Makes the timer look at its deadlines now.
    pub(crate) fn wake_due(&self) {
        self.due.notify_one();
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
