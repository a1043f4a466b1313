//! [`Broker`]: the cheap handle that every connection, request and job holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use claudemesh_core::clock::Clock;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::at_rest::AtRestKey;
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::limits::BrokerLimits;
use claudemesh_store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::setup::SetupCode;
use crate::accounts::signed::SignedReplay;
use crate::audit::AuditLog;
use crate::delivery::Delivery;
use crate::edge::hook::HookReports;
use crate::edge::limit::EdgeLimits;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::ops::state::WriteOrder;
use crate::settings::{Links, Settings};

/// Whether the broker takes work (`/health/ready`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Readiness {
    /// The store is not connected or not migrated yet.
    Starting = 0,
    /// Serving.
    Ready = 1,
    /// Stopping: new work is refused, what runs is finished.
    Draining = 2,
}

/// A running broker. Clones share everything.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

/// What [`Broker`] is made of; built once by `serve`.
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) links: Links,
    pub(crate) store: Store,
    pub(crate) live: Live,
    pub(crate) delivery: Delivery,
    pub(crate) audit: AuditLog,
    pub(crate) state_order: WriteOrder,
    pub(crate) edge_limits: EdgeLimits,
    pub(crate) hook_reports: HookReports,
    pub(crate) metrics: Metrics,
    pub(crate) signing_key: KeyPair,
    pub(crate) at_rest_key: AtRestKey,
    pub(crate) setup_code: SetupCode,
    pub(crate) signed_replay: SignedReplay,
    pub(crate) node_id: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) started_at: Timestamp,
    pub(crate) readiness: AtomicU8,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the drain begins: loops and jobs end, sockets are closed politely.
    pub(crate) stopping: CancellationToken,
    /// Requests being answered; a stop waits for them before the listener goes.
    pub(crate) requests: TaskTracker,
    /// Cancelled when the listener and idle connections go, after the last request.
    pub(crate) closing: CancellationToken,
    /// Cancelled when everything must end at once, as if the process had died.
    pub(crate) killed: CancellationToken,
}

impl Broker {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// The effective settings.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The limits in force.
    pub fn limits(&self) -> &BrokerLimits {
        &self.0.settings.limits
    }

    /// The addresses others reach this broker at.
    pub fn links(&self) -> &Links {
        &self.0.links
    }

    /// The durable state.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn live(&self) -> &Live {
        &self.0.live
    }

    pub(crate) fn delivery(&self) -> &Delivery {
        &self.0.delivery
    }

    pub(crate) fn audit(&self) -> &AuditLog {
        &self.0.audit
    }

    /// The order of writes to the shared state.
    pub(crate) fn state_order(&self) -> &WriteOrder {
        &self.0.state_order
    }

    pub(crate) fn edge_limits(&self) -> &EdgeLimits {
        &self.0.edge_limits
    }

    pub(crate) fn hook_reports(&self) -> &HookReports {
        &self.0.hook_reports
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The key that signs what the broker itself says; its public half is `brokerPubkey`.
    pub(crate) fn signing_key(&self) -> &KeyPair {
        &self.0.signing_key
    }

    /// The key that secret columns are encrypted with.
    pub(crate) fn at_rest_key(&self) -> &AtRestKey {
        &self.0.at_rest_key
    }

    pub(crate) fn setup_code(&self) -> &SetupCode {
        &self.0.setup_code
    }

    pub(crate) fn signed_replay(&self) -> &SignedReplay {
        &self.0.signed_replay
    }

    /// Names this process in rows of presences.
    pub(crate) fn node_id(&self) -> &str {
        &self.0.node_id
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        self.0.started_at
    }

    pub(crate) fn readiness(&self) -> Readiness {
        match self.0.readiness.load(Ordering::Acquire) {
            1 => Readiness::Ready,
            2 => Readiness::Draining,
            _ => Readiness::Starting,
        }
    }

    pub(crate) fn set_readiness(&self, readiness: Readiness) {
        self.0.readiness.store(readiness as u8, Ordering::Release);
    }

    /// Cancelled when the drain begins.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// Requests being answered.
    pub(crate) fn requests(&self) -> &TaskTracker {
        &self.0.requests
    }

    /// Cancelled when the listener and idle connections go.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// The tracker that a stop waits for.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Ends every task where it stands.
    pub(crate) fn kill(&self) {
        self.0.killed.cancel();
        self.0.stopping.cancel();
        self.0.closing.cancel();
    }

    /// Runs `future` as a task that a stop waits for and a kill drops where it stands.
    ///
    /// The future itself must end when [`Broker::stopping`] is cancelled.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(self.0.killed.clone().run_until_cancelled_owned(future));
    }

    /// As [`Broker::spawn`], for somebody who waits for the outcome and may go away before; `None` when it was killed.
    pub(crate) fn spawn_returning<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.0.tasks.spawn(self.0.killed.clone().run_until_cancelled_owned(future))
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("listen", &self.0.links.listen).finish_non_exhaustive()
    }
}
