//! The answer to an accepted hello (wire spec §2.6, §2.10).

use std::collections::BTreeMap;

use claudemesh_protocol::limits::{KEY_EPOCHS_MAX, PROTOCOL_VERSION};
use claudemesh_protocol::wire::hello::{FeatureParams, MeshPolicy};
use claudemesh_protocol::wire::{Features, HelloAck, MemberProfile, WireLimits};
use claudemesh_store::{DedupeRetention, PeerState};
use serde_json::{Value, json};

use super::Welcome;
use crate::live::{self, Settled};
use crate::state::Broker;

pub(super) fn hello_ack(
    broker: &Broker,
    settled: &Settled,
    state: &live::MeshState,
    welcome: Welcome,
) -> HelloAck {
    let limits = broker.limits();
    let saved: Option<&PeerState> = settled.restored.as_ref();
    let member = welcome.member;
    let settings = &state.info.settings;
    HelloAck {
        presence_id: settled.presence_id.clone(),
        member_display_name: settled.display_name.clone(),
        member_profile: Some(MemberProfile {
            role_tag: member.role_tag,
            groups: member.default_groups,
            message_mode: member.message_mode,
        }),
        mesh_policy: Some(MeshPolicy {
            self_editable: settings.self_editable,
            group_encryption: Some(settings.group_encryption),
        }),
        restored: saved.is_some(),
        last_summary: saved.and_then(|saved| saved.last_summary.clone()),
        last_seen_at: saved.map(|saved| saved.last_seen_at.to_iso()),
        restored_groups: saved
            .filter(|_| settled.has_restored_groups)
            .map(|saved| saved.groups.clone()),
        restored_stats: saved.map(|saved| saved.stats),
        services: Vec::new(),
        protocol_version: Some(
            welcome.version.unwrap_or(PROTOCOL_VERSION).clamp(1, PROTOCOL_VERSION),
        ),
        broker_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        warnings: (!welcome.warnings.is_empty()).then_some(welcome.warnings),
        mesh_id: Some(state.info.id.clone()),
        member_id: Some(member.id),
        peer_role: None,
        server_time: Some(broker.now().as_millis()),
        features: Some(features(broker, settings.dedupe)),
        broker_pubkey: Some(broker.signing_key().public()),
        lease_ttl_ms: Some(limits.lease_ttl_ms),
        limits: Some(WireLimits {
            max_message_bytes: limits.max_message_bytes,
            max_frame_bytes: limits.max_frame_bytes,
            send_per_minute: limits.send_per_min,
            send_burst: limits.send_burst,
        }),
    }
}

/// What this broker does today (wire spec §2.10); a feature appears here in the change that makes it work.
fn features(broker: &Broker, dedupe: DedupeRetention) -> Features {
    let mut features = BTreeMap::new();
    let mut add = |name: &str, more: Value| {
        let mut params = serde_json::Map::new();
        params.insert("version".to_owned(), json!(1));
        if let Value::Object(more) = more {
            params.extend(more);
        }
        features.insert(name.to_owned(), FeatureParams { params });
    };
    let retention = match dedupe {
        DedupeRetention::Days(days) => {
            json!({"mode": "retention_scoped", "dedupe_retention_days": days, "request_fingerprint": true})
        }
        DedupeRetention::Permanent => json!({"mode": "permanent", "request_fingerprint": true}),
    };
    add("client_message_id_dedupe", retention);
    let inline = broker.limits().max_message_bytes;
    add("max_payload", json!({"inline_bytes": inline, "blob_bytes": inline}));
    add("concurrent_connection_policy", json!({"default_policy": "prefer_newest"}));
    add("key_epoch", json!({"max_concurrent_epochs": KEY_EPOCHS_MAX}));
    for name in [
        "client_ack",
        "lease",
        "session_caps",
        "group_e2e",
        "hops",
        "offline_dm_queue",
        "receipts",
        "member_keypair_rotated_event",
    ] {
        add(name, Value::Null);
    }
    features
}
