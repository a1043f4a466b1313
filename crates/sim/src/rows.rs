//! The broker's delivery rows, looked at from time to time: whatever happened between two looks, a row may only have
//! become what the rules of `core` let it become.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use claudemesh_core::delivery::{DeliveryState, claim_lease};
use claudemesh_protocol::limits::CLAIM_LEASE;
use parking_lot::Mutex;
use sqlx::Row as _;

use crate::verdict::ask;
use crate::world::World;

/// The rows as they were at the last look.
#[derive(Default)]
pub(crate) struct Rows(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    power_failures: u32,
    states: BTreeMap<i64, DeliveryState>,
}

/// Looks at the rows of a broker that runs; one that is down is left alone.
pub(crate) fn watch(world: &World) -> anyhow::Result<()> {
    if !world.broker.is_up() {
        return Ok(());
    }
    look(world, &world.broker.database())
}

/// Looks at the rows in a file.
pub(crate) fn look(world: &World, file: &Path) -> anyhow::Result<()> {
    let mut states = BTreeMap::new();
    for row in ask(file, "SELECT seq, state, attempt, due_at FROM delivery ORDER BY seq")? {
        let state = state_of(row.try_get("state")?)?;
        let (seq, due_at): (i64, i64) = (row.try_get("seq")?, row.try_get("due_at")?);
        states.insert(seq, state);
        let attempt = u32::try_from(row.try_get::<i64, _>("attempt")?)?;
        let lease = i64::try_from(claim_lease(CLAIM_LEASE, attempt).as_millis())?;
        let latest_end = world.broker.clock.latest_ms().saturating_add(lease);
        if state == DeliveryState::Claimed && due_at > latest_end {
            let ms = due_at - latest_end;
            world.ledger.violated(format!(
                "delivery {seq} is claimed {ms} ms too long for attempt {attempt}"
            ));
        }
    }
    let power_failures = world.broker.power_failures();
    let mut seen = world.rows.0.lock();
    let before = std::mem::take(&mut *seen);
    // Claims and acks are not synced one by one: a power failure may undo the newest.
    if before.power_failures == power_failures {
        for (seq, earlier) in before.states {
            if let Some(later) = states.get(&seq)
                && !earlier.may_become(*later)
            {
                world.ledger.violated(format!(
                    "delivery {seq} was {} and is {}",
                    earlier.as_str(),
                    later.as_str()
                ));
            }
        }
    }
    *seen = Seen { power_failures, states };
    Ok(())
}

/// The store numbers the states in the order of the rules.
fn state_of(number: i64) -> anyhow::Result<DeliveryState> {
    let state = usize::try_from(number).ok().and_then(|number| DeliveryState::ALL.get(number));
    state.copied().with_context(|| format!("delivery state {number}"))
}
