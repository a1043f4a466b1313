//! What clients ask for, one file per family: every frame of the table has its handler here, or this does not compile.

mod audit;
mod ban;
pub(crate) mod grants;
mod groups;
mod kick;
mod mesh_info;
pub(crate) mod messaging;
pub(crate) mod news;
mod presence;
pub(crate) mod receipt;
mod recipients;
mod roster;
mod rotate;
mod rows;
mod selector;
mod send;
pub(crate) mod state;
mod status;

use std::sync::Arc;
use std::time::Instant;

use claudemesh_core::authorize::{Caller, Denied, authorize};
use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::limits::AUDIT_VERIFY_INTERVAL;
use claudemesh_protocol::wire::{
    Ack, ClientFrame, ErrorFrame, FrameKind, Inbound, Rate, ServerFrame,
};
use claudemesh_protocol::{ErrorCode, MemberId, PresenceId, PublicKey};
use claudemesh_store::{AuditPayload, NewAuditEntry, StoreError};

use crate::live::{Connection, Entry, Mesh, MeshState};
use crate::state::Broker;

/// Crash point of administration: what was decided is durable, and nobody has been told.
const AFTER_COMMIT: &str = "broker.administration.after_commit";

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

/// What a handler leaves in the audit log, outside of its own transaction.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The event of the frame's declaration, or its counterpart, as a removal is of a set.
    pub(crate) event: AuditEvent,
    pub(crate) payload: AuditPayload,
}

/// A handled frame: its answer, and what it leaves in the audit log.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) frame: Option<ServerFrame>,
    pub(crate) audit: Option<Trace>,
}

impl From<Option<ServerFrame>> for Done {
    fn from(frame: Option<ServerFrame>) -> Self {
        Self { frame, audit: None }
    }
}

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
        frame => match answer(peer, frame, req_id.clone()).await {
            Ok(done) => {
                // Before the answer: who asks the log for what it has just done finds it.
                leave_trace(peer, kind, done.audit).await;
                Ok(done.frame)
            }
            Err(refusal) => Err(refusal),
        },
    };
    match reply {
        Ok(Some(frame)) => peer.connection.say(&frame),
        // An answer of its own kind was said as ready text.
        Ok(None) if kind.spec().reply.is_some_and(|word| word != "ack") => {}
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

/// Gives the audit log what a frame leaves there, in the name of the caller.
async fn leave_trace(peer: &Peer, kind: FrameKind, trace: Option<Trace>) {
    let Some(Trace { event, payload }) = trace else { return };
    debug_assert!(kind.spec().audit.is_some(), "{kind:?} declares no audit event");
    let entry = NewAuditEntry {
        mesh_id: peer.mesh.id.clone(),
        event,
        actor: Some(peer.member_id.clone()),
        payload,
        at: peer.broker.now(),
    };
    peer.broker.record_all([entry]).await;
}

/// Takes what a frame costs by its declaration. What a `send` costs is taken where its repeats are known, which are free.
fn charge(peer: &Peer, kind: FrameKind) -> Result<(), Refusal> {
    match kind.spec().rate {
        Rate::Free | Rate::MemberSend => Ok(()),
        Rate::MeshVerify => {
            let now = peer.broker.now();
            let mut state = peer.mesh.lock();
            let since = state.verified_at.map(|at| now.since(at));
            if let Some(left) = since.and_then(|since| AUDIT_VERIFY_INTERVAL.checked_sub(since))
                && !left.is_zero()
            {
                let text = "the audit log of this mesh was verified less than a minute ago";
                let wait = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                return Err(Refusal {
                    retry_after_ms: Some(wait),
                    ..Refusal::new(ErrorCode::RateLimited, text)
                });
            }
            state.verified_at = Some(now);
            drop(state);
            Ok(())
        }
    }
}

fn observe(peer: &Peer, word: &'static str, started: Instant) {
    peer.broker
        .metrics()
        .request_seconds
        .observe(&[("type", word)], started.elapsed().as_secs_f64());
}

async fn answer(peer: &Peer, frame: ClientFrame, req_id: Option<String>) -> Result<Done, Refusal> {
    crate::live::refresh(&peer.broker, &peer.mesh).await?;
    peer.authorize(&frame)?;
    charge(peer, frame.kind())?;
    let reply = match frame {
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
        ClientFrame::ListPeers(query) => roster::list_peers(peer, *query, req_id.as_deref()),
        ClientFrame::ListMembers(_) => roster::list_members(peer, req_id.as_deref()),
        ClientFrame::SetStatus(set) => presence::set_status(peer, *set).await,
        ClientFrame::SetSummary(set) => presence::set_summary(peer, *set).await,
        ClientFrame::SetVisible(set) => presence::set_visible(peer, *set, req_id).await,
        ClientFrame::SetProfile(set) => presence::set_profile(peer, *set, req_id).await,
        ClientFrame::SetStats(set) => presence::set_stats(peer, &set),
        ClientFrame::JoinGroup(join) => groups::join(peer, *join).await,
        ClientFrame::LeaveGroup(leave) => groups::leave(peer, *leave).await,
        ClientFrame::Send(_) | ClientFrame::Goodbye(_) => Ok(None),
        ClientFrame::SetState(set) => return state::set(peer, *set).await,
        ClientFrame::GetState(get) => state::get(peer, *get, req_id).await,
        ClientFrame::ListState(list) => state::list(peer, *list, req_id).await,
        ClientFrame::AuditQuery(query) => audit::query(peer, *query, req_id).await,
        ClientFrame::AuditVerify(_) => audit::verify(peer, req_id).await,
        ClientFrame::MeshInfo(_) => mesh_info::mesh_info(peer, req_id).await,
        ClientFrame::Kick(kick) => return kick::kick(peer, *kick, req_id).await,
        ClientFrame::Disconnect(which) => return kick::disconnect(peer, *which, req_id).await,
        ClientFrame::Ban(ban) => ban::ban(peer, *ban, req_id).await,
        ClientFrame::Unban(unban) => ban::unban(peer, *unban, req_id).await,
        ClientFrame::ListBans(_) => ban::list_bans(peer, req_id).await,
        ClientFrame::SetGrants(set) => grants::set(peer, *set, req_id).await,
        ClientFrame::GetGrants(_) => Ok(Some(grants::get(peer, req_id).into())),
        ClientFrame::RotateMemberKey(rotate) => rotate::rotate(peer, *rotate, req_id).await,
    };
    reply.map(Done::from)
}
