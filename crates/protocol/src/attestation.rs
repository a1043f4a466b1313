//! The parent attestation: a member key vouches for a session key (wire spec §2.4). Minting and verifying live in
//! the `crypto` crate.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::capability::CapabilitySet;
use crate::key::{PublicKey, SignatureBytes};
use crate::time::Timestamp;

/// The `version` a list of capabilities goes with.
const VERSION_WITH_LIST: u64 = 2;

/// Proof that `parent_member_pubkey` lets `session_pubkey` act for it until `expires_at`.
///
/// Its serde form is the camelCase one of the WebSocket; [`snake_case`] is that of the daemon's local API.
/// A value that has a list is version 2, one without is version 1; no other combination can be represented.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "typescript",
    derive(ts_rs::TS),
    ts(
        type = "{ sessionPubkey: string, parentMemberPubkey: string, expiresAt: number, signature: string, version?: 2, allowed_caps?: Array<string> }"
    )
)]
pub struct ParentAttestation {
    /// The key vouched for.
    pub session_pubkey: PublicKey,
    /// The member key that signs.
    pub parent_member_pubkey: PublicKey,
    /// End of validity, Unix milliseconds.
    pub expires_at: Timestamp,
    /// By the member key, over [`crate::canonical::session_attestation`].
    pub signature: SignatureBytes,
    /// What the session may do: `None` everything its member may, an empty set nothing.
    pub allowed_caps: Option<CapabilitySet>,
}

/// `version` and `allowed_caps` contradict each other, so that it is not clear which text was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationShapeError {
    /// Version 2 without a list: a list may have been stripped on the way.
    #[error("an attestation of version 2 needs allowed_caps")]
    MissingList,
    /// A list under another version than 2: the signature would not cover it.
    #[error("allowed_caps needs version 2")]
    UnsignedList,
    /// A version nobody has defined.
    #[error("unknown attestation version")]
    Version,
}

fn checked_list(
    version: Option<u64>,
    allowed_caps: Option<CapabilitySet>,
) -> Result<Option<CapabilitySet>, AttestationShapeError> {
    match (version, allowed_caps) {
        (Some(VERSION_WITH_LIST), None) => Err(AttestationShapeError::MissingList),
        (Some(VERSION_WITH_LIST), list) | (None | Some(1), list @ None) => Ok(list),
        (None | Some(1), Some(_)) => Err(AttestationShapeError::UnsignedList),
        (Some(_), _) => Err(AttestationShapeError::Version),
    }
}

/// One serde form of the attestation: the same fields under one naming convention.
macro_rules! form {
    ($name:ident, $convention:literal) => {
        #[derive(Serialize, Deserialize)]
        #[serde(rename_all = $convention)]
        struct $name {
            session_pubkey: PublicKey,
            parent_member_pubkey: PublicKey,
            expires_at: Timestamp,
            signature: SignatureBytes,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            version: Option<u64>,
            #[serde(default, skip_serializing_if = "Option::is_none", rename = "allowed_caps")]
            allowed_caps: Option<CapabilitySet>,
        }

        impl From<&ParentAttestation> for $name {
            fn from(attestation: &ParentAttestation) -> Self {
                Self {
                    session_pubkey: attestation.session_pubkey,
                    parent_member_pubkey: attestation.parent_member_pubkey,
                    expires_at: attestation.expires_at,
                    signature: attestation.signature,
                    version: attestation.allowed_caps.map(|_| VERSION_WITH_LIST),
                    allowed_caps: attestation.allowed_caps,
                }
            }
        }

        impl TryFrom<$name> for ParentAttestation {
            type Error = AttestationShapeError;

            fn try_from(form: $name) -> Result<Self, AttestationShapeError> {
                Ok(Self {
                    session_pubkey: form.session_pubkey,
                    parent_member_pubkey: form.parent_member_pubkey,
                    expires_at: form.expires_at,
                    signature: form.signature,
                    allowed_caps: checked_list(form.version, form.allowed_caps)?,
                })
            }
        }
    };
}

form!(WireForm, "camelCase");
form!(LocalForm, "snake_case");

impl Serialize for ParentAttestation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireForm::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ParentAttestation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WireForm::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

/// The form of the daemon's local API: `#[serde(with = "claudemesh_protocol::attestation::snake_case")]`.
pub mod snake_case {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{LocalForm, ParentAttestation};

    /// Writes `session_pubkey`, `parent_member_pubkey`, `expires_at`, `signature`, `version`, `allowed_caps`.
    pub fn serialize<S: Serializer>(
        attestation: &ParentAttestation,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        LocalForm::from(attestation).serialize(serializer)
    }

    /// Reads the same fields.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ParentAttestation, D::Error> {
        LocalForm::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

/// As [`snake_case`], for an optional field (add `default`): null and absent are `None`.
pub mod snake_case_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{LocalForm, ParentAttestation};

    /// Writes the object or null.
    pub fn serialize<S: Serializer>(
        attestation: &Option<ParentAttestation>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        attestation.as_ref().map(LocalForm::from).serialize(serializer)
    }

    /// Reads the object or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ParentAttestation>, D::Error> {
        Option::<LocalForm>::deserialize(deserializer)?
            .map(ParentAttestation::try_from)
            .transpose()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn example(allowed_caps: Option<CapabilitySet>) -> ParentAttestation {
        ParentAttestation {
            session_pubkey: PublicKey::from_bytes([1; 32]),
            parent_member_pubkey: PublicKey::from_bytes([2; 32]),
            expires_at: Timestamp::from_millis(1_767_268_800_000),
            signature: SignatureBytes::from_bytes([3; 64]),
            allowed_caps,
        }
    }

    fn wire(extra: &Value) -> Value {
        let mut value = serde_json::to_value(example(None)).unwrap();
        for (key, field) in extra.as_object().unwrap() {
            value[key] = field.clone();
        }
        value
    }

    #[test]
    fn the_wire_form_has_the_documented_names() {
        let names = |caps| -> Vec<String> {
            let value = serde_json::to_value(example(caps)).unwrap();
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(names(None), ["sessionPubkey", "parentMemberPubkey", "expiresAt", "signature"]);
        assert_eq!(names(Some(CapabilitySet::EMPTY))[4..], ["version", "allowed_caps"]);
    }

    #[test]
    fn both_forms_read_back() {
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct Local {
            #[serde(with = "snake_case")]
            attestation: ParentAttestation,
            #[serde(with = "snake_case_option", default)]
            other: Option<ParentAttestation>,
        }
        for caps in [None, Some(CapabilitySet::EMPTY), CapabilitySet::parse(["dm", "read"]).ok()] {
            let attestation = example(caps);
            let wire = serde_json::to_string(&attestation).unwrap();
            assert_eq!(serde_json::from_str::<ParentAttestation>(&wire).unwrap(), attestation);
            let local = Local { attestation: attestation.clone(), other: Some(attestation) };
            let text = serde_json::to_string(&local).unwrap();
            assert!(text.contains("\"session_pubkey\""), "{text}");
            assert_eq!(serde_json::from_str::<Local>(&text).unwrap(), local);
        }
    }

    #[test]
    fn a_stripped_or_unsigned_list_is_malformed() {
        let refused = [
            json!({"version": 2}),
            json!({"version": 2, "allowed_caps": null}),
            json!({"allowed_caps": []}),
            json!({"version": 1, "allowed_caps": ["dm"]}),
            json!({"version": 3}),
            json!({"version": 3, "allowed_caps": ["dm"]}),
            json!({"version": 2, "allowed_caps": ["dm", "fly"]}),
            json!({"expiresAt": 1.5}),
        ];
        for extra in refused {
            assert!(serde_json::from_value::<ParentAttestation>(wire(&extra)).is_err(), "{extra}");
        }
        let accepted =
            [json!({}), json!({"version": 1}), json!({"version": null, "unknown": true})];
        for extra in accepted {
            assert!(serde_json::from_value::<ParentAttestation>(wire(&extra)).is_ok(), "{extra}");
        }
    }
}
