//! Who asks: what the connection proves, and the session the request speaks for (daemon spec §9.2).

use std::sync::Arc;

use claudemesh_ipc::SessionToken;
use claudemesh_ipc::api::{SESSION_HEADER, SESSION_SCHEME};
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::wire::Access;
use claudemesh_protocol::{ErrorCode, PublicKey};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::hooks::{Grant, HOOK_SCHEME};
use crate::local_token::LocalTokens;
use crate::mesh::Line;
use crate::sessions::Session;

/// `Authorization` scheme of the local token.
const BEARER_SCHEME: &str = "Bearer";

/// How the other end is connected, and so how it proves who it is (daemon spec §9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The Unix socket: the other end is of our user, and this process, when the system tells.
    Socket(Option<i32>),
    /// Loopback TCP: anybody on this machine; the local token proves it.
    Tcp,
}

impl Transport {
    /// The word for figures.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Socket(_) => "uds",
            Self::Tcp => "tcp",
        }
    }
}

/// Who asks, as the handlers see it.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The session, when its token is registered.
    pub(crate) session: Option<Arc<Session>>,
    /// A token came that is not registered: on few routes only, the gate refuses it on all others.
    pub(crate) is_token_unknown: bool,
    /// What a hook may do, when one asks with its capability token.
    pub(crate) hook: Option<Arc<Grant>>,
    /// How the connection it came on is connected.
    pub(crate) transport: Transport,
}

impl Caller {
    /// Whoever runs a program of his own, without a session.
    pub(crate) fn person() -> Self {
        let transport = Transport::Socket(None);
        Self { session: None, is_token_unknown: false, hook: None, transport }
    }

    /// The session, on routes that need one.
    pub(crate) fn need_session(&self) -> Result<&Arc<Session>, Failure> {
        self.session.as_ref().ok_or_else(|| {
            Failure::new(ErrorCode::UnknownSession, "this needs the token of a registered session")
        })
    }

    /// The key of the session in this mesh; `None` when there is no session, it has no presence, or it is of another
    /// mesh, where the member speaks for it.
    pub(crate) fn key_in(&self, mesh: &impl Line) -> Option<PublicKey> {
        self.session.as_ref().filter(|session| session.mesh == mesh.slug())?.key()
    }

    /// A session with a list of capabilities may do what its list names, nothing else (daemon spec §9.2).
    pub(crate) fn need_capability(&self, capability: Capability) -> Result<(), Failure> {
        let caps = self.session.as_ref().and_then(|session| session.caps);
        if caps.is_none_or(|caps| caps.contains(capability)) {
            return Ok(());
        }
        let message = format!("this session lacks the capability \"{capability}\"");
        Err(Failure::new(ErrorCode::Forbidden, message).with("cap", capability.as_str()))
    }

    /// The capability a frame declares.
    pub(crate) fn need_access(&self, access: Access) -> Result<(), Failure> {
        match access {
            Access::Needs(capability) => self.need_capability(capability),
            Access::Handshake | Access::Upkeep | Access::ByTarget => Ok(()),
        }
    }
}

/// In whose name a request is made, as its headers show it; nothing is looked up yet.
pub(super) enum Bearer {
    /// Nobody's: whoever may use the transport is the person.
    Person,
    /// A session's.
    Session(SessionToken),
    /// A running hook's, by its capability token.
    Hook(Zeroizing<String>),
}

/// What the headers present, after the transport's own proof: TCP needs the local token, and leaves the session's to a header
/// of its own (daemon spec §8.2, §9.2).
pub(super) fn bearer(
    headers: &HeaderMap,
    transport: Transport,
    local: &LocalTokens,
) -> Result<Bearer, Failure> {
    let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    if transport == Transport::Tcp {
        check_local_token(authorization, local)?;
    } else if let Some(token) = authorization.and_then(|value| of_scheme(value, HOOK_SCHEME)) {
        return Ok(Bearer::Hook(Zeroizing::new(token.to_owned())));
    }
    let token = match (headers.get(SESSION_HEADER), authorization) {
        (Some(value), _) => value.to_str().ok(),
        (None, Some(value)) if transport != Transport::Tcp => of_scheme(value, SESSION_SCHEME),
        (None, _) => return Ok(Bearer::Person),
    };
    let token = token.and_then(|token| SessionToken::parse(token).ok());
    token.map(Bearer::Session).ok_or_else(|| {
        Failure::new(ErrorCode::UnknownSession, "the authorization header holds no session token")
    })
}

fn check_local_token(authorization: Option<&str>, local: &LocalTokens) -> Result<(), Failure> {
    const HINT: &str = "send the content of the file local-token in the daemon directory";
    let Some(authorization) = authorization else {
        let message = "over TCP every request carries the local token";
        return Err(Failure::new(ErrorCode::MissingToken, message).hint(HINT));
    };
    if of_scheme(authorization, BEARER_SCHEME).is_some_and(|token| local.accepts(token)) {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::InvalidToken, "this is not the local token").hint(HINT))
}

/// What follows the scheme, when it is this one.
fn of_scheme<'a>(authorization: &'a str, scheme: &str) -> Option<&'a str> {
    let (found, token) = authorization.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| token.trim())
}
