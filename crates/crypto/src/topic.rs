//! Sealed copies of a topic key, one per member and epoch (wire spec §5.5). Bodies are [`crate::secretbox`].

use claudemesh_protocol::PublicKey;

use crate::direct::Nonce;
use crate::exchange::{BadPublicKey, ExchangePublic, ExchangeSecret};
use crate::key_box::KeyBox;
use crate::secretbox::SecretBoxKey;

/// Boxes `topic_key` for `recipient`. `sealer` is the X25519 form of a member's identity or an ephemeral key; the copy
/// carries its public half, so that it opens whoever sealed it ([`KeyBox::open`]).
///
/// # Errors
/// [`BadPublicKey`] when `recipient` is no usable identity; such members are skipped.
pub fn seal_key(
    topic_key: &SecretBoxKey,
    nonce: Nonce,
    sealer: &ExchangeSecret,
    recipient: PublicKey,
) -> Result<KeyBox, BadPublicKey> {
    let shared = sealer.agree(&ExchangePublic::from_ed25519(recipient)?)?;
    Ok(KeyBox::seal(topic_key, nonce, sealer.public(), &shared))
}
