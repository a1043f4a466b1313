//! Keys and signatures of strangers.
#![no_main]

use claudemesh_crypto::exchange::{ExchangePublic, ExchangeSecret};
use claudemesh_crypto::verify_strict;
use claudemesh_protocol::{PublicKey, SignatureBytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((key, rest)) = bytes.split_first_chunk() else { return };
    let _ = ExchangePublic::from_ed25519(PublicKey::from_bytes(*key));
    let _ = ExchangeSecret::from_bytes([1; 32]).agree(&ExchangePublic::from_bytes(*key));
    if let Some((signature, text)) = rest.split_first_chunk() {
        let signature = SignatureBytes::from_bytes(*signature);
        let _ = verify_strict(PublicKey::from_bytes(*key), text, &signature);
    }
});
