//! Group and broadcast bodies: one random content key, boxed for every recipient member (wire spec §5.4, bodyVersion 2).

use claudemesh_protocol::PublicKey;
use claudemesh_protocol::wire::WrappedKey;

use crate::direct::{Nonce, OpenError, Sealed, SharedKeyCache};
use crate::exchange::{BadPublicKey, ExchangePublic, ExchangeSecret};
use crate::identity::KeyPair;
use crate::key_box::KeyBox;
use crate::secretbox::SecretBoxKey;

/// A sealed group body with one wrapped key per recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupBody {
    /// Body under the content key.
    pub body: Sealed,
    /// One entry per recipient, in the order given.
    pub wrapped_keys: Vec<WrappedKey>,
    /// Recipients whose key is no usable identity; they cannot be sealed to.
    pub unsealable: Vec<PublicKey>,
}

/// Seals `text` for `recipients` (member keys, no duplicates; the caller bounds and orders the audience).
pub fn seal(
    text: &[u8],
    sender: &KeyPair,
    recipients: &[PublicKey],
    cache: &SharedKeyCache,
) -> GroupBody {
    let content_key = SecretBoxKey::generate();
    let mut wrapped_keys = Vec::with_capacity(recipients.len());
    let mut unsealable = Vec::new();
    for recipient in recipients {
        match wrap(&content_key, Nonce::random(), sender, *recipient, cache) {
            Ok(wrapped) => wrapped_keys.push(wrapped),
            Err(BadPublicKey) => unsealable.push(*recipient),
        }
    }
    GroupBody { body: content_key.seal(text), wrapped_keys, unsealable }
}

/// Boxes a content key for one recipient.
///
/// # Errors
/// [`BadPublicKey`] when `recipient` is no usable identity.
pub fn wrap(
    content_key: &SecretBoxKey,
    nonce: Nonce,
    sender: &KeyPair,
    recipient: PublicKey,
    cache: &SharedKeyCache,
) -> Result<WrappedKey, BadPublicKey> {
    let shared = cache.between(sender, recipient)?;
    let key_box = KeyBox::seal(content_key, nonce, sender.exchange_public(), &shared);
    Ok(WrappedKey { to: recipient, nonce: nonce.to_b64().into(), key: key_box.key_b64().into() })
}

/// Opens a group body with one's own entry of the wrapped keys.
///
/// # Errors
/// [`OpenError::Authentication`] also when the wrapped key was sealed by another key than `sender`'s, or the entry is
/// for another member than `recipient`.
pub fn open(
    body: &Sealed,
    wrapped: &WrappedKey,
    sender: PublicKey,
    recipient: &KeyPair,
    cache: &SharedKeyCache,
) -> Result<Vec<u8>, OpenError> {
    let key_box = box_for(wrapped, sender, recipient.public())?;
    key_box.open_shared(&*cache.between(recipient, sender)?)?.open(body)
}

/// As [`open`], for a member key of which only the half that opens is kept: `secret` belongs to `recipient`.
///
/// # Errors
/// As [`open`].
pub fn open_archived(
    body: &Sealed,
    wrapped: &WrappedKey,
    sender: PublicKey,
    recipient: PublicKey,
    secret: &ExchangeSecret,
) -> Result<Vec<u8>, OpenError> {
    let key_box = box_for(wrapped, sender, recipient)?;
    let shared = secret.agree(&ExchangePublic::from_ed25519(sender)?)?;
    key_box.open_shared(&shared)?.open(body)
}

/// The entry of `recipient`, which `sender` must have sealed.
fn box_for(
    wrapped: &WrappedKey,
    sender: PublicKey,
    recipient: PublicKey,
) -> Result<KeyBox, OpenError> {
    let key_box = KeyBox::from_b64(&wrapped.nonce, &wrapped.key)?;
    if wrapped.to != recipient || key_box.sealer() != ExchangePublic::from_ed25519(sender)? {
        return Err(OpenError::Authentication);
    }
    Ok(key_box)
}
