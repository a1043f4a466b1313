//! `GET /v1/version` and `GET /v1/health` (daemon spec §9.6, §9.7).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use claudemesh_ipc::api::system::{BrokerVersion, Compat, CompatibleSdks, SchemaVersions};
use claudemesh_ipc::api::{Health, IPC_API, IPC_MINOR, MeshHealth, Version};

use serde_json::json;

use super::Api;
use super::failure::Failure;
use crate::daemon::{LAYOUT_VERSION, VERSION};
use crate::mesh::{MeshHandle, REQUIRED_FEATURES};

/// What this daemon can do, for clients that ask before they use it.
const FEATURES: &[&str] = &[
    "version", "compat", "health", "metrics", "send", "inbox", "events", "peers", "profile",
    "state", "sessions", "outbox", "ops", "search", "hooks",
];

/// Where messages are indexed.
const INDEX_FEATURE: &str = "inbox_fts";

pub(super) async fn version(State(api): State<Arc<Api>>) -> Json<Version> {
    let broker = |mesh: &MeshHandle| {
        let link = mesh.health();
        let version = BrokerVersion {
            status: link.status,
            broker_version: link.broker_version,
            features: link.features,
        };
        (mesh.slug().to_owned(), version)
    };
    let index = api.daemon.context().inbox.is_searchable().then_some(&INDEX_FEATURE);
    let features = FEATURES.iter().chain(index);
    Json(Version {
        daemon_version: VERSION.to_owned(),
        ipc_api: IPC_API.to_owned(),
        ipc_minor: IPC_MINOR,
        ipc_features: features.map(ToString::to_string).collect(),
        schema: SchemaVersions {
            layout: LAYOUT_VERSION,
            outbox: schema_version(crate::outbox::MIGRATIONS),
            inbox: schema_version(crate::inbox::MIGRATIONS),
        },
        pid: std::process::id(),
        ephemeral: api.daemon.context().ephemeral.is_some(),
        started_at: api.daemon.started_at().to_iso(),
        broker: api.daemon.meshes().all().iter().map(broker).collect(),
    })
}

/// What is released together fits together: programs of the same minor version.
pub(super) async fn compat(State(api): State<Arc<Api>>) -> Json<Compat> {
    let same_minor = VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor);
    let same = || vec![format!("{same_minor}.x")];
    let settings = api.daemon.context().settings.get();
    let required = settings.features.require.clone();
    Json(Compat {
        daemon: VERSION.to_owned(),
        compatible_brokers: same(),
        required_broker_features: required
            .unwrap_or_else(|| REQUIRED_FEATURES.iter().map(ToString::to_string).collect()),
        compatible_clis: same(),
        compatible_sdks: CompatibleSdks { python: same(), go: same(), ts: same() },
    })
}

fn schema_version(migrations: &[claudemesh_sqlite::Migration]) -> i64 {
    i64::try_from(migrations.len()).unwrap_or(i64::MAX)
}

pub(super) async fn health(State(api): State<Arc<Api>>) -> Result<Json<Health>, Failure> {
    let context = api.daemon.context();
    let mut meshes = Vec::new();
    for mesh in api.daemon.meshes().all() {
        let (link, slug) = (mesh.health(), mesh.slug().to_owned());
        let counts = context.outbox.counts(&slug).await?;
        meshes.push(MeshHealth {
            status: link.status,
            lag_ms: link.lag_ms,
            member_pubkey: mesh.member().public,
            session_pubkey: mesh.own_session_key(),
            queue_depth: counts.pending,
            inflight: counts.inflight,
            dead: counts.dead,
            sessions: context.sessions.live(&slug).len() as u64,
            last_close: link
                .last_close
                .map(|(code, reason)| json!({ "code": code, "reason": reason })),
            disabled_reason: link.disabled_reason.map(str::to_owned),
            features: link.is_legacy.then(|| "legacy".to_owned()),
            broker_key_changed: mesh.changed_broker_key().is_some(),
            slug,
        });
    }
    let degraded_reasons = api.daemon.pressure().reasons();
    let status = |mesh: &MeshHealth| (mesh.slug.clone(), mesh.status);
    Ok(Json(Health {
        ok: true,
        pid: std::process::id(),
        uptime_s: crate::clock::now().since(api.daemon.started_at()).as_secs(),
        daemon_version: VERSION.to_owned(),
        degraded: !degraded_reasons.is_empty(),
        degraded_reasons,
        brokers: meshes.iter().map(status).collect::<BTreeMap<_, _>>(),
        meshes,
        schema_version: LAYOUT_VERSION,
    }))
}
