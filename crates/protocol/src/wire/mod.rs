//! Every frame of the WebSocket, declared once: type word, struct, reply, required capability and permission.
//!
//! One JSON object per text message (wire spec §0). Unknown fields are ignored, unknown types are reported,
//! an absent key and `null` are equal on input, and optional keys are left out on output.

pub mod admin;
pub mod audit;
pub mod hello;
pub mod mesh;
pub mod messaging;
pub mod presence;
pub mod reply;
pub mod state;

mod decode;
mod frame;

pub use admin::{
    Ban, BanAck, BanRow, Disconnect, DisconnectAck, GetGrants, GrantsResult, Kick, KickAck,
    ListBans, ListBansResult, MeshEvent, MeshState, RotateMemberKey, SetGrants, Unban, UnbanAck,
};
pub use audit::{AuditEntry, AuditHead, AuditQuery, AuditResult, AuditVerify, AuditVerifyResult};
pub use decode::{DecodeError, Inbound, exceeds_depth, has_nul};
pub use frame::{
    Access, ClientFrame, Effect, FrameKind, FrameSpec, Rate, Right, ServerFrame, ServerInbound,
};
pub use hello::{Features, Hello, HelloAck, MemberProfile, SessionHello, WireLimits};
pub use mesh::{MeshInfo, MeshInfoResult, TaskCounts};
pub use messaging::{
    Ack, AckStatus, ClientAck, LoopUnblock, MessageStatus, MessageStatusResult, Origin,
    PullMessages, Push, Receipt, ReceiptState, RecipientStatus, Send, WrappedKey,
};
pub use presence::{
    FormerKeyRow, Goodbye, JoinGroup, LeaveGroup, ListMembers, ListPeers, MemberRow, MembersList,
    PeerRow, PeersList, Profile, SetProfile, SetStats, SetStatus, SetSummary, SetVisible, Stats,
};
pub use reply::ErrorFrame;
pub use state::{GetState, ListState, SetState, StateChange, StateEntry, StateList, StateResult};
