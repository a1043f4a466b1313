//! What a broker says it can do, checked, and what follows from it (daemon spec §11.5, §18).

use std::time::Duration;

use claudemesh_protocol::limits;
use claudemesh_protocol::status::GroupEncryption;
use claudemesh_protocol::wire::{Features, HelloAck};
use serde_json::{Map, Value, json};

/// Shortest dedupe window we accept, in days (daemon spec §18.2).
const DEDUPE_DAYS_MIN: u64 = 3;
/// Life of an outbox row at a broker that never forgets an id, in hours (daemon spec §11.5).
const PERMANENT_MAX_AGE_HOURS: u64 = 168;
/// Floor of the outbox age, in hours (daemon spec §11.5).
const MAX_AGE_FLOOR_HOURS: u64 = 72;
/// Least inline size a broker may announce, in bytes (daemon spec §18.2).
const INLINE_MIN_BYTES: u64 = 1024;
const HOUR: Duration = Duration::from_hours(1);

/// Feature names.
mod name {
    pub(super) const DEDUPE: &str = "client_message_id_dedupe";
    pub(super) const CONCURRENT: &str = "concurrent_connection_policy";
    pub(super) const MAX_PAYLOAD: &str = "max_payload";
    pub(super) const RECEIPTS: &str = "receipts";
    pub(super) const GROUP_E2E: &str = "group_e2e";
}

/// What this daemon may use with a broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Negotiated {
    /// The broker stated no features at all.
    pub is_legacy: bool,
    /// It takes `receipt` frames.
    pub has_receipts: bool,
    /// How group bodies are written.
    pub group_encryption: GroupEncryption,
    /// Characters of ciphertext, nonce and target of one send.
    pub max_message_bytes: usize,
    /// Age at which a waiting row gives up.
    pub max_age: Duration,
    /// The features as stated, for people.
    pub features: Map<String, Value>,
    /// Version of the broker program.
    pub broker_version: Option<String>,
}

impl Default for Negotiated {
    /// Before the first answer: encrypt, and keep rows as long as a legacy broker would.
    fn default() -> Self {
        Self {
            is_legacy: false,
            has_receipts: false,
            group_encryption: GroupEncryption::Required,
            max_message_bytes: limits::LEGACY_FRAME_MAX_BYTES,
            max_age: HOUR * 144,
            features: Map::new(),
            broker_version: None,
        }
    }
}

/// A required feature is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// `feature_unavailable`, `feature_param_invalid` or `feature_param_below_floor`.
    pub kind: &'static str,
    /// The feature.
    pub feature: &'static str,
    /// For people.
    pub detail: String,
}

impl Problem {
    /// The close reason: JSON, cut by the socket to what a close frame holds.
    pub(super) fn reason(&self) -> String {
        json!({"kind": self.kind, "feature": self.feature, "detail": self.detail}).to_string()
    }
}

/// Checks the answer of a broker to our handshake.
///
/// # Errors
/// [`Problem`] when a broker that states features lacks a required one. A broker that states none is a legacy broker.
pub(super) fn negotiate(ack: &HelloAck) -> Result<Negotiated, Problem> {
    let announced = ack.limits.as_ref().map(|limits| limits.max_message_bytes);
    let policy = ack.mesh_policy.as_ref().and_then(|policy| policy.group_encryption);
    let mut negotiated = Negotiated {
        max_message_bytes: announced.unwrap_or(limits::LEGACY_FRAME_MAX_BYTES),
        broker_version: ack.broker_version.clone(),
        ..Negotiated::default()
    };
    let Some(features) = &ack.features else {
        negotiated.is_legacy = true;
        negotiated.group_encryption = GroupEncryption::Off;
        return Ok(negotiated);
    };
    negotiated.max_age = dedupe_max_age(features)?;
    version_one(features, name::CONCURRENT)?;
    if announced.is_none() {
        negotiated.max_message_bytes = inline_bytes(features);
    }
    negotiated.has_receipts = version_one(features, name::RECEIPTS).is_ok();
    let can_encrypt_groups = version_one(features, name::GROUP_E2E).is_ok();
    negotiated.group_encryption = match policy {
        _ if !can_encrypt_groups => GroupEncryption::Off,
        Some(policy) => policy,
        None => GroupEncryption::Required,
    };
    for (name, feature) in features {
        negotiated.features.insert(name.clone(), json!({"params": feature.params}));
    }
    Ok(negotiated)
}

fn version_one(features: &Features, feature: &'static str) -> Result<(), Problem> {
    let stated = features.get(feature).ok_or_else(|| Problem {
        kind: "feature_unavailable",
        feature,
        detail: "the broker does not state it".to_owned(),
    })?;
    match stated.params.get("version").and_then(Value::as_u64) {
        Some(1) => Ok(()),
        other => Err(invalid(feature, format!("version {other:?} is not 1"))),
    }
}

fn invalid(feature: &'static str, detail: String) -> Problem {
    Problem { kind: "feature_param_invalid", feature, detail }
}

fn dedupe_max_age(features: &Features) -> Result<Duration, Problem> {
    version_one(features, name::DEDUPE)?;
    let params = features.get(name::DEDUPE).map(|feature| &feature.params);
    let param = |name: &str| params.and_then(|params| params.get(name));
    if param("request_fingerprint").and_then(Value::as_bool) != Some(true) {
        return Err(invalid(name::DEDUPE, "request_fingerprint is not true".to_owned()));
    }
    match param("mode").and_then(Value::as_str) {
        Some("permanent") => Ok(HOUR * u32::try_from(PERMANENT_MAX_AGE_HOURS).unwrap_or(u32::MAX)),
        Some("retention_scoped") => {
            let days = param("dedupe_retention_days").and_then(Value::as_u64).ok_or_else(|| {
                invalid(name::DEDUPE, "dedupe_retention_days is no integer".to_owned())
            })?;
            if days < DEDUPE_DAYS_MIN {
                return Err(Problem {
                    kind: "feature_param_below_floor",
                    feature: name::DEDUPE,
                    detail: format!("{days} days are less than {DEDUPE_DAYS_MIN}"),
                });
            }
            Ok(HOUR * u32::try_from(max_age_hours(days)).unwrap_or(u32::MAX))
        }
        other => Err(invalid(name::DEDUPE, format!("unknown mode {other:?}"))),
    }
}

/// Hours a row may wait at a broker that remembers ids for `days` (daemon spec §11.5): always at least a day less than
/// the broker remembers, so that a late retry is never taken twice.
fn max_age_hours(days: u64) -> u64 {
    let window = days.saturating_mul(24);
    // A tenth of the window, rounded up, at least a day.
    let margin = window.div_ceil(10).max(24);
    window.saturating_sub(24).min(window.saturating_sub(margin).max(MAX_AGE_FLOOR_HOURS))
}

fn inline_bytes(features: &Features) -> usize {
    let stated =
        features.get(name::MAX_PAYLOAD).and_then(|feature| feature.params.get("inline_bytes"));
    match stated.and_then(Value::as_u64) {
        Some(bytes) if bytes >= INLINE_MIN_BYTES => usize::try_from(bytes).unwrap_or(usize::MAX),
        _ => limits::LEGACY_FRAME_MAX_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(features: &Value) -> HelloAck {
        serde_json::from_value(json!({"presenceId": "P", "features": features})).unwrap()
    }

    fn good() -> Value {
        json!({
            "client_message_id_dedupe": {"params": {
                "version": 1, "mode": "retention_scoped", "dedupe_retention_days": 365, "request_fingerprint": true,
            }},
            "concurrent_connection_policy": {"params": {"version": 1}},
            "receipts": {"params": {"version": 1}},
            "group_e2e": {"params": {"version": 1}},
        })
    }

    fn with(feature: &str, param: &str, value: Value) -> Value {
        let mut features = good();
        features[feature]["params"][param] = value;
        features
    }

    /// Daemon spec §18 Accept: params fuzz gives the documented kind.
    #[test]
    fn wrong_params_of_required_features_are_named() {
        let dedupe = "client_message_id_dedupe";
        let mut missing = good();
        missing.as_object_mut().unwrap().remove(dedupe);
        let cases = [
            (missing, "feature_unavailable"),
            (with(dedupe, "dedupe_retention_days", json!("365")), "feature_param_invalid"),
            (with(dedupe, "dedupe_retention_days", Value::Null), "feature_param_invalid"),
            (with(dedupe, "dedupe_retention_days", json!(2)), "feature_param_below_floor"),
            (with(dedupe, "version", json!(99)), "feature_param_invalid"),
            (with(dedupe, "mode", json!("windowed")), "feature_param_invalid"),
            (with(dedupe, "request_fingerprint", json!(false)), "feature_param_invalid"),
            (with("concurrent_connection_policy", "version", json!(2)), "feature_param_invalid"),
        ];
        for (features, kind) in cases {
            assert_eq!(negotiate(&ack(&features)).unwrap_err().kind, kind, "{features}");
        }
        let negotiated = negotiate(&ack(&good())).unwrap();
        assert!(negotiated.has_receipts && !negotiated.is_legacy);
        assert_eq!(negotiated.group_encryption, GroupEncryption::Required);
    }

    #[test]
    fn a_broker_without_features_is_a_legacy_broker() {
        let legacy = serde_json::from_value(json!({"presenceId": "P"})).unwrap();
        let negotiated = negotiate(&legacy).unwrap();
        assert!(negotiated.is_legacy && !negotiated.has_receipts);
        assert_eq!(negotiated.max_age, HOUR * 144);
    }

    /// Daemon spec §11.5: the numbers of the table.
    #[test]
    fn rows_give_up_before_the_broker_forgets() {
        for (days, hours) in [(3, 48), (4, 72), (7, 144), (30, 648), (365, 7884)] {
            assert_eq!(max_age_hours(days), hours, "{days} days");
        }
    }
}
