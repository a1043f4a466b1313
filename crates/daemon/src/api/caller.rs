//! Who asks: the process on the other end of the socket, and the session it speaks for (daemon spec §9.2).

use std::sync::Arc;

use claudemesh_ipc::SessionToken;
use claudemesh_ipc::api::{SESSION_HEADER, SESSION_SCHEME};
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::wire::Access;
use claudemesh_protocol::{ErrorCode, PublicKey};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use crate::mesh::Line;
use crate::sessions::Session;

/// The connection a request came on.
#[derive(Clone)]
pub(crate) struct Peer {
    /// Process on the other end, when the system tells.
    pub(crate) pid: Option<i32>,
    /// Ends the connection.
    pub(crate) close: CancellationToken,
}

/// Who asks, as the handlers see it.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The session, when its token is registered.
    pub(crate) session: Option<Arc<Session>>,
    /// A token came that is not registered: on few routes only, the gate refuses it on all others.
    pub(crate) is_token_unknown: bool,
    /// The connection.
    pub(crate) peer: Peer,
}

impl Caller {
    /// Whoever runs a program of his own, without a session.
    pub(crate) fn person() -> Self {
        let peer = Peer { pid: None, close: CancellationToken::new() };
        Self { session: None, is_token_unknown: false, peer }
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

/// The session token of a request, from either header; one that is no token is refused.
pub(crate) fn session_token(headers: &HeaderMap) -> Result<Option<SessionToken>, Failure> {
    let text = match headers.get(SESSION_HEADER) {
        Some(value) => value.to_str().ok(),
        None => match headers.get(AUTHORIZATION).map(|value| value.to_str()) {
            None => return Ok(None),
            Some(value) => value
                .ok()
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SESSION_SCHEME))
                .map(|(_, token)| token.trim()),
        },
    };
    let token = text.and_then(|text| SessionToken::parse(text).ok());
    token.map(Some).ok_or_else(|| {
        Failure::new(ErrorCode::UnknownSession, "the authorization header holds no session token")
    })
}
