//! Bearers and signed tokens of strangers: none is believed.
#![no_main]

use claudemesh_crypto::webhook::{Delivery, WebhookSecret, verify_github};
use claudemesh_crypto::{KeyPair, jwt, resume, tokens};
use claudemesh_protocol::Timestamp;
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "whsec_nlo/fFfg2k52SPPWZHhttqr0GdzWaX5YjazVtVdfGGM=";

fuzz_target!(|text: &str| {
    let _ = tokens::classify(text);
    let _ = tokens::api_key_index(text);
    assert!(jwt::verify(text, b"a key nobody knows", Timestamp::ZERO).is_err());
    let broker = KeyPair::from_seed(&[7; 32]);
    assert!(resume::read(text, broker.public(), Timestamp::ZERO).is_none());
    let _ = WebhookSecret::parse(text);
    if let Ok(secret) = WebhookSecret::parse(SECRET) {
        let delivery = Delivery { id: "id", timestamp_seconds: 0, body: b"body" };
        let _ = secret.verify(&delivery, text, Timestamp::ZERO);
    }
    let _ = verify_github(SECRET, b"body", text);
});
