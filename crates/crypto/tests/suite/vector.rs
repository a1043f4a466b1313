//! Every entry of `vectors/crypto.json` has a test of its own name; an entry without one fails the suite.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::exchange::ExchangeSecret;
use claudemesh_crypto::secretbox::SecretBoxKey;
use claudemesh_protocol::encoding::b64_decode;
use claudemesh_protocol::{PublicKey, SignatureBytes, Timestamp};
use serde_json::Value;

use crate::{vectors_format, vectors_sealed, vectors_signed};

static ALL: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../../vectors/crypto.json")).unwrap()
});

/// A field as text; panics when it is missing.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}"))
}

pub fn unhex(value: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(value, field)).unwrap()
}

pub fn array<const BYTES: usize>(value: &Value, field: &str) -> [u8; BYTES] {
    unhex(value, field).try_into().unwrap()
}

pub fn b64_bytes(value: &Value, field: &str) -> Vec<u8> {
    b64_decode(text(value, field)).unwrap()
}

pub fn key(value: &Value, field: &str) -> PublicKey {
    text(value, field).parse().unwrap()
}

pub fn signature(value: &Value, field: &str) -> SignatureBytes {
    text(value, field).parse().unwrap()
}

pub fn millis(value: &Value, field: &str) -> Timestamp {
    Timestamp::from_millis(value[field].as_i64().unwrap())
}

pub fn box_key(value: &Value, field: &str) -> SecretBoxKey {
    SecretBoxKey::from_bytes(array(value, field))
}

pub fn exchange_secret(value: &Value, field: &str) -> ExchangeSecret {
    ExchangeSecret::from_bytes(array(value, field))
}

/// The key pair an entry names in `field`.
pub fn pair(value: &Value, field: &str) -> KeyPair {
    named_pair(text(value, field))
}

pub fn named_pair(name: &str) -> KeyPair {
    KeyPair::from_hex(text(&ALL["ed25519_keypairs"][name], "secret_key_hex")).unwrap()
}

pub fn constant(name: &str) -> String {
    text(&ALL["constants"], name).to_owned()
}

pub fn items(value: &Value) -> &[Value] {
    let items = value.as_array().unwrap();
    assert!(!items.is_empty(), "an empty list proves nothing");
    items
}

macro_rules! entries {
    ($($name:ident in $module:ident,)+) => {
        $(
            #[test]
            fn $name() {
                let entry = &ALL[stringify!($name)];
                assert!(!entry.is_null(), "no such entry");
                $module::$name(entry);
            }
        )+

        const TESTED: &[&str] = &[$(stringify!($name),)+];
    };
}

entries! {
    schema_version in vectors_format,
    encodings in vectors_format,
    constants in vectors_format,
    ed25519_keypairs in vectors_signed,
    x25519_conversion in vectors_sealed,
    hello in vectors_signed,
    session_attestation_v1 in vectors_signed,
    session_attestation_v2 in vectors_signed,
    session_hello in vectors_signed,
    crypto_box_dm in vectors_sealed,
    secretbox_topic_body in vectors_sealed,
    plaintext_body_v1 in vectors_sealed,
    topic_sealed_key in vectors_sealed,
    sealed_root_key in vectors_sealed,
    file_encryption in vectors_sealed,
    vault_entry in vectors_sealed,
    invite_v1 in vectors_signed,
    invite_v2 in vectors_signed,
    invite_v2_claim_proof in vectors_signed,
    request_fingerprint in vectors_format,
    jcs in vectors_format,
    safety_number in vectors_format,
    audit_chain in vectors_format,
    backup_cmb1 in vectors_sealed,
    at_rest_aes_gcm in vectors_sealed,
    api_key in vectors_format,
    jwt_hs256 in vectors_format,
    host_fingerprint in vectors_format,
    resume_token in vectors_signed,
    group_message in vectors_sealed,
    envelope_v2 in vectors_signed,
    p2p_signalling in vectors_signed,
    service_attestation in vectors_signed,
    bridge_hop in vectors_format,
    webhook_delivery_signature in vectors_format,
    backup_cmb2 in vectors_sealed,
    member_key_rotation in vectors_signed,
    signed_http_request in vectors_signed,
    body_meta in vectors_format,
    web_device_proof in vectors_signed,
    sync_proof in vectors_signed,
    default_fingerprint in vectors_format,
    join_v1_proof in vectors_signed,
    hello_session_proof in vectors_signed,
}

#[test]
fn every_entry_has_a_test() {
    let tested: BTreeSet<&str> = TESTED.iter().copied().collect();
    let present: BTreeSet<&str> = ALL.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(tested, present);
}
