//! Invites in every form a person may paste, and answers to claims.
#![no_main]

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::invite::{InviteCapability, InviteV1, RootKey};
use claudemesh_protocol::encoding::b64url;
use claudemesh_protocol::invite::{InviteLink, PlainHttp};
use claudemesh_protocol::{MeshId, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let own = KeyPair::from_seed(&[7; 32]);
    let _ = InviteLink::looks_like_link(text);
    let _ = InviteLink::parse(text, PlainHttp::LoopbackOnly);
    for token in [text, &b64url(text.as_bytes())] {
        let _ = InviteV1::from_token(token).map(|invite| invite.verify(Timestamp::ZERO));
        let _ = RootKey::open_sealed(token, own.exchange());
    }
    if let Ok(capability) = serde_json::from_str::<InviteCapability>(text) {
        let _ = capability.verify_answer(&MeshId::new("mesh"), own.public());
    }
});
