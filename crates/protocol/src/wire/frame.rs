//! The table of frames: one line per message, from which the decoders, the dispatch and the access rules follow.

use serde::{Deserialize, Serialize};

use super::admin::{
    Ban, BanAck, Disconnect, DisconnectAck, GetGrants, GrantsResult, Kick, KickAck, ListBans,
    ListBansResult, MeshState, RotateMemberKey, SetGrants, Unban, UnbanAck,
};
use super::audit::{AuditQuery, AuditResult, AuditVerify, AuditVerifyResult};
use super::decode::{DecodeError, Head, Inbound};
use super::hello::{Hello, HelloAck, SessionHello};
use super::mesh::{MeshInfo, MeshInfoResult};
use super::messaging::{
    Ack, ClientAck, LoopUnblock, MessageStatus, MessageStatusResult, PullMessages, Push, Receipt,
    Send,
};
use super::presence::{
    Goodbye, JoinGroup, LeaveGroup, ListMembers, ListPeers, MembersList, PeersList, SetProfile,
    SetStats, SetStatus, SetSummary, SetVisible,
};
use super::reply::ErrorFrame;
use super::state::{GetState, ListState, SetState, StateChange, StateList, StateResult};
use crate::audit::AuditEvent;
use crate::capability::Capability;
use crate::permission::Permission;

/// What a connection needs to use a frame (wire spec §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The handshake itself.
    Handshake,
    /// Upkeep of an authenticated connection: no capability.
    Upkeep,
    /// Exactly this session capability.
    Needs(Capability),
    /// `dm` for one key, `broadcast` for everything else.
    ByTarget,
}

/// What a member needs to use a frame, beside the capability of its session (broker spec §4.24, §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Every member has it.
    Member,
    /// This permission.
    Holds(Permission),
    /// Owner or admin.
    Admin,
}

/// What a frame does to the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Keeps the connection or a delivery going; nothing that others asked for.
    Upkeep,
    /// Changes nothing.
    Read,
    /// Sets what it names, the same again when repeated.
    Set,
    /// Changes something, possibly once more when repeated.
    Write,
}

impl Effect {
    /// Whether a request may reach the broker twice after a lost answer.
    pub const fn is_repeatable(self) -> bool {
        !matches!(self, Self::Write)
    }
}

/// How often a frame may be used (broker spec §6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the socket is read.
    Free,
    /// From the member's bucket for sends.
    MemberSend,
    /// Once in the interval of [`crate::limits::AUDIT_VERIFY_INTERVAL`], for the whole mesh.
    MeshVerify,
}

/// What is declared about a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSpec {
    /// The `type` word.
    pub word: &'static str,
    /// The reply's `type` word; `ack` where success has no result of its own.
    pub reply: Option<&'static str>,
    /// Capability needed.
    pub access: Access,
    /// What the member needs besides.
    pub right: Right,
    /// What it does.
    pub effect: Effect,
    /// Entry of the audit log that its success leaves.
    pub audit: Option<AuditEvent>,
    /// How often it may be used.
    pub rate: Rate,
}

macro_rules! client_frames {
    ($($(#[$doc:meta])* $name:ident($payload:ty) = $word:literal -> $reply:expr, $access:expr, $right:expr, $effect:expr, $audit:expr, $rate:expr;)+) => {
        /// A frame from a client.
        #[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
        #[serde(tag = "type")]
        pub enum ClientFrame {
            $($(#[$doc])* #[serde(rename = $word)] $name(Box<$payload>),)+
        }

        $(impl From<$payload> for ClientFrame {
            fn from(payload: $payload) -> Self {
                Self::$name(Box::new(payload))
            }
        })+

        /// The kind of a client frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FrameKind {
            $($(#[$doc])* $name,)+
        }

        impl FrameKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What is declared about it.
            pub const fn spec(self) -> FrameSpec {
                match self {
                    $(Self::$name => FrameSpec {
                        word: $word, reply: $reply, access: $access, right: $right, effect: $effect, audit: $audit, rate: $rate,
                    },)+
                }
            }
        }

        impl ClientFrame {
            /// Its kind.
            pub const fn kind(&self) -> FrameKind {
                match self { $(Self::$name(_) => FrameKind::$name,)+ }
            }

            /// Reads one message of a client.
            ///
            /// # Errors
            /// [`DecodeError`], which carries the request id when it could be read.
            pub fn decode(text: &str) -> Result<Inbound, DecodeError> {
                let head = Head::read(text)?;
                head.refuse_nul(text)?;
                let frame = match head.word.as_ref() {
                    $($word => Self::$name(Box::new(head.payload(text)?)),)+
                    _ => return Err(head.unknown_type()),
                };
                Ok(Inbound { req_id: head.req_id, frame })
            }
        }
    };
}

use Access::{ByTarget, Handshake, Needs, Upkeep};
use Capability as Cap;
use Rate::{Free, MemberSend, MeshVerify};
use Right::{Admin, Holds, Member};

client_frames! {
    /// Member-keyed handshake.
    Hello(Hello) = "hello" -> Some("hello_ack"), Handshake, Member, Effect::Upkeep, None, Free;
    /// Session-keyed handshake.
    SessionHello(SessionHello) = "session_hello" -> Some("hello_ack"), Handshake, Member, Effect::Upkeep, None, Free;
    /// A message.
    Send(Send) = "send" -> Some("ack"), ByTarget, Holds(Permission::Send), Effect::Write, None, MemberSend;
    /// Hand over what is held.
    PullMessages(PullMessages) = "pull_messages" -> Some("ack"), Upkeep, Member, Effect::Upkeep, None, Free;
    /// A push was stored.
    ClientAck(ClientAck) = "client_ack" -> None, Upkeep, Member, Effect::Upkeep, None, Free;
    /// How far a message came.
    Receipt(Receipt) = "receipt" -> None, Upkeep, Member, Effect::Upkeep, None, Free;
    /// Lift a loop stop.
    LoopUnblock(LoopUnblock) = "loop_unblock" -> Some("ack"), Needs(Cap::Dm), Member, Effect::Set, None, Free;
    /// What became of a message.
    MessageStatus(MessageStatus) = "message_status" -> Some("message_status_result"), Needs(Cap::Read), Member, Effect::Read, None, Free;
    /// Who is there.
    ListPeers(ListPeers) = "list_peers" -> Some("peers_list"), Needs(Cap::Read), Member, Effect::Read, None, Free;
    /// The roster.
    ListMembers(ListMembers) = "list_members" -> Some("members_list"), Needs(Cap::Read), Member, Effect::Read, None, Free;
    /// Own status. A report of the agent's hooks is upkeep; the broker asks `profile-write` for the rest.
    SetStatus(SetStatus) = "set_status" -> Some("ack"), Upkeep, Member, Effect::Set, None, Free;
    /// Own summary.
    SetSummary(SetSummary) = "set_summary" -> Some("ack"), Needs(Cap::ProfileWrite), Member, Effect::Set, None, Free;
    /// Own visibility.
    SetVisible(SetVisible) = "set_visible" -> Some("ack"), Needs(Cap::ProfileWrite), Member, Effect::Set, None, Free;
    /// Own profile.
    SetProfile(SetProfile) = "set_profile" -> Some("ack"), Needs(Cap::ProfileWrite), Member, Effect::Set, None, Free;
    /// Own counters.
    SetStats(SetStats) = "set_stats" -> Some("ack"), Upkeep, Member, Effect::Upkeep, None, Free;
    /// Join a group.
    JoinGroup(JoinGroup) = "join_group" -> Some("ack"), Needs(Cap::ProfileWrite), Member, Effect::Set, None, Free;
    /// Leave a group.
    LeaveGroup(LeaveGroup) = "leave_group" -> Some("ack"), Needs(Cap::ProfileWrite), Member, Effect::Set, None, Free;
    /// Voluntary end.
    Goodbye(Goodbye) = "goodbye" -> None, Upkeep, Member, Effect::Upkeep, None, Free;
    /// Write a key of the shared state.
    SetState(SetState) = "set_state" -> Some("ack"), Needs(Cap::StateWrite), Holds(Permission::WriteState), Effect::Write, Some(AuditEvent::StateSet), Free;
    /// Read a key of the shared state.
    GetState(GetState) = "get_state" -> Some("state_result"), Needs(Cap::StateRead), Member, Effect::Read, None, Free;
    /// List the shared state.
    ListState(ListState) = "list_state" -> Some("state_list"), Needs(Cap::StateRead), Member, Effect::Read, None, Free;
    /// End connections for good.
    Kick(Kick) = "kick" -> Some("kick_ack"), Needs(Cap::Kick), Admin, Effect::Write, Some(AuditEvent::MemberKicked), Free;
    /// End connections that may come back.
    Disconnect(Disconnect) = "disconnect" -> Some("disconnect_ack"), Needs(Cap::Kick), Admin, Effect::Write, Some(AuditEvent::MemberKicked), Free;
    /// Remove a member.
    Ban(Ban) = "ban" -> Some("ban_ack"), Needs(Cap::Ban), Admin, Effect::Write, Some(AuditEvent::MemberBanned), Free;
    /// Let a removed member in again.
    Unban(Unban) = "unban" -> Some("unban_ack"), Needs(Cap::Ban), Admin, Effect::Write, Some(AuditEvent::MemberUnbanned), Free;
    /// Who is banned.
    ListBans(ListBans) = "list_bans" -> Some("list_bans_result"), Needs(Cap::Read), Admin, Effect::Read, None, Free;
    /// Change what the caller grants others.
    SetGrants(SetGrants) = "set_grants" -> Some("grants_result"), Needs(Cap::Grant), Member, Effect::Set, Some(AuditEvent::GrantsChanged), Free;
    /// What the caller grants others.
    GetGrants(GetGrants) = "get_grants" -> Some("grants_result"), Needs(Cap::Grant), Member, Effect::Read, None, Free;
    /// Take a new member key; the member's own connection only.
    RotateMemberKey(RotateMemberKey) = "rotate_member_key" -> Some("ack"), Upkeep, Member, Effect::Write, Some(AuditEvent::MemberKeypairRotated), Free;
    /// Read the audit log.
    AuditQuery(AuditQuery) = "audit_query" -> Some("audit_result"), Needs(Cap::Read), Admin, Effect::Read, None, Free;
    /// Recompute the audit log.
    AuditVerify(AuditVerify) = "audit_verify" -> Some("audit_verify_result"), Needs(Cap::Read), Admin, Effect::Read, None, MeshVerify;
    /// Overview of the mesh.
    MeshInfo(MeshInfo) = "mesh_info" -> Some("mesh_info_result"), Needs(Cap::Read), Member, Effect::Read, None, Free;
}

impl ClientFrame {
    /// The JSON text, with `_reqId` when given.
    ///
    /// # Errors
    /// Only when a payload cannot be written as JSON, which no frame of ours does.
    pub fn encode(&self, req_id: Option<&str>) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct WithRequestId<'a> {
            #[serde(flatten)]
            frame: &'a ClientFrame,
            #[serde(rename = "_reqId")]
            req_id: &'a str,
        }
        match req_id {
            None => serde_json::to_string(self),
            Some(req_id) => serde_json::to_string(&WithRequestId { frame: self, req_id }),
        }
    }
}

macro_rules! server_frames {
    ($($(#[$doc:meta])* $name:ident($payload:ty) = $word:literal;)+) => {
        /// A frame from the broker.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
        #[serde(tag = "type")]
        pub enum ServerFrame {
            $($(#[$doc])* #[serde(rename = $word)] $name(Box<$payload>),)+
        }

        $(impl From<$payload> for ServerFrame {
            fn from(payload: $payload) -> Self {
                Self::$name(Box::new(payload))
            }
        })+

        impl ServerFrame {
            /// Reads one message of a broker; unknown types are reported, not refused.
            ///
            /// # Errors
            /// [`DecodeError`] for broken JSON or a known type with a wrong shape.
            pub fn decode(text: &str) -> Result<ServerInbound, DecodeError> {
                let head = Head::read(text)?;
                let word = if head.word == "inbound" { "push" } else { head.word.as_ref() };
                let frame = match word {
                    $($word => Self::$name(Box::new(head.payload(text)?)),)+
                    _ => return Ok(ServerInbound::Unknown { word: head.word.into_owned(), req_id: head.req_id }),
                };
                Ok(ServerInbound::Frame { req_id: head.req_id, frame })
            }
        }
    };
}

/// What a client makes of a message of the broker.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerInbound {
    /// A frame of the table.
    Frame {
        /// The request it answers.
        req_id: Option<String>,
        /// The frame.
        frame: ServerFrame,
    },
    /// A frame this build does not know; it is ignored.
    Unknown {
        /// Its type word.
        word: String,
        /// The request it answers.
        req_id: Option<String>,
    },
}

server_frames! {
    /// Handshake accepted.
    HelloAck(HelloAck) = "hello_ack";
    /// Refusal.
    Error(ErrorFrame) = "error";
    /// Acknowledgement.
    Ack(Ack) = "ack";
    /// A message or system event.
    Push(Push) = "push";
    /// Who is there.
    PeersList(PeersList) = "peers_list";
    /// The roster.
    MembersList(MembersList) = "members_list";
    /// What became of a message.
    MessageStatusResult(MessageStatusResult) = "message_status_result";
    /// How far a message came.
    Receipt(Receipt) = "receipt";
    /// One entry of the shared state.
    StateResult(StateResult) = "state_result";
    /// The shared state.
    StateList(StateList) = "state_list";
    /// A key of the shared state was written.
    StateChange(StateChange) = "state_change";
    /// Whom a kick ended.
    KickAck(KickAck) = "kick_ack";
    /// Whom a disconnect ended.
    DisconnectAck(DisconnectAck) = "disconnect_ack";
    /// Who was banned.
    BanAck(BanAck) = "ban_ack";
    /// Who may come back.
    UnbanAck(UnbanAck) = "unban_ack";
    /// Who is banned.
    ListBansResult(ListBansResult) = "list_bans_result";
    /// What a peer missed while it was away.
    MeshState(MeshState) = "mesh_state";
    /// What the caller grants others.
    GrantsResult(GrantsResult) = "grants_result";
    /// The audit log.
    AuditResult(AuditResult) = "audit_result";
    /// Whether the audit log is whole.
    AuditVerifyResult(AuditVerifyResult) = "audit_verify_result";
    /// Overview of the mesh.
    MeshInfoResult(MeshInfoResult) = "mesh_info_result";
}

impl ServerFrame {
    /// The JSON text.
    ///
    /// # Errors
    /// Only when a payload cannot be written as JSON, which no frame of ours does.
    pub fn encode(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_word_is_unique() {
        let words: std::collections::BTreeSet<_> =
            FrameKind::ALL.iter().map(|kind| kind.spec().word).collect();
        assert_eq!(words.len(), FrameKind::ALL.len());
    }

    #[test]
    fn a_request_id_is_read_and_written() {
        let text = ClientFrame::ListPeers(Box::default()).encode(Some("r1")).unwrap();
        let inbound = ClientFrame::decode(&text).unwrap();
        assert_eq!(inbound.req_id.as_deref(), Some("r1"));
        assert_eq!(inbound.frame, ClientFrame::ListPeers(Box::default()));
    }

    #[test]
    fn absent_and_null_are_equal_and_unknown_fields_are_ignored() {
        let text = r#"{"type":"send","targetSpec":"*","nonce":"bg==","ciphertext":"","priority":null,"future":{"a":1}}"#;
        let inbound = ClientFrame::decode(text).unwrap();
        let ClientFrame::Send(send) = inbound.frame else { panic!("send expected") };
        assert_eq!((send.priority, send.target_spec.as_str()), (None, "*"));
    }

    #[test]
    fn refusals_keep_the_request_id() {
        let refused = ClientFrame::decode(r#"{"type":"nope","_reqId":"x"}"#).unwrap_err();
        assert!(matches!(&refused, DecodeError::UnknownType { req_id: Some(id), .. } if id == "x"));
        let refused =
            ClientFrame::decode(r#"{"type":"set_status","status":"asleep","_reqId":"y"}"#)
                .unwrap_err();
        assert!(matches!(&refused, DecodeError::Malformed { req_id: Some(id), .. } if id == "y"));
        assert!(matches!(ClientFrame::decode("{"), Err(DecodeError::InvalidJson)));
        assert!(matches!(ClientFrame::decode("[1]"), Err(DecodeError::InvalidJson)));
    }

    #[test]
    fn a_float_where_an_integer_is_required_is_malformed() {
        let text = r#"{"type":"send","targetSpec":"*","nonce":"","ciphertext":"","hops":1.5}"#;
        assert!(matches!(ClientFrame::decode(text), Err(DecodeError::Malformed { .. })));
    }

    #[test]
    fn inbound_is_read_as_push() {
        let inbound = ServerFrame::decode(r#"{"type":"inbound","messageId":"m"}"#).unwrap();
        let ServerInbound::Frame { frame: ServerFrame::Push(push), .. } = inbound else {
            panic!("push expected")
        };
        assert_eq!(push.message_id, "m");
    }
}
