//! The one member-keyed connection of a mesh (daemon spec §7.1): opened, negotiated, watched.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use claudemesh_client::hello::{PresenceInfo, daemon_capabilities};
use claudemesh_client::{
    Close, Connection, ConnectionEvent, ConnectionOptions, DisabledReason, MemberHello, Role,
    Status,
};
use claudemesh_ipc::api::EventKind;
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::wire::HelloAck;
use claudemesh_protocol::wire::hello::channel;
use serde_json::{Map, json};
use tokio::sync::mpsc;

use super::announce::object;
use super::features::{Problem, negotiate};
use super::handle::Via;
use super::receive::Receiver;
use super::{LegacyBrokers, Mesh};
use crate::identity::BrokerKey;

/// Period of retries at a broker that lacks a required feature (daemon spec §18.3).
const FEATURE_RETRY: Duration = Duration::from_mins(5);
/// Close code for it.
const FEATURE_CLOSE: u16 = 4010;

/// Holds the connection until the mesh stops.
pub(super) async fn run(mesh: Arc<Mesh>) {
    let settings = &mesh.context.settings;
    let hello = MemberHello {
        mesh_id: mesh.id.clone(),
        member_id: mesh.member.member_id.clone(),
        key: Arc::clone(&mesh.member.keys),
        info: PresenceInfo {
            session_id: format!("daemon-{}", settings.pid),
            pid: settings.pid,
            cwd: settings.cwd.clone(),
            hostname: settings.hostname.clone(),
            ..PresenceInfo::default()
        },
        capabilities: daemon_capabilities(),
        channel: channel::DAEMON,
        host_fingerprint: settings.host_fingerprint.clone(),
        clock: Arc::clone(&mesh.hello_clock),
    };
    let mut options = ConnectionOptions::new(
        &mesh.broker_url,
        Role::ControlPlane,
        settings.plain,
        Arc::new(hello),
    )
    .mesh(&mesh.slug);
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
    while let Some(event) = receiver.next(&mut events).await {
        match event {
            ConnectionEvent::Opened(ack) => {
                receiver.opened().await;
                opened(mesh, &connection, &ack, was_open_before);
                was_open_before = true;
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
        mesh.context.figures.connection_lost(&mesh.slug, Role::ControlPlane, close);
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
