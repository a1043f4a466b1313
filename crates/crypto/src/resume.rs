//! Resume tokens: the broker's word that a lease was held (wire spec §2.8). A later addition of the protocol; a valid
//! token alone opens nothing, the fresh hello signature is always required.

use claudemesh_protocol::encoding::{b64url, b64url_decode, b64url_decode_array};
use claudemesh_protocol::{MeshId, PublicKey, SignatureBytes, Timestamp};
use serde::{Deserialize, Serialize};

use crate::identity::{KeyPair, verify_strict};

/// Start of every token.
const PREFIX: &str = "mesh-resume.v1.";
/// Longest token read, in characters; a real one has about 310.
const TOKEN_MAX_CHARS: usize = 1024;

/// What a token says, in the order it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeClaims {
    /// Session key, or member key of a control connection.
    #[serde(rename = "sub")]
    pub subject: PublicKey,
    /// The mesh.
    #[serde(rename = "mid")]
    pub mesh: MeshId,
    /// End, Unix milliseconds.
    #[serde(rename = "exp")]
    pub expires_at: Timestamp,
    /// Start, Unix milliseconds.
    #[serde(rename = "iat")]
    pub issued_at: Timestamp,
}

/// Issues a token.
///
/// # Errors
/// Never in practice: every claim has a JSON form.
pub fn issue(claims: &ResumeClaims, broker: &KeyPair) -> Result<String, serde_json::Error> {
    let payload = serde_json::to_vec(claims)?;
    let signature = broker.sign(&payload);
    Ok(format!("{PREFIX}{}.{}", b64url(&payload), b64url(signature.as_bytes())))
}

/// Reads a token that is signed by `broker` and has not ended at `now`; anything else is as good as none.
pub fn read(token: &str, broker: PublicKey, now: Timestamp) -> Option<ResumeClaims> {
    if token.len() > TOKEN_MAX_CHARS {
        return None;
    }
    let (payload, signature) = token.strip_prefix(PREFIX)?.split_once('.')?;
    let payload = b64url_decode(payload).ok()?;
    let signature = SignatureBytes::from_bytes(b64url_decode_array(signature).ok()?);
    verify_strict(broker, &payload, &signature).ok()?;
    let claims: ResumeClaims = serde_json::from_slice(&payload).ok()?;
    (claims.expires_at > now).then_some(claims)
}
