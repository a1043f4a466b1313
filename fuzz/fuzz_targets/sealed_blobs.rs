//! Everything that is opened with a key: no panic, and nothing made up opens.
#![no_main]

use std::sync::LazyLock;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::at_rest::{AtRestKey, Binding};
use claudemesh_crypto::direct::{self, Nonce, Sealed};
use claudemesh_crypto::key_box::KeyBox;
use claudemesh_crypto::sealed;
use claudemesh_crypto::secretbox::SecretBoxKey;
use claudemesh_protocol::encoding::b64;
use libfuzzer_sys::fuzz_target;

static OWN: LazyLock<KeyPair> = LazyLock::new(KeyPair::generate);
static KEY: LazyLock<SecretBoxKey> = LazyLock::new(SecretBoxKey::generate);
static AT_REST: LazyLock<AtRestKey> = LazyLock::new(AtRestKey::generate);

fuzz_target!(|bytes: &[u8]| {
    assert!(sealed::open(bytes, OWN.exchange()).is_err());
    assert!(KEY.open_object(bytes).is_err());
    assert!(AT_REST.open(&b64(bytes), Binding::Unbound).is_err());
    if let Some((nonce, rest)) = bytes.split_first_chunk() {
        let nonce = Nonce::from_bytes(*nonce);
        let sealed = Sealed { nonce, ciphertext: rest.to_vec() };
        assert!(direct::open(&sealed, OWN.public(), &OWN).is_err());
        if let Ok(key_box) = KeyBox::from_b64(&nonce.to_b64(), &b64(rest)) {
            assert_eq!(key_box.key_b64(), b64(rest));
            assert!(key_box.open(&OWN).is_err());
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = KeyBox::from_b64(text, text);
        let _ = Sealed::from_b64(text, text);
        let _ = AT_REST.open(text, Binding::Unbound);
    }
});
