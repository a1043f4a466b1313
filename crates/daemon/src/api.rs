//! The local API: HTTP/1.1 over the Unix socket, and over loopback TCP when asked for (daemon spec §9). Translates,
//! authenticates and bounds; what it says is done by outbox, inbox, sessions and meshes.

mod admin;
mod bell;
mod broadcast;
mod caller;
mod events;
mod evidence;
mod failure;
mod gate;
mod inbox;
pub(crate) mod input;
mod metrics;
mod ops;
mod outbox;
mod paging;
mod peers;
mod place;
mod profile;
mod routes;
pub(crate) mod send;
mod server;
mod sessions;
mod slots;
mod state;
mod system;
mod tcp;

use crate::daemon::Daemon;
use crate::mesh::MeshHandle;
use slots::Slots;

pub(crate) use caller::Caller;
pub(crate) use caller::Transport;
pub(crate) use failure::Failure;
pub(crate) use server::{Door, serve};
pub(crate) use tcp::TcpDoor;

/// What the handlers share.
pub(crate) struct Api {
    daemon: Daemon,
    in_flight: Slots,
    reserved: Slots,
    streams: Slots,
    rate: gate::Rate,
    mismatches: gate::Mismatches,
    /// Whether figures are shown; fixed at the start.
    has_metrics: bool,
    /// One change of grants at a time: an entry is read, changed and written back.
    grants: tokio::sync::Mutex<()>,
}

/// Requests in flight that health, version and session status have for themselves (daemon spec §9.5).
const RESERVED_IN_FLIGHT: usize = 8;

impl Api {
    pub(crate) fn new(daemon: Daemon) -> Self {
        let settings = daemon.context().settings.get();
        Self {
            in_flight: Slots::default(),
            reserved: Slots::default(),
            streams: Slots::default(),
            rate: gate::Rate::new(&settings.ipc),
            mismatches: gate::Mismatches::default(),
            has_metrics: settings.metrics.prometheus,
            grants: tokio::sync::Mutex::default(),
            daemon,
        }
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub(crate) fn mesh(&self, slug: &str) -> Option<MeshHandle> {
        self.daemon.meshes().get(slug)
    }
}
