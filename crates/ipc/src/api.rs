//! Types of the local API, by family; names are those on the wire (daemon spec §9.7).

pub mod admin;
pub mod event;
pub mod hooks;
pub mod identity;
pub mod inbox;
pub mod outbox;
pub mod peer;
pub mod send;
pub mod session;
pub mod system;

pub use event::{Event, EventKind, EventScope, EventsQuery};
pub use inbox::{Decrypt, InboxItem, InboxPage, InboxQuery, RecipientKind};
pub use outbox::{
    BrokerAnswer, DropReply, DropRequest, OutboxItem, OutboxPage, OutboxPruneReply,
    OutboxPruneRequest, OutboxQuery, OutboxRowReply, RecipientProgress, RequeueReply,
    RequeueRequest, RowStatus,
};
pub use peer::{MembersReply, MeshError, PeerEntry, PeersReply};
pub use send::{FanoutEntry, SendReply, SendRequest};
pub use session::{
    MessageMode, RegisterReply, RegisterRequest, SessionView, StatusReply, StatusReport,
};
pub use system::{Health, MeshHealth, MeshStatus, OpReply, ProfileReply, ProfileRequest, Version};

/// Version of the API; a daemon with another one is not used (daemon spec §9.6).
pub const IPC_API: &str = "v1";
/// Counts additions within [`IPC_API`].
pub const IPC_MINOR: u32 = 4;

/// Session token header next to `Authorization` (daemon spec §8.2).
pub const SESSION_HEADER: &str = "x-claudemesh-session";
/// Answer header: `unknown` when the request's session token is not registered (daemon spec §8.2).
pub const SESSION_STATE_HEADER: &str = "x-claudemesh-session-state";
/// `Authorization` scheme of a session token.
pub const SESSION_SCHEME: &str = "ClaudeMesh-Session";
/// Header that names a send (daemon spec §10.1).
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
