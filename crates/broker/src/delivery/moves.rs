//! Rows that move to another queue: those of an ended session to its member's (broker spec §3.3).

use std::sync::Arc;

use claudemesh_store::{ReleasedRow, Reroute, Rerouted};

use super::{Job, drain};
use crate::live::Mesh;
use crate::ops::receipt;
use crate::state::Broker;

/// Lets the rows of sessions that are back stay with them: a move would take what they were pushed since along.
pub(super) fn keep_with_returned(broker: &Broker, jobs: &mut [Job]) {
    for job in jobs {
        let Job::Reroute { mesh, reroute, claimed } = job else { continue };
        let mesh = Arc::clone(mesh);
        let (key, member_key) = (reroute.session_key, reroute.member_key);
        {
            let mut state = mesh.lock();
            if state.session(key).is_none() {
                continue;
            }
            state.queue(member_key).released();
            for (_, priority) in &*claimed {
                state.queue(key).releasing(*priority);
            }
        }
        for waiting in [key, member_key] {
            drain::wake_key(broker, &mesh, waiting);
        }
        let given_back = |(seq, _)| ReleasedRow { seq, recipient_key: key, was_written: false };
        let rows = std::mem::take(claimed).into_iter().map(given_back).collect();
        *job = Job::Release { mesh, rows };
    }
}

/// The rows of a key stand in its member's queue now.
pub(super) fn moved(broker: &Broker, mesh: &Arc<Mesh>, reroute: &Reroute, moved: &Rerouted) {
    {
        let mut state = mesh.lock();
        state.sub_open(&reroute.member_id, moved.merged);
        if state.session(reroute.session_key).is_none() {
            state.queues.remove(&reroute.session_key);
        }
        let queue = state.queue(reroute.member_key);
        queue.released();
        if moved.moved > 0 {
            queue.arrived_unknown(moved.moved);
        }
        let news = receipt::News::Rerouted { to: reroute.member_key };
        receipt::tell(broker, &state, &moved.told, news);
    }
    drain::wake_key(broker, mesh, reroute.member_key);
}
