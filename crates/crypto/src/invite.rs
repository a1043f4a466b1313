//! Invites: the owner's signatures of both versions, the joiner's proof, the root key (wire spec §5.7, §5.8).

use claudemesh_protocol::canonical::{self, CanonicalError, InviteV1Statement};
use claudemesh_protocol::encoding::{b64url, b64url_decode, b64url_decode_array};
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{InviteId, MeshId, PublicKey, SignatureBytes, Timestamp};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::direct::OpenError;
use crate::exchange::{BadPublicKey, ExchangePublic, ExchangeSecret};
use crate::identity::{BadSignature, KeyPair, verify_strict};
use crate::random;
use crate::sealed;
use crate::statement::{self, StatementError};

/// Leading characters of a version 1 token that stand for the code in its join proof.
const TOKEN_PROOF_CHARS: usize = 16;
/// Longest token read, in characters; a real one has about 600.
const TOKEN_MAX_CHARS: usize = 8 * 1024;

/// An invite is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Not a token, or a payload of another shape.
    #[error("not a valid invite")]
    Malformed,
    /// Not signed by the owner it names, or about another mesh than claimed.
    #[error("the invite's signature does not verify")]
    Signature,
    /// Past its end.
    #[error("the invite has expired")]
    Expired,
}

impl From<BadSignature> for InviteError {
    fn from(_: BadSignature) -> Self {
        Self::Signature
    }
}

impl From<CanonicalError> for InviteError {
    fn from(_: CanonicalError) -> Self {
        Self::Malformed
    }
}

/// The 32 random bytes of a mesh. Kept for old clients, it encrypts nothing. No `Debug`, wiped on drop.
#[derive(Clone)]
pub struct RootKey(Zeroizing<[u8; 32]>);

impl RootKey {
    /// A fresh key for a new mesh.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random::bytes()))
    }

    /// Reads base64url of 32 bytes.
    ///
    /// # Errors
    /// [`OpenError::Format`].
    pub fn from_b64url(text: &str) -> Result<Self, OpenError> {
        b64url_decode_array(text)
            .map(|bytes| Self(Zeroizing::new(bytes)))
            .map_err(|_| OpenError::Format)
    }

    /// The stored form.
    pub fn to_b64url(&self) -> Zeroizing<String> {
        Zeroizing::new(b64url(self.0.as_slice()))
    }

    /// Seals to the key of a claim; base64url of 80 bytes.
    ///
    /// # Errors
    /// [`BadPublicKey`] when `recipient` is a small-order point: the claim is `malformed`, before a use is consumed.
    pub fn seal_to(&self, recipient: &ExchangePublic) -> Result<String, BadPublicKey> {
        sealed::seal(self.0.as_slice(), recipient).map(|bytes| b64url(&bytes))
    }

    /// Opens the answer to a claim.
    ///
    /// # Errors
    /// [`OpenError`], also when what was sealed is not 32 bytes.
    pub fn open_sealed(text: &str, recipient: &ExchangeSecret) -> Result<Self, OpenError> {
        let bytes = b64url_decode(text).map_err(|_| OpenError::Format)?;
        let opened = Zeroizing::new(sealed::open(&bytes, recipient)?);
        let key = <[u8; 32]>::try_from(opened.as_slice()).map_err(|_| OpenError::Format)?;
        Ok(Self(Zeroizing::new(key)))
    }
}

impl PartialEq for RootKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for RootKey {}

/// Payload of a version 1 invite, the JSON inside its token, in the order it is written. No `Debug`: it carries the
/// root key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteV1 {
    /// Always 1.
    v: u8,
    /// The mesh.
    pub mesh_id: MeshId,
    /// Its slug.
    pub mesh_slug: String,
    /// Where its broker listens.
    pub broker_url: String,
    /// End, Unix **seconds**.
    pub expires_at: i64,
    /// Root key, base64url.
    pub mesh_root_key: String,
    /// Role of the joiner; the broker's row decides.
    pub role: MemberRole,
    /// The mesh owner.
    pub owner_pubkey: PublicKey,
    /// By the mesh owner.
    pub signature: SignatureBytes,
}

/// What the owner says in a version 1 invite, before it is signed.
#[derive(Clone, Copy)]
pub struct InviteV1Fields<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// Its slug.
    pub slug: &'a str,
    /// Where its broker listens.
    pub broker_url: &'a str,
    /// End.
    pub expires_at: Timestamp,
    /// Root key.
    pub root_key: &'a RootKey,
    /// Role of the joiner.
    pub role: MemberRole,
}

impl InviteV1 {
    /// Signs a version 1 invite. Our broker issues none; tests of old links need them.
    ///
    /// # Errors
    /// [`InviteError::Malformed`] when a text contains `|`.
    pub fn sign(fields: &InviteV1Fields<'_>, owner: &KeyPair) -> Result<Self, InviteError> {
        let mut invite = Self {
            v: 1,
            mesh_id: fields.mesh.clone(),
            mesh_slug: fields.slug.to_owned(),
            broker_url: fields.broker_url.to_owned(),
            expires_at: fields.expires_at.as_seconds(),
            mesh_root_key: fields.root_key.to_b64url().to_string(),
            role: fields.role,
            owner_pubkey: owner.public(),
            signature: SignatureBytes::from_bytes([0; 64]),
        };
        invite.signature = owner.sign(invite.canonical()?.as_bytes());
        Ok(invite)
    }

    /// The token: base64url of the JSON without spaces. It is looked up as a string, never encoded again.
    ///
    /// # Errors
    /// [`InviteError::Malformed`] never in practice: every field has a JSON form.
    pub fn to_token(&self) -> Result<Zeroizing<String>, InviteError> {
        let json =
            serde_json::to_vec(self).map(Zeroizing::new).map_err(|_| InviteError::Malformed)?;
        Ok(Zeroizing::new(b64url(&json)))
    }

    /// Reads a token; verify it before believing a word.
    ///
    /// # Errors
    /// [`InviteError::Malformed`].
    pub fn from_token(token: &str) -> Result<Self, InviteError> {
        if token.len() > TOKEN_MAX_CHARS {
            return Err(InviteError::Malformed);
        }
        let json = b64url_decode(token).map(Zeroizing::new).map_err(|_| InviteError::Malformed)?;
        let invite: Self = serde_json::from_slice(&json).map_err(|_| InviteError::Malformed)?;
        if invite.v == 1 { Ok(invite) } else { Err(InviteError::Malformed) }
    }

    /// Checks end and signature under the owner key the invite names.
    ///
    /// # Errors
    /// [`InviteError`]. Whether that owner owns the mesh is for the broker to say.
    pub fn verify(&self, now: Timestamp) -> Result<(), InviteError> {
        verify_strict(self.owner_pubkey, self.canonical()?.as_bytes(), &self.signature)?;
        if now.as_seconds() >= self.expires_at { Err(InviteError::Expired) } else { Ok(()) }
    }

    fn canonical(&self) -> Result<String, CanonicalError> {
        canonical::invite_v1(&InviteV1Statement {
            mesh: &self.mesh_id,
            slug: &self.mesh_slug,
            broker_url: &self.broker_url,
            expires_at_seconds: self.expires_at,
            root_key: &self.mesh_root_key,
            role: self.role,
            owner: self.owner_pubkey,
        })
    }
}

/// The signed statement of a version 2 invite, as stored with its row and handed to the joiner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteCapability {
    /// The signed text.
    pub canonical: String,
    /// By the mesh owner.
    pub signature: SignatureBytes,
}

impl InviteCapability {
    /// Signs a version 2 invite.
    ///
    /// # Errors
    /// [`CanonicalError`] when an id contains `|`.
    pub fn sign(
        mesh: &MeshId,
        invite: &InviteId,
        expires_at: Timestamp,
        role: MemberRole,
        owner: &KeyPair,
    ) -> Result<Self, CanonicalError> {
        let canonical = canonical::invite_v2(mesh, invite, expires_at, role, owner.public())?;
        let signature = owner.sign(canonical.as_bytes());
        Ok(Self { canonical, signature })
    }

    /// The broker's check of a stored row: the text is exactly `expected` and signed by `owner`.
    ///
    /// # Errors
    /// [`InviteError::Signature`].
    pub fn verify_row(&self, expected: &str, owner: PublicKey) -> Result<(), InviteError> {
        if self.canonical != expected {
            return Err(InviteError::Signature);
        }
        Ok(verify_strict(owner, expected.as_bytes(), &self.signature)?)
    }

    /// The joiner's check of an answer: signed by `owner`, about `mesh`, naming `owner` itself.
    ///
    /// # Errors
    /// [`InviteError::Malformed`] for another form, [`InviteError::Signature`].
    pub fn verify_answer(&self, mesh: &MeshId, owner: PublicKey) -> Result<(), InviteError> {
        let fields: Vec<&str> = self.canonical.split('|').collect();
        let ["v=2", signed_mesh, _invite, _expires_at, _role, signed_owner] = fields.as_slice()
        else {
            return Err(InviteError::Malformed);
        };
        if *signed_mesh != mesh.as_str() || *signed_owner != owner.to_hex() {
            return Err(InviteError::Signature);
        }
        Ok(verify_strict(owner, self.canonical.as_bytes(), &self.signature)?)
    }
}

/// What a joiner signs when it claims an invite.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'a> {
    /// A short code and the key the root key shall be sealed to.
    Code {
        /// The code, as typed.
        code: &'a str,
        /// Base64url, as sent.
        recipient_x25519: &'a str,
    },
    /// A version 1 token.
    Token(&'a str),
}

impl Claim<'_> {
    fn canonical(&self, peer: PublicKey, timestamp: Timestamp) -> Result<String, CanonicalError> {
        let (code, recipient) = match self {
            Self::Code { code, recipient_x25519 } => (*code, *recipient_x25519),
            Self::Token(token) => (token.get(..TOKEN_PROOF_CHARS).unwrap_or(token), ""),
        };
        canonical::invite_claim(code, recipient, peer, timestamp)
    }

    /// Proves that the joiner holds the member key it joins with.
    ///
    /// # Errors
    /// [`CanonicalError`] when the code contains `|`.
    pub fn prove(
        &self,
        peer: &KeyPair,
        timestamp: Timestamp,
    ) -> Result<SignatureBytes, CanonicalError> {
        statement::sign(self.canonical(peer.public(), timestamp), peer)
    }

    /// Checks a proof; the window is [`statement::check_window`].
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        &self,
        peer: PublicKey,
        timestamp: Timestamp,
        proof: &SignatureBytes,
    ) -> Result<(), StatementError> {
        statement::verify(self.canonical(peer, timestamp), peer, proof)
    }
}
