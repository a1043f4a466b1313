//! What a running daemon does about changed settings (daemon spec §3, column "Live"). Parts that ask
//! [`SharedSettings`](crate::context::SharedSettings) each time need nothing here.

use std::time::Duration;

use claudemesh_client::{Backoff, Timing};

use crate::context::Context;
use crate::mesh::Meshes;
use crate::sessions::SessionLimits;
use crate::settings::Settings;

/// Hands the settings to the parts that keep a copy of theirs.
pub(crate) fn apply(settings: &Settings, context: &Context, meshes: &Meshes) {
    context.sessions.set_limits(SessionLimits {
        max: settings.sessions.max,
        unverified_ttl: settings.sessions.unverified_ttl,
    });
    context.inbox.set_digest_after(settings.inbox.digest_after);
    meshes.set_timing(timing(settings));
}

/// The time limits of broker connections.
pub(crate) fn timing(settings: &Settings) -> Timing {
    let (reconnect, watchdog) = (&settings.reconnect, &settings.watchdog);
    let schedule = reconnect.schedule_ms.iter().copied().map(Duration::from_millis).collect();
    Timing {
        ping_interval: watchdog.ping_interval,
        silence_limit: watchdog.stale_after,
        stable_after: reconnect.stable_after,
        backoff: Backoff::new(schedule, reconnect.min_wait),
        ..Timing::default()
    }
}
