//! What a broker says it can do, checked, and what follows from it (daemon spec §11.5, §18).

use std::time::Duration;

use claudemesh_client::DisabledReason;
use claudemesh_protocol::limits;
use claudemesh_protocol::status::GroupEncryption;
use claudemesh_protocol::wire::{Features, HelloAck};
use serde_json::{Map, Value, json};

use super::AgeSettings;
use crate::settings::FeatureSettings;

/// Shortest dedupe window we accept, in days (daemon spec §18.2).
const DEDUPE_DAYS_MIN: u64 = 3;
/// Floor of the outbox age, in hours (daemon spec §11.5).
const MAX_AGE_FLOOR_HOURS: u64 = 72;
/// Least inline size a broker may announce, in bytes (daemon spec §18.2).
const INLINE_MIN_BYTES: u64 = 1024;
const HOUR: Duration = Duration::from_hours(1);

/// What a close frame holds beside its code, in bytes (RFC 6455 section 5.5.1).
const CLOSE_REASON_MAX_BYTES: usize = 123;

/// Feature names.
mod name {
    pub(super) const DEDUPE: &str = "client_message_id_dedupe";
    pub(super) const CONCURRENT: &str = "concurrent_connection_policy";
    pub(super) const MAX_PAYLOAD: &str = "max_payload";
    pub(super) const RECEIPTS: &str = "receipts";
    pub(super) const GROUP_E2E: &str = "group_e2e";
    pub(super) const KEY_EPOCH: &str = "key_epoch";
}

/// Features without which a broker that states any is not used (daemon spec §18.1).
pub(crate) const REQUIRED_FEATURES: [&str; 2] = [name::DEDUPE, name::CONCURRENT];

/// What is asked of a broker (daemon spec §18.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureTerms {
    /// Bits without which a mesh is not used.
    pub require: Vec<String>,
    /// Bits that are used where they are offered; `None`: whatever this build knows.
    pub optional: Option<Vec<String>>,
}

impl Default for FeatureTerms {
    fn default() -> Self {
        Self { require: REQUIRED_FEATURES.map(str::to_owned).to_vec(), optional: None }
    }
}

impl FeatureTerms {
    /// As the settings say.
    pub(crate) fn of(settings: &FeatureSettings) -> Self {
        let require = settings.require.clone().unwrap_or_else(|| Self::default().require);
        Self { require, optional: settings.optional.clone() }
    }

    fn requires(&self, feature: &str) -> bool {
        self.require.iter().any(|required| required == feature)
    }

    fn wants(&self, feature: &str) -> bool {
        let listed = |list: &Vec<String>| list.iter().any(|bit| bit == feature);
        self.requires(feature) || self.optional.as_ref().is_none_or(listed)
    }
}

/// What this daemon may use with a broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Negotiated {
    /// The broker stated no features at all.
    pub is_legacy: bool,
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
    /// What kind of problem.
    pub kind: DisabledReason,
    /// The feature.
    pub feature: String,
    /// For people.
    pub detail: String,
}

impl Problem {
    /// The close reason: JSON whose detail is cut so that all of it fits into a close frame.
    pub(super) fn reason(&self) -> String {
        let with = |detail: &str| {
            json!({"kind": self.kind.as_str(), "feature": self.feature, "detail": detail})
                .to_string()
        };
        let mut detail = self.detail.as_str();
        loop {
            let reason = with(detail);
            let Some(shorter) = detail.char_indices().next_back().map(|(last, _)| last) else {
                return reason;
            };
            if reason.len() <= CLOSE_REASON_MAX_BYTES {
                return reason;
            }
            detail = detail.get(..shorter).unwrap_or_default();
        }
    }
}

/// Checks the answer of a broker to our handshake.
///
/// # Errors
/// [`Problem`] when a broker that states features lacks a required one. A broker that states none is a legacy broker.
pub(super) fn negotiate(
    ack: &HelloAck,
    ages: AgeSettings,
    terms: &FeatureTerms,
) -> Result<Negotiated, Problem> {
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
    for required in &terms.require {
        version_one(features, required)?;
    }
    match dedupe_max_age(features, ages) {
        Ok(max_age) => negotiated.max_age = max_age,
        Err(problem) if terms.requires(name::DEDUPE) || problem.kind == DisabledReason::MaxAge => {
            return Err(problem);
        }
        // Rows wait as long as at a broker that says nothing.
        Err(problem) => ignored(features, &problem, "mode"),
    }
    if announced.is_none() {
        negotiated.max_message_bytes = inline_bytes(features);
    }
    let can_encrypt_groups =
        terms.wants(name::GROUP_E2E) && version_one(features, name::GROUP_E2E).is_ok();
    negotiated.group_encryption = match policy {
        _ if !can_encrypt_groups => GroupEncryption::Off,
        Some(policy) => policy,
        None => GroupEncryption::Required,
    };
    for (name, feature) in features.iter().filter(|(name, _)| terms.wants(name)) {
        match version_one(features, name).and_then(|()| epochs(name, features)) {
            Ok(()) => {
                negotiated.features.insert(name.clone(), json!({"params": feature.params}));
            }
            Err(problem) => ignored(features, &problem, "version"),
        }
    }
    Ok(negotiated)
}

/// An optional feature in a form that we cannot read counts as not offered.
fn ignored(features: &Features, problem: &Problem, param: &str) {
    if features.contains_key(&problem.feature) {
        let (feature, reason) = (&problem.feature, &problem.detail);
        tracing::info!(feature, param, reason, "feature_optional_param_invalid");
    }
}

/// A broker that keeps no epoch of a key has none.
fn epochs(feature: &str, features: &Features) -> Result<(), Problem> {
    if feature != name::KEY_EPOCH {
        return Ok(());
    }
    let stated =
        features.get(feature).and_then(|feature| feature.params.get("max_concurrent_epochs"));
    match stated.and_then(Value::as_u64) {
        Some(1..) => Ok(()),
        _ => Err(invalid(feature, "max_concurrent_epochs is no positive integer".to_owned())),
    }
}

/// True for a broker that takes `receipt` frames.
pub(super) fn takes_receipts(ack: &HelloAck) -> bool {
    ack.features.as_ref().is_some_and(|features| version_one(features, name::RECEIPTS).is_ok())
}

fn version_one(features: &Features, feature: &str) -> Result<(), Problem> {
    let stated = features.get(feature).ok_or_else(|| Problem {
        kind: DisabledReason::FeatureMissing,
        feature: feature.to_owned(),
        detail: "the broker does not state it".to_owned(),
    })?;
    match stated.params.get("version").and_then(Value::as_u64) {
        Some(1) => Ok(()),
        other => Err(invalid(feature, format!("version {other:?} is not 1"))),
    }
}

fn invalid(feature: &str, detail: String) -> Problem {
    Problem { kind: DisabledReason::FeatureInvalid, feature: feature.to_owned(), detail }
}

fn dedupe_max_age(features: &Features, ages: AgeSettings) -> Result<Duration, Problem> {
    version_one(features, name::DEDUPE)?;
    let params = features.get(name::DEDUPE).map(|feature| &feature.params);
    let param = |name: &str| params.and_then(|params| params.get(name));
    if param("request_fingerprint").and_then(Value::as_bool) != Some(true) {
        return Err(invalid(name::DEDUPE, "request_fingerprint is not true".to_owned()));
    }
    let (hours, longest) = match param("mode").and_then(Value::as_str) {
        Some("permanent") => (ages.default.min(ages.cap), u64::MAX),
        Some("retention_scoped") => {
            let days = param("dedupe_retention_days").and_then(Value::as_u64).ok_or_else(|| {
                invalid(name::DEDUPE, "dedupe_retention_days is no integer".to_owned())
            })?;
            if days < DEDUPE_DAYS_MIN {
                return Err(Problem {
                    kind: DisabledReason::FeatureBelowFloor,
                    feature: name::DEDUPE.to_owned(),
                    detail: format!("{days} days are less than {DEDUPE_DAYS_MIN}"),
                });
            }
            (max_age_hours(days), days.saturating_mul(24).saturating_sub(24))
        }
        other => return Err(invalid(name::DEDUPE, format!("unknown mode {other:?}"))),
    };
    let hours = match ages.fixed {
        None => hours,
        Some(fixed) if (1..=longest).contains(&fixed) => fixed,
        Some(fixed) => {
            return Err(Problem {
                kind: DisabledReason::MaxAge,
                feature: name::DEDUPE.to_owned(),
                detail: format!("outbox.max_age_hours_override is {fixed}, at most {longest}"),
            });
        }
    };
    Ok(HOUR.saturating_mul(u32::try_from(hours).unwrap_or(u32::MAX)))
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
        _ => {
            let reason = format!("inline_bytes is no integer from {INLINE_MIN_BYTES} on");
            ignored(features, &invalid(name::MAX_PAYLOAD, reason), "inline_bytes");
            limits::LEGACY_FRAME_MAX_BYTES
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(features: &Value) -> HelloAck {
        serde_json::from_value(json!({"presenceId": "P", "features": features})).unwrap()
    }

    fn negotiate_all(features: &Value) -> Result<Negotiated, Problem> {
        negotiate(&ack(features), AgeSettings::default(), &FeatureTerms::default())
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

    /// Daemon spec §18 Accept 2: params fuzz gives the documented kind.
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
            assert_eq!(negotiate_all(&features).unwrap_err().kind.as_str(), kind, "{features}");
        }
        let negotiated = negotiate_all(&good()).unwrap();
        assert!(takes_receipts(&ack(&good())) && !negotiated.is_legacy);
        assert_eq!(negotiated.group_encryption, GroupEncryption::Required);
    }

    /// Daemon spec §18.1: what is required and what is used is what the settings list.
    #[test]
    fn the_settings_say_what_is_asked() {
        let asked = |features: &Value, require: &[&str], optional: Option<&[&str]>| {
            let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            let terms = FeatureTerms { require: owned(require), optional: optional.map(owned) };
            negotiate(&ack(features), AgeSettings::default(), &terms)
        };
        let refused = asked(&good(), &["receipts", "envelope_v2"], None).unwrap_err();
        assert_eq!(
            (refused.kind.as_str(), refused.feature.as_str()),
            ("feature_unavailable", "envelope_v2")
        );
        let mut without = good();
        without.as_object_mut().unwrap().remove("client_message_id_dedupe");
        let negotiated = asked(&without, &[], None).unwrap();
        assert_eq!(negotiated.max_age, HOUR * 144);
        let few = asked(&good(), &["receipts"], Some(&["hops"])).unwrap();
        assert_eq!(few.group_encryption, GroupEncryption::Off);
        assert_eq!(few.features.keys().collect::<Vec<_>>(), ["receipts"]);
    }

    /// Daemon spec §18.3: an optional feature in an unknown form is not used, and nothing else follows.
    #[test]
    fn optional_features_in_another_form_are_left_out() {
        let mut features = with("receipts", "version", json!(99));
        features["key_epoch"] = json!({"params": {"version": 1, "max_concurrent_epochs": 0}});
        features["max_payload"] = json!({"params": {"version": 1, "inline_bytes": "many"}});
        let negotiated = negotiate_all(&features).unwrap();
        assert!(!negotiated.features.contains_key("receipts"));
        assert!(!negotiated.features.contains_key("key_epoch"));
        assert_eq!(negotiated.max_message_bytes, limits::LEGACY_FRAME_MAX_BYTES);
    }

    #[test]
    fn a_broker_without_features_is_a_legacy_broker() {
        let legacy = serde_json::from_value(json!({"presenceId": "P"})).unwrap();
        let terms = FeatureTerms::default();
        let negotiated = negotiate(&legacy, AgeSettings::default(), &terms).unwrap();
        assert!(negotiated.is_legacy && !takes_receipts(&legacy));
        assert_eq!(negotiated.max_age, HOUR * 144);
    }

    /// Daemon spec §11.5: the numbers of the table.
    #[test]
    fn rows_give_up_before_the_broker_forgets() {
        for (days, hours) in [(3, 48), (4, 72), (7, 144), (30, 648), (365, 7884)] {
            assert_eq!(max_age_hours(days), hours, "{days} days");
        }
    }

    /// Daemon spec §11.5: permanent memory, and an age that the settings fix.
    #[test]
    fn the_settings_decide_within_what_the_broker_remembers() {
        let dedupe = "client_message_id_dedupe";
        let age = |features: &Value, ages| {
            let terms = FeatureTerms::default();
            negotiate(&ack(features), ages, &terms).map(|n| n.max_age / 3600)
        };
        let hours = |hours| Ok(Duration::from_secs(hours));
        let permanent = with(dedupe, "mode", json!("permanent"));
        assert_eq!(age(&permanent, AgeSettings::default()), hours(168));
        assert_eq!(
            age(&permanent, AgeSettings { default: 9_000, ..AgeSettings::default() }),
            hours(720)
        );
        let fixed = |fixed| AgeSettings { fixed: Some(fixed), ..AgeSettings::default() };
        assert_eq!(age(&permanent, fixed(9_000)), hours(9_000));
        let week = with(dedupe, "dedupe_retention_days", json!(7));
        assert_eq!(age(&week, fixed(144)), hours(144));
        for refused in [0, 145] {
            let problem = age(&week, fixed(refused)).unwrap_err();
            assert_eq!(problem.kind.as_str(), "outbox_max_age_above_dedupe_window");
        }
    }
}
