//! The one connection of a mesh that the daemon has for itself, keyed by the member or, in an ephemeral daemon, by a session
//! (daemon spec §4.1, §7.1): opened, negotiated, watched.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use claudemesh_client::{
    Close, Connection, ConnectionEvent, ConnectionOptions, DisabledReason, Role, Status,
};
use claudemesh_ipc::api::EventKind;
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::limits::ATTESTATION_TTL;
use claudemesh_protocol::wire::HelloAck;
use serde_json::{Map, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::announce::object;
use super::features::{Problem, negotiate};
use super::handle::Via;
use super::receive::Receiver;
use super::session::RENEW_AFTER;
use super::{LegacyBrokers, Mesh};
use crate::identity::BrokerKey;

/// Period of retries at a broker that lacks a required feature (daemon spec §18.3).
const FEATURE_RETRY: Duration = Duration::from_mins(5);
/// Close code for it.
const FEATURE_CLOSE: u16 = 4010;

/// Holds the connection until the mesh stops.
pub(super) async fn run(mesh: Arc<Mesh>) {
    let settings = &mesh.context.settings;
    let (role, hello) = mesh.own_hello();
    let mut options =
        ConnectionOptions::new(&mesh.broker_url, role, settings.plain, hello).mesh(&mesh.slug);
    if let Some(key) = mesh.own_session_key() {
        options = options.session(key.short(12));
    }
    options.timing = settings.timing.clone();
    options.dialer = Arc::clone(&settings.dialer);
    let (connection, events) = Connection::open(options, &mesh.tasks, mesh.stop.child_token());
    let _held = Held::new(&mesh, connection.clone());
    pump(&mesh, connection, events).await;
}

/// Puts the connection where the mesh finds it, and ends it when the task that reads it ends.
struct Held<'a> {
    mesh: &'a Mesh,
    connection: Connection,
}

impl<'a> Held<'a> {
    fn new(mesh: &'a Mesh, connection: Connection) -> Self {
        *mesh.control.lock() = Some(connection.clone());
        Self { mesh, connection }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // While the mesh stops, the connection itself says goodbye and is still asked for its state.
        if !self.mesh.stop.is_cancelled() {
            *self.mesh.control.lock() = None;
        }
        self.connection.close();
    }
}

async fn pump(
    mesh: &Arc<Mesh>,
    connection: Connection,
    mut events: mpsc::Receiver<ConnectionEvent>,
) {
    let mut receiver = Receiver::new(Arc::clone(mesh), connection.clone(), Via::Member);
    let mut was_open_before = false;
    // What vouches for a session ends; a member needs nobody to.
    let mut renew_at = mesh.own_session_key().map(|_| Instant::now() + ATTESTATION_TTL);
    loop {
        let event = tokio::select! {
            biased;
            () = at(renew_at) => {
                renew_at = Some(Instant::now() + ATTESTATION_TTL);
                connection.renew();
                continue;
            }
            event = receiver.next(&mut events) => event,
        };
        let Some(event) = event else { return };
        match event {
            ConnectionEvent::Opened(ack) => {
                receiver.opened().await;
                opened(mesh, &connection, &ack, was_open_before);
                was_open_before = true;
                renew_at = renew_at.map(|_| Instant::now() + RENEW_AFTER);
            }
            ConnectionEvent::Closed { close, was_open, status, .. } => {
                closed(mesh, &close, was_open, status);
            }
            ConnectionEvent::Receipt(receipt) => mesh.hear(*receipt),
            ConnectionEvent::StateChange(change) => mesh.take_state_change(&change),
            ConnectionEvent::Push(push) => receiver.receive(*push).await,
            ConnectionEvent::UnreadablePush(ack) => receiver.unreadable(ack).await,
        }
    }
}

/// Returns at that time; never, without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn opened(mesh: &Arc<Mesh>, connection: &Connection, ack: &HelloAck, was_open_before: bool) {
    let settings = &mesh.context.settings;
    let negotiated = match negotiate(ack, settings.max_age, &settings.features) {
        Ok(negotiated) if negotiated.is_legacy && settings.legacy == LegacyBrokers::Refused => {
            return refuse(
                mesh,
                connection,
                &Problem {
                    kind: DisabledReason::FeatureMissing,
                    feature: "client_message_id_dedupe".to_owned(),
                    detail: "the broker states no features and features.strict is on".to_owned(),
                },
            );
        }
        Ok(negotiated) => negotiated,
        Err(problem) => return refuse(mesh, connection, &problem),
    };
    tracing::info!(
        mesh = %mesh.slug, is_legacy = negotiated.is_legacy, broker_version = negotiated.broker_version,
        "features_negotiated"
    );
    *mesh.negotiated.lock() = Arc::new(negotiated);
    if let Some(key) = ack.broker_pubkey {
        see_broker_key(mesh, key);
    }
    mesh.announce(EventKind::BrokerStatus, object(json!({"status": Status::Open.as_str()})));
    if was_open_before {
        mesh.announce(EventKind::DaemonReconnect, Map::new());
    }
    mesh.is_revoked.store(false, Ordering::Relaxed);
    mesh.retry_sessions();
    mesh.hurry(None);
    mesh.refresh.soon();
    mesh.wake.notify_one();
}

/// A broker that signs with another key than before is told about and used; what only the owner can know is which of the
/// two is the operator's (daemon spec §17.4).
fn see_broker_key(mesh: &Mesh, key: PublicKey) {
    match mesh.state.see_broker(key) {
        BrokerKey::First => mesh.save_state(),
        BrokerKey::Same => {}
        BrokerKey::Changed { pinned } => {
            let (pinned, named) = (pinned.short(16), key.short(16));
            tracing::warn!(mesh = %mesh.slug, pinned, named, "broker_key_changed");
        }
    }
}

fn refuse(mesh: &Mesh, connection: &Connection, problem: &Problem) {
    tracing::warn!(
        mesh = %mesh.slug, kind = problem.kind.as_str(), feature = %problem.feature, detail = %problem.detail,
        "feature_negotiation_failed"
    );
    let data = object(
        json!({"kind": problem.kind.as_str(), "feature": problem.feature, "detail": problem.detail}),
    );
    mesh.announce(EventKind::Other("feature_negotiation_failed".to_owned()), data);
    connection.refuse(FEATURE_CLOSE, &problem.reason(), problem.kind, FEATURE_RETRY);
}

fn closed(mesh: &Mesh, close: &Close, was_open: bool, status: Status) {
    let mut data =
        object(json!({"status": status.as_str(), "code": close.code, "reason": close.reason}));
    if let Status::Disabled(reason) = status {
        data.insert("disabled_reason".to_owned(), reason.as_str().into());
        let host_fingerprint = mesh.context.settings.host_fingerprint.as_deref();
        tracing::warn!(
            mesh = %mesh.slug, reason = reason.as_str(), code = close.code, host_fingerprint, "mesh_disabled"
        );
        if matches!(reason, DisabledReason::Replaced | DisabledReason::MemberAlreadyConnected) {
            mesh.context.figures.clone_suspected();
        }
    }
    mesh.announce(EventKind::BrokerStatus, data);
    if was_open {
        let role = mesh.own_session_key().map_or(Role::ControlPlane, |_| Role::Session);
        mesh.context.figures.connection_lost(&mesh.slug, role, close);
        mesh.announce(
            EventKind::DaemonDisconnect,
            object(json!({"code": close.code, "reason": close.reason})),
        );
    }
    if status == Status::Disabled(DisabledReason::Unauthorized) {
        mesh.context.identity.key_refused();
    }
    let is_revoked = status == Status::Disabled(DisabledReason::Revoked);
    if is_revoked && !mesh.is_revoked.swap(true, Ordering::Relaxed) {
        let data = object(json!({"reason": close.reason}));
        mesh.announce(EventKind::Other("revocation".to_owned()), data);
    }
}
