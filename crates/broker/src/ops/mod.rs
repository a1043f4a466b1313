//! What clients ask for, one file per family: every frame of the table has its handler here, or this does not compile.

mod groups;
pub(crate) mod messaging;
mod presence;
pub(crate) mod receipt;
mod recipients;
mod roster;
mod rows;
mod send;
mod status;

use std::sync::Arc;
use std::time::Instant;

use claudemesh_core::authorize::{Caller, Denied, authorize};
use claudemesh_protocol::wire::{Ack, ClientFrame, ErrorFrame, Inbound, ServerFrame};
use claudemesh_protocol::{ErrorCode, MemberId, PresenceId, PublicKey};
use claudemesh_store::StoreError;

use crate::live::{Connection, Entry, Mesh, MeshState};
use crate::state::Broker;

/// An authenticated connection.
pub(crate) struct Peer {
    pub(crate) broker: Broker,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) presence_id: PresenceId,
    pub(crate) connection: Arc<Connection>,
    pub(crate) member_id: MemberId,
    pub(crate) member_key: PublicKey,
    pub(crate) session_key: Option<PublicKey>,
}

/// Why a request was not done; answered with an `error` frame.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    pub(crate) retry_after_ms: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::new(ErrorCode::Forbidden, denied.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a request failed at the store");
        if error.is_transient() {
            Self::new(ErrorCode::Unavailable, "the store is not available; try again")
        } else {
            Self::new(ErrorCode::Internal, "the request failed at the broker")
        }
    }
}

/// What the connection does after a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Continue,
    /// The client has said goodbye.
    Leave,
}

type Reply = Result<Option<ServerFrame>, Refusal>;

impl Peer {
    /// The key messages of this connection come from.
    pub(crate) fn key(&self) -> PublicKey {
        self.session_key.unwrap_or(self.member_key)
    }

    /// The presence, while this connection is its socket. A replaced connection changes nothing any more.
    fn own<'a>(&self, state: &'a mut MeshState) -> Result<&'a mut Entry, Refusal> {
        state
            .own(&self.presence_id, &self.connection)
            .ok_or_else(|| Refusal::new(ErrorCode::Unauthorized, "this connection was replaced"))
    }

    fn authorize(&self, frame: &ClientFrame) -> Result<(), Denied> {
        let state = self.mesh.lock();
        self.authorize_in(&state, frame)
    }

    fn authorize_in(&self, state: &MeshState, frame: &ClientFrame) -> Result<(), Denied> {
        let member = state.member(&self.member_id);
        let caller = Caller {
            standing: member.map_or(claudemesh_protocol::permission::Standing::Member, |entry| {
                state.standing(entry)
            }),
            overrides: member.map(|entry| entry.member.permissions.clone()).unwrap_or_default(),
            session_caps: state
                .presence(&self.presence_id)
                .and_then(|entry| entry.presence.session_caps),
        };
        authorize(&caller, frame).inspect_err(|denied| {
            if let Denied::Capability(capability) = denied {
                self.broker.metrics().session_cap_denied.inc(capability.as_str());
            }
        })
    }
}

/// Handles one frame; answers go to the connection's queue before this returns, except the ack of a `send`, which
/// follows its commit.
pub(crate) async fn handle(peer: &Peer, inbound: Inbound) -> Next {
    let started = Instant::now();
    let Inbound { req_id, frame } = inbound;
    let kind = frame.kind();
    let mut next = Next::Continue;
    let reply = match frame {
        ClientFrame::Send(send) => {
            send::send(peer, *send, req_id.clone()).await;
            observe(peer, kind.spec().word, started);
            return next;
        }
        ClientFrame::Goodbye(_) => {
            next = Next::Leave;
            Ok(None)
        }
        frame => answer(peer, frame, req_id.clone()).await,
    };
    match reply {
        Ok(Some(frame)) => peer.connection.say(&frame),
        Ok(None) => {
            if let Some(req_id) = &req_id {
                peer.connection.say(&Ack::bare(req_id).into());
            }
        }
        Err(refusal) => {
            peer.broker.metrics().errors.inc(refusal.code.as_str());
            let mut error = ErrorFrame::new(refusal.code, refusal.message, req_id.as_deref());
            error.retry_after_ms = refusal.retry_after_ms;
            peer.connection.refuse(error);
        }
    }
    observe(peer, kind.spec().word, started);
    next
}

fn observe(peer: &Peer, word: &'static str, started: Instant) {
    peer.broker
        .metrics()
        .request_seconds
        .observe(&[("type", word)], started.elapsed().as_secs_f64());
}

async fn answer(peer: &Peer, frame: ClientFrame, req_id: Option<String>) -> Reply {
    crate::live::refresh(&peer.broker, &peer.mesh).await?;
    peer.authorize(&frame)?;
    match frame {
        ClientFrame::Hello(_) | ClientFrame::SessionHello(_) => {
            Err(Refusal::new(ErrorCode::AlreadyAuthenticated, "this connection has had its hello"))
        }
        ClientFrame::PullMessages(_) => messaging::pull(peer),
        ClientFrame::ClientAck(ack) => messaging::client_ack(peer, *ack).await,
        ClientFrame::Receipt(said) => {
            receipt::receipt(peer, *said).await;
            Ok(None)
        }
        ClientFrame::LoopUnblock(unblock) => Ok(messaging::loop_unblock(peer, &unblock, req_id)),
        ClientFrame::MessageStatus(query) => status::message_status(peer, *query, req_id).await,
        ClientFrame::ListPeers(query) => Ok(Some(roster::list_peers(peer, *query, req_id))),
        ClientFrame::ListMembers(_) => Ok(Some(roster::list_members(peer, req_id))),
        ClientFrame::SetStatus(set) => presence::set_status(peer, *set).await,
        ClientFrame::SetSummary(set) => presence::set_summary(peer, *set).await,
        ClientFrame::SetVisible(set) => presence::set_visible(peer, *set, req_id).await,
        ClientFrame::SetProfile(set) => presence::set_profile(peer, *set, req_id).await,
        ClientFrame::SetStats(set) => presence::set_stats(peer, &set),
        ClientFrame::JoinGroup(join) => groups::join(peer, *join).await,
        ClientFrame::LeaveGroup(leave) => groups::leave(peer, *leave).await,
        ClientFrame::Send(_) | ClientFrame::Goodbye(_) => Ok(None),
    }
}
