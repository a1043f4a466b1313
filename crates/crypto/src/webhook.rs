//! Webhook signatures in both directions: Standard Webhooks, and GitHub's header inbound (wire spec §6.7).

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::encoding::{b64, b64_decode, b64_decode_array};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::random::Entropy;
use crate::tokens::SecretText;

/// Start of the secret as shown.
const SECRET_PREFIX: &str = "whsec_";
/// Start of one item of the signature header.
const ITEM_PREFIX: &str = "v1,";
/// Start of GitHub's header value.
const GITHUB_PREFIX: &str = "sha256=";
/// Most items read from a signature header; a rotation has two.
const ITEMS_MAX: usize = 8;
/// Clock difference a receiver tolerates, in seconds.
const TOLERANCE_SECONDS: i64 = 300;

/// A delivery is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The secret is not `whsec_` and base64 of 32 bytes.
    #[error("not a webhook secret")]
    Secret,
    /// Too old or too new.
    #[error("the delivery's timestamp is more than 300 s away from the clock here")]
    Timestamp,
    /// None of the signatures fits.
    #[error("the delivery's signature does not verify")]
    Signature,
}

/// The key behind a `whsec_…` text. No `Debug`, wiped on drop.
pub struct WebhookSecret(Zeroizing<[u8; 32]>);

/// What is signed of a delivery.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// `webhook-id`, the same on every attempt.
    pub id: &'a str,
    /// `webhook-timestamp` of this attempt, Unix seconds.
    pub timestamp_seconds: i64,
    /// The raw body.
    pub body: &'a [u8],
}

/// A fresh secret in the form that is shown once: `whsec_` and base64 of 32 random bytes.
pub fn new_secret(entropy: Entropy<'_>) -> SecretText {
    let mut key = Zeroizing::new([0; 32]);
    entropy(key.as_mut_slice());
    SecretText::new(format!("{SECRET_PREFIX}{}", b64(key.as_slice())))
}

impl WebhookSecret {
    /// Reads the shown form.
    ///
    /// # Errors
    /// [`WebhookError::Secret`].
    pub fn parse(text: &str) -> Result<Self, WebhookError> {
        text.strip_prefix(SECRET_PREFIX)
            .and_then(|key| b64_decode_array(key).ok())
            .map(|key| Self(Zeroizing::new(key)))
            .ok_or(WebhookError::Secret)
    }

    /// The decoded key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// One item of the `webhook-signature` header; during a rotation one item per secret, separated by spaces.
    ///
    /// # Errors
    /// [`WebhookError::Secret`] never in practice: a key of any length keys the hash.
    pub fn sign(&self, delivery: &Delivery<'_>) -> Result<String, WebhookError> {
        let mac = self.keyed_over(delivery)?.finalize().into_bytes();
        Ok(format!("{ITEM_PREFIX}{}", b64(&mac)))
    }

    /// Checks the time and the header; any fitting item is enough. That the id is new is the caller's check.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub fn verify(
        &self,
        delivery: &Delivery<'_>,
        header: &str,
        now: Timestamp,
    ) -> Result<(), WebhookError> {
        let distance = now.as_seconds().abs_diff(delivery.timestamp_seconds);
        if distance > TOLERANCE_SECONDS.unsigned_abs() {
            return Err(WebhookError::Timestamp);
        }
        let keyed = self.keyed_over(delivery)?;
        let fits = header
            .split(' ')
            .take(ITEMS_MAX)
            .filter_map(|item| b64_decode(item.strip_prefix(ITEM_PREFIX)?).ok())
            .any(|mac| keyed.clone().verify_slice(&mac).is_ok());
        if fits { Ok(()) } else { Err(WebhookError::Signature) }
    }

    fn keyed_over(&self, delivery: &Delivery<'_>) -> Result<Hmac<Sha256>, WebhookError> {
        let mac =
            Hmac::<Sha256>::new_from_slice(self.0.as_slice()).map_err(|_| WebhookError::Secret)?;
        Ok(mac
            .chain_update(format!("{}.{}.", delivery.id, delivery.timestamp_seconds))
            .chain_update(delivery.body))
    }
}

/// Checks GitHub's `X-Hub-Signature-256`; its key is the secret's text as pasted there.
///
/// # Errors
/// [`WebhookError::Signature`].
pub fn verify_github(secret_text: &str, body: &[u8], header: &str) -> Result<(), WebhookError> {
    let mac = header
        .strip_prefix(GITHUB_PREFIX)
        .and_then(|mac| hex::decode(mac).ok())
        .ok_or(WebhookError::Signature)?;
    Hmac::<Sha256>::new_from_slice(secret_text.as_bytes())
        .map_err(|_| WebhookError::Secret)?
        .chain_update(body)
        .verify_slice(&mac)
        .map_err(|_| WebhookError::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    #[test]
    fn a_delivery_is_accepted_300_s_around_its_time_and_not_one_later() {
        let secret = WebhookSecret::parse(new_secret(&mut random::fill).expose()).unwrap();
        let delivery = Delivery { id: "m", timestamp_seconds: 1_767_225_600, body: b"{}" };
        let header = secret.sign(&delivery).unwrap();
        for (offset, accepted) in [(-301, false), (-300, true), (300, true), (301, false)] {
            let now = Timestamp::from_seconds(delivery.timestamp_seconds + offset);
            assert_eq!(secret.verify(&delivery, &header, now).is_ok(), accepted, "{offset}");
        }
    }

    #[test]
    fn changed_deliveries_do_not_verify() {
        let secret = WebhookSecret::parse(new_secret(&mut random::fill).expose()).unwrap();
        let now = Timestamp::from_seconds(1_767_225_600);
        let delivery = Delivery { id: "m", timestamp_seconds: now.as_seconds(), body: b"{}" };
        let header = secret.sign(&delivery).unwrap();
        for changed in [
            Delivery { id: "n", ..delivery },
            Delivery { timestamp_seconds: delivery.timestamp_seconds + 1, ..delivery },
            Delivery { body: b"{ }", ..delivery },
        ] {
            assert_eq!(secret.verify(&changed, &header, now), Err(WebhookError::Signature));
        }
        assert!(secret.verify(&delivery, "v2,AAAA v1,", now).is_err());
    }
}
