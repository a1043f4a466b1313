//! Acknowledgements wait a moment for others to share a commit with.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Job;
use super::writer::BATCH_JOBS;
use crate::state::Broker;

/// How long acknowledgements wait for others to share a commit with. Nobody waits for them: memory knows them already, and
/// what a crash undoes is handed out once more to a receiver that knows it. Each commit of a few costs more than they do.
const ACKS_GATHER: Duration = Duration::from_millis(5);

/// Lets a batch of nothing but acknowledgements grow for a moment; anything else, a stop included, ends that at once.
pub(super) async fn gather(
    broker: &Broker,
    receiver: &mut mpsc::Receiver<Job>,
    batch: &mut Vec<Job>,
) {
    let is_ack = |job: &Job| matches!(job, Job::Ack { .. } | Job::AckById { .. });
    let deadline = tokio::time::sleep(ACKS_GATHER);
    tokio::pin!(deadline);
    let mut seen = 0;
    while batch.len() < BATCH_JOBS && batch.iter().skip(seen).all(is_ack) {
        seen = batch.len();
        let room = BATCH_JOBS - seen;
        tokio::select! {
            biased;
            () = broker.stopping().cancelled() => return,
            count = receiver.recv_many(batch, room) => if count == 0 { return },
            () = &mut deadline => return,
        }
    }
}
