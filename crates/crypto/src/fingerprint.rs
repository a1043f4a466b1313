//! Fingerprints that tell a repeated request from a reused id (wire spec §4.7, §5.9).

use claudemesh_protocol::canonical::{self, CanonicalError, DestinationKind, FingerprintStatement};
use claudemesh_protocol::{Priority, TargetSpec};
use serde_json::Value;

use crate::hash::sha256;

/// Version of the envelope that is sent today.
const ENVELOPE_VERSION: u32 = 1;

/// What a user asked for, before encryption.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Kind of destination.
    pub destination_kind: DestinationKind,
    /// Resolved key as hex; topic id; group name without `@`, or `*`.
    pub destination_ref: &'a str,
    /// Parent message, if any.
    pub reply_to_id: Option<&'a str>,
    /// Urgency.
    pub priority: Priority,
    /// User metadata; absent and an empty object differ.
    pub meta: Option<&'a Value>,
    /// The words, without the metadata wrapper.
    pub body: &'a str,
}

/// SHA-256 of a request. Wire form: hex64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Wraps stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal characters of either case.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The 32 bytes, as the dedupe record stores them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The wire form.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// The first 8 bytes as hex, told to a sender whose id was used for something else.
    pub fn prefix(self) -> String {
        let mut text = self.to_hex();
        text.truncate(16);
        text
    }
}

/// The fingerprint of a request (§5.9); two equal requests have equal fingerprints on every machine.
///
/// # Errors
/// [`CanonicalError`] when a text contains NUL or the metadata has no canonical form.
pub fn of_request(request: &Request<'_>) -> Result<Fingerprint, CanonicalError> {
    let preimage = canonical::fingerprint(&FingerprintStatement {
        envelope_version: ENVELOPE_VERSION,
        destination_kind: request.destination_kind,
        destination_ref: request.destination_ref,
        reply_to_id: request.reply_to_id,
        priority: request.priority,
        meta: request.meta,
        body_sha256: sha256(request.body.as_bytes()),
    })?;
    Ok(Fingerprint(sha256(&preimage)))
}

/// The fingerprint the broker gives a send that has an id and none of its own (§4.7).
///
/// # Errors
/// [`CanonicalError`] when `reply_to_id` contains NUL.
pub fn default_fingerprint(
    target: &TargetSpec,
    priority: Priority,
    reply_to_id: Option<&str>,
) -> Result<Fingerprint, CanonicalError> {
    let preimage = canonical::default_fingerprint(target, priority, reply_to_id)?;
    Ok(Fingerprint(sha256(preimage.as_bytes())))
}
