//! Receipts about messages that came in: gathered for 20 ms, signed, and sent on the connection that got the push (daemon
//! spec §10.7). Best effort and in memory only: what could not be said while a connection was away is said when it is
//! back, and after a start the state of the last day's messages is told once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use claudemesh_client::Connection;
use claudemesh_ipc::api::RecipientKind;
use claudemesh_protocol::receipt::rank;
use claudemesh_protocol::wire::{ClientFrame, ReceiptState};
use claudemesh_protocol::{PublicKey, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::features::takes_receipts;
use super::receipt::{self, Statement};
use super::{Mesh, Via};
use crate::clock;
use crate::inbox::{Proved, Standing, Subject};
use crate::storage::Causes;

/// How long receipts are gathered.
const GATHER: Duration = Duration::from_millis(20);
/// Receipts that wait to be sent; further ones are dropped.
const WAITING_MAX: usize = 8_192;
/// Age up to which the state of a message is told again after a start.
const RESTATED_FOR: Duration = Duration::from_hours(24);
/// The daemon's gate keeps a message back (wire spec §3.1).
const BUSY: &str = "busy";
/// So does a question of the agent that its person has not answered yet.
const DIALOG: &str = "dialog";

/// The receipts of one mesh on their way out.
#[derive(Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Report>,
    /// Own keys whose messages of the last day were told about in this run.
    restated: BTreeSet<PublicKey>,
}

/// One thing to say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    subject: Subject,
    statement: Statement,
    at: Timestamp,
}

impl Reports {
    fn add(&self, reports: impl IntoIterator<Item = Report>) {
        let mut state = self.state.lock();
        for report in reports {
            if state.waiting.len() >= WAITING_MAX {
                tracing::debug!("receipts_dropped");
                break;
            }
            state.waiting.push_back(report);
        }
        drop(state);
        self.wake.notify_one();
    }

    fn take(&self) -> VecDeque<Report> {
        std::mem::take(&mut self.state.lock().waiting)
    }
}

impl Mesh {
    /// Says something about a message that came in.
    pub(super) fn report(&self, subject: Subject, statement: Statement) {
        self.reports.add([Report { subject, statement, at: clock::now() }]);
    }

    /// Messages were given to a session, this way.
    pub(super) fn report_handed(&self, subjects: Vec<Subject>, path: &str, session: &str) {
        let at = clock::now();
        let statement = Statement::handed(path, Some(session));
        self.reports.add(subjects.into_iter().map(|subject| Report {
            subject,
            statement: statement.clone(),
            at,
        }));
    }

    /// The gate of every session that a message is for is closed: each is busy, or waits for its person.
    pub(super) fn report_busy(&self, subject: Subject) {
        let sessions = match subject.kind {
            RecipientKind::Session => {
                self.context.sessions.by_key(&self.slug, &subject.recipient).into_iter().collect()
            }
            RecipientKind::Member => self.context.sessions.live(&self.slug),
        };
        let is_asking = sessions.iter().any(|session| session.activity.heard.waits_for_human());
        let reason = if is_asking { DIALOG } else { BUSY };
        self.report(
            subject,
            Statement { reason: Some(reason.to_owned()), ..ReceiptState::Held.into() },
        );
    }

    /// The broker has a reply of ours to a message: who sent it may know.
    pub(super) async fn reply_accepted(&self, id: &str) {
        match self.context.inbox.reply_accepted(&self.slug, id, clock::now()).await {
            Ok(answered) => {
                for (subject, name) in answered {
                    self.report(subject, Statement::answered(name));
                }
            }
            Err(error) => {
                tracing::warn!(mesh = %self.slug, error = %Causes(&error), "reply_not_recorded");
            }
        }
    }

    /// A connection is open: what waited for it goes out, and once in a run the state of what its key has received.
    pub(super) async fn restate(&self, key: PublicKey) {
        self.reports.wake.notify_one();
        if !self.reports.state.lock().restated.insert(key) {
            return;
        }
        let since = clock::now().minus(RESTATED_FOR);
        let standings = match self.context.inbox.standings(&self.slug, key, since).await {
            Ok(standings) => standings,
            Err(error) => {
                tracing::warn!(mesh = %self.slug, error = %Causes(&error), "receipts_not_restated");
                return;
            }
        };
        let at = clock::now();
        self.reports.add(standings.into_iter().map(|(subject, standing)| Report {
            subject,
            statement: match standing {
                Standing::Stored => ReceiptState::OnDevice.into(),
                Standing::Unreadable => ReceiptState::Unreadable.into(),
                Standing::Handed(path) => Statement::handed(&path, None),
                Standing::InContext { path, evidence } => {
                    Statement::proved(ReceiptState::InContext, &path, evidence)
                }
                Standing::TurnEnded { path, evidence } => {
                    Statement::proved(ReceiptState::TurnEnded, &path, evidence)
                }
                Standing::Answered(name) => Statement::answered(name),
            },
            at,
        }));
    }

    /// The connection on which a receipt may be said: that of the key, else the member's, which speaks for all its
    /// sessions (wire spec §3.1).
    fn road(&self, subject: &Subject) -> Option<Connection> {
        let own = match subject.kind {
            RecipientKind::Session => self.session_connection(&subject.recipient),
            RecipientKind::Member => None,
        };
        own.filter(Connection::is_open).or_else(|| self.control().filter(Connection::is_open))
    }
}

/// Sends receipts until the mesh stops.
pub(super) async fn run(mesh: Arc<Mesh>) {
    loop {
        tokio::select! {
            biased;
            () = mesh.stop.cancelled() => return,
            () = mesh.reports.wake.notified() => {}
        }
        tokio::select! {
            biased;
            () = mesh.stop.cancelled() => return,
            () = tokio::time::sleep(GATHER) => {}
        }
        send_all(&mesh).await;
    }
}

async fn send_all(mesh: &Mesh) {
    let waiting = newest(mesh.reports.take());
    if waiting.is_empty() {
        return;
    }
    // What the broker said on the connection that is open now; while none is, nobody knows.
    let ack = mesh.control().and_then(|control| control.state().hello_ack);
    let is_wanted = ack.map(|ack| takes_receipts(&ack));
    if is_wanted == Some(false) {
        return;
    }
    let mut unsaid = Vec::new();
    for report in waiting {
        let Some(connection) = mesh.road(&report.subject).filter(|_| is_wanted.is_some()) else {
            unsaid.push(report);
            continue;
        };
        let (member, Report { subject, statement, at }) = (&mesh.member.keys, report.clone());
        let Some(signed) = receipt::sign(&mesh.id, subject, statement, member, at) else {
            continue;
        };
        if let Err(error) = connection.send(&ClientFrame::Receipt(Box::new(signed))).await {
            tracing::debug!(mesh = %mesh.slug, %error, "receipt_not_sent");
            unsaid.push(report);
        }
    }
    // They wait for the next connection; whatever came meanwhile is newer and goes behind them.
    let mut state = mesh.reports.state.lock();
    for report in unsaid.into_iter().rev() {
        if state.waiting.len() < WAITING_MAX {
            state.waiting.push_front(report);
        }
    }
}

/// Leaves out what a later receipt about the same message says as well: a higher rank says the lower ones, and ends a side
/// state.
fn newest(waiting: VecDeque<Report>) -> Vec<Report> {
    #[derive(Default)]
    struct Later {
        ladder: bool,
        side: bool,
    }
    let mut later: BTreeMap<(String, PublicKey), Later> = BTreeMap::new();
    let mut kept: Vec<Report> = Vec::with_capacity(waiting.len());
    for report in waiting.into_iter().rev() {
        let about = (report.subject.broker_message_id.clone(), report.subject.recipient);
        let seen = later.entry(about).or_default();
        let is_ladder = rank(report.statement.state).is_some();
        let is_said = seen.ladder || (!is_ladder && seen.side);
        if is_ladder {
            seen.ladder = true;
        } else {
            seen.side = true;
        }
        if !is_said {
            kept.push(report);
        }
    }
    kept.reverse();
    kept
}

impl super::MeshHandle {
    /// Messages were given to a session, this way: their senders are told.
    pub fn handed(&self, subjects: Vec<Subject>, path: &str, session: &str) {
        if !subjects.is_empty() {
            self.mesh.report_handed(subjects, path, session);
        }
    }

    /// An agent's own record shows a message: its sender is told.
    pub(crate) fn proved(&self, proved: Proved) {
        let Proved { subject, state, path, evidence, .. } = proved;
        if let Some(subject) = subject {
            self.mesh.report(subject, Statement::proved(state, &path, Some(evidence)));
        }
    }

    /// Messages wait for a session that is busy, or that waits for its person; their senders are told which.
    pub(crate) fn wait_for_session(&self, subjects: Vec<Subject>) {
        for subject in subjects {
            self.mesh.report_busy(subject);
        }
    }

    /// A session has ended. The direct messages it was never handed are its member's now, and their senders are told; then
    /// its connection is closed.
    pub(crate) async fn session_ended(&self, key: PublicKey) {
        self.leave_to_member(key).await;
    }

    async fn leave_to_member(&self, key: PublicKey) {
        let (mesh, member) = (&self.mesh, self.mesh.voice_key());
        let moved = match mesh.context.inbox.session_gone(&mesh.slug, key, member).await {
            Ok(moved) => moved,
            Err(error) => {
                tracing::warn!(mesh = %mesh.slug, error = %Causes(&error), "session_messages_not_moved");
                return;
            }
        };
        for item in moved {
            let Some(broker_message_id) = item.broker_message_id else { continue };
            let of = |recipient, kind| Subject {
                broker_message_id: broker_message_id.clone(),
                client_message_id: item.client_message_id.clone(),
                recipient,
                kind,
            };
            mesh.report(of(key, RecipientKind::Session), ReceiptState::SessionGone.into());
            let at_member = of(member, RecipientKind::Member);
            if !item.decrypt.is_readable() {
                mesh.report(at_member, ReceiptState::Unreadable.into());
                continue;
            }
            mesh.report(at_member.clone(), ReceiptState::OnDevice.into());
            if item.held {
                mesh.report_busy(at_member);
            }
        }
    }
}

impl Via {
    /// The own key that this connection speaks with.
    pub(super) fn key(self, member: PublicKey) -> PublicKey {
        match self {
            Self::Member => member,
            Self::Session(key) => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: &str, state: ReceiptState) -> Report {
        let subject = Subject {
            broker_message_id: id.to_owned(),
            client_message_id: id.to_owned(),
            recipient: PublicKey::from_bytes([1; 32]),
            kind: RecipientKind::Member,
        };
        Report { subject, statement: state.into(), at: Timestamp::from_millis(1) }
    }

    #[test]
    fn only_what_a_later_receipt_does_not_say_is_sent() {
        use ReceiptState::{Handed, Held, OnDevice};
        let said = |states: &[(&str, ReceiptState)]| -> Vec<(String, ReceiptState)> {
            let waiting = states.iter().map(|(id, state)| report(id, *state)).collect();
            newest(waiting)
                .into_iter()
                .map(|report| (report.subject.broker_message_id, report.statement.state))
                .collect()
        };
        let pair = |id: &str, state| (id.to_owned(), state);
        assert_eq!(
            said(&[("a", OnDevice), ("b", OnDevice), ("a", Held)]),
            [pair("a", OnDevice), pair("b", OnDevice), pair("a", Held)]
        );
        assert_eq!(
            said(&[("a", OnDevice), ("a", Held), ("a", Held), ("a", Handed)]),
            [pair("a", Handed)]
        );
        assert_eq!(said(&[("a", Held), ("a", Held)]), [pair("a", Held)]);
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let reports = Reports::default();
        reports.add((0..WAITING_MAX + 10).map(|n| report(&n.to_string(), ReceiptState::OnDevice)));
        assert_eq!(reports.take().len(), WAITING_MAX);
        assert!(reports.take().is_empty());
    }
}
