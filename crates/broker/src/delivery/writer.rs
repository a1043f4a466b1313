//! The one task that commits: it takes what has queued up, commits once, pushes what was accepted in order, and only
//! then answers the senders. An acknowledgement never goes out before its commit.
//!
//! Where this process alone writes the store, pushes overtake the commit (broker spec §3.4): the transaction tells which
//! messages are new as soon as it knows, and they are pushed while it goes on. What happens to such a row before it is
//! stored (an acknowledgement, a lost socket) is a job behind it in the same queue. When the commit fails the sender is
//! told so, and the receiver's inbox knows the repeat.
//!
//! What happens while the store is away: see [`super::outage`].

use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::queue::Route;
use claudemesh_protocol::wire::{Ack, ServerFrame};
use claudemesh_protocol::{ErrorCode, MemberId, PublicKey};
use claudemesh_sqlite::{crash_point, planted_bug};
use claudemesh_store::{
    Dedupe, DeliveryOutcome, DeliverySeq, DeliveryWrite, RecipientKind, ReleasedRow, Reroute,
    StoreError,
};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::gather::gather;
use super::outage::{recover, refuse};
use super::router::{Row, latency_seconds, push_row};
use super::{Accept, Job, Plan, Pushed, drain, forget_dropped, moves};
use crate::live::{Connection, Mesh, MeshState};
use crate::ops::{messaging, receipt};
use crate::state::Broker;

/// Jobs of one commit; enough that a commit's fsync is shared widely, few enough that nobody waits long behind it.
pub(super) const BATCH_JOBS: usize = 512;

/// Pause between two looks at a store that went away.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// An answer that waits until the whole batch is pushed.
struct Answer {
    connection: Arc<Connection>,
    ack: Ack,
    /// What the ack cannot say; it follows.
    more: Vec<Utf8Bytes>,
}

pub(super) async fn run(broker: Broker, mut receiver: mpsc::Receiver<Job>) {
    // What the last commit left to be written: releases, mostly.
    let mut batch: Vec<Job> = Vec::new();
    let mut is_stopping = false;
    let mut is_unsure = false;
    loop {
        if batch.is_empty() || is_unsure {
            let woken = tokio::select! {
                biased;
                () = broker.stopping().cancelled(), if !is_stopping => Woken::Stopping,
                count = receiver.recv_many(&mut batch, BATCH_JOBS) => {
                    if count == 0 { Woken::Closed } else { Woken::Jobs }
                }
                () = tokio::time::sleep(STORE_RETRY), if is_unsure => Woken::Jobs,
            };
            match woken {
                Woken::Stopping => {
                    is_stopping = true;
                    receiver.close();
                    continue;
                }
                Woken::Closed if batch.is_empty() => break,
                Woken::Closed => {}
                Woken::Jobs => gather(&broker, &mut receiver, &mut batch).await,
            }
        } else {
            while batch.len() < BATCH_JOBS
                && let Ok(job) = receiver.try_recv()
            {
                batch.push(job);
            }
        }
        if is_unsure && let Err(error) = recover(&broker, &batch).await {
            batch = refuse(&broker, batch, &error);
            if is_stopping {
                break;
            }
            continue;
        }
        Written { next: batch, is_unsure } = commit(&broker, batch).await;
    }
    // The next start releases all claims and moves what was to be moved.
    for job in batch {
        fail(&broker, job, &StoreError::Closed);
    }
}

/// What ended the wait for work.
enum Woken {
    /// There is something to write, or to look at again.
    Jobs,
    /// The broker stops; what is queued is written still.
    Stopping,
    /// Nothing more will come.
    Closed,
}

/// What a commit leaves.
#[derive(Default)]
struct Written {
    /// To be written next because of it.
    next: Vec<Job>,
    /// The store went away while it ran: what of it was written is not known.
    is_unsure: bool,
}

/// Refuses what was decided for senders that were removed from their mesh since.
fn refuse_removed(broker: &Broker, jobs: &mut Vec<Job>) {
    let is_removed = |job: &mut Job| {
        matches!(job, Job::Accept(accept)
            if accept.mesh.lock().member(&accept.sender_member).is_none())
    };
    for job in jobs.extract_if(.., is_removed) {
        let Job::Accept(accept) = job else { continue };
        withdraw(broker, &accept);
        let code = ErrorCode::Forbidden;
        broker.metrics().messages_rejected.inc(code.as_str());
        let text = "the sender was removed from the mesh";
        accept.connection.say(&messaging::failed_ack(*accept.ack, code, text).into());
    }
}

/// Commits a batch.
async fn commit(broker: &Broker, mut jobs: Vec<Job>) -> Written {
    refuse_removed(broker, &mut jobs);
    moves::keep_with_returned(broker, &mut jobs);
    if jobs.iter().any(|job| matches!(job, Job::Accept(_))) {
        crash_point("broker.accept.before_commit");
    }
    if jobs.iter().any(|job| matches!(job, Job::Ack { .. } | Job::AckById { .. })) {
        crash_point("broker.client_ack.before_commit");
    }
    if planted_bug("broker.ack_before_commit") {
        for job in &jobs {
            if let Job::Accept(accept) = job {
                accept.connection.say(&ServerFrame::from((*accept.ack).clone()));
            }
        }
    }
    match write(broker, &mut jobs).await {
        Ok(outcomes) => {
            crash_point("broker.after_commit_before_push");
            let mut next = Vec::new();
            let mut answers = Vec::new();
            for (job, outcome) in jobs.into_iter().zip(outcomes) {
                finish(broker, job, outcome, &mut next, &mut answers);
            }
            crash_point("broker.after_push_before_ack");
            for Answer { connection, ack, more } in answers {
                connection.say(&ServerFrame::from(ack));
                for text in more {
                    connection.offer(text);
                }
            }
            Written { next, is_unsure: false }
        }
        // One entry the store cannot take must not refuse the others.
        Err(error) if jobs.len() > 1 && !is_about_all(&error) => {
            tracing::warn!(%error, jobs = jobs.len(), "a batch was refused; its entries are tried one by one");
            let mut all = Written::default();
            for job in jobs {
                let one = Box::pin(commit(broker, vec![job])).await;
                all.next.extend(one.next);
                all.is_unsure |= one.is_unsure;
            }
            all
        }
        Err(error) => {
            tracing::warn!(%error, jobs = jobs.len(), "cannot commit");
            if error.is_transient() {
                return Written { next: refuse(broker, jobs, &error), is_unsure: true };
            }
            for job in jobs.drain(..) {
                fail(broker, job, &error);
            }
            Written::default()
        }
    }
}

/// Writes a batch, and pushes what may overtake its commit as soon as the store knows it for new.
async fn write(broker: &Broker, jobs: &mut [Job]) -> Result<Vec<DeliveryOutcome>, StoreError> {
    let writes: Vec<DeliveryWrite> = jobs.iter().map(write_of).collect();
    if !broker.delivery().overtakes || !jobs.iter().any(may_overtake) {
        return broker.store().commit(writes).await;
    }
    let (announce, announced) = oneshot::channel();
    let committing = broker.store().commit_announcing(writes, announce);
    tokio::pin!(committing);
    tokio::select! {
        biased;
        fresh = announced => {
            // Without an answer the transaction has failed before it knew.
            if let Ok(fresh) = fresh {
                overtake(broker, jobs, &fresh);
                crash_point("broker.after_push_before_commit");
            }
        }
        outcome = &mut committing => return outcome,
    }
    committing.await
}

fn may_overtake(job: &Job) -> bool {
    matches!(job, Job::Accept(accept)
        if accept.plans.iter().any(|plan| plan.route == Route::Direct && plan.seq.is_some()))
}

fn overtake(broker: &Broker, jobs: &mut [Job], fresh: &[usize]) {
    for place in fresh {
        let Some(Job::Accept(accept)) = jobs.get_mut(*place) else { continue };
        let mesh = Arc::clone(&accept.mesh);
        let mut state = mesh.lock();
        push_direct(broker, &mut state, accept, |plan, _| plan.seq, Moment::Uncommitted);
    }
}

/// Where a message stands when it is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Uncommitted,
    Committed,
}

/// Pushes the rows that go straight to their recipient and were not tried yet.
fn push_direct(
    broker: &Broker,
    state: &mut MeshState,
    accept: &mut Accept,
    number: impl Fn(&Plan, usize) -> Option<DeliverySeq>,
    moment: Moment,
) {
    let mut is_pushed = false;
    for (place, plan) in accept.plans.iter_mut().enumerate() {
        let Some(seq) = number(plan, place) else { continue };
        if plan.route == Route::Held || plan.push != Pushed::NotYet {
            continue;
        }
        // The session ended meanwhile, and its rows, perhaps this one, were moved. Which, is known after the commit.
        let is_same_presence =
            plan.presence.is_none() || current_presence(state, plan) == plan.presence.as_ref();
        if moment == Moment::Uncommitted && !is_same_presence {
            continue;
        }
        let must_wait =
            state.queues.get(&plan.key).is_some_and(|queue| queue.must_wait(accept.priority));
        let row = Row {
            seq,
            key: plan.key,
            member_id: &plan.member_id,
            priority: accept.priority,
            until: accept.claimed_until,
            wrapped_key: plan.wrapped_key.as_deref(),
        };
        let may_push = is_same_presence && !must_wait;
        let frame = accept.frame.as_deref().filter(|_| may_push);
        if frame.is_some_and(|frame| push_row(state, &row, frame, &accept.sender)) {
            plan.push = Pushed::Done;
            is_pushed = true;
            if moment == Moment::Uncommitted {
                state.uncommitted.insert(seq, false);
            }
        } else {
            state.queue(plan.key).releasing(accept.priority);
            plan.push = Pushed::Refused;
        }
    }
    if is_pushed {
        let latency = latency_seconds(accept.accepted_at, broker.now());
        broker.metrics().delivery_latency.observe(latency);
    }
}

fn current_presence<'a>(
    state: &'a MeshState,
    plan: &Plan,
) -> Option<&'a claudemesh_protocol::PresenceId> {
    state.session(plan.key).map(|entry| &entry.presence.id)
}

/// True when no entry of the batch can be written now.
const fn is_about_all(error: &StoreError) -> bool {
    error.is_transient() || matches!(error, StoreError::Closed)
}

fn write_of(job: &Job) -> DeliveryWrite {
    match job {
        Job::Accept(accept) => DeliveryWrite::Accept(Arc::clone(&accept.message)),
        Job::Ack { rows, at, .. } => {
            DeliveryWrite::Ack { deliveries: rows.iter().map(|(seq, _)| *seq).collect(), at: *at }
        }
        Job::AckById { ack, .. } => DeliveryWrite::AckById(ack.clone()),
        Job::Release { rows, .. } => DeliveryWrite::Release { rows: rows.clone() },
        Job::Reroute { reroute, .. } => DeliveryWrite::Reroute(reroute.clone()),
        Job::Receipt(pending) => DeliveryWrite::Receipt(pending.new.clone()),
        Job::DropFrom { mesh, sender, .. } => {
            DeliveryWrite::DropFrom { mesh_id: mesh.id.clone(), sender: sender.clone() }
        }
        // Writes nothing.
        Job::Barrier(_) => DeliveryWrite::Release { rows: Vec::new() },
    }
}

fn finish(
    broker: &Broker,
    job: Job,
    outcome: DeliveryOutcome,
    next: &mut Vec<Job>,
    answers: &mut Vec<Answer>,
) {
    match (job, outcome) {
        (Job::Accept(accept), DeliveryOutcome::Accepted { deliveries }) => {
            answers.push(accepted(broker, *accept, &deliveries, next));
        }
        (Job::Accept(accept), DeliveryOutcome::Duplicate(first)) => {
            broker.metrics().dedupe_hits.inc();
            answers.push(repeated(broker, *accept, &first, messaging::duplicate_ack));
        }
        (Job::Accept(accept), DeliveryOutcome::Conflict(first)) => {
            broker.metrics().dedupe_conflicts.inc();
            answers.push(repeated(broker, *accept, &first, messaging::conflict_ack));
        }
        (Job::Accept(accept), other) => {
            tracing::error!(?other, "the store answered an accept with something else");
            fail(broker, Job::Accept(accept), &StoreError::Closed);
        }
        (Job::Ack { mesh, rows, .. }, DeliveryOutcome::Acked { deliveries }) => {
            broker.metrics().delivery_acks.inc_by(deliveries.len() as u64);
            count_again(&mesh, rows, &deliveries);
        }
        (Job::AckById { mesh, member_id, .. }, DeliveryOutcome::Acked { deliveries }) => {
            broker.metrics().delivery_acks.inc_by(deliveries.len() as u64);
            let mut state = mesh.lock();
            for seq in deliveries {
                let member = state.take_in_flight(seq).map(|row| row.member_id);
                state.sub_open(member.as_ref().unwrap_or(&member_id), 1);
            }
        }
        (Job::Release { mesh, rows }, _) => released(broker, &mesh, &rows),
        (Job::Reroute { mesh, reroute, .. }, DeliveryOutcome::Rerouted(moved)) => {
            moves::moved(broker, &mesh, &reroute, &moved);
        }
        (Job::Receipt(pending), DeliveryOutcome::Receipted(outcome)) => {
            receipt::finish(broker, *pending, &outcome);
        }
        (Job::DropFrom { mesh, done, .. }, DeliveryOutcome::Dropped(rows)) => {
            forget_dropped(&mut mesh.lock(), &rows);
            // Who asked may have waited long enough.
            let _ = done.send(());
        }
        (Job::Barrier(reached), _) => {
            // Who asked may have gone away.
            let _ = reached.send(());
        }
        (
            job @ (Job::Ack { .. }
            | Job::AckById { .. }
            | Job::Reroute { .. }
            | Job::Receipt(_)
            | Job::DropFrom { .. }),
            other,
        ) => {
            tracing::error!(?other, "the store answered with something else than was asked");
            fail(broker, job, &StoreError::Closed);
        }
    }
}

/// Pushes what is still to be pushed; the rest is held.
fn accepted(
    broker: &Broker,
    mut accept: Accept,
    deliveries: &[DeliverySeq],
    next: &mut Vec<Job>,
) -> Answer {
    broker.metrics().messages_routed.inc_by(accept.priority.as_str(), deliveries.len() as u64);
    let mut returned = Vec::new();
    let mut to_wake: Vec<PublicKey> = Vec::new();
    let mesh = Arc::clone(&accept.mesh);
    let more;
    {
        let mut state = mesh.lock();
        let mut homeless: Vec<(usize, DeliverySeq)> = Vec::new();
        for (place, (plan, seq)) in accept.plans.iter_mut().zip(deliveries).enumerate() {
            let was_acked = state.uncommitted.remove(seq) == Some(true);
            // The session ended between decision and commit, or the member took another key, after the rows were moved:
            // this one follows them.
            let is_homeless = match plan.kind {
                RecipientKind::Session => state.session(plan.key).is_none(),
                RecipientKind::Member => state.member_by_former_key(plan.key).is_some(),
                RecipientKind::Service => false,
            };
            if is_homeless {
                if !was_acked {
                    homeless.push((place, *seq));
                }
                plan.push = Pushed::Done;
                continue;
            }
            if plan.route == Route::Held {
                state.queue(plan.key).committed(accept.priority);
                to_wake.push(plan.key);
            } else if state.owes_copies(plan.key) {
                to_wake.push(plan.key);
            }
        }
        let given = |_: &Plan, place: usize| deliveries.get(place).copied();
        push_direct(broker, &mut state, &mut accept, given, Moment::Committed);
        for (plan, seq) in accept.plans.iter().zip(deliveries) {
            if plan.push == Pushed::Refused {
                let (seq, recipient_key) = (*seq, plan.key);
                returned.push(ReleasedRow { seq, recipient_key, was_written: false });
            }
        }
        more = deferred(broker, &state, &accept);
        for (place, seq) in homeless {
            let plan = accept.plans.get(place);
            let member_key = plan.and_then(|plan| state.member(&plan.member_id)?.member.pubkey);
            if let Some((plan, member_key)) = plan.zip(member_key) {
                let reroute = Reroute {
                    mesh_id: mesh.id.clone(),
                    session_key: plan.key,
                    member_key,
                    member_id: plan.member_id.clone(),
                    at: broker.now(),
                };
                state.queue(member_key).moving();
                let claimed = vec![(seq, accept.priority)];
                next.push(Job::Reroute { mesh: Arc::clone(&mesh), reroute, claimed });
            }
        }
    }
    if !returned.is_empty() {
        next.push(Job::Release { mesh: Arc::clone(&mesh), rows: returned });
    }
    for key in to_wake {
        drain::wake_key(broker, &mesh, key);
    }
    Answer { connection: accept.connection, ack: *accept.ack, more }
}

/// Says which recipients the broker's own status gate keeps waiting.
fn deferred(broker: &Broker, state: &MeshState, accept: &Accept) -> Vec<Utf8Bytes> {
    let client_id = accept.message.client_message.as_ref().map(|client| client.id.as_ref());
    let held = accept.plans.iter().filter(|plan| plan.route == Route::Held);
    let waiting = held.map(|plan| (plan.key, accept.priority));
    let sender = accept.sender.presence.as_ref();
    receipt::deferred(broker, state, sender, (&accept.message.message_id, client_id), waiting)
}

/// Undoes what was counted for a message that is not stored, and answers for it.
fn repeated(
    broker: &Broker,
    accept: Accept,
    first: &Dedupe,
    answer: impl FnOnce(Ack, &Dedupe) -> Ack,
) -> Answer {
    withdraw(broker, &accept);
    Answer { ack: answer(*accept.ack, first), connection: accept.connection, more: Vec::new() }
}

/// Forgets a message that is not stored. What was pushed of it stays with its receivers, who know the repeat.
fn withdraw(broker: &Broker, accept: &Accept) {
    let mut to_wake = Vec::new();
    {
        let mut state = accept.mesh.lock();
        for plan in &accept.plans {
            let mut was_acked = false;
            if let Some(seq) = plan.seq {
                was_acked = state.uncommitted.remove(&seq) == Some(true);
                state.take_in_flight(seq);
                if was_acked {
                    state.never_stored.insert(seq);
                }
            }
            if !was_acked {
                state.sub_open(&plan.member_id, 1);
            }
            match (plan.route, plan.push) {
                (Route::Held, _) => state.queue(plan.key).cancelled(accept.priority),
                (Route::Direct, Pushed::Refused) => {
                    state.queue(plan.key).released();
                    to_wake.push(plan.key);
                }
                // Whoever is owed copies has waited to know what became of it.
                (Route::Direct, _) if state.owes_copies(plan.key) => to_wake.push(plan.key),
                (Route::Direct, _) => {}
            }
            state.tidy_queue(plan.key);
        }
        messaging::give_back(broker, &mut state, &accept.sender_member);
    }
    for key in to_wake {
        drain::wake_key(broker, &accept.mesh, key);
    }
}

fn released(broker: &Broker, mesh: &Arc<Mesh>, rows: &[ReleasedRow]) {
    let mut keys: Vec<PublicKey> = Vec::new();
    {
        let mut state = mesh.lock();
        for row in rows {
            state.queue(row.recipient_key).released();
            if !keys.contains(&row.recipient_key) {
                keys.push(row.recipient_key);
            }
        }
    }
    receipt::released(broker, mesh, rows);
    for key in keys {
        drain::wake_key(broker, mesh, key);
    }
}

/// Rows that were counted out when their acknowledgement came and that it did not end in the store: they are open still,
/// or something else has ended them and counts them out itself.
fn count_again(mesh: &Mesh, rows: Vec<(DeliverySeq, MemberId)>, ended: &[DeliverySeq]) {
    let mut left = rows.into_iter().filter(|(seq, _)| !ended.contains(seq)).peekable();
    if left.peek().is_none() {
        return;
    }
    let mut state = mesh.lock();
    for (seq, member) in left {
        if !state.never_stored.remove(&seq) {
            state.add_open(&member, 1);
        }
    }
}

pub(super) fn fail(broker: &Broker, job: Job, error: &StoreError) {
    match job {
        Job::Accept(accept) => {
            let code =
                if error.is_transient() { ErrorCode::Unavailable } else { ErrorCode::Internal };
            withdraw(broker, &accept);
            broker.metrics().messages_rejected.inc(code.as_str());
            let text = "the message could not be stored; try again";
            accept.connection.say(&messaging::failed_ack(*accept.ack, code, text).into());
        }
        // A claim takes rows whose lease ran out, so nothing is lost; only the queue must go on.
        Job::Release { mesh, rows } => {
            let mut state = mesh.lock();
            for row in rows {
                state.queue(row.recipient_key).released();
            }
        }
        // Claims run out and the rows come again, receivers know doubles.
        Job::Ack { mesh, rows, .. } => count_again(&mesh, rows, &[]),
        // The next start moves what was to be moved; what was sent since must not wait for that.
        Job::Reroute { mesh, reroute, .. } => {
            mesh.lock().queue(reroute.member_key).released();
            drain::wake_key(broker, &mesh, reroute.member_key);
        }
        Job::AckById { .. } | Job::DropFrom { .. } | Job::Barrier(_) => {}
        // Best effort: the state is said again, or stays where it was.
        Job::Receipt(_) => broker.metrics().receipts_dropped.inc("unavailable"),
    }
}
