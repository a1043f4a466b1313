//! Attestations in both JSON forms: reading never panics, what is written reads back equal.
#![no_main]

use claudemesh_crypto::attestation::verify;
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::attestation::{ParentAttestation, snake_case};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(attestation) = serde_json::from_str::<ParentAttestation>(text) {
        let written = serde_json::to_string(&attestation).expect("an attestation is JSON");
        let read: ParentAttestation = serde_json::from_str(&written).expect("it reads back");
        assert_eq!(read, attestation);
        let _ = verify(&attestation, Timestamp::ZERO);
    }
    let _ = snake_case::deserialize(&mut serde_json::Deserializer::from_str(text));
});
