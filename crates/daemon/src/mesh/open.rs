//! Opening what came in (wire spec §4.8, daemon spec §15). What cannot be opened is marked and kept, never shown as
//! decoded noise.

use std::sync::Arc;

use claudemesh_crypto::direct::{Sealed, SharedKeyCache};
use claudemesh_crypto::exchange::ExchangePublic;
use claudemesh_crypto::{KeyPair, group};
use claudemesh_ipc::api::Decrypt;
use claudemesh_protocol::body::{self, Meta};
use claudemesh_protocol::encoding::b64_decode_lenient;
use claudemesh_protocol::wire::Push;
use claudemesh_protocol::{PublicKey, TargetSpec};

use crate::identity::ArchivedKey;

/// Body version of encrypted group and topic bodies.
const SEALED_BODY: u8 = 2;
/// Key of the metadata that repeats the frame's `hops` where the broker cannot change it.
const HOPS_KEY: &str = "cm_hops";

/// The keys of the connection a push came in on.
pub(super) struct OwnKeys<'a> {
    /// The member's.
    pub member: &'a KeyPair,
    /// The session's, on a session connection.
    pub session: Option<&'a KeyPair>,
    /// Finds the stored key pair of another, perhaps ended, session of this member.
    pub stored: &'a (dyn Fn(PublicKey) -> Option<Arc<KeyPair>> + Send + Sync),
    /// Former keys of the member, newest first; asked for when nothing else opens a body.
    pub archived: &'a (dyn Fn() -> Vec<Arc<ArchivedKey>> + Send + Sync),
}

/// A body after the attempt to open it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Opened {
    /// The words; `None` when it could not be opened.
    pub body: Option<String>,
    /// The sender's metadata.
    pub meta: Option<Meta>,
    /// How it went.
    pub decrypt: Decrypt,
    /// Hops named inside the body, 0 when none.
    pub hops: u32,
}

impl Opened {
    fn closed(decrypt: Decrypt) -> Self {
        Self { body: None, meta: None, decrypt, hops: 0 }
    }

    fn text(bytes: Vec<u8>, decrypt: Decrypt) -> Self {
        let Ok(text) = String::from_utf8(bytes) else { return Self::closed(Decrypt::Failed) };
        let unwrapped = body::unwrap(&text);
        let mut meta = unwrapped.meta;
        let hops = meta.as_mut().and_then(|meta| meta.remove(HOPS_KEY));
        let hops = hops.and_then(|hops| hops.as_u64()).and_then(|hops| u32::try_from(hops).ok());
        Self {
            body: Some(unwrapped.body),
            meta: meta.filter(|meta| !meta.is_empty()),
            decrypt,
            hops: hops.unwrap_or(0),
        }
    }
}

/// Opens the body of `push`, sent by `sender` to `target` (`None` at brokers that do not say).
pub(super) fn open(
    push: &Push,
    sender: PublicKey,
    target: Option<&TargetSpec>,
    keys: &OwnKeys<'_>,
    cache: &SharedKeyCache,
) -> Opened {
    match target {
        Some(TargetSpec::Key(key)) => open_direct(push, sender, *key, keys, cache),
        Some(TargetSpec::Topic(_)) if push.body_version == Some(SEALED_BODY) => {
            Opened::closed(Decrypt::NoKey)
        }
        Some(_) if push.body_version == Some(SEALED_BODY) => open_group(push, sender, keys, cache),
        Some(_) => open_plain(push),
        None if push.wrapped_key.is_some() => open_group(push, sender, keys, cache),
        None => {
            let own = keys.session.map_or(keys.member, |session| session).public();
            match open_direct(push, sender, own, keys, cache) {
                opened if opened.decrypt == Decrypt::Ok => opened,
                closed if push.body_version == Some(SEALED_BODY) => closed,
                _ => open_plain(push),
            }
        }
    }
}

fn open_direct(
    push: &Push,
    sender: PublicKey,
    target: PublicKey,
    keys: &OwnKeys<'_>,
    cache: &SharedKeyCache,
) -> Opened {
    let Ok(sealed) = Sealed::from_b64(&push.nonce, &push.ciphertext) else {
        return Opened::closed(Decrypt::Failed);
    };
    let open_with = |key: &KeyPair| {
        let shared = cache.between(key, sender).ok()?;
        shared.open(&sealed).ok()
    };
    let connected = [keys.session, Some(keys.member)];
    let own = connected.into_iter().flatten();
    if let Some(bytes) = own.clone().find(|key| key.public() == target).and_then(open_with) {
        return Opened::text(bytes, Decrypt::Ok);
    }
    let is_connected = own.clone().any(|key| key.public() == target);
    let stored = if is_connected { None } else { (keys.stored)(target) };
    if let Some(bytes) = stored.as_deref().and_then(open_with) {
        return Opened::text(bytes, Decrypt::Ok);
    }
    if let Some(bytes) = own.filter(|key| key.public() != target).find_map(open_with) {
        return Opened::text(bytes, Decrypt::Ok);
    }
    if let Some(bytes) = open_archived(&sealed, sender, keys) {
        return Opened::text(bytes, Decrypt::ArchivedKey);
    }
    Opened::closed(if is_connected || stored.is_some() { Decrypt::Failed } else { Decrypt::NoKey })
}

/// With a key that the member had before.
fn open_archived(sealed: &Sealed, sender: PublicKey, keys: &OwnKeys<'_>) -> Option<Vec<u8>> {
    let sender = ExchangePublic::from_ed25519(sender).ok()?;
    (keys.archived)().iter().find_map(|key| key.exchange.agree(&sender).ok()?.open(sealed).ok())
}

fn open_group(
    push: &Push,
    sender: PublicKey,
    keys: &OwnKeys<'_>,
    cache: &SharedKeyCache,
) -> Opened {
    let Some(wrapped) = push.wrapped_key.as_ref() else { return Opened::closed(Decrypt::NoKey) };
    let Ok(sealed) = Sealed::from_b64(&push.nonce, &push.ciphertext) else {
        return Opened::closed(Decrypt::Failed);
    };
    let (opened, decrypt) = if wrapped.to == keys.member.public() {
        (group::open(&sealed, wrapped, sender, keys.member, cache), Decrypt::Ok)
    } else {
        let archived = (keys.archived)();
        let Some(key) = archived.iter().find(|key| key.public == wrapped.to) else {
            return Opened::closed(Decrypt::NoKey);
        };
        let opened = group::open_archived(&sealed, wrapped, sender, key.public, &key.exchange);
        (opened, Decrypt::ArchivedKey)
    };
    match opened {
        Ok(bytes) => Opened::text(bytes, decrypt),
        Err(_) => Opened::closed(Decrypt::Failed),
    }
}

fn open_plain(push: &Push) -> Opened {
    match b64_decode_lenient(&push.ciphertext) {
        Ok(bytes) => Opened::text(bytes, Decrypt::Plain),
        Err(_) => Opened::closed(Decrypt::Failed),
    }
}

#[cfg(test)]
mod tests {
    use claudemesh_crypto::direct;
    use claudemesh_protocol::encoding::b64;
    use serde_json::json;

    use super::*;

    struct Scene {
        sender: KeyPair,
        member: KeyPair,
        session: KeyPair,
        ended: Arc<KeyPair>,
        archived: Vec<Arc<ArchivedKey>>,
        cache: SharedKeyCache,
    }

    fn scene() -> Scene {
        Scene {
            sender: KeyPair::generate(),
            member: KeyPair::generate(),
            session: KeyPair::generate(),
            ended: Arc::new(KeyPair::generate()),
            archived: Vec::new(),
            cache: SharedKeyCache::new(16),
        }
    }

    impl Scene {
        fn open(&self, push: &Push, target: impl Into<Option<TargetSpec>>) -> Opened {
            let target = target.into();
            let ended = Arc::clone(&self.ended);
            let stored = move |key: PublicKey| (key == ended.public()).then(|| Arc::clone(&ended));
            let archived = || self.archived.clone();
            let keys = OwnKeys {
                member: &self.member,
                session: Some(&self.session),
                stored: &stored,
                archived: &archived,
            };
            open(push, self.sender.public(), target.as_ref(), &keys, &self.cache)
        }

        fn direct(&self, to: PublicKey, text: &str) -> Push {
            let sealed = direct::seal(text.as_bytes(), &self.sender, to).unwrap();
            Push {
                nonce: sealed.nonce.to_b64().into(),
                ciphertext: sealed.ciphertext_b64().into(),
                ..Push::default()
            }
        }

        fn group(&self, text: &str) -> Push {
            let body =
                group::seal(text.as_bytes(), &self.sender, &[self.member.public()], &self.cache);
            Push {
                nonce: body.body.nonce.to_b64().into(),
                ciphertext: body.body.ciphertext_b64().into(),
                body_version: Some(2),
                wrapped_key: body.wrapped_keys.into_iter().next(),
                ..Push::default()
            }
        }
    }

    fn flip(text: &str) -> String {
        let mut bytes = claudemesh_protocol::encoding::b64_decode(text).unwrap();
        bytes[0] ^= 1;
        b64(&bytes)
    }

    #[test]
    fn direct_texts_open_with_the_key_they_name() {
        let scene = scene();
        for key in [scene.member.public(), scene.session.public(), scene.ended.public()] {
            let push = scene.direct(key, "hi");
            let opened = scene.open(&push, Some(TargetSpec::Key(key)));
            assert_eq!((opened.body.as_deref(), opened.decrypt), (Some("hi"), Decrypt::Ok));
        }
        let lost = KeyPair::generate().public();
        let opened = scene.open(&scene.direct(lost, "hi"), Some(TargetSpec::Key(lost)));
        assert_eq!((opened.body, opened.decrypt), (None, Decrypt::NoKey));
    }

    /// daemon §15 Accept 1: tampered ciphertext, nonce, sender key each: failed, body null.
    #[test]
    fn tampered_texts_fail_and_show_nothing() {
        let scene = scene();
        let target = scene.member.public();
        let good = scene.direct(target, "hi");
        let tampered = [
            Push { ciphertext: flip(&good.ciphertext).into(), ..good.clone() },
            Push { nonce: flip(&good.nonce).into(), ..good.clone() },
            Push { ciphertext: b64(b"plain text in place of a box").into(), ..good.clone() },
            Push { ciphertext: "no base64".into(), ..good.clone() },
            Push { nonce: "".into(), ..good.clone() },
        ];
        for push in tampered {
            let opened = scene.open(&push, Some(TargetSpec::Key(target)));
            assert_eq!((opened.body, opened.decrypt), (None, Decrypt::Failed));
        }
        let other = Scene { sender: KeyPair::generate(), ..scene };
        assert_eq!(other.open(&good, Some(TargetSpec::Key(target))).decrypt, Decrypt::Failed);
    }

    #[test]
    fn group_texts_open_with_the_own_wrapped_key_only() {
        let scene = scene();
        let push = scene.group("all hands");
        let opened = scene.open(&push, Some(TargetSpec::Everyone));
        assert_eq!((opened.body.as_deref(), opened.decrypt), (Some("all hands"), Decrypt::Ok));
        let without = Push { wrapped_key: None, ..push.clone() };
        assert_eq!(scene.open(&without, Some(TargetSpec::Everyone)).decrypt, Decrypt::NoKey);
        let forger = Scene { sender: KeyPair::generate(), ..scene };
        assert_eq!(forger.open(&push, Some(TargetSpec::Everyone)).decrypt, Decrypt::Failed);
    }

    /// Daemon spec §19 Accept 1: what was sealed for a key that was rotated out opens with what is kept of it, newest first,
    /// and with nothing once that is gone.
    #[test]
    fn texts_for_a_former_key_open_with_the_archive() {
        let mut scene = scene();
        let former = std::mem::replace(&mut scene.member, KeyPair::generate());
        let older = KeyPair::generate();
        let Scene { sender, cache, .. } = &scene;
        let direct = |to: PublicKey| {
            let sealed = direct::seal(b"hi", sender, to).unwrap();
            Push {
                nonce: sealed.nonce.to_b64().into(),
                ciphertext: sealed.ciphertext_b64().into(),
                ..Push::default()
            }
        };
        let group = group::seal(b"hi", sender, &[former.public()], cache);
        let group = Push {
            nonce: group.body.nonce.to_b64().into(),
            ciphertext: group.body.ciphertext_b64().into(),
            body_version: Some(2),
            wrapped_key: group.wrapped_keys.into_iter().next(),
            ..Push::default()
        };
        let cases = [
            (direct(former.public()), TargetSpec::Key(former.public())),
            (direct(older.public()), TargetSpec::Key(older.public())),
            (group, TargetSpec::Everyone),
        ];
        for (push, target) in &cases {
            assert_eq!(scene.open(push, target.clone()).decrypt, Decrypt::NoKey, "{target}");
        }
        scene.archived = vec![ArchivedKey::of(&former), ArchivedKey::of(&older)];
        for (push, target) in &cases {
            let opened = scene.open(push, target.clone());
            assert_eq!(opened.decrypt, Decrypt::ArchivedKey, "{target}");
            assert_eq!(opened.body.as_deref(), Some("hi"));
            let mallory = KeyPair::generate();
            let forged =
                Scene { sender: mallory, archived: scene.archived.clone(), ..self::scene() };
            assert!(!forged.open(push, target.clone()).decrypt.is_readable());
        }
    }

    #[test]
    fn plain_texts_are_for_groups_and_say_so() {
        let scene = scene();
        let push = Push {
            nonce: b64(&[7; 24]).into(),
            ciphertext: "aGVsbG8".into(),
            body_version: Some(1),
            ..Push::default()
        };
        for target in ["*", "@ops", "#general"] {
            let opened = scene.open(&push, Some(target.parse().unwrap()));
            assert_eq!(
                (opened.body.as_deref(), opened.decrypt),
                (Some("hello"), Decrypt::Plain),
                "{target}"
            );
        }
        let direct = scene.open(&push, Some(TargetSpec::Key(scene.member.public())));
        assert_eq!(direct.decrypt, Decrypt::Failed);
        let noise = Push { ciphertext: b64(&[0xff, 0xfe, 0x80]).into(), ..push };
        assert_eq!(scene.open(&noise, Some(TargetSpec::Everyone)).decrypt, Decrypt::Failed);
    }

    #[test]
    fn a_broker_that_names_no_target_gets_the_box_tried_first() {
        let scene = scene();
        let direct = scene.direct(scene.session.public(), "hi");
        assert_eq!(scene.open(&direct, None).decrypt, Decrypt::Ok);
        assert_eq!(
            scene.open(&scene.direct(scene.member.public(), "hi"), None).decrypt,
            Decrypt::Ok
        );
        let plain = Push {
            nonce: b64(&[7; 24]).into(),
            ciphertext: b64(b"hello").into(),
            ..Push::default()
        };
        assert_eq!(scene.open(&plain, None).decrypt, Decrypt::Plain);
    }

    #[test]
    fn metadata_and_hops_are_taken_out_of_the_text() {
        let scene = scene();
        let meta = json!({"k": 1, "cm_hops": 3});
        let text = body::wrap("hi", meta.as_object().unwrap()).unwrap();
        let target = scene.member.public();
        let opened = scene.open(&scene.direct(target, &text), Some(TargetSpec::Key(target)));
        assert_eq!(opened.body.as_deref(), Some("hi"));
        assert_eq!(opened.hops, 3);
        assert_eq!(serde_json::to_value(opened.meta).unwrap(), json!({"k": 1}));
    }
}
