//! The one task that commits: it takes what has queued up, commits once, pushes what was accepted in order, and only
//! then answers the senders. An acknowledgement never goes out before its commit.

use std::sync::Arc;

use claudemesh_core::queue::Route;
use claudemesh_protocol::wire::{Ack, ServerFrame};
use claudemesh_protocol::{ErrorCode, PublicKey, Timestamp};
use claudemesh_sqlite::crash_point;
use claudemesh_store::{
    Dedupe, DeliveryOutcome, DeliverySeq, DeliveryWrite, RecipientKind, Reroute, StoreError,
};
use tokio::sync::mpsc;

use super::router::{Row, push_row};
use super::{Accept, Job, Plan, Returned, drain};
use crate::live::{Connection, Mesh};
use crate::ops::messaging;
use crate::state::Broker;

/// Jobs of one commit; enough that a commit's fsync is shared widely, few enough that nobody waits long behind it.
const BATCH_JOBS: usize = 512;

/// An answer that waits until the whole batch is pushed.
struct Answer {
    connection: Arc<Connection>,
    ack: Ack,
}

pub(super) async fn run(broker: Broker, mut receiver: mpsc::Receiver<Job>) {
    let mut batch: Vec<Job> = Vec::new();
    let mut is_stopping = false;
    loop {
        // `batch` holds what the last commit left to be written: releases, mostly.
        if batch.is_empty() {
            let count = tokio::select! {
                biased;
                () = broker.stopping().cancelled(), if !is_stopping => None,
                count = receiver.recv_many(&mut batch, BATCH_JOBS) => Some(count),
            };
            match count {
                None => {
                    is_stopping = true;
                    receiver.close();
                    continue;
                }
                Some(0) => break,
                Some(_) => {}
            }
        } else {
            while batch.len() < BATCH_JOBS
                && let Ok(job) = receiver.try_recv()
            {
                batch.push(job);
            }
        }
        batch = commit(&broker, std::mem::take(&mut batch)).await;
    }
}

/// Commits a batch; answers what is to be written next because of it.
async fn commit(broker: &Broker, mut jobs: Vec<Job>) -> Vec<Job> {
    if jobs.iter().any(|job| matches!(job, Job::Accept(_))) {
        crash_point("broker.accept.before_commit");
    }
    if jobs.iter().any(|job| matches!(job, Job::Ack { .. } | Job::AckById { .. })) {
        crash_point("broker.client_ack.before_commit");
    }
    let writes: Vec<DeliveryWrite> = jobs.iter().map(write_of).collect();
    match broker.store().commit(writes).await {
        Ok(outcomes) => {
            crash_point("broker.after_commit_before_push");
            let mut next = Vec::new();
            let mut answers = Vec::new();
            for (job, outcome) in jobs.into_iter().zip(outcomes) {
                finish(broker, job, outcome, &mut next, &mut answers);
            }
            crash_point("broker.after_push_before_ack");
            for Answer { connection, ack } in answers {
                connection.say(&ServerFrame::from(ack));
            }
            next
        }
        // One entry the store cannot take must not refuse the others.
        Err(error) if jobs.len() > 1 && !is_about_all(&error) => {
            tracing::warn!(%error, jobs = jobs.len(), "a batch was refused; its entries are tried one by one");
            let mut next = Vec::new();
            for job in jobs {
                next.extend(Box::pin(commit(broker, vec![job])).await);
            }
            next
        }
        Err(error) => {
            tracing::warn!(%error, jobs = jobs.len(), "cannot commit");
            for job in jobs.drain(..) {
                fail(broker, job, &error);
            }
            Vec::new()
        }
    }
}

/// True when no entry of the batch can be written now.
const fn is_about_all(error: &StoreError) -> bool {
    error.is_transient() || matches!(error, StoreError::Closed)
}

fn write_of(job: &Job) -> DeliveryWrite {
    match job {
        Job::Accept(accept) => DeliveryWrite::Accept(accept.message.clone()),
        Job::Ack { deliveries, at } => {
            DeliveryWrite::Ack { deliveries: deliveries.clone(), at: *at }
        }
        Job::AckById { ack, .. } => DeliveryWrite::AckById(ack.clone()),
        Job::Release { rows, .. } => {
            DeliveryWrite::Release { deliveries: rows.iter().map(|row| row.seq).collect() }
        }
        Job::Reroute { reroute, .. } => DeliveryWrite::Reroute(reroute.clone()),
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
        (Job::Ack { deliveries, .. }, _) => {
            broker.metrics().delivery_acks.inc_by(deliveries.len() as u64);
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
        (Job::Reroute { mesh, reroute }, DeliveryOutcome::Rerouted(moved)) => {
            {
                let mut state = mesh.lock();
                state.sub_open(&reroute.member_id, moved.merged);
                state.queues.remove(&reroute.session_key);
                if moved.moved > 0 {
                    state.queue(reroute.member_key).arrived_unknown(moved.moved);
                }
            }
            drain::wake_key(broker, &mesh, reroute.member_key);
        }
        (Job::AckById { .. } | Job::Reroute { .. }, other) => {
            tracing::error!(?other, "the store answered with something else than was asked");
        }
    }
}

/// Pushes what was decided to be pushed; the rest is held.
fn accepted(
    broker: &Broker,
    mut accept: Accept,
    deliveries: &[DeliverySeq],
    next: &mut Vec<Job>,
) -> Answer {
    broker.metrics().messages_routed.inc_by(accept.priority.as_str(), deliveries.len() as u64);
    let mut returned = Vec::new();
    let mut to_wake: Vec<PublicKey> = Vec::new();
    let mut homeless: Vec<&Plan> = Vec::new();
    let mesh = Arc::clone(&accept.mesh);
    {
        let mut state = mesh.lock();
        for (plan, seq) in accept.plans.iter().zip(deliveries) {
            // The session ended between decision and commit, after its rows were moved: this one follows them.
            if plan.kind == RecipientKind::Session && state.session(plan.key).is_none() {
                homeless.push(plan);
                continue;
            }
            if plan.route == Route::Held {
                state.queue(plan.key).committed(accept.priority);
                to_wake.push(plan.key);
                continue;
            }
            let must_wait =
                state.queues.get(&plan.key).is_some_and(|queue| queue.must_wait(accept.priority));
            accept.push.wrapped_key.clone_from(&plan.wrapped_key);
            let row = Row {
                seq: *seq,
                key: plan.key,
                member_id: &plan.member_id,
                priority: accept.priority,
                until: accept.claimed_until,
            };
            if must_wait || !push_row(&mut state, &row, &mut accept.push, &accept.sender) {
                state.queue(plan.key).releasing(accept.priority);
                returned.push(Returned { seq: *seq, key: plan.key });
            }
        }
        for plan in homeless {
            if let Some(member_key) =
                state.member(&plan.member_id).and_then(|entry| entry.member.pubkey)
            {
                let reroute = Reroute {
                    mesh_id: mesh.id.clone(),
                    session_key: plan.key,
                    member_key,
                    member_id: plan.member_id.clone(),
                };
                next.push(Job::Reroute { mesh: Arc::clone(&mesh), reroute });
            }
        }
    }
    if !returned.is_empty() {
        next.push(Job::Release { mesh: Arc::clone(&mesh), rows: returned });
    }
    for key in to_wake {
        drain::wake_key(broker, &mesh, key);
    }
    broker.metrics().delivery_latency.observe(latency_seconds(accept.accepted_at, broker.now()));
    Answer { connection: accept.connection, ack: *accept.ack }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a latency are far below 2^52")]
fn latency_seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.since(from).as_millis() as f64 / 1_000.0
}

/// Undoes what was counted for a message that is not stored, and answers for it.
fn repeated(
    broker: &Broker,
    accept: Accept,
    first: &Dedupe,
    answer: impl FnOnce(Ack, &Dedupe) -> Ack,
) -> Answer {
    withdraw(broker, &accept);
    Answer { ack: answer(*accept.ack, first), connection: accept.connection }
}

fn withdraw(broker: &Broker, accept: &Accept) {
    let mut state = accept.mesh.lock();
    for plan in &accept.plans {
        state.sub_open(&plan.member_id, 1);
        if plan.route == Route::Held {
            state.queue(plan.key).cancelled(accept.priority);
        }
        state.tidy_queue(plan.key);
    }
    messaging::give_back(broker, &mut state, &accept.sender_member);
}

fn released(broker: &Broker, mesh: &Arc<Mesh>, rows: &[Returned]) {
    let mut keys: Vec<PublicKey> = Vec::new();
    {
        let mut state = mesh.lock();
        for row in rows {
            state.queue(row.key).released();
            if !keys.contains(&row.key) {
                keys.push(row.key);
            }
        }
    }
    for key in keys {
        drain::wake_key(broker, mesh, key);
    }
}

fn fail(broker: &Broker, job: Job, error: &StoreError) {
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
                state.queue(row.key).released();
            }
        }
        // Claims run out and the rows come again, receivers know doubles; the next start moves what was to be moved.
        Job::Ack { .. } | Job::AckById { .. } | Job::Reroute { .. } => {}
    }
}
