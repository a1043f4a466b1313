//! The writer while the store is away: acknowledgements, releases and moves wait, everything else is refused at once. What
//! became of the writes that were under way when it went is not known; so before the next one, every claim that nobody
//! in memory has is given back, and a younger message cannot pass an older one that was forgotten.

use claudemesh_store::{DeliverySeq, StoreError};

use super::writer::fail;
use super::{Job, due};
use crate::state::Broker;

/// Gives back the claims that nobody in memory has, and looks for rows nobody waits for. No other write of this process
/// is under way: acceptances run in this task, and a drain that claims at this moment pushes what it got all the same,
/// so that its receiver sees a repeat it knows. `waiting` is what is written next.
pub(super) async fn recover(broker: &Broker, waiting: &[Job]) -> Result<(), StoreError> {
    let mut known: Vec<DeliverySeq> = Vec::new();
    for mesh in broker.live().all() {
        known.extend(mesh.lock().in_flight.keys());
    }
    for job in waiting {
        if let Job::Ack { rows, .. } = job {
            known.extend(rows.iter().map(|(seq, _)| *seq));
        }
    }
    let recipients = broker.store().release_unknown_claims(known).await?;
    let held = broker.store().recipients_with_held_rows().await?;
    tracing::info!(claims = recipients.len(), held = held.len(), "the store is back");
    due::remember(broker, held);
    Ok(())
}

/// Refuses what cannot wait for the store; answers what can.
pub(super) fn refuse(broker: &Broker, jobs: Vec<Job>, error: &StoreError) -> Vec<Job> {
    let mut kept = Vec::new();
    for job in jobs {
        match job {
            Job::Accept(_) | Job::Receipt(_) | Job::Barrier(_) => fail(broker, job, error),
            Job::Ack { .. }
            | Job::AckById { .. }
            | Job::Release { .. }
            | Job::Reroute { .. }
            | Job::DropFrom { .. } => kept.push(job),
        }
    }
    kept
}
