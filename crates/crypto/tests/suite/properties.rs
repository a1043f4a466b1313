//! Properties of every codec: what is written reads back, foreign bytes never panic, one flipped bit opens nothing.

use std::path::Path;
use std::sync::LazyLock;

use claudemesh_crypto::at_rest::{AtRestKey, Binding};
use claudemesh_crypto::backup::{self, Header, KdfCosts};
use claudemesh_crypto::direct::{Nonce, Sealed, SharedKey, SharedKeyCache};
use claudemesh_crypto::exchange::{ExchangePublic, ExchangeSecret};
use claudemesh_crypto::fingerprint::Fingerprint;
use claudemesh_crypto::invite::{InviteV1, InviteV1Fields, RootKey};
use claudemesh_crypto::key_box::KeyBox;
use claudemesh_crypto::secretbox::SecretBoxKey;
use claudemesh_crypto::webhook::WebhookSecret;
use claudemesh_crypto::{
    KeyPair, attestation, group, identity, jwt, resume, sealed, tokens, topic, webhook,
};
use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::capability::{Capability, CapabilitySet};
use claudemesh_protocol::invite::{InviteLink, PlainHttp};
use claudemesh_protocol::limits::BACKUP_PASSES_MAX;
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::wire::{ClientFrame, ServerFrame, ServerInbound};
use claudemesh_protocol::{
    MeshId, PublicKey, SignatureBytes, TargetSpec, Timestamp, body, canonical, encoding,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

fn flipped(bytes: &[u8], at: Index, bit: u8) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let position = at.index(changed.len());
    changed[position] ^= 1 << (bit % 8);
    changed
}

fn capabilities() -> impl Strategy<Value = Option<CapabilitySet>> {
    proptest::option::of(
        subsequence(Capability::ALL, 0..=Capability::ALL.len())
            .prop_map(|capabilities| capabilities.into_iter().collect::<CapabilitySet>()),
    )
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 53)..(1_i64 << 53)).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Every decoder of texts that come from strangers; the fuzz targets call the same ones.
fn decode_text(text: &str) {
    let own = KeyPair::from_seed(&[7; 32]);
    let _ = ClientFrame::decode(text).map(|inbound| inbound.frame.encode(None).unwrap());
    let _ = ServerFrame::decode(text);
    let _ = body::unwrap(text);
    let _ = body::bridge_forward(text, 2);
    let _ = text.parse::<TargetSpec>();
    let _ = text.parse::<PublicKey>();
    let _ = text.parse::<SignatureBytes>();
    let _ = InviteLink::parse(text, PlainHttp::LoopbackOnly);
    let _ = InviteV1::from_token(text).map(|invite| invite.verify(NOW));
    let _ = serde_json::from_str::<ParentAttestation>(text)
        .map(|attestation| attestation::verify(&attestation, NOW));
    let _ = KeyBox::from_b64(text, text).map(|key_box| key_box.open(&own).is_ok());
    let _ = Sealed::from_b64(text, text);
    let _ = RootKey::open_sealed(text, own.exchange());
    let _ = KeyPair::from_hex(text);
    let _ = AtRestKey::from_hex(text);
    let _ = WebhookSecret::parse(text);
    let _ = Fingerprint::from_hex(text);
    let _ = tokens::classify(text);
    let _ = tokens::api_key_index(text);
    let _ = jwt::verify(text, b"key", NOW);
    let _ = resume::read(text, own.public(), NOW);
    let _ = webhook::verify_github("secret", b"", text);
    let _ = encoding::b64_decode_lenient(text);
}

/// Every decoder of bytes that come from strangers.
fn decode_bytes(bytes: &[u8]) {
    let own = KeyPair::from_seed(&[7; 32]);
    let _ = sealed::open(bytes, own.exchange());
    let _ = SecretBoxKey::from_bytes([1; 32]).open_object(bytes);
    let _ = Header::read(bytes);
    if let Some((nonce, ciphertext)) = bytes.split_first_chunk() {
        let sealed = Sealed { nonce: Nonce::from_bytes(*nonce), ciphertext: ciphertext.to_vec() };
        let _ = claudemesh_crypto::direct::open(&sealed, own.public(), &own);
    }
    if let Some((key, rest)) = bytes.split_first_chunk() {
        let _ = ExchangePublic::from_ed25519(PublicKey::from_bytes(*key));
        if let Some((signature, text)) = rest.split_first_chunk() {
            let signature = SignatureBytes::from_bytes(*signature);
            let _ = identity::verify_strict(PublicKey::from_bytes(*key), text, &signature);
        }
    }
}

/// The well-formed inputs the fuzz targets start from: (target, content).
static SEEDS: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let mut seeds = Vec::new();
    for target in std::fs::read_dir(root).unwrap().map(Result::unwrap) {
        for file in std::fs::read_dir(target.path()).unwrap().map(Result::unwrap) {
            let name = target.file_name().into_string().unwrap();
            seeds.push((name, std::fs::read(file.path()).unwrap()));
        }
    }
    seeds
});

#[test]
fn every_seed_frame_is_read_and_reads_back() {
    let of = |target: &'static str| {
        let matching = SEEDS.iter().filter(move |(name, _)| name == target);
        matching.map(|(_, bytes)| std::str::from_utf8(bytes).unwrap())
    };
    assert!(of("client_frame").count() > 5 && of("server_frame").count() > 2);
    for text in of("client_frame") {
        let inbound = ClientFrame::decode(text).unwrap();
        let written = inbound.frame.encode(inbound.req_id.as_deref()).unwrap();
        assert_eq!(ClientFrame::decode(&written), Ok(inbound));
    }
    for text in of("server_frame") {
        let read = ServerFrame::decode(text);
        assert!(matches!(read, Ok(ServerInbound::Frame { .. })), "{text}: {read:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_seeds_never_panic(seed: Index, at: Index, with: u8, cut: Index, bit: u8) {
        let mut bytes = flipped(&seed.get(&SEEDS).1, at, bit);
        decode_bytes(&bytes);
        decode_text(&String::from_utf8_lossy(&bytes));
        let position = at.index(bytes.len());
        bytes[position] = with;
        bytes.truncate(cut.index(bytes.len()) + 1);
        decode_bytes(&bytes);
        decode_text(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn foreign_text_never_panics(text in "\\PC{0,200}") {
        decode_text(&text);
    }

    #[test]
    fn foreign_base64_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        decode_text(&encoding::b64(&bytes));
        decode_text(&encoding::b64url(&bytes));
        decode_text(&hex::encode(&bytes));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        decode_bytes(&bytes);
        decode_text(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn broken_wrappers_and_prefixes_never_panic(text in "(\u{1}cm1:|__cmh|ic://join/|eyJ|cm_|mesh-resume.v1.)\\PC{0,80}") {
        decode_text(&text);
    }

    #[test]
    fn body_metadata_reads_back(
        text in ".{0,80}",
        meta in proptest::collection::btree_map(".{0,8}", json_value(), 0..4),
    ) {
        let meta: body::Meta = meta.into_iter().collect();
        if let Ok(wrapped) = body::wrap(&text, &meta) {
            let read = body::unwrap(&wrapped);
            prop_assert_eq!(&read.body, &text);
            let (sent, got) = (Value::Object(meta), read.meta.map(Value::Object));
            prop_assert_eq!(canonical::jcs(&got), canonical::jcs(&Some(sent)));
        }
    }

    #[test]
    fn canonical_json_is_json_and_its_own_canonical_form(value in json_value()) {
        let text = canonical::jcs(&value).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(canonical::jcs(&read).unwrap(), text);
    }

    #[test]
    fn capability_lists_read_back_in_any_order_and_case(
        capabilities in subsequence(Capability::ALL, 0..=10).prop_shuffle(),
        upper: bool,
    ) {
        let words: Vec<String> = capabilities
            .iter()
            .map(|one| if upper { one.as_str().to_ascii_uppercase() } else { one.to_string() })
            .collect();
        let set = CapabilitySet::parse(words.iter().map(String::as_str)).unwrap();
        prop_assert_eq!(set, capabilities.iter().copied().collect());
        let mut expected = words.iter().map(|word| word.to_ascii_lowercase()).collect::<Vec<_>>();
        expected.sort();
        prop_assert_eq!(set.to_csv(), expected.join(","));
    }

    #[test]
    fn audit_payloads_refuse_nothing_but_fractions(value in json_value()) {
        if let Ok(text) = claudemesh_crypto::audit::canonical_payload(&value) {
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }

    #[test]
    fn secret_boxes_read_back_and_notice_every_flip(
        key: [u8; 32], text in vec(any::<u8>(), 0..200), at: Index, bit: u8,
    ) {
        let key = SecretBoxKey::from_bytes(key);
        let sealed = key.seal(&text);
        prop_assert_eq!(key.open(&sealed), Ok(text.clone()));
        let wire = Sealed::from_b64(&sealed.nonce.to_b64(), &sealed.ciphertext_b64());
        prop_assert_eq!(wire, Ok(sealed.clone()));
        let changed = Sealed { ciphertext: flipped(&sealed.ciphertext, at, bit), ..sealed };
        prop_assert!(key.open(&changed).is_err());
        let object = key.seal_object(&text, Nonce::random());
        prop_assert_eq!(key.open_object(&object), Ok(text));
        prop_assert!(key.open_object(&flipped(&object, at, bit)).is_err());
    }

    #[test]
    fn values_at_rest_read_back_and_notice_every_flip(
        text in vec(any::<u8>(), 0..200), id in "[a-z0-9]{1,8}", at: Index, bit: u8,
    ) {
        let key = AtRestKey::generate();
        let binding = Binding::Row { table: "t", column: "c", id: &id };
        let packed = key.seal(&text, binding);
        prop_assert!(key.open(&packed, binding).is_ok_and(|opened| *opened == text));
        let changed = flipped(&encoding::b64_decode(&packed).unwrap(), at, bit);
        prop_assert!(key.open(&encoding::b64(&changed), binding).is_err());
        let read = AtRestKey::from_hex(&key.to_hex()).unwrap();
        prop_assert_eq!(read.id(), key.id());
    }

    #[test]
    fn tokens_have_their_form_for_every_draw(bytes: [u8; 32]) {
        let mut entropy = |buffer: &mut [u8]| buffer.copy_from_slice(&bytes);
        let key = tokens::api_key(&mut entropy);
        prop_assert_eq!(tokens::classify(key.expose()), tokens::BearerKind::ApiKey);
        let session = tokens::cli_session(&mut entropy);
        prop_assert_eq!(tokens::classify(session.expose()), tokens::BearerKind::CliSession);
        let secret = webhook::new_secret(&mut entropy);
        prop_assert!(WebhookSecret::parse(secret.expose()).is_ok_and(|key| *key.as_bytes() == bytes));
    }

    #[test]
    fn jwts_read_back_and_notice_every_flip(name in ".{0,20}", at: Index, bit: u8) {
        let claims = json!({"name": name, "iat": 0, "exp": NOW.as_seconds() + 1});
        let token = jwt::sign(&claims, b"key").unwrap();
        prop_assert_eq!(jwt::verify(&token, b"key", NOW).map(Value::Object), Ok(claims));
        let changed = flipped(token.as_bytes(), at, bit);
        if let Ok(changed) = String::from_utf8(changed) {
            prop_assert!(jwt::verify(&changed, b"key", NOW).is_err());
        }
    }

    #[test]
    fn backup_headers_read_back(passes in 1..=BACKUP_PASSES_MAX, salt: [u8; 16], nonce: [u8; 24]) {
        let costs = KdfCosts { passes, memory_kib: 8, lanes: 1 };
        let header = Header { costs, salt, nonce };
        let file = backup::seal_with_header(b"document", "twelve chars", &header).unwrap();
        prop_assert_eq!(Header::read(&file).map(|(header, _)| header), Ok(header));
        let opened = backup::open(&file, "twelve chars");
        prop_assert!(opened.is_ok_and(|opened| *opened == *b"document"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn identities_read_back(seed: [u8; 32]) {
        let pair = KeyPair::from_seed(&seed);
        prop_assert!(KeyPair::from_hex(&pair.to_hex()).is_ok_and(|read| read == pair));
        let exchange = pair.exchange_public();
        prop_assert_eq!(ExchangePublic::from_b64url(&exchange.to_b64url()), Ok(exchange));
        prop_assert_eq!(ExchangePublic::from_ed25519(pair.public()), Ok(exchange));
    }

    #[test]
    fn signatures_hold_for_one_text_and_key(
        seed: [u8; 32], text in vec(any::<u8>(), 1..100), at: Index, bit: u8,
    ) {
        let pair = KeyPair::from_seed(&seed);
        let signature = pair.sign(&text);
        prop_assert!(identity::verify_strict(pair.public(), &text, &signature).is_ok());
        let other_text = flipped(&text, at, bit);
        prop_assert!(identity::verify_strict(pair.public(), &other_text, &signature).is_err());
        let changed: [u8; 64] = flipped(signature.as_bytes(), at, bit).try_into().unwrap();
        let changed = SignatureBytes::from_bytes(changed);
        prop_assert!(identity::verify_strict(pair.public(), &text, &changed).is_err());
        let key: [u8; 32] = flipped(pair.public().as_bytes(), at, bit).try_into().unwrap();
        prop_assert!(identity::verify_strict(PublicKey::from_bytes(key), &text, &signature).is_err());
    }

    #[test]
    fn direct_boxes_read_back_and_notice_every_flip(
        a: [u8; 32], b: [u8; 32], text in vec(any::<u8>(), 0..200), at: Index, bit: u8,
    ) {
        let (alice, bob) = (KeyPair::from_seed(&a), KeyPair::from_seed(&b));
        let here = SharedKey::between(&alice, bob.public()).unwrap();
        let there = SharedKey::between(&bob, alice.public()).unwrap();
        let sealed = here.seal(&text);
        prop_assert_eq!(there.open(&sealed), Ok(text));
        let ciphertext = flipped(&sealed.ciphertext, at, bit);
        let changed = Sealed { ciphertext, ..sealed.clone() };
        prop_assert!(there.open(&changed).is_err());
        let nonce: [u8; 24] = flipped(sealed.nonce.as_bytes(), at, bit).try_into().unwrap();
        let changed = Sealed { nonce: Nonce::from_bytes(nonce), ..sealed };
        prop_assert!(there.open(&changed).is_err());
    }

    #[test]
    fn sealed_boxes_read_back_and_notice_every_flip(
        secret: [u8; 32], text in vec(any::<u8>(), 0..100), at: Index, bit: u8,
    ) {
        let recipient = ExchangeSecret::from_bytes(secret);
        let sealed = sealed::seal(&text, &recipient.public()).unwrap();
        prop_assert_eq!(sealed.len(), text.len() + sealed::OVERHEAD_BYTES);
        prop_assert_eq!(sealed::open(&sealed, &recipient), Ok(text));
        prop_assert!(sealed::open(&flipped(&sealed, at, bit), &recipient).is_err());
    }

    #[test]
    fn group_bodies_open_for_each_recipient_and_nobody_else(
        seeds in proptest::collection::btree_set(any::<[u8; 32]>(), 3..6), text in ".{0,60}",
    ) {
        let cache = SharedKeyCache::new(16);
        let mut people: Vec<KeyPair> = seeds.iter().map(KeyPair::from_seed).collect();
        let (sender, outsider) = (people.remove(0), people.remove(0));
        let recipients: Vec<PublicKey> = people.iter().map(KeyPair::public).collect();
        let sealed = group::seal(text.as_bytes(), &sender, &recipients, &cache);
        prop_assert!(sealed.unsealable.is_empty());
        for (person, wrapped) in people.iter().zip(&sealed.wrapped_keys) {
            let open = |from, own| group::open(&sealed.body, wrapped, from, own, &cache);
            prop_assert_eq!(open(sender.public(), person), Ok(text.clone().into_bytes()));
            prop_assert!(open(outsider.public(), person).is_err());
            prop_assert!(open(sender.public(), &outsider).is_err());
        }
    }

    #[test]
    fn key_boxes_read_back_and_notice_every_flip(
        sealer: [u8; 32], seed: [u8; 32], key: [u8; 32], at: Index, bit: u8,
    ) {
        let recipient = KeyPair::from_seed(&seed);
        let topic_key = SecretBoxKey::from_bytes(key);
        let sealer = ExchangeSecret::from_bytes(sealer);
        let made = topic::seal_key(&topic_key, Nonce::random(), &sealer, recipient.public()).unwrap();
        let (nonce, text) = (made.nonce().to_b64(), made.key_b64());
        let read = KeyBox::from_b64(&nonce, &text).unwrap();
        prop_assert_eq!(&read, &made);
        prop_assert!(read.open(&recipient).is_ok_and(|opened| opened == topic_key));
        let bytes = encoding::b64_decode(&text).unwrap();
        let position = at.index(bytes.len());
        // The top bit of an X25519 key is not part of its value (RFC 7748 section 5).
        if position != 31 || bit % 8 != 7 {
            let changed = encoding::b64(&flipped(&bytes, at, bit));
            let changed = KeyBox::from_b64(&nonce, &changed).unwrap();
            prop_assert!(changed.open(&recipient).is_err());
        }
    }

    #[test]
    fn attestations_read_back_and_verify(
        parent: [u8; 32], session: [u8; 32], caps in capabilities(), other in capabilities(),
    ) {
        let expires_at = Timestamp::from_millis(NOW.as_millis() + 1);
        let session = KeyPair::from_seed(&session).public();
        let minted = attestation::mint(&KeyPair::from_seed(&parent), session, expires_at, caps);
        let text = serde_json::to_string(&minted).unwrap();
        let read: ParentAttestation = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &minted);
        prop_assert!(attestation::verify(&read, NOW).is_ok());
        let changed = ParentAttestation { allowed_caps: other, ..read };
        prop_assert_eq!(attestation::verify(&changed, NOW).is_ok(), other == caps);
    }

    #[test]
    fn invite_tokens_read_back_and_notice_every_flip(
        slug in "[a-z][a-z0-9-]{1,20}", url in "wss://[a-z.]{1,30}/ws", at: Index, bit: u8,
    ) {
        let owner = KeyPair::from_seed(&[9; 32]);
        let fields = InviteV1Fields {
            mesh: &MeshId::new("Mesh"),
            slug: &slug,
            broker_url: &url,
            expires_at: Timestamp::from_millis(NOW.as_millis() + 60_000),
            root_key: &RootKey::generate(),
            role: MemberRole::Member,
        };
        let invite = InviteV1::sign(&fields, &owner).ok().unwrap();
        let token = invite.to_token().unwrap();
        let read = InviteV1::from_token(&token).ok().unwrap();
        prop_assert!(read == invite && read.verify(NOW).is_ok());
        let json = encoding::b64url_decode(&token).unwrap();
        let changed = encoding::b64url(&flipped(&json, at, bit));
        let is_believed = InviteV1::from_token(&changed)
            .is_ok_and(|changed| changed != invite && changed.verify(NOW).is_ok());
        prop_assert!(!is_believed);
    }
}
