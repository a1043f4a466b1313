//! After a change of membership: tells a running daemon, and waits until it shows (CLI spec §2.4).

use std::time::Duration;

use claudemesh_ipc::Client;
use claudemesh_ipc::api::MeshStatus;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits;
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::failure::Outcome;

/// Step between two looks.
const STEP: Duration = Duration::from_millis(20);
/// A daemon younger than this may have connected between a failure and the look at it, in seconds.
const JUST_STARTED_S: u64 = 5;

impl Context {
    /// A mesh was added: a running daemon shall list it. Best effort; the daemon also watches the file.
    pub(crate) async fn attached(&self, slug: &str) {
        self.reload_until(|brokers| brokers.contains_key(slug)).await;
    }

    /// A mesh was removed: a running daemon shall not list it any more.
    pub(crate) async fn detached(&self, slug: &str) {
        self.reload_until(|brokers| !brokers.contains_key(slug)).await;
    }

    async fn reload_until(
        &self,
        is_done: impl Fn(&std::collections::BTreeMap<String, MeshStatus>) -> bool,
    ) {
        let Some(client) = self.running_daemon().await else { return };
        // A daemon too old or too busy to reload finds the change by watching the file.
        let _ = client.reload().await;
        let deadline = Instant::now() + limits::CLI_ATTACH_WAIT;
        let waiting = async {
            while Instant::now() < deadline {
                if client.health().await.is_ok_and(|health| is_done(&health.brokers)) {
                    return;
                }
                sleep(STEP).await;
            }
        };
        self.out.during("telling the daemon", waiting).await;
    }
}

/// How long a verb waits for a daemon that has only just started to connect.
const SETTLE_BUDGET: Duration = Duration::from_secs(2);

/// Does `work`; when it fails for want of a connection or a roster while the daemon is still on its first connection,
/// waits for that and does it once more. On the usual way it costs nothing.
pub(crate) async fn settled<T>(client: &Client, work: impl AsyncFn() -> Outcome<T>) -> Outcome<T> {
    match work().await {
        Err(failure)
            if matches!(failure.code.as_str(), "broker_unavailable" | "target_not_found") =>
        {
            if wait_until_settled(client).await {
                work().await
            } else {
                Err(failure)
            }
        }
        result => result,
    }
}

/// True when a mesh was connecting and is not any more.
async fn wait_until_settled(client: &Client) -> bool {
    let deadline = Instant::now() + SETTLE_BUDGET;
    let mut waited = false;
    while Instant::now() < deadline {
        let health = match client.health().await {
            Ok(health) => health,
            // Others ask, too.
            Err(error) if error.is(ErrorCode::DaemonBusy) => {
                sleep(STEP).await;
                continue;
            }
            Err(_) => return false,
        };
        if !health.brokers.values().any(|status| *status == MeshStatus::Connecting) {
            // The roster follows a moment after the connection: whoever was just started is asked again anyway.
            return waited || health.uptime_s < JUST_STARTED_S;
        }
        waited = true;
        sleep(STEP).await;
    }
    waited
}

/// Waits until a mesh has its connection; the last status seen otherwise.
pub(crate) async fn wait_until_open(
    client: &Client,
    slug: &str,
    limit: Duration,
) -> Result<(), Option<MeshStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        let status =
            client.health().await.ok().and_then(|health| health.brokers.get(slug).copied());
        match status {
            Some(MeshStatus::Open) => return Ok(()),
            status if Instant::now() >= deadline => return Err(status),
            _ => sleep(STEP).await,
        }
    }
}
