//! The local API: HTTP/1.1 over the Unix socket (daemon spec §9). Translates, authenticates and bounds; what it says is
//! done by outbox, inbox, sessions and meshes.

mod admin;
mod caller;
mod events;
mod failure;
mod gate;
mod inbox;
pub(crate) mod input;
mod ops;
mod outbox;
mod peers;
mod place;
mod profile;
pub(crate) mod send;
mod server;
mod sessions;
mod slots;
mod state;
mod system;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};

use crate::daemon::Daemon;
use crate::mesh::MeshHandle;
use slots::Slots;

pub(crate) use caller::Caller;
pub(crate) use failure::Failure;
pub(crate) use server::{Door, serve};

/// What the handlers share.
pub(crate) struct Api {
    daemon: Daemon,
    in_flight: Slots,
    reserved: Slots,
    streams: Slots,
    rate: gate::Rate,
    /// One change of grants at a time: an entry is read, changed and written back.
    grants: tokio::sync::Mutex<()>,
}

/// Requests in flight that health, version and session status have for themselves (daemon spec §9.5).
const RESERVED_IN_FLIGHT: usize = 8;

impl Api {
    pub(crate) fn new(daemon: Daemon) -> Self {
        let ipc = &daemon.context().settings.get().ipc;
        Self {
            in_flight: Slots::default(),
            reserved: Slots::default(),
            streams: Slots::default(),
            rate: gate::Rate::new(ipc.rate_per_sec, ipc.rate_burst),
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

fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/version", get(system::version))
        .route("/v1/health", get(system::health))
        .route("/v1/events", get(events::stream))
        .route("/v1/sessions/register", post(sessions::register))
        .route("/v1/sessions/me", get(sessions::me).delete(sessions::deregister))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/status", post(sessions::status))
        .route("/v1/sessions/{token}", delete(sessions::deregister_token))
        .route("/v1/heartbeat", post(sessions::heartbeat))
        .route("/v1/send", post(send::send))
        .route("/v1/inbox", get(inbox::list).delete(inbox::flush))
        .route("/v1/inbox/search", get(inbox::search))
        .route("/v1/inbox/seen", post(inbox::seen))
        .route("/v1/inbox/{id}", delete(inbox::delete_one))
        .route("/v1/outbox", get(outbox::list))
        .route("/v1/outbox/{id}", get(outbox::one))
        .route("/v1/outbox/requeue", post(outbox::requeue))
        .route("/v1/outbox/drop", post(outbox::drop_row))
        .route("/v1/outbox/prune", post(outbox::prune))
        .route("/v1/peers", get(peers::peers))
        .route("/v1/profile", post(profile::profile))
        .route("/v1/state", get(state::read).post(state::write))
        .route("/v1/ops", get(ops::list))
        .route("/v1/ops/{op}", post(ops::run))
        .route("/v1/admin/reload", post(admin::reload))
        .route("/v1/admin/shutdown", post(admin::shutdown))
        .fallback(failure::not_found)
        .method_not_allowed_fallback(failure::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), gate::gate))
        .with_state(api)
}
