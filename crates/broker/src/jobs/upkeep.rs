//! The jobs themselves (broker spec §3.5). A full step of the store means there is more: it is asked again.

use std::time::Duration;

use claudemesh_protocol::limits::SESSION_KEY_MEMORY;
use claudemesh_store::{CLEANUP_STEP, CleanupAges, PurgeBefore, StoreError};

use crate::edge::health::is_store_up;
use crate::state::Broker;

/// One day.
const DAY: Duration = Duration::from_hours(24);
/// Age at which messages whose deliveries are all final go (broker spec §3.5).
const SETTLED_AGE: Duration = DAY;
/// Ended presences and the saved states of sessions stay this many days (broker spec §1.2).
const PRESENCE_DAYS: u32 = 30;

/// Reads what can be counted but not followed.
pub(super) async fn gauges(broker: Broker) -> Result<(), StoreError> {
    is_store_up(&broker).await;
    crate::live::count_presences(&broker);
    let total = broker.store().backlog_total().await?;
    let depth = total.held.saturating_add(total.claimed);
    broker.metrics().queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    if let Ok(file) = std::fs::metadata(broker.settings().database_path()) {
        let bytes = i64::try_from(file.len()).unwrap_or(i64::MAX);
        broker.metrics().store_bytes.get_or_create(&[("kind", "database")]).set(bytes);
    }
    Ok(())
}

/// Gives back the invite uses of old clients that never said hello.
pub(super) async fn unbound_members(broker: Broker) -> Result<(), StoreError> {
    let purged = broker.store().purge_unbound_members(broker.now()).await?;
    if purged > 0 {
        tracing::info!(purged, "unbound members removed, their invite uses given back");
    }
    Ok(())
}

/// Frees what quiet addresses and old signatures occupy in memory.
pub(super) fn quiet_addresses(broker: &Broker) {
    broker.edge_limits().forget_quiet_addresses();
    broker.hook_reports().forget_quiet();
    broker.signed_replay().forget_old(broker.now());
}

/// Removes ended presences and old session keys.
pub(super) async fn purge(broker: Broker) -> Result<(), StoreError> {
    let now = broker.now();
    let before = PurgeBefore {
        presences: now.minus(DAY * PRESENCE_DAYS),
        session_keys: now.minus(SESSION_KEY_MEMORY),
        peer_states: now.minus(DAY * PRESENCE_DAYS),
    };
    broker.store().purge(before).await.map(drop)
}

/// Removes messages that are done or too old.
pub(super) async fn cleanup(broker: Broker) -> Result<(), StoreError> {
    let now = broker.now();
    let ages = CleanupAges {
        settled_before: now.minus(SETTLED_AGE),
        any_before: now.minus(DAY * broker.limits().message_retention_days),
        expired_before: now,
    };
    let step = u64::try_from(CLEANUP_STEP).unwrap_or(u64::MAX);
    while broker.store().cleanup_messages(ages).await? >= step {}
    Ok(())
}

/// Forgets client message ids past their end and reports those whose message is missing.
pub(super) async fn dedupe(broker: Broker) -> Result<(), StoreError> {
    let expired = broker.store().purge_dedupe(broker.now()).await?;
    broker.metrics().dedupe_expired.inc_by(expired);
    let orphans = broker.store().orphaned_dedupe_rows().await?;
    broker.metrics().dedupe_orphans.set(i64::try_from(orphans).unwrap_or(i64::MAX));
    if orphans > 0 {
        tracing::warn!(orphans, "remembered messages are missing from the store");
    }
    Ok(())
}
