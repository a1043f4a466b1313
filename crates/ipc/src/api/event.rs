//! The event stream (daemon spec §14).

use serde::{Deserialize, Serialize};
use serde_json::Value;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        /// Kind of an event.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$doc])* $variant,)+
            /// A kind of a newer daemon.
            Other(String),
        }

        impl EventKind {
            /// The word after `event:`.
            pub fn as_str(&self) -> &str {
                match self { $(Self::$variant => $word,)+ Self::Other(word) => word }
            }

            /// Reads the word after `event:`.
            pub fn parse(word: &str) -> Self {
                match word { $($word => Self::$variant,)+ other => Self::Other(other.to_owned()) }
            }
        }
    };
}

kinds! {
    /// A message came in: an inbox item plus `push`.
    Message = "message",
    /// Late group messages, counted.
    InboxDigest = "inbox_digest",
    /// An own message reached the broker.
    MessageSent = "message_sent",
    /// How far an own message came.
    Receipt = "receipt",
    /// Two agents answered each other without end.
    LoopStopped = "loop_stopped",
    /// Somebody appeared.
    PeerJoin = "peer_join",
    /// Somebody left.
    PeerLeave = "peer_leave",
    /// A connection changed.
    BrokerStatus = "broker_status",
    /// A mesh lost its connection.
    DaemonDisconnect = "daemon_disconnect",
    /// A mesh has its connection again.
    DaemonReconnect = "daemon_reconnect",
    /// A session came.
    SessionRegistered = "session_registered",
    /// A session changed.
    SessionUpdated = "session_updated",
    /// A session ended.
    SessionEnded = "session_ended",
    /// An own message will not be sent.
    OutboxDead = "outbox_dead",
    /// The outbox is filling up.
    OutboxPressureHigh = "outbox_pressure_high",
    /// A key of the shared state was written: key, value, updated_by.
    StateChanged = "state_changed",
    /// A hook ran, or was to run.
    HookExecuted = "hook_executed",
    /// Another event of the broker.
    System = "system",
    /// This subscriber missed something.
    Lagged = "lagged",
}

/// Which events a subscriber wants (daemon spec §14.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventScope {
    /// Those of the calling session.
    Session,
    /// Those of the member.
    Member,
    /// All.
    All,
}

impl EventScope {
    /// The word in the query.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Member => "member",
            Self::All => "all",
        }
    }
}

/// Query of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Default: `session` with a session token, else `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<EventScope>,
    /// Mesh slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Kinds, comma-separated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<String>,
}

/// One event as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `<boot8>-<seq>`; absent on events made for this subscriber alone.
    pub id: Option<String>,
    /// Its kind.
    pub kind: EventKind,
    /// Its fields; `ts` is RFC 3339.
    pub data: Value,
}
