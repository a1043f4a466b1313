//! Vectors of keys and signatures: the canonical text, the exact signature bytes, and that it verifies.

use claudemesh_crypto::invite::{Claim, InviteCapability, InviteV1, InviteV1Fields, RootKey};
use claudemesh_crypto::resume::{self, ResumeClaims};
use claudemesh_crypto::rotation::Rotation;
use claudemesh_crypto::{
    KeyPair, attestation, envelope, hello as handshake, p2p, proof, service, signed_http,
    verify_strict,
};
use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::canonical::{self, P2pStep, ServiceStatement};
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::encoding::b64_decode;
use claudemesh_protocol::{MemberId, MeshId, SignatureBytes, Timestamp};
use serde_json::{Value, json};

use crate::vector::{
    array, constant, items, key, millis, named_pair, pair, signature, text, unhex,
};

fn mesh(entry: &Value) -> MeshId {
    MeshId::new(text(entry, "mesh_id"))
}

fn const_mesh() -> MeshId {
    MeshId::new(constant("mesh_id"))
}

fn const_time() -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000)
}

/// The canonical text is the entry's, and the signature is its bytes and verifies.
fn check(entry: &Value, canonical: &str, signer: &KeyPair, made: &SignatureBytes) {
    assert_eq!(canonical, text(entry, "canonical"));
    let expected = if entry["signature_hex"].is_string() { "signature_hex" } else { "signature" };
    assert_eq!(made.to_hex(), text(entry, expected));
    assert_eq!(signer.sign(canonical.as_bytes()), *made);
    assert_eq!(verify_strict(signer.public(), canonical.as_bytes(), made), Ok(()));
}

pub fn ed25519_keypairs(entry: &Value) {
    for (name, expected) in entry.as_object().unwrap() {
        let pair = KeyPair::from_seed(&array(expected, "seed_hex"));
        assert_eq!(pair.public().to_hex(), text(expected, "public_key_hex"), "{name}");
        assert_eq!(*pair.to_hex(), text(expected, "secret_key_hex"), "{name}");
        assert!(named_pair(name) == pair);
    }
}

pub fn hello(entry: &Value) {
    let member_id = MemberId::new(text(entry, "member_id"));
    let (mesh, member, at) = (mesh(entry), pair(entry, "signed_by"), millis(entry, "timestamp"));
    assert_eq!(member.public(), key(entry, "pubkey"));
    let canonical = canonical::hello(&mesh, &member_id, member.public(), at).unwrap();
    let signed = handshake::sign(&mesh, &member_id, &member, at).unwrap();
    check(entry, &canonical, &member, &signed);
    assert_eq!(handshake::verify(&mesh, &member_id, member.public(), at, &signed), Ok(()));
    for negative in items(&entry["negative"]) {
        let forged = text(negative, "canonical").as_bytes();
        let signed = signature(negative, "signature_hex");
        assert!(verify_strict(member.public(), forged, &signed).is_err(), "{negative}");
    }
}

pub fn session_attestation_v1(entry: &Value) {
    let parent = pair(entry, "signed_by");
    let (session, expires_at) = (key(entry, "session_pubkey"), millis(entry, "expires_at_ms"));
    let minted = attestation::mint(&parent, session, expires_at, None);
    let canonical = canonical::session_attestation(parent.public(), session, expires_at, None);
    check(entry, &canonical, &parent, &minted.signature);
    assert_eq!(attestation::verify(&minted, const_time()), Ok(()));
    assert_eq!(attestation::check_binding(&minted, key(entry, "parent_pubkey"), session), Ok(()));
}

pub fn session_attestation_v2(entry: &Value) {
    let parent = pair(entry, "signed_by");
    let (session, expires_at) = (key(entry, "session_pubkey"), millis(entry, "expires_at_ms"));
    let words = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
    for case in items(&entry["cases"]) {
        let input = words(&case["allowed_caps_input"]);
        let caps = CapabilitySet::parse(input.iter().map(String::as_str)).unwrap();
        assert_eq!(caps.to_csv(), text(case, "caps_csv"));
        let minted = attestation::mint(&parent, session, expires_at, Some(caps));
        let canonical =
            canonical::session_attestation(parent.public(), session, expires_at, Some(caps));
        check(case, &canonical, &parent, &minted.signature);
        assert_eq!(attestation::verify(&minted, const_time()), Ok(()));
        assert_eq!(attestation_with_list(&minted, &case["allowed_caps_input"]).unwrap(), minted);
    }
    for refused in items(&entry["refused_caps_input"]) {
        let input = words(refused);
        assert!(CapabilitySet::parse(input.iter().map(String::as_str)).is_err());
        let minted = attestation::mint(&parent, session, expires_at, Some(CapabilitySet::EMPTY));
        assert!(attestation_with_list(&minted, refused).is_err());
    }
}

/// The attestation as it is read from the wire with this very list.
fn attestation_with_list(
    attestation: &ParentAttestation,
    list: &Value,
) -> Result<ParentAttestation, serde_json::Error> {
    let mut wire = serde_json::to_value(attestation).unwrap();
    wire["allowed_caps"] = list.clone();
    serde_json::from_value(wire)
}

pub fn session_hello(entry: &Value) {
    let (mesh, session, at) = (mesh(entry), pair(entry, "signed_by"), millis(entry, "timestamp"));
    let parent = key(entry, "parent_pubkey");
    assert_eq!(session.public(), key(entry, "session_pubkey"));
    let canonical = canonical::session_hello(&mesh, parent, session.public(), at).unwrap();
    let signed = handshake::sign_session(&mesh, parent, &session, at).unwrap();
    check(entry, &canonical, &session, &signed);
    assert_eq!(handshake::verify_session(&mesh, parent, session.public(), at, &signed), Ok(()));
}

pub fn hello_session_proof(entry: &Value) {
    let (session, parent) = (pair(entry, "signed_by"), named_pair("alice_member").public());
    let canonical =
        canonical::session_hello(&const_mesh(), parent, session.public(), const_time()).unwrap();
    let signed = handshake::sign_session(&const_mesh(), parent, &session, const_time()).unwrap();
    check(entry, &canonical, &session, &signed);
}

pub fn invite_v1(entry: &Value) {
    let core = &entry["payload_core"];
    let (mesh, owner) = (mesh(core), pair(entry, "signed_by"));
    let invite = InviteV1::sign(
        &InviteV1Fields {
            mesh: &mesh,
            slug: text(core, "mesh_slug"),
            broker_url: text(core, "broker_url"),
            expires_at: Timestamp::from_seconds(core["expires_at"].as_i64().unwrap()),
            root_key: &RootKey::from_b64url(text(core, "mesh_root_key")).unwrap(),
            role: text(core, "role").parse().unwrap(),
        },
        &owner,
    )
    .unwrap_or_else(|error| panic!("{error}"));
    check(entry, text(entry, "canonical"), &owner, &invite.signature);
    assert_eq!(serde_json::to_string(&invite).unwrap(), text(entry, "payload_json"));
    let token = invite.to_token().unwrap();
    assert_eq!(*token, text(entry, "token_b64url"));
    assert_eq!(format!("ic://join/{}", *token), text(entry, "link"));
    let read = InviteV1::from_token(&token).unwrap_or_else(|error| panic!("{error}"));
    assert!(read == invite);
    assert_eq!(read.verify(const_time()), Ok(()));
    assert!(read.verify(Timestamp::from_seconds(read.expires_at)).is_err());
    let mut widened = read;
    widened.role = claudemesh_protocol::status::MemberRole::Admin;
    assert!(widened.verify(const_time()).is_err());
}

pub fn invite_v2(entry: &Value) {
    let (mesh, owner) = (mesh(entry), pair(entry, "signed_by"));
    let capability = InviteCapability::sign(
        &mesh,
        &text(entry, "invite_id").to_owned().into(),
        Timestamp::from_seconds(entry["expires_at"].as_i64().unwrap()),
        text(entry, "role").parse().unwrap(),
        &owner,
    )
    .unwrap();
    check(entry, &capability.canonical, &owner, &capability.signature);
    assert_eq!(serde_json::to_string(&capability).unwrap(), text(entry, "capability_json"));
    let expected = text(entry, "canonical");
    assert_eq!(capability.verify_row(expected, key(entry, "owner_pubkey")), Ok(()));
    assert_eq!(capability.verify_answer(&mesh, owner.public()), Ok(()));
    let other = MeshId::new("another");
    assert!(capability.verify_answer(&other, owner.public()).is_err());
    assert!(capability.verify_answer(&mesh, named_pair("broker").public()).is_err());
    assert!(capability.verify_row(&expected.replace("admin", "member"), owner.public()).is_err());
}

pub fn invite_v2_claim_proof(entry: &Value) {
    let claim = Claim::Code {
        code: text(entry, "code"),
        recipient_x25519: text(entry, "recipient_x25519_pubkey"),
    };
    check_claim(entry, &claim, text(entry, "code"), text(entry, "recipient_x25519_pubkey"));
}

pub fn join_v1_proof(entry: &Value) {
    let token = format!("{}…", text(entry, "token_first16"));
    check_claim(entry, &Claim::Token(&token), text(entry, "token_first16"), "");
}

fn check_claim(entry: &Value, claim: &Claim<'_>, code: &str, recipient: &str) {
    let (peer, at) = (pair(entry, "signed_by"), millis(entry, "timestamp"));
    assert_eq!(peer.public(), key(entry, "peer_pubkey"));
    let canonical = canonical::invite_claim(code, recipient, peer.public(), at).unwrap();
    let proof = claim.prove(&peer, at).unwrap();
    check(entry, &canonical, &peer, &proof);
    assert_eq!(claim.verify(peer.public(), at, &proof), Ok(()));
    assert!(claim.verify(named_pair("carol_member").public(), at, &proof).is_err());
}

pub fn resume_token(entry: &Value) {
    let broker = pair(entry, "signed_by");
    let claims: ResumeClaims = serde_json::from_str(text(entry, "payload_json")).unwrap();
    assert_eq!(serde_json::to_string(&claims).unwrap(), text(entry, "payload_json"));
    let signed = broker.sign(text(entry, "payload_json").as_bytes());
    assert_eq!(signed.to_hex(), text(entry, "signature_hex"));
    let token = resume::issue(&claims, &broker).unwrap();
    assert_eq!(token, text(entry, "token"));
    assert_eq!(resume::read(&token, broker.public(), claims.issued_at), Some(claims.clone()));
    assert_eq!(resume::read(&token, broker.public(), claims.expires_at), None);
    assert_eq!(resume::read(&token, named_pair("owner").public(), claims.issued_at), None);
}

pub fn envelope_v2(entry: &Value) {
    for case in items(&entry["cases"]) {
        let sender = pair(case, "signed_by");
        let (wire, mesh) = (&case["envelope"], mesh(case));
        let ciphertext = b64_decode(text(&wire["body"], "ciphertext")).unwrap();
        let signed = envelope::Signed {
            mesh: &mesh,
            channel: text(wire, "channel"),
            target: text(wire, "target"),
            nonce: text(&wire["body"], "nonce"),
            ciphertext: &ciphertext,
            body_version: u32::try_from(wire["body"]["bodyVersion"].as_u64().unwrap()).unwrap(),
            meta: &wire["meta"],
        };
        assert_eq!(sender.public(), key(wire, "from"));
        assert_eq!(canonical::jcs(&wire["meta"]).unwrap(), text(case, "meta_jcs"));
        let digest = claudemesh_crypto::hash::sha256_hex(&ciphertext);
        assert_eq!(digest, text(case, "ciphertext_sha256_hex"));
        let canonical = signed.canonical(sender.public()).unwrap();
        assert_eq!(canonical.as_bytes(), unhex(case, "canonical_hex"));
        let made = signed.sign(&sender).unwrap();
        assert_eq!(made.to_hex(), text(wire, "signature"));
        assert_eq!(signed.verify(sender.public(), &made), Ok(()));
        let changed = envelope::Signed { meta: &json!({}), ..signed };
        assert!(changed.verify(sender.public(), &made).is_err());
    }
}

pub fn p2p_signalling(entry: &Value) {
    for case in items(&entry["cases"]) {
        let (from, mesh) = (pair(case, "signed_by"), mesh(case));
        let signal = p2p::Signal {
            step: text(case, "kind").parse::<P2pStep>().unwrap(),
            mesh: &mesh,
            to: key(case, "to"),
            p2p_id: text(case, "p2p_id"),
            address: text(case, "sdp"),
            timestamp: millis(case, "timestamp"),
        };
        let digest = claudemesh_crypto::hash::sha256_hex(text(case, "sdp").as_bytes());
        assert_eq!(digest, text(case, "sdp_sha256_hex"));
        let made = signal.sign(&from).unwrap();
        check(case, text(case, "canonical"), &from, &made);
        assert_eq!(signal.verify(key(case, "from"), &made), Ok(()));
        assert!(p2p::Signal { address: "", ..signal }.verify(from.public(), &made).is_err());
    }
}

pub fn service_attestation(entry: &Value) {
    let first: Vec<String> = text(entry, "scopes_csv").split(',').map(str::to_owned).collect();
    check_service(entry, entry, &first);
    for more in items(&entry["more"]) {
        let scopes: Vec<String> = serde_json::from_value(more["scopes_input"].clone()).unwrap();
        assert_eq!(canonical::scopes_csv(&scopes).unwrap(), text(more, "scopes_csv"));
        check_service(entry, more, &scopes);
    }
}

fn check_service(entry: &Value, expected: &Value, scopes: &[String]) {
    let (mesh, owner) = (mesh(entry), pair(entry, "signed_by"));
    let statement = ServiceStatement {
        mesh: &mesh,
        member: key(entry, "parent_pubkey"),
        service_id: text(entry, "service_id"),
        service: key(entry, "service_pubkey"),
        service_type: text(entry, "service_type"),
        scopes,
        expires_at: millis(entry, "expires_at_ms"),
    };
    let made = service::attest(&statement, &owner).unwrap();
    check(expected, &canonical::service_attestation(&statement).unwrap(), &owner, &made);
    assert_eq!(service::verify(&statement, &made), Ok(()));
    let widened = ServiceStatement { scopes: &["state:write".to_owned()], ..statement };
    assert!(service::verify(&widened, &made).is_err());
}

pub fn member_key_rotation(entry: &Value) {
    let (mesh, member) = (mesh(entry), MemberId::new(text(entry, "member_id")));
    let (old, new) = (named_pair("alice_member"), named_pair("carol_member"));
    let rotation = Rotation {
        mesh: &mesh,
        member: &member,
        old: key(entry, "old_pubkey"),
        new: key(entry, "new_pubkey"),
        timestamp: millis(entry, "timestamp"),
    };
    let by_old = rotation.sign(&old).unwrap();
    let by_new = rotation.sign(&new).unwrap();
    assert_eq!(by_old.to_hex(), text(entry, "signature_old_hex"));
    assert_eq!(by_new.to_hex(), text(entry, "signature_new_hex"));
    assert_eq!(old.sign(text(entry, "canonical").as_bytes()), by_old);
    assert_eq!(rotation.verify(&by_old, &by_new), Ok(()));
    assert!(rotation.verify(&by_new, &by_old).is_err());
    assert!(rotation.verify(&by_old, &by_old).is_err());
}

pub fn signed_http_request(entry: &Value) {
    for case in items(entry) {
        let key = pair(case, "signed_by");
        let request = signed_http::Request {
            method: text(case, "method"),
            target: text(case, "target"),
            body_sha256: claudemesh_crypto::hash::sha256(text(case, "body_utf8").as_bytes()),
            timestamp: millis(case, "timestamp"),
        };
        let made = request.sign(&key).unwrap();
        check(case, text(case, "canonical"), &key, &made);
        assert_eq!(request.verify(key.public(), &made), Ok(()));
        let lower = text(case, "method").to_ascii_lowercase();
        let same = signed_http::Request { method: &lower, ..request };
        assert_eq!(same.verify(key.public(), &made), Ok(()));
        let other = signed_http::Request { body_sha256: [0; 32], ..request };
        assert!(other.verify(key.public(), &made).is_err());
    }
}

pub fn web_device_proof(entry: &Value) {
    let (device, member) = (pair(entry, "signed_by"), MemberId::new(constant("member_id_alice")));
    let canonical = canonical::web_device(&member, device.public(), const_time()).unwrap();
    let made = proof::prove_device(&member, &device, const_time()).unwrap();
    check(entry, &canonical, &device, &made);
    assert_eq!(proof::verify_device(&member, device.public(), const_time(), &made), Ok(()));
}

pub fn sync_proof(entry: &Value) {
    let peer = pair(entry, "signed_by");
    let canonical = canonical::sync_proof(&const_mesh(), peer.public(), const_time()).unwrap();
    let made = proof::prove_sync(&const_mesh(), &peer, const_time()).unwrap();
    check(entry, &canonical, &peer, &made);
    assert_eq!(proof::verify_sync(&const_mesh(), peer.public(), const_time(), &made), Ok(()));
}
