//! Vectors of hashes, tokens and text forms.

use claudemesh_crypto::audit::{self, Entry};
use claudemesh_crypto::fingerprint::{self, Request};
use claudemesh_crypto::tokens::{self, BearerKind, SecretText};
use claudemesh_crypto::webhook::{self, Delivery, WebhookSecret};
use claudemesh_crypto::{hash, host, jwt, safety};
use claudemesh_protocol::canonical::{self, FingerprintStatement};
use claudemesh_protocol::{MemberId, MeshId, TargetSpec, Timestamp, body, id};
use serde_json::Value;

use crate::vector::{array, constant, items, key, text, unhex};

pub fn schema_version(entry: &Value) {
    assert_eq!(entry, 1);
}

pub fn encodings(entry: &Value) {
    assert!(entry.as_str().unwrap().contains("RFC 4648"));
}

pub fn constants(entry: &Value) {
    let at = Timestamp::from_millis(entry["timestamp_ms"].as_i64().unwrap());
    assert_eq!(at.to_iso(), text(entry, "timestamp_iso"));
    for name in ["mesh_id", "member_id_alice", "member_id_bob", "invite_id", "topic_id"] {
        assert!(id::is_row_id(&constant(name)), "{name}");
    }
}

pub fn request_fingerprint(entry: &Value) {
    for case in items(entry) {
        let meta = Some(&case["meta"]).filter(|meta| !meta.is_null());
        let canonical_meta = meta.map_or(Ok(String::new()), canonical::jcs).unwrap();
        assert_eq!(canonical_meta, text(case, "meta_canonical"));
        let request = Request {
            destination_kind: text(case, "destination_kind").parse().unwrap(),
            destination_ref: text(case, "destination_ref"),
            reply_to_id: case["reply_to_id"].as_str(),
            priority: text(case, "priority").parse().unwrap(),
            meta,
            body: text(case, "body"),
        };
        let preimage = canonical::fingerprint(&FingerprintStatement {
            envelope_version: u32::try_from(case["envelope_version"].as_u64().unwrap()).unwrap(),
            destination_kind: request.destination_kind,
            destination_ref: request.destination_ref,
            reply_to_id: request.reply_to_id,
            priority: request.priority,
            meta,
            body_sha256: array(case, "body_sha256_hex"),
        });
        assert_eq!(preimage.unwrap(), unhex(case, "preimage_hex"));
        assert_eq!(hash::sha256_hex(request.body.as_bytes()), text(case, "body_sha256_hex"));
        let made = fingerprint::of_request(&request).unwrap();
        assert_eq!(made.to_hex(), text(case, "fingerprint_hex"));
        assert_eq!(made.prefix(), text(case, "prefix8_hex"));
    }
}

pub fn default_fingerprint(entry: &Value) {
    let target: TargetSpec = text(entry, "target_spec").parse().unwrap();
    let priority = text(entry, "priority").parse().unwrap();
    let reply_to_id = entry["reply_to_id"].as_str();
    let preimage = canonical::default_fingerprint(&target, priority, reply_to_id).unwrap();
    assert_eq!(preimage.as_bytes(), unhex(entry, "preimage_hex"));
    let made = fingerprint::default_fingerprint(&target, priority, reply_to_id).unwrap();
    assert_eq!(made.to_hex(), text(entry, "fingerprint_hex"));
}

pub fn jcs(entry: &Value) {
    for case in items(entry) {
        let made = canonical::jcs(&case["input"]).unwrap();
        assert_eq!(made, text(case, "canonical"), "{}", text(case, "name"));
    }
}

pub fn safety_number(entry: &Value) {
    for case in items(entry) {
        let (a, b) = (key(case, "a_pubkey"), key(case, "b_pubkey"));
        assert_eq!(safety::safety_number(a, b), text(case, "safety_number"));
        assert_eq!(safety::safety_number(b, a), text(case, "safety_number"));
    }
}

pub fn audit_chain(entry: &Value) {
    let cases = items(entry);
    let meshes: Vec<MeshId> = cases.iter().map(|case| MeshId::new(text(case, "mesh_id"))).collect();
    let actors: Vec<Option<MemberId>> =
        cases.iter().map(|case| case["actor_member_id"].as_str().map(MemberId::new)).collect();
    let entries: Vec<Entry<'_>> = cases
        .iter()
        .zip(meshes.iter().zip(&actors))
        .map(|(case, (mesh, actor))| Entry {
            mesh,
            event: text(case, "event_type"),
            actor: actor.as_ref(),
            payload: text(case, "payload_canonical"),
            created_at: Timestamp::parse_iso(text(case, "created_at_iso")).unwrap(),
        })
        .collect();
    for (case, entry) in cases.iter().zip(&entries) {
        assert_eq!(audit::canonical_payload(&case["payload"]).unwrap(), entry.payload);
        let preimage = canonical::audit_entry(
            text(case, "prev_hash"),
            entry.mesh,
            entry.event,
            entry.actor,
            entry.payload,
            entry.created_at,
        );
        assert_eq!(preimage, text(case, "preimage"));
        let prev = Some(text(case, "prev_hash")).filter(|prev| *prev != "genesis");
        assert_eq!(audit::link(prev, entry), text(case, "hash"));
    }
    let chain = entries
        .into_iter()
        .zip(cases)
        .map(|(entry, case)| (entry, text(case, "prev_hash"), text(case, "hash")));
    assert_eq!(audit::first_broken(chain), None);
}

pub fn api_key(entry: &Value) {
    let random = unhex(entry, "random_hex");
    let made = tokens::api_key(&mut |buffer: &mut [u8]| buffer.copy_from_slice(&random));
    assert_eq!(made.expose(), text(entry, "secret"));
    assert_eq!(entry["length"], made.expose().len());
    assert_eq!(tokens::api_key_index(made.expose()), Some(text(entry, "prefix")));
    assert_eq!(made.stored_hash(), text(entry, "sha256_hex"));
    assert!(tokens::matches_stored_hash(text(entry, "secret"), text(entry, "sha256_hex")));
    assert_eq!(tokens::classify(made.expose()), BearerKind::ApiKey);
}

pub fn jwt_hs256(entry: &Value) {
    for case in items(entry) {
        let secret = text(case, "secret_utf8").as_bytes();
        assert_eq!(jwt::sign(&case["claims"], secret).unwrap(), text(case, "token"));
        let issued = Timestamp::from_seconds(case["claims"]["iat"].as_i64().unwrap());
        let claims = jwt::verify(text(case, "token"), secret, issued).unwrap();
        assert_eq!(Value::Object(claims), case["claims"]);
        assert_eq!(tokens::classify(text(case, "token")), BearerKind::Jwt);
        if let Some(expected) = case["token_sha256_hex"].as_str() {
            assert_eq!(SecretText::new(text(case, "token").to_owned()).stored_hash(), expected);
        }
    }
}

pub fn host_fingerprint(entry: &Value) {
    let (host_id, mac) = (text(entry, "host_id"), text(entry, "stable_mac"));
    assert_eq!(host::fingerprint(host_id, mac), text(entry, "v2_hex"));
    assert_ne!(text(entry, "v1_hex"), text(entry, "v2_hex"));
}

pub fn bridge_hop(entry: &Value) {
    for case in items(entry) {
        let max_hops = u32::try_from(case["max_hops"].as_u64().unwrap()).unwrap();
        let made = body::bridge_forward(text(case, "in"), max_hops);
        assert_eq!(made.as_deref(), case["out"].as_str());
    }
}

pub fn webhook_delivery_signature(entry: &Value) {
    let secret =
        WebhookSecret::parse(text(entry, "secret")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(secret.as_bytes(), &array::<32>(entry, "key_hex"));
    let delivery = Delivery {
        id: text(entry, "webhook_id"),
        timestamp_seconds: entry["webhook_timestamp"].as_i64().unwrap(),
        body: text(entry, "body_utf8").as_bytes(),
    };
    let signed_text =
        format!("{}.{}.{}", delivery.id, delivery.timestamp_seconds, text(entry, "body_utf8"));
    assert_eq!(signed_text, text(entry, "signed_text"));
    assert_eq!(secret.sign(&delivery).unwrap(), text(entry, "webhook_signature"));
    let rotation = &entry["rotation"];
    let second = WebhookSecret::parse(text(rotation, "second_secret"))
        .unwrap_or_else(|error| panic!("{error}"));
    let both = format!("{} {}", secret.sign(&delivery).unwrap(), second.sign(&delivery).unwrap());
    assert_eq!(both, text(rotation, "webhook_signature"));
    let now = Timestamp::from_seconds(delivery.timestamp_seconds);
    for accepted in [&secret, &second] {
        assert_eq!(accepted.verify(&delivery, &both, now), Ok(()));
    }
    assert!(second.verify(&delivery, text(entry, "webhook_signature"), now).is_err());
    let header = text(entry, "github_x_hub_signature_256");
    assert_eq!(webhook::verify_github(text(entry, "secret"), delivery.body, header), Ok(()));
    assert!(webhook::verify_github(text(entry, "secret"), b"", header).is_err());
}

pub fn body_meta(entry: &Value) {
    let plaintext = String::from_utf8(unhex(entry, "plaintext_hex")).unwrap();
    let read = body::unwrap(&plaintext);
    assert_eq!(read.body, text(entry, "body"));
    assert_eq!(read.meta.as_ref(), entry["meta"].as_object());
    let wrapped = body::wrap(text(entry, "body"), entry["meta"].as_object().unwrap()).unwrap();
    assert_eq!(body::unwrap(&wrapped), read);
}
