//! Invites as people pass them around and as HTTP carries them (wire spec §5.7, §5.8; CLI spec §5.3).

use serde::{Deserialize, Serialize};

use crate::group::Group;
use crate::id::{MemberId, MeshId};
use crate::key::{PublicKey, SignatureBytes};
use crate::status::{MemberRole, MessageMode};

/// An invite as read from what a person pasted.
#[derive(Clone, PartialEq, Eq)]
pub enum InviteLink {
    /// A short code, with the web address it came with when there was one.
    Code {
        /// 6–16 letters and digits, case-sensitive.
        code: String,
        /// `https://host[:port]`, without a path.
        base: Option<String>,
    },
    /// A signed token that carries the mesh root key (old style).
    Token {
        /// base64url JSON.
        token: String,
        /// `https://host[:port]`, without a path.
        base: Option<String>,
    },
}

impl std::fmt::Debug for InviteLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Code { .. } => "InviteLink::Code(…)",
            Self::Token { .. } => "InviteLink::Token(…)",
        })
    }
}

/// Why a text is no invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteLinkError {
    /// None of the accepted forms.
    #[error("not an invite; expected https://<server>/i/XXXXXXXX")]
    NotAnInvite,
    /// `http://` to another machine without permission.
    #[error("the link is not encrypted (http://)")]
    Insecure,
}

/// Whether `http://` links to other machines are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only to this machine.
    LoopbackOnly,
    /// Anywhere (`CLAUDEMESH_ALLOW_INSECURE=1`).
    Allowed,
}

/// Shortest and longest code.
const CODE_CHARS: std::ops::RangeInclusive<usize> = 6..=16;
/// Shortest token.
const TOKEN_MIN_CHARS: usize = 21;

impl InviteLink {
    /// Reads every accepted form: links with `/i/<code>` or `/join/<token>` (with or without scheme and two-letter
    /// language), `claudemesh://` and `ic://` links, a bare code, a bare token. Surrounding space, quotes, angle
    /// brackets and trailing punctuation are dropped; query and fragment are ignored.
    ///
    /// # Errors
    /// [`InviteLinkError`].
    pub fn parse(text: &str, plain_http: PlainHttp) -> Result<Self, InviteLinkError> {
        let text = trimmed(text);
        if let Some(link) = Self::from_url(text, plain_http)? {
            return Ok(link);
        }
        if is_code(text) {
            return Ok(Self::Code { code: text.to_owned(), base: None });
        }
        if is_token(text) {
            return Ok(Self::Token { token: text.to_owned(), base: None });
        }
        Err(InviteLinkError::NotAnInvite)
    }

    /// True for texts that may stand where a command is expected: those with a scheme or an invite path.
    pub fn looks_like_link(text: &str) -> bool {
        let text = trimmed(text);
        text.contains("/i/") || text.contains("/join/")
    }

    fn from_url(text: &str, plain_http: PlainHttp) -> Result<Option<Self>, InviteLinkError> {
        let path_of = |text: &str| text.split(['?', '#']).next().unwrap_or(text).to_owned();
        for scheme in ["claudemesh://", "ic://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return Self::from_path(&format!("/{}", path_of(rest)), None).map(Some);
            }
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("https" | "http"), rest)) => (scheme, rest),
            Some(_) => return Err(InviteLinkError::NotAnInvite),
            None if text.contains("/i/") || text.contains("/join/") => ("https", text),
            None => return Ok(None),
        };
        let clean = path_of(rest);
        let (host, path) = clean.split_once('/').ok_or(InviteLinkError::NotAnInvite)?;
        if !is_host(host) {
            return Err(InviteLinkError::NotAnInvite);
        }
        let typed_scheme = text.contains("://");
        let scheme = if !typed_scheme && is_loopback(host) { "http" } else { scheme };
        if scheme == "http" && !is_loopback(host) && plain_http == PlainHttp::LoopbackOnly {
            return Err(InviteLinkError::Insecure);
        }
        Self::from_path(&format!("/{path}"), Some(format!("{scheme}://{host}"))).map(Some)
    }

    fn from_path(path: &str, base: Option<String>) -> Result<Self, InviteLinkError> {
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if parts.first().is_some_and(|part| {
            part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_lowercase())
        }) && parts.len() == 3
        {
            parts.remove(0);
        }
        match parts.as_slice() {
            ["i", code] if is_code(code) => Ok(Self::Code { code: (*code).to_owned(), base }),
            ["join", token] if is_token(token) => {
                Ok(Self::Token { token: (*token).to_owned(), base })
            }
            _ => Err(InviteLinkError::NotAnInvite),
        }
    }
}

fn trimmed(text: &str) -> &str {
    text.trim()
        .trim_start_matches(['<', '(', '"', '\'', '`'])
        .trim_end_matches(['>', ')', '"', '\'', '`', '.', ',', ';'])
        .trim()
}

fn is_code(text: &str) -> bool {
    CODE_CHARS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_token(text: &str) -> bool {
    text.len() >= TOKEN_MIN_CHARS
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
        })
}

/// True for `localhost`, `127.0.0.0/8` and `[::1]`, with or without a port.
pub fn is_loopback(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next() == Some("::1");
    }
    let name = host.split(':').next().unwrap_or(host);
    name == "localhost"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host == "::1"
}

/// What the creator of an invite fixes for the joiner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InvitePreset {
    /// Overrides the joiner's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Role label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_tag: Option<String>,
    /// Default groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
    /// Message mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_mode: Option<MessageMode>,
}

/// Body of `POST /invites/:code/claim`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Key the root key is sealed to, b64url of 32 bytes.
    pub recipient_x25519_pubkey: String,
    /// Name of the joiner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The joiner's member key, hex64; absent from old clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_pubkey: Option<String>,
    /// Unix milliseconds of the proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// Proof by the member key, hex128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimReply {
    /// Root key sealed to the joiner, b64url.
    pub sealed_root_key: String,
    /// The mesh.
    pub mesh_id: MeshId,
    /// The new member.
    pub member_id: MemberId,
    /// Key that signed the invite.
    pub owner_pubkey: PublicKey,
    /// Signed text.
    pub canonical_v2: String,
    /// Its signature; absent at an older broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignatureBytes>,
    /// Slug of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_slug: Option<String>,
    /// Name of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_name: Option<String>,
    /// WebSocket address of the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_url: Option<String>,
    /// Role in the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MemberRole>,
    /// Name of the member in the mesh: the wish, or with a number when another member has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// True when this key was a member before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub already_member: Option<bool>,
}

/// Answer to `GET /api/public/invites/:code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitePreview {
    /// Slug of the mesh.
    pub mesh_slug: String,
    /// Name of the mesh.
    pub mesh_name: String,
    /// Name of whoever made the invite.
    #[serde(default)]
    pub inviter: Option<String>,
    /// Role the joiner gets.
    pub role: MemberRole,
    /// ISO.
    pub expires_at: String,
    /// Members of the mesh.
    pub member_count: u64,
    /// Key that signed the invite.
    pub owner_pubkey: PublicKey,
    /// WebSocket address of the broker.
    pub broker_url: String,
    /// True when a claim would be accepted now.
    pub valid: bool,
    /// Why not: `expired`, `revoked`, `exhausted`, `mesh_archived`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<(String, Option<String>)> {
        match InviteLink::parse(text, PlainHttp::LoopbackOnly) {
            Ok(InviteLink::Code { code, base }) => Some((code, base)),
            _ => None,
        }
    }

    #[test]
    fn every_form_of_a_code_reads_the_same() {
        let https = Some("https://mesh.example.org".to_owned());
        for text in [
            "https://mesh.example.org/i/ABCD2345",
            "  <https://mesh.example.org/i/ABCD2345>. ",
            "https://mesh.example.org/es/i/ABCD2345?x=1#y",
            "mesh.example.org/i/ABCD2345)",
            "\"https://mesh.example.org/i/ABCD2345\"",
        ] {
            assert_eq!(code(text), Some(("ABCD2345".into(), https.clone())), "{text}");
        }
        assert_eq!(code("claudemesh://i/ABCD2345"), Some(("ABCD2345".into(), None)));
        assert_eq!(code("ABCD2345"), Some(("ABCD2345".into(), None)));
        assert_eq!(
            code("http://127.0.0.1:7900/i/ABCD2345"),
            Some(("ABCD2345".into(), Some("http://127.0.0.1:7900".into())))
        );
        assert_eq!(
            code("localhost:7900/i/ABCD2345"),
            Some(("ABCD2345".into(), Some("http://localhost:7900".into())))
        );
    }

    #[test]
    fn tokens_in_links_and_bare() {
        let token = "eyJ2IjoxLCJtZXNoX2lkIjoiTSJ9";
        for text in [
            token.to_owned(),
            format!("ic://join/{token}"),
            format!("https://h.example/join/{token}"),
        ] {
            let link = InviteLink::parse(&text, PlainHttp::LoopbackOnly).unwrap();
            assert!(
                matches!(link, InviteLink::Token { token: read, .. } if read == token),
                "{text}"
            );
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "hello world",
            "https://h.example/x/ABCD2345",
            "ftp://h/i/ABCD2345",
            "https://h.example/i/",
            "abc",
            "https://h.example/i/AB-D2345",
        ] {
            assert!(InviteLink::parse(text, PlainHttp::LoopbackOnly).is_err(), "{text}");
        }
        let plain = "http://10.0.0.7:7900/i/ABCD2345";
        assert_eq!(
            InviteLink::parse(plain, PlainHttp::LoopbackOnly),
            Err(InviteLinkError::Insecure)
        );
        assert!(InviteLink::parse(plain, PlainHttp::Allowed).is_ok());
        assert!(
            InviteLink::parse("http://127.0.0.1.evil.example/i/ABCD2345", PlainHttp::LoopbackOnly)
                .is_err()
        );
    }

    #[test]
    fn debug_output_hides_the_code() {
        let link = InviteLink::parse("ABCD2345", PlainHttp::LoopbackOnly).unwrap();
        assert!(!format!("{link:?}").contains("ABCD"));
    }
}
