//! The table of frames: one line per message, from which the decoders, the dispatch and the access rules follow.

use serde::{Deserialize, Serialize};

use super::decode::{DecodeError, Head, Inbound};
use super::hello::{Hello, HelloAck, SessionHello};
use super::messaging::{
    Ack, ClientAck, LoopUnblock, MessageStatus, MessageStatusResult, PullMessages, Push, Receipt,
    Send,
};
use super::presence::{
    Goodbye, JoinGroup, LeaveGroup, ListMembers, ListPeers, MembersList, PeersList, SetProfile,
    SetStats, SetStatus, SetSummary, SetVisible,
};
use super::reply::ErrorFrame;
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

/// What is declared about a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSpec {
    /// The `type` word.
    pub word: &'static str,
    /// The reply's `type` word; `ack` where success has no result of its own.
    pub reply: Option<&'static str>,
    /// Capability needed.
    pub access: Access,
    /// Member permission needed besides.
    pub permission: Option<Permission>,
}

macro_rules! client_frames {
    ($($(#[$doc:meta])* $name:ident($payload:ty) = $word:literal -> $reply:expr, $access:expr, $permission:expr;)+) => {
        /// A frame from a client.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "type")]
        pub enum ClientFrame {
            $($(#[$doc])* #[serde(rename = $word)] $name(Box<$payload>),)+
        }

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
                        word: $word, reply: $reply, access: $access, permission: $permission,
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

client_frames! {
    /// Member-keyed handshake.
    Hello(Hello) = "hello" -> Some("hello_ack"), Handshake, None;
    /// Session-keyed handshake.
    SessionHello(SessionHello) = "session_hello" -> Some("hello_ack"), Handshake, None;
    /// A message.
    Send(Send) = "send" -> Some("ack"), ByTarget, Some(Permission::Send);
    /// Hand over what is held.
    PullMessages(PullMessages) = "pull_messages" -> Some("ack"), Upkeep, None;
    /// A push was stored.
    ClientAck(ClientAck) = "client_ack" -> None, Upkeep, None;
    /// How far a message came.
    Receipt(Receipt) = "receipt" -> None, Upkeep, None;
    /// Lift a loop stop.
    LoopUnblock(LoopUnblock) = "loop_unblock" -> Some("ack"), Needs(Capability::Dm), None;
    /// What became of a message.
    MessageStatus(MessageStatus) = "message_status" -> Some("message_status_result"), Needs(Capability::Read), None;
    /// Who is there.
    ListPeers(ListPeers) = "list_peers" -> Some("peers_list"), Needs(Capability::Read), None;
    /// The roster.
    ListMembers(ListMembers) = "list_members" -> Some("members_list"), Needs(Capability::Read), None;
    /// Own status. A report of the agent's hooks is upkeep; the broker asks `profile-write` for the rest.
    SetStatus(SetStatus) = "set_status" -> Some("ack"), Upkeep, None;
    /// Own summary.
    SetSummary(SetSummary) = "set_summary" -> Some("ack"), Needs(Capability::ProfileWrite), None;
    /// Own visibility.
    SetVisible(SetVisible) = "set_visible" -> Some("ack"), Needs(Capability::ProfileWrite), None;
    /// Own profile.
    SetProfile(SetProfile) = "set_profile" -> Some("ack"), Needs(Capability::ProfileWrite), None;
    /// Own counters.
    SetStats(SetStats) = "set_stats" -> Some("ack"), Upkeep, None;
    /// Join a group.
    JoinGroup(JoinGroup) = "join_group" -> Some("ack"), Needs(Capability::ProfileWrite), None;
    /// Leave a group.
    LeaveGroup(LeaveGroup) = "leave_group" -> Some("ack"), Needs(Capability::ProfileWrite), None;
    /// Voluntary end.
    Goodbye(Goodbye) = "goodbye" -> None, Upkeep, None;
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
