//! Vectors of everything encrypted: the exact ciphertext under the given nonce, and that it opens.

use claudemesh_crypto::at_rest::{AtRestKey, Binding};
use claudemesh_crypto::backup::{self, Header, KdfCosts};
use claudemesh_crypto::direct::{self, Nonce, Sealed, SharedKey, SharedKeyCache};
use claudemesh_crypto::exchange::{ExchangePublic, ExchangeSecret};
use claudemesh_crypto::invite::RootKey;
use claudemesh_crypto::key_box::{KEY_BOX_BYTES, KeyBox};
use claudemesh_crypto::secretbox::SecretBoxKey;
use claudemesh_crypto::{KeyPair, group, sealed, topic};
use claudemesh_protocol::encoding::{b64_decode_lenient, b64url, b64url_decode};
use claudemesh_protocol::wire::WrappedKey;
use serde_json::Value;

use crate::vector::{array, b64_bytes, box_key, exchange_secret, items, key, pair, text, unhex};

fn nonce(entry: &Value, field: &str) -> Nonce {
    Nonce::from_b64(text(entry, field)).unwrap()
}

pub fn x25519_conversion(entry: &Value) {
    for case in items(entry) {
        let own = KeyPair::from_hex(text(case, "ed25519_secret_hex")).unwrap();
        assert_eq!(own.exchange().as_bytes(), &array::<32>(case, "x25519_secret_hex"));
        let public = ExchangePublic::from_ed25519(key(case, "ed25519_public_hex")).unwrap();
        assert_eq!(public.to_hex(), text(case, "x25519_public_hex"));
        assert_eq!(own.exchange_public(), public);
        assert_eq!(own.exchange().public(), public);
    }
}

pub fn crypto_box_dm(entry: &Value) {
    for case in items(entry) {
        let (sender, recipient) = (pair(case, "sender"), pair(case, "recipient"));
        let shared = SharedKey::between(&sender, recipient.public()).unwrap();
        assert_eq!(shared.as_bytes(), &array::<32>(case, "shared_key_hex"));
        let nonce = nonce(case, "nonce_b64");
        assert_eq!(nonce.as_bytes(), &array::<24>(case, "nonce_hex"));
        let plaintext = text(case, "plaintext").as_bytes();
        let made = shared.seal_with_nonce(plaintext, nonce);
        assert_eq!(made.ciphertext_b64(), text(case, "ciphertext_b64"));
        let wire = Sealed::from_b64(text(case, "nonce_b64"), text(case, "ciphertext_b64")).unwrap();
        assert_eq!(direct::open(&wire, sender.public(), &recipient).unwrap(), plaintext);
        assert!(direct::open(&wire, recipient.public(), &recipient).is_err());
    }
}

pub fn secretbox_topic_body(entry: &Value) {
    let key = box_key(entry, "topic_key_hex");
    let made = key.seal_with_nonce(text(entry, "plaintext").as_bytes(), nonce(entry, "nonce_b64"));
    assert_eq!(made.ciphertext_b64(), text(entry, "ciphertext_b64"));
    assert_eq!(key.open(&made).unwrap(), text(entry, "plaintext").as_bytes());
    assert_eq!(entry["body_version"], 2);
}

pub fn plaintext_body_v1(entry: &Value) {
    let padded = text(entry, "ciphertext_b64");
    for form in [padded, padded.trim_end_matches('=')] {
        assert_eq!(b64_decode_lenient(form).unwrap(), text(entry, "plaintext").as_bytes());
    }
    assert_eq!(b64_bytes(entry, "nonce_b64").len(), direct::NONCE_BYTES);
    assert_eq!(entry["body_version"], 1);
}

pub fn topic_sealed_key(entry: &Value) {
    for case in items(entry) {
        let recipient = pair(case, "recipient");
        let sealer: ExchangeSecret = if case["sender"].is_string() {
            pair(case, "sender").exchange().clone()
        } else {
            exchange_secret(case, "sender_x25519_secret_hex")
        };
        assert_eq!(sealer.public().to_hex(), text(case, "sender_x25519_public_hex"));
        let topic_key = box_key(case, "topic_key_hex");
        let nonce = nonce(case, "nonce_b64");
        let made = topic::seal_key(&topic_key, nonce, &sealer, recipient.public()).unwrap();
        assert_eq!(made.key_b64(), text(case, "encrypted_key_b64"));
        assert_eq!(case["encrypted_key_len"], KEY_BOX_BYTES);
        let wire =
            KeyBox::from_b64(text(case, "nonce_b64"), text(case, "encrypted_key_b64")).unwrap();
        assert_eq!(wire, made);
        assert!(wire.open(&recipient).is_ok_and(|opened| opened == topic_key));
        assert!(wire.open(&KeyPair::generate()).is_err());
    }
}

pub fn sealed_root_key(entry: &Value) {
    let recipient = exchange_secret(entry, "recipient_x25519_secret_hex");
    let public =
        ExchangePublic::from_b64url(text(entry, "recipient_x25519_public_b64url")).unwrap();
    assert_eq!(recipient.public(), public);
    let ephemeral = exchange_secret(entry, "ephemeral_secret_hex");
    assert_eq!(ephemeral.public().to_hex(), text(entry, "ephemeral_public_hex"));
    let nonce = sealed::derived_nonce(&ephemeral.public(), &public);
    assert_eq!(nonce.as_bytes(), &array::<24>(entry, "derived_nonce_hex"));
    let root_key = b64url_decode(text(entry, "root_key_b64url")).unwrap();
    let made = sealed::seal_with_ephemeral(&root_key, &public, &ephemeral).unwrap();
    assert_eq!(b64url(&made), text(entry, "sealed_b64url"));
    assert_eq!(entry["sealed_len"], made.len());
    let opened = RootKey::open_sealed(text(entry, "sealed_b64url"), &recipient);
    let expected = RootKey::from_b64url(text(entry, "root_key_b64url")).unwrap();
    assert!(opened.is_ok_and(|opened| opened == expected));
    let again = expected.seal_to(&public).unwrap();
    assert!(RootKey::open_sealed(&again, &recipient).is_ok_and(|opened| opened == expected));
}

pub fn file_encryption(entry: &Value) {
    let key = box_key(entry, "file_key_hex");
    let (plaintext, nonce) = (unhex(entry, "plaintext_hex"), nonce(entry, "nonce_b64"));
    let boxed = key.seal_with_nonce(&plaintext, nonce).ciphertext;
    assert_eq!(boxed, unhex(entry, "secretbox_hex"));
    let object = key.seal_object(&plaintext, nonce);
    assert_eq!(object, unhex(entry, "stored_object_hex"));
    assert_eq!(key.open_object(&object).unwrap(), plaintext);
    let wrapped = &entry["wrapped_key"];
    let recipient = pair(wrapped, "recipient");
    assert_eq!(recipient.exchange_public().to_hex(), text(wrapped, "recipient_x25519_public_hex"));
    let ephemeral = exchange_secret(wrapped, "ephemeral_secret_hex");
    let derived = sealed::derived_nonce(&ephemeral.public(), &recipient.exchange_public());
    assert_eq!(derived.as_bytes(), &array::<24>(wrapped, "derived_nonce_hex"));
    check_sealed_key(wrapped, &key, &recipient);
}

pub fn vault_entry(entry: &Value) {
    let key = box_key(entry, "entry_key_hex");
    let made = key.seal_with_nonce(text(entry, "value").as_bytes(), nonce(entry, "nonce_b64"));
    assert_eq!(made.ciphertext_b64(), text(entry, "ciphertext_b64"));
    check_sealed_key(entry, &key, &pair(entry, "recipient"));
}

/// `sealed_key_b64` is the key sealed to the recipient under the given ephemeral key.
fn check_sealed_key(entry: &Value, key: &SecretBoxKey, recipient: &KeyPair) {
    let ephemeral = exchange_secret(entry, "ephemeral_secret_hex");
    let made =
        sealed::seal_with_ephemeral(key.as_bytes(), &recipient.exchange_public(), &ephemeral);
    assert_eq!(made.unwrap(), b64_bytes(entry, "sealed_key_b64"));
    let opened = sealed::open(&b64_bytes(entry, "sealed_key_b64"), recipient.exchange()).unwrap();
    assert_eq!(opened, key.as_bytes());
}

pub fn group_message(entry: &Value) {
    let (sender, cache) = (pair(entry, "sender"), SharedKeyCache::new(4));
    let content_key = box_key(entry, "content_key_hex");
    let plaintext = text(entry, "plaintext").as_bytes();
    let body = content_key.seal_with_nonce(plaintext, nonce(entry, "nonce_b64"));
    assert_eq!(body.ciphertext_b64(), text(entry, "ciphertext_b64"));
    assert_eq!(entry["body_version"], 2);
    for wrapped in items(&entry["wrapped_keys"]) {
        let recipient = pair(wrapped, "recipient");
        let made =
            group::wrap(&content_key, nonce(wrapped, "nonce"), &sender, recipient.public(), &cache);
        let wire = WrappedKey {
            to: key(wrapped, "to"),
            nonce: text(wrapped, "nonce").into(),
            key: text(wrapped, "key").into(),
        };
        assert_eq!(made.unwrap(), wire);
        let open = |sender, own| group::open(&body, &wire, sender, own, &cache);
        assert_eq!(open(sender.public(), &recipient).unwrap(), plaintext);
        assert!(open(pair(wrapped, "recipient").public(), &recipient).is_err());
        assert!(open(sender.public(), &sender).is_err());
    }
}

pub fn at_rest_aes_gcm(entry: &Value) {
    let key = AtRestKey::from_hex(text(entry, "key_hex")).unwrap_or_else(|error| panic!("{error}"));
    let plaintext = text(entry, "plaintext").as_bytes();
    let packed = key.seal_with_iv(plaintext, Binding::Unbound, array(entry, "iv_hex"));
    assert_eq!(packed, text(entry, "packed_b64"));
    assert_eq!(key.open(&packed, Binding::Unbound).unwrap().as_slice(), plaintext);
    let row = |id| Binding::Row { table: "mesh", column: "root_key", id };
    let bound = key.seal(plaintext, row("1"));
    assert_eq!(key.open(&bound, row("1")).unwrap().as_slice(), plaintext);
    assert!(key.open(&bound, row("2")).is_err());
    assert!(key.open(&bound, Binding::Unbound).is_err());
    assert!(AtRestKey::generate().open(&packed, Binding::Unbound).is_err());
}

fn costs(entry: &Value) -> KdfCosts {
    let argon = &entry["argon2id"];
    let number = |name: &str| u32::try_from(argon[name].as_u64().unwrap()).unwrap();
    assert_eq!((number("version"), number("out_len")), (0x13, 32));
    KdfCosts {
        passes: number("t_cost"),
        memory_kib: number("m_cost_kib"),
        lanes: number("parallelism"),
    }
}

/// The old format was never written by a released program and is not read; its key derivation is the same.
pub fn backup_cmb1(entry: &Value) {
    let key =
        backup::derive_key(text(entry, "passphrase"), &array(entry, "salt_hex"), costs(entry));
    assert_eq!(key.unwrap().as_slice(), unhex(entry, "key_hex"));
    let opened = backup::open(&unhex(entry, "file_hex"), text(entry, "passphrase"));
    assert_eq!(opened, Err(backup::BackupError::Format));
}

pub fn backup_cmb2(entry: &Value) {
    let costs = costs(entry);
    assert_eq!(costs, KdfCosts::default());
    let passphrase = text(entry, "passphrase");
    let header = Header { costs, salt: array(entry, "salt_hex"), nonce: array(entry, "nonce_hex") };
    let key = backup::derive_key(passphrase, &header.salt, costs).unwrap();
    assert_eq!(key.as_slice(), unhex(entry, "key_hex"));
    let file = backup::seal_with_header(text(entry, "plaintext").as_bytes(), passphrase, &header);
    let file = file.unwrap();
    assert_eq!(file, unhex(entry, "file_hex"));
    assert!(file.starts_with(&unhex(entry, "aad_hex")));
    assert_eq!(Header::read(&file).unwrap().0, header);
    let opened = backup::open(&file, passphrase).unwrap();
    assert_eq!(opened.as_slice(), text(entry, "plaintext").as_bytes());
}
