//! The words both sides of a claudemesh connection agree on: identifiers, keys as they are written, every
//! wire message, target and group grammar, canonical strings, error codes and limits.
//!
//! This crate has no async, no I/O and no cryptography; it can be used from any thread and any program.
//! Formats are those of the wire specification, whose sections are named where a format stands.

pub mod account;
pub mod attestation;
pub mod audit;
pub mod body;
pub mod canonical;
pub mod capability;
pub mod encoding;
pub mod error;
pub mod group;
pub mod id;
pub mod invite;
pub mod key;
pub mod limits;
pub mod ops;
pub mod permission;
pub mod receipt;
mod schema;
pub mod slug;
pub mod status;
pub mod target;
pub mod text;
pub mod time;
pub mod wire;

pub use error::ErrorCode;
pub use group::{Group, GroupName};
pub use id::{InviteId, MemberId, MeshId, MessageId, PresenceId, UserId};
pub use key::{PublicKey, SignatureBytes};
pub use slug::Slug;
pub use status::{PeerRole, PeerStatus, Priority, StatusSource};
pub use target::TargetSpec;
pub use time::Timestamp;
