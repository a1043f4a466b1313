//! Every text that is signed or hashed, built in one place (wire spec §5.19 and the sections named at each function).
//!
//! Fields are joined with `|` (envelope and fingerprints: with NUL). A field that contains the separator would make
//! two different statements share one text, so it is refused. Hex is lowercase, timestamps are decimal milliseconds
//! unless said otherwise.

use serde::Serialize;
use serde_json::Value;

use crate::capability::CapabilitySet;
use crate::id::{InviteId, MemberId, MeshId, MessageId};
use crate::key::PublicKey;
use crate::status::{MemberRole, Priority, word};
use crate::target::TargetSpec;
use crate::time::Timestamp;

/// `prev` of the first audit entry of a mesh.
pub const AUDIT_GENESIS: &str = "genesis";
/// Separator of most canonical texts.
const PIPE: char = '|';
/// Separator of envelopes and fingerprints.
const NUL: char = '\0';

/// A canonical text cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalError {
    /// A field contains the separator, so that the text would be ambiguous.
    #[error("{field} contains a reserved character")]
    Separator {
        /// Which field.
        field: &'static str,
    },
    /// A value has no canonical JSON form.
    #[error("not representable as canonical JSON")]
    Json,
}

word! {
    /// What kind of destination a fingerprint speaks about (wire spec §5.9).
    DestinationKind, "destination kind" {
        /// A topic, group or everybody.
        Topic = "topic",
        /// One key.
        Dm = "dm",
        /// A work queue.
        Queue = "queue",
    }
}

word! {
    /// Which half of a direct-connection handshake is signed (wire spec §6.5).
    P2pStep, "handshake step" {
        /// From the side that begins.
        Offer = "offer",
        /// From the other side.
        Answer = "answer",
    }
}

/// Canonical JSON of RFC 8785: keys in UTF-16 order, no spaces, numbers as ECMAScript writes them.
///
/// # Errors
/// [`CanonicalError::Json`] for a value that has no JSON form.
pub fn jcs(value: &impl Serialize) -> Result<String, CanonicalError> {
    serde_json_canonicalizer::to_string(value).map_err(|_| CanonicalError::Json)
}

/// Signed by the member key in `hello` (§2.2).
///
/// # Errors
/// [`CanonicalError::Separator`] when an id contains `|`.
pub fn hello(
    mesh: &MeshId,
    member: &MemberId,
    pubkey: PublicKey,
    timestamp: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("mesh id", mesh.as_str()),
        ("member id", member.as_str()),
        ("key", &pubkey.to_hex()),
        ("timestamp", &millis(timestamp)),
    ])
}

/// Signed by the session key in `session_hello` (§2.5) and as `sessionProof` of a `hello` (§2.2).
///
/// # Errors
/// [`CanonicalError::Separator`] when the mesh id contains `|`.
pub fn session_hello(
    mesh: &MeshId,
    parent: PublicKey,
    session: PublicKey,
    timestamp: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-session-hello"),
        ("mesh id", mesh.as_str()),
        ("key", &parent.to_hex()),
        ("key", &session.to_hex()),
        ("timestamp", &millis(timestamp)),
    ])
}

/// Signed by the member key that vouches for a session (§2.4): version 2 with a list, version 1 without.
pub fn session_attestation(
    parent: PublicKey,
    session: PublicKey,
    expires_at: Timestamp,
    allowed_caps: Option<CapabilitySet>,
) -> String {
    let expires_at = expires_at.as_millis();
    match allowed_caps {
        None => format!("claudemesh-session-attest|{parent}|{session}|{expires_at}"),
        Some(caps) => {
            let csv = caps.to_csv();
            format!("claudemesh-session-attest-v2|{parent}|{session}|{expires_at}|{csv}")
        }
    }
}

/// What a member says about a service identity it owns (§6.7).
#[derive(Debug, Clone, Copy)]
pub struct ServiceStatement<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// The owner that signs.
    pub member: PublicKey,
    /// Name of the service, unique in its mesh.
    pub service_id: &'a str,
    /// The service's own key.
    pub service: PublicKey,
    /// One of the service types.
    pub service_type: &'a str,
    /// Granted scopes, in any order.
    pub scopes: &'a [String],
    /// End of validity.
    pub expires_at: Timestamp,
}

/// Signed by the member key that vouches for a service (§6.7).
///
/// # Errors
/// [`CanonicalError::Separator`] when a text contains `|`, or a scope `,`.
pub fn service_attestation(statement: &ServiceStatement<'_>) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-service-attest"),
        ("mesh id", statement.mesh.as_str()),
        ("key", &statement.member.to_hex()),
        ("service id", statement.service_id),
        ("key", &statement.service.to_hex()),
        ("service type", statement.service_type),
        ("scopes", &scopes_csv(statement.scopes)?),
        ("timestamp", &millis(statement.expires_at)),
    ])
}

/// Scopes as they are signed: byte-sorted, each once, joined with `,` (§6.7).
///
/// # Errors
/// [`CanonicalError::Separator`] when a scope contains `,`.
pub fn scopes_csv(scopes: &[String]) -> Result<String, CanonicalError> {
    let sorted: std::collections::BTreeSet<&str> = scopes.iter().map(String::as_str).collect();
    if sorted.iter().any(|scope| scope.contains(',')) {
        return Err(CanonicalError::Separator { field: "scope" });
    }
    Ok(sorted.into_iter().collect::<Vec<_>>().join(","))
}

/// The fields an invite of version 1 signs (§5.7).
#[derive(Debug, Clone, Copy)]
pub struct InviteV1Statement<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// Its slug.
    pub slug: &'a str,
    /// Where its broker listens.
    pub broker_url: &'a str,
    /// Unix **seconds**.
    pub expires_at_seconds: i64,
    /// The root key as base64url.
    pub root_key: &'a str,
    /// The role the joiner gets.
    pub role: MemberRole,
    /// The mesh owner that signs.
    pub owner: PublicKey,
}

/// Signed by the mesh owner in an invite of version 1 (§5.7).
///
/// # Errors
/// [`CanonicalError::Separator`] when a text contains `|`.
pub fn invite_v1(statement: &InviteV1Statement<'_>) -> Result<String, CanonicalError> {
    pipe(&[
        ("version", "1"),
        ("mesh id", statement.mesh.as_str()),
        ("slug", statement.slug),
        ("broker URL", statement.broker_url),
        ("expiry", &statement.expires_at_seconds.to_string()),
        ("root key", statement.root_key),
        ("role", statement.role.as_str()),
        ("key", &statement.owner.to_hex()),
    ])
}

/// Signed by the mesh owner in an invite of version 2; the expiry is written in Unix seconds (§5.8).
///
/// # Errors
/// [`CanonicalError::Separator`] when an id contains `|`.
pub fn invite_v2(
    mesh: &MeshId,
    invite: &InviteId,
    expires_at: Timestamp,
    role: MemberRole,
    owner: PublicKey,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("version", "v=2"),
        ("mesh id", mesh.as_str()),
        ("invite id", invite.as_str()),
        ("expiry", &expires_at.as_seconds().to_string()),
        ("role", role.as_str()),
        ("key", &owner.to_hex()),
    ])
}

/// Signed by the joiner's own key when it claims an invite (§5.8); `recipient_x25519` is the base64url text as sent.
/// For an invite of version 1 `code` is the first 16 characters of the token and `recipient_x25519` is empty (§5.7).
///
/// # Errors
/// [`CanonicalError::Separator`] when a text contains `|`.
pub fn invite_claim(
    code: &str,
    recipient_x25519: &str,
    peer: PublicKey,
    timestamp: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-invite-claim"),
        ("code", code),
        ("recipient key", recipient_x25519),
        ("key", &peer.to_hex()),
        ("timestamp", &millis(timestamp)),
    ])
}

/// Signed by the joining member key when an account syncs its meshes; `mesh` is `new` for a mesh being made (§5.19).
///
/// # Errors
/// [`CanonicalError::Separator`] when the mesh id contains `|`.
pub fn sync_proof(
    mesh: &MeshId,
    peer: PublicKey,
    timestamp: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-sync"),
        ("mesh id", mesh.as_str()),
        ("key", &peer.to_hex()),
        ("timestamp", &millis(timestamp)),
    ])
}

/// Signed by a browser's device key when it registers (§5.5).
///
/// # Errors
/// [`CanonicalError::Separator`] when the member id contains `|`.
pub fn web_device(
    member: &MemberId,
    device: PublicKey,
    timestamp: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-web-device"),
        ("member id", member.as_str()),
        ("key", &device.to_hex()),
        ("timestamp", &millis(timestamp)),
    ])
}

/// Signed by the old and by the new member key when a member changes its key (§5.18).
///
/// # Errors
/// [`CanonicalError::Separator`] when an id contains `|`.
pub fn member_rotation(
    mesh: &MeshId,
    member: &MemberId,
    old: PublicKey,
    new: PublicKey,
    timestamp: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-member-rotate"),
        ("mesh id", mesh.as_str()),
        ("member id", member.as_str()),
        ("key", &old.to_hex()),
        ("key", &new.to_hex()),
        ("timestamp", &millis(timestamp)),
    ])
}

/// Signed by a member or service over an HTTP request (appendix A): `method` is written in upper case, `target` is
/// path and query exactly as sent, `body_sha256` the hash of the raw body.
///
/// # Errors
/// [`CanonicalError::Separator`] when method or target contain `|`.
pub fn signed_http(
    method: &str,
    target: &str,
    body_sha256: &[u8; 32],
    timestamp: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-http"),
        ("method", &method.to_ascii_uppercase()),
        ("request target", target),
        ("hash", &hex::encode(body_sha256)),
        ("timestamp", &millis(timestamp)),
    ])
}

/// One side of a direct-connection handshake (§6.5).
#[derive(Debug, Clone, Copy)]
pub struct P2pStatement<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// Signer.
    pub from: PublicKey,
    /// Addressee.
    pub to: PublicKey,
    /// The attempt's id.
    pub p2p_id: &'a str,
    /// SHA-256 of the address text.
    pub address_sha256: [u8; 32],
    /// When.
    pub timestamp: Timestamp,
}

/// Signed by `from` in an offer or answer (§6.5).
///
/// # Errors
/// [`CanonicalError::Separator`] when an id contains `|`.
pub fn p2p_signal(step: P2pStep, statement: &P2pStatement<'_>) -> Result<String, CanonicalError> {
    let domain = match step {
        P2pStep::Offer => "claudemesh-p2p-offer",
        P2pStep::Answer => "claudemesh-p2p-answer",
    };
    pipe(&[
        ("domain", domain),
        ("mesh id", statement.mesh.as_str()),
        ("key", &statement.from.to_hex()),
        ("key", &statement.to.to_hex()),
        ("handshake id", statement.p2p_id),
        ("hash", &hex::encode(statement.address_sha256)),
        ("timestamp", &millis(statement.timestamp)),
    ])
}

/// Signed by the recipient's member key: how far a message came (§3.1, §5.19). `state` is the word of the frame.
///
/// # Errors
/// [`CanonicalError::Separator`] when a text contains `|`.
pub fn receipt(
    mesh: &MeshId,
    message: &MessageId,
    recipient: PublicKey,
    state: &str,
    at: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-receipt"),
        ("mesh id", mesh.as_str()),
        ("message id", message.as_str()),
        ("key", &recipient.to_hex()),
        ("state", state),
        ("timestamp", &millis(at)),
    ])
}

/// What an envelope of version 2 signs (§6.1).
#[derive(Debug, Clone, Copy)]
pub struct EnvelopeStatement<'a> {
    /// The mesh; bound although the envelope does not carry it.
    pub mesh: &'a MeshId,
    /// `dm`, `group`, `topic`, `rpc`, `system` or `stream`.
    pub channel: &'a str,
    /// The target exactly as the envelope writes it.
    pub target: &'a str,
    /// Signer.
    pub from: PublicKey,
    /// The nonce as base64, as sent.
    pub nonce: &'a str,
    /// SHA-256 of the decoded ciphertext.
    pub ciphertext_sha256: [u8; 32],
    /// 0 empty, 1 plaintext, 2 encrypted.
    pub body_version: u32,
    /// The envelope's `meta` object.
    pub meta: &'a Value,
}

/// Signed by `from` (§6.1): NUL-joined, no NUL at the end.
///
/// # Errors
/// [`CanonicalError::Separator`] when a text contains NUL, [`CanonicalError::Json`] for metadata without JSON form.
pub fn envelope_v2(statement: &EnvelopeStatement<'_>) -> Result<String, CanonicalError> {
    join(
        NUL,
        &[
            ("domain", "claudemesh-envelope-v2"),
            ("mesh id", statement.mesh.as_str()),
            ("channel", statement.channel),
            ("target", statement.target),
            ("key", &statement.from.to_hex()),
            ("nonce", statement.nonce),
            ("hash", &hex::encode(statement.ciphertext_sha256)),
            ("body version", &statement.body_version.to_string()),
            ("metadata", &jcs(statement.meta)?),
        ],
    )
}

/// What makes two sends the same request (§5.9).
#[derive(Debug, Clone, Copy)]
pub struct FingerprintStatement<'a> {
    /// 1 today.
    pub envelope_version: u32,
    /// Kind of destination.
    pub destination_kind: DestinationKind,
    /// Resolved key as hex; topic id; group name or `*`.
    pub destination_ref: &'a str,
    /// Parent message, if any.
    pub reply_to_id: Option<&'a str>,
    /// Urgency.
    pub priority: Priority,
    /// User metadata; absent and an empty object differ.
    pub meta: Option<&'a Value>,
    /// SHA-256 of the words before encryption, without the metadata wrapper.
    pub body_sha256: [u8; 32],
}

/// Hashed to the request fingerprint (§5.9); ends with the 32 raw bytes of the body hash.
///
/// # Errors
/// [`CanonicalError::Separator`] when a text contains NUL, [`CanonicalError::Json`] for metadata without JSON form.
pub fn fingerprint(statement: &FingerprintStatement<'_>) -> Result<Vec<u8>, CanonicalError> {
    let meta = match statement.meta {
        None | Some(Value::Null) => String::new(),
        Some(meta) => jcs(meta)?,
    };
    let mut preimage = join(
        NUL,
        &[
            ("version", &statement.envelope_version.to_string()),
            ("kind", statement.destination_kind.as_str()),
            ("destination", statement.destination_ref),
            ("parent id", statement.reply_to_id.unwrap_or_default()),
            ("priority", statement.priority.as_str()),
            ("metadata", &meta),
        ],
    )?
    .into_bytes();
    preimage.push(0);
    preimage.extend_from_slice(&statement.body_sha256);
    Ok(preimage)
}

/// Hashed to the fingerprint the broker gives a send that has an id but no fingerprint (§4.7).
///
/// # Errors
/// [`CanonicalError::Separator`] when the parent id contains NUL.
pub fn default_fingerprint(
    target: &TargetSpec,
    priority: Priority,
    reply_to_id: Option<&str>,
) -> Result<String, CanonicalError> {
    join(
        NUL,
        &[
            ("target", &target.to_string()),
            ("priority", priority.as_str()),
            ("parent id", reply_to_id.unwrap_or_default()),
        ],
    )
}

/// Hashed to the link of the audit chain (§5.17). `prev` is the hash before it or [`AUDIT_GENESIS`]; `payload` is
/// [`jcs`] of the entry's object. The parts are ours and not attacker-chosen, so the separator is not checked.
pub fn audit_entry(
    prev: &str,
    mesh: &MeshId,
    event: &str,
    actor: Option<&MemberId>,
    payload: &str,
    created_at: Timestamp,
) -> String {
    let actor = actor.map_or("null", MemberId::as_str);
    format!("{prev}|{mesh}|{event}|{actor}|{payload}|{}", created_at.to_iso())
}

/// Signed by the broker key, hourly: the newest entry of a mesh's audit log, how many there are up to and with it, and
/// its hash in hex (broker spec §4.19).
///
/// # Errors
/// [`CanonicalError::Separator`] when a text contains `|`.
pub fn audit_head(
    mesh: &MeshId,
    entry: i64,
    entries: u64,
    hash: &str,
    at: Timestamp,
) -> Result<String, CanonicalError> {
    pipe(&[
        ("domain", "claudemesh-audit-head"),
        ("mesh id", mesh.as_str()),
        ("entry", &entry.to_string()),
        ("entries", &entries.to_string()),
        ("hash", hash),
        ("timestamp", &millis(at)),
    ])
}

fn millis(timestamp: Timestamp) -> String {
    timestamp.as_millis().to_string()
}

fn pipe(fields: &[(&'static str, &str)]) -> Result<String, CanonicalError> {
    join(PIPE, fields)
}

fn join(separator: char, fields: &[(&'static str, &str)]) -> Result<String, CanonicalError> {
    let length = fields.iter().map(|(_, value)| value.len() + 1).sum();
    let mut text = String::with_capacity(length);
    for (index, (field, value)) in fields.iter().enumerate() {
        if value.contains(separator) {
            return Err(CanonicalError::Separator { field });
        }
        if index > 0 {
            text.push(separator);
        }
        text.push_str(value);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([0xab; 32]);

    #[test]
    fn a_separator_inside_a_field_is_refused() {
        let refused = hello(&"a|b".to_owned().into(), &"c".to_owned().into(), KEY, Timestamp::ZERO);
        assert_eq!(refused, Err(CanonicalError::Separator { field: "mesh id" }));
        let target = "/x?mesh=1|2";
        assert!(signed_http("GET", target, &[0; 32], Timestamp::ZERO).is_err());
        assert!(scopes_csv(&["dm:read,dm:write".to_owned()]).is_err());
        assert!(default_fingerprint(&TargetSpec::Everyone, Priority::Now, Some("a\0b")).is_err());
    }

    #[test]
    fn absent_and_empty_metadata_differ() {
        let statement = FingerprintStatement {
            envelope_version: 1,
            destination_kind: DestinationKind::Dm,
            destination_ref: "x",
            reply_to_id: None,
            priority: Priority::Next,
            meta: None,
            body_sha256: [0; 32],
        };
        let absent = fingerprint(&statement).unwrap();
        let null = fingerprint(&FingerprintStatement { meta: Some(&Value::Null), ..statement });
        let object = Value::Object(serde_json::Map::new());
        let empty =
            fingerprint(&FingerprintStatement { meta: Some(&object), ..statement }).unwrap();
        assert_eq!(null.as_ref(), Ok(&absent));
        assert_ne!(empty, absent);
    }

    #[test]
    fn the_expiry_of_an_invite_is_written_in_seconds() {
        let text = invite_v2(
            &"M".to_owned().into(),
            &"I".to_owned().into(),
            Timestamp::from_seconds(1_767_830_400),
            MemberRole::Admin,
            KEY,
        );
        assert_eq!(text, Ok(format!("v=2|M|I|1767830400|admin|{KEY}")));
    }
}
