//! Sealing what goes out: direct boxes at accept, group bodies under a fresh content key whose wraps are made at every
//! attempt, for the audience of that moment (daemon spec §11.3, §15; wire spec §5.3, §5.4).

use claudemesh_crypto::direct::{Nonce, SharedKeyCache};
use claudemesh_crypto::secretbox::SecretBoxKey;
use claudemesh_crypto::{KeyPair, group};
use claudemesh_protocol::body::{self, Meta};
use claudemesh_protocol::encoding::b64;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::GROUP_AUDIENCE_MAX;
use claudemesh_protocol::status::GroupEncryption;
use claudemesh_protocol::wire::WrappedKey;
use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::{MemberId, PublicKey, TargetSpec};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::roster::{RosterView, lists, member_of};

/// Metadata key that repeats `hops` inside the body.
const HOPS_KEY: &str = "cm_hops";

/// A message before it is sealed.
#[derive(Clone, Copy)]
pub(super) struct Draft<'a> {
    /// Who it is for.
    pub target: &'a TargetSpec,
    /// The words.
    pub text: &'a str,
    /// The user's metadata, if any.
    pub meta: Option<&'a Meta>,
    /// Automatic answers before it.
    pub hops: u32,
}

/// A sealed message as it lies in the outbox.
#[derive(Clone)]
pub struct Sealed {
    /// Base64.
    pub nonce: String,
    /// Base64.
    pub ciphertext: String,
    /// Wire `bodyVersion`.
    pub body_version: u32,
    /// Content key of a group body.
    pub content_key: Option<Zeroizing<Vec<u8>>>,
    /// Epoch of the topic key; none without topics.
    pub key_epoch: Option<u32>,
    /// The key whose secret sealed it; none where no key did.
    pub sealed_by: Option<PublicKey>,
    /// `dm`, `group` or `broadcast`.
    pub channel: &'static str,
    /// The metadata stays here: a recipient could not read it.
    pub is_meta_dropped: bool,
}

/// A message cannot be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SealError {
    /// Stable code.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// Further fields of the error body.
    pub extra: Map<String, Value>,
}

/// What the mesh says about sealing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// How group bodies are written.
    pub group_encryption: GroupEncryption,
    /// Characters of ciphertext, nonce and target of one send.
    pub max_message_bytes: usize,
}

/// Seals `draft` from `sender` with what `view` knows about its targets.
///
/// # Errors
/// [`SealError`]: `payload_too_large` with `max_bytes`, `invalid_target` for a key nobody can own, `invalid_field` for
/// metadata that cannot be sent.
pub(super) fn seal(
    draft: &Draft<'_>,
    sender: &KeyPair,
    own_member: PublicKey,
    view: &RosterView,
    policy: Policy,
    cache: &SharedKeyCache,
) -> Result<Sealed, SealError> {
    let (wrapped, is_meta_dropped) = wrap_meta(draft, view, own_member)?;
    check_size(draft, &wrapped, policy)?;
    let form = Form { channel: channel_of(draft.target), is_meta_dropped };
    if let TargetSpec::Key(key) = draft.target {
        let unusable = "this key is no identity that can be written to";
        let shared =
            cache.between(sender, *key).map_err(|_| refused(ErrorCode::InvalidTarget, unusable))?;
        let sealed = shared.seal(wrapped.as_bytes());
        let sealed_by = Some(sender.public());
        return Ok(Sealed { sealed_by, ..form.plain(sealed.nonce, sealed.ciphertext_b64()) });
    }
    if is_encrypted(draft.target, view, own_member, policy.group_encryption) {
        Ok(form.group(&wrapped))
    } else {
        Ok(form.plain(Nonce::random(), b64(wrapped.as_bytes())))
    }
}

/// The encrypted form of a group message whose plaintext form the broker refused.
pub(super) fn reseal_group(
    draft: &Draft<'_>,
    view: &RosterView,
    own_member: PublicKey,
) -> Result<Sealed, SealError> {
    let (wrapped, is_meta_dropped) = wrap_meta(draft, view, own_member)?;
    Ok(Form { channel: channel_of(draft.target), is_meta_dropped }.group(&wrapped))
}

/// Who a group message is sealed to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Audience {
    /// Member keys: those present first, then the absent ones by when they were last seen.
    pub members: Vec<PublicKey>,
    /// Members beyond the limit.
    pub left_out: Vec<MemberId>,
}

/// The audience of `target` as `view` knows it (wire spec §5.4); empty for a key.
pub(super) fn audience(target: &TargetSpec, view: &RosterView, own_member: PublicKey) -> Audience {
    let group = match target {
        TargetSpec::Everyone => None,
        TargetSpec::Group(name) => Some(name),
        TargetSpec::Key(_) | TargetSpec::Topic(_) => return Audience::default(),
    };
    let mut members: Vec<PublicKey> = Vec::new();
    for row in view.audience(group, own_member) {
        let key = member_of(row);
        if !members.contains(&key) {
            members.push(key);
        }
    }
    let mut absent: Vec<_> = view
        .members
        .iter()
        .filter(|row| row.pubkey != own_member && !members.contains(&row.pubkey))
        .filter(|row| {
            group.is_none_or(|group| {
                row.groups.iter().any(|group_of| group_of.name.is_within(group))
            })
        })
        .collect();
    // ISO times of one form sort like the times themselves.
    absent.sort_by(|left, right| right.last_seen_at.cmp(&left.last_seen_at));
    members.extend(absent.iter().map(|row| row.pubkey));
    let beyond = members.split_off(members.len().min(GROUP_AUDIENCE_MAX));
    let id_of = |key: &PublicKey| view.member(*key).map(|row| row.member_id.clone());
    Audience { left_out: beyond.iter().filter_map(id_of).collect(), members }
}

/// Wraps a content key for every member of an audience; keys that are no identities are skipped.
pub(super) fn wrap_keys(
    content_key: &[u8],
    sender: &KeyPair,
    members: &[PublicKey],
    cache: &SharedKeyCache,
) -> Vec<WrappedKey> {
    let Ok(content_key) = SecretBoxKey::from_slice(content_key) else { return Vec::new() };
    members
        .iter()
        .filter_map(|member| {
            group::wrap(&content_key, Nonce::random(), sender, *member, cache).ok()
        })
        .collect()
}

/// What is known about a sealed message before it is sealed.
#[derive(Clone, Copy)]
struct Form {
    channel: &'static str,
    is_meta_dropped: bool,
}

impl Form {
    /// A body without a content key: a direct box, or a text the broker can read.
    fn plain(self, nonce: Nonce, ciphertext: String) -> Sealed {
        Sealed {
            nonce: nonce.to_b64(),
            ciphertext,
            body_version: 1,
            content_key: None,
            key_epoch: None,
            sealed_by: None,
            channel: self.channel,
            is_meta_dropped: self.is_meta_dropped,
        }
    }

    /// A body under a fresh content key.
    fn group(self, text: &str) -> Sealed {
        let content_key = SecretBoxKey::generate();
        let sealed = content_key.seal(text.as_bytes());
        Sealed {
            body_version: 2,
            content_key: Some(Zeroizing::new(content_key.as_bytes().to_vec())),
            ..self.plain(sealed.nonce, sealed.ciphertext_b64())
        }
    }
}

fn is_encrypted(
    target: &TargetSpec,
    view: &RosterView,
    own_member: PublicKey,
    policy: GroupEncryption,
) -> bool {
    match policy {
        GroupEncryption::Required => true,
        GroupEncryption::Off => false,
        GroupEncryption::Preferred => {
            present(target, view, own_member).iter().all(|row| lists(row, capability::GROUP_E2E))
        }
    }
}

/// Presences a message will be pushed to, as far as known.
fn present<'a>(
    target: &TargetSpec,
    view: &'a RosterView,
    own_member: PublicKey,
) -> Vec<&'a claudemesh_protocol::wire::PeerRow> {
    match target {
        TargetSpec::Key(key) => view.presences(*key).collect(),
        TargetSpec::Everyone => view.audience(None, own_member).collect(),
        TargetSpec::Group(name) => view.audience(Some(name), own_member).collect(),
        TargetSpec::Topic(_) => Vec::new(),
    }
}

/// The text to encrypt, and whether the user's metadata had to stay behind: it travels only when every target is
/// known to read it, so never to somebody whose program is not known.
fn wrap_meta(
    draft: &Draft<'_>,
    view: &RosterView,
    own_member: PublicKey,
) -> Result<(String, bool), SealError> {
    let user_meta = draft.meta.filter(|meta| !meta.is_empty());
    if user_meta.is_none() && draft.hops == 0 {
        return Ok((draft.text.to_owned(), false));
    }
    let targets = present(draft.target, view, own_member);
    let is_readable =
        !targets.is_empty() && targets.iter().all(|row| lists(row, capability::BODY_META));
    if !is_readable {
        return Ok((draft.text.to_owned(), user_meta.is_some()));
    }
    let mut meta = user_meta.cloned().unwrap_or_default();
    if draft.hops > 0 {
        meta.insert(HOPS_KEY.to_owned(), json!(draft.hops));
    }
    let wrapped = body::wrap(draft.text, &meta)
        .map_err(|error| refused(ErrorCode::InvalidField, &error.to_string()))?;
    Ok((wrapped, false))
}

fn check_size(draft: &Draft<'_>, wrapped: &str, policy: Policy) -> Result<(), SealError> {
    let wrapper_bytes = wrapped.len().saturating_sub(draft.text.len());
    let max_bytes = body::direct_text_max_bytes(
        policy.max_message_bytes,
        draft.target.wire_len(),
        wrapper_bytes,
    );
    if draft.text.len() <= max_bytes {
        return Ok(());
    }
    let message = format!("the message has {} bytes, at most {max_bytes} fit", draft.text.len());
    let mut error = refused(ErrorCode::PayloadTooLarge, &message);
    error.extra.insert("max_bytes".to_owned(), json!(max_bytes));
    Err(error)
}

fn refused(code: ErrorCode, message: &str) -> SealError {
    SealError { code, message: message.to_owned(), extra: Map::new() }
}

fn channel_of(target: &TargetSpec) -> &'static str {
    match target {
        TargetSpec::Key(_) => "dm",
        TargetSpec::Everyone => "broadcast",
        TargetSpec::Group(_) => "group",
        TargetSpec::Topic(_) => "topic",
    }
}

#[cfg(test)]
mod tests {
    use claudemesh_crypto::direct;
    use claudemesh_protocol::Group;

    use super::super::roster::fixture::{daemon, in_group, key, member, session, view};
    use super::*;

    const POLICY: Policy =
        Policy { group_encryption: GroupEncryption::Required, max_message_bytes: 65_536 };

    fn cache() -> SharedKeyCache {
        SharedKeyCache::new(16)
    }

    fn draft<'a>(target: &'a TargetSpec, text: &'a str) -> Draft<'a> {
        Draft { target, text, meta: None, hops: 0 }
    }

    fn opened(sealed: &Sealed, sender: &KeyPair, recipient: &KeyPair) -> String {
        let sealed = direct::Sealed::from_b64(&sealed.nonce, &sealed.ciphertext).unwrap();
        String::from_utf8(direct::open(&sealed, sender.public(), recipient).unwrap()).unwrap()
    }

    /// Daemon spec §10 Accept 7: message of exactly `max_bytes` fits; one byte more does not.
    #[test]
    fn the_size_limit_is_exact() {
        let (sender, recipient) = (KeyPair::generate(), KeyPair::generate());
        let target = TargetSpec::Key(recipient.public());
        let max = body::direct_text_max_bytes(65_536, 64, 0);
        let fits = "x".repeat(max);
        let own = sender.public();
        let empty = RosterView::default();
        let sealed = seal(&draft(&target, &fits), &sender, own, &empty, POLICY, &cache()).unwrap();
        assert!(sealed.ciphertext.len() + sealed.nonce.len() + 64 <= 65_536);
        assert!(sealed.ciphertext.len() + sealed.nonce.len() + 64 > 65_536 - 4);
        let over = "x".repeat(max + 1);
        let refused =
            seal(&draft(&target, &over), &sender, own, &empty, POLICY, &cache()).err().unwrap();
        assert_eq!(refused.code, ErrorCode::PayloadTooLarge);
        assert_eq!(refused.extra["max_bytes"], json!(max));
    }

    #[test]
    fn metadata_travels_only_to_recipients_known_to_read_it() {
        let (sender, recipient) = (KeyPair::generate(), KeyPair::generate());
        let target = TargetSpec::Key(recipient.public());
        let meta = json!({"k": "v"});
        let meta = meta.as_object().unwrap();
        let with_meta = Draft { meta: Some(meta), ..draft(&target, "hi") };
        let mut row = session("bob", 1, 2);
        row.pubkey = recipient.public();
        let present = view(vec![row.clone()], vec![]);
        let sealed =
            seal(&with_meta, &sender, sender.public(), &present, POLICY, &cache()).unwrap();
        assert!(!sealed.is_meta_dropped);
        let text = opened(&sealed, &sender, &recipient);
        assert_eq!(body::unwrap(&text).meta.as_ref(), Some(meta));
        row.capabilities = Some(vec![]);
        for seen in [view(vec![row], vec![]), RosterView::default()] {
            let sealed =
                seal(&with_meta, &sender, sender.public(), &seen, POLICY, &cache()).unwrap();
            assert!(sealed.is_meta_dropped);
            assert_eq!(opened(&sealed, &sender, &recipient), "hi");
        }
        let hops_only = Draft { hops: 2, ..draft(&target, "hi") };
        let sealed =
            seal(&hops_only, &sender, sender.public(), &present, POLICY, &cache()).unwrap();
        assert_eq!(
            body::unwrap(&opened(&sealed, &sender, &recipient)).meta.unwrap()["cm_hops"],
            json!(2)
        );
    }

    #[test]
    fn group_bodies_follow_the_policy_of_the_mesh() {
        let sender = KeyPair::generate();
        let mut old = session("old", 30, 3);
        old.capabilities = None;
        let modern = view(vec![session("bob", 20, 2)], vec![]);
        let mixed = view(vec![session("bob", 20, 2), old], vec![]);
        let version = |policy, seen: &RosterView| {
            let policy = Policy { group_encryption: policy, ..POLICY };
            let target = TargetSpec::Everyone;
            let sealed =
                seal(&draft(&target, "hi"), &sender, key(1), seen, policy, &cache()).unwrap();
            assert_eq!(sealed.content_key.is_some(), sealed.body_version == 2);
            sealed.body_version
        };
        assert_eq!(version(GroupEncryption::Required, &mixed), 2);
        assert_eq!(version(GroupEncryption::Preferred, &modern), 2);
        assert_eq!(version(GroupEncryption::Preferred, &mixed), 1);
        assert_eq!(version(GroupEncryption::Off, &modern), 1);
    }

    #[test]
    fn the_audience_is_everybody_else_present_first_then_by_last_seen() {
        let mut long_gone = member("gone", 4);
        long_gone.last_seen_at = Some("2025-01-01T00:00:00.000Z".to_owned());
        let mut just_left = member("left", 5);
        just_left.last_seen_at = Some("2026-01-01T00:00:00.000Z".to_owned());
        let mut hidden = session("hidden", 60, 6);
        hidden.visible = Some(false);
        let seen = view(
            vec![
                session("me", 10, 1),
                session("bob", 20, 2),
                session("bob2", 21, 2),
                daemon("eve", 3),
                hidden,
            ],
            vec![
                member("me", 1),
                member("bob", 2),
                member("eve", 3),
                member("never", 7),
                long_gone,
                just_left,
            ],
        );
        let everybody = audience(&TargetSpec::Everyone, &seen, key(1));
        assert_eq!(everybody.members, [key(2), key(3), key(5), key(4), key(7)]);
        assert!(everybody.left_out.is_empty());
    }

    #[test]
    fn a_group_reaches_its_descendants_and_absent_members_by_their_groups() {
        let mut absent = member("absent", 4);
        absent.groups.push(Group::plain("ops".parse().unwrap()));
        let seen = view(
            vec![
                in_group(session("core", 20, 2), "ops/core"),
                in_group(session("dev", 30, 3), "dev"),
                in_group(session("me", 10, 1), "ops"),
            ],
            vec![member("a", 2), member("b", 3), absent],
        );
        assert_eq!(audience(&"@ops".parse().unwrap(), &seen, key(1)).members, [key(2), key(4)]);
        assert_eq!(audience(&"@ops/core".parse().unwrap(), &seen, key(1)).members, [key(2)]);
    }

    #[test]
    fn whoever_is_beyond_the_limit_is_named() {
        let members = (0..=u16::try_from(GROUP_AUDIENCE_MAX).unwrap()).map(|n| {
            let mut row = member("x", 0);
            let mut bytes = [9; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            row.pubkey = PublicKey::from_bytes(bytes);
            row.member_id = MemberId::new(format!("m{n}"));
            row
        });
        let seen = view(vec![], members.collect());
        let audience = audience(&TargetSpec::Everyone, &seen, key(1));
        assert_eq!(audience.members.len(), GROUP_AUDIENCE_MAX);
        assert_eq!(audience.left_out, [MemberId::new("m1000")]);
    }
}
