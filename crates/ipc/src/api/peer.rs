//! `GET /v1/peers` and the member list (daemon spec §9.7): the results of `peer.list` and `member.list`.

pub use claudemesh_protocol::ops::administration::{MemberEntry, MembersReply};
pub use claudemesh_protocol::ops::messaging::{MeshError, PeerEntry, PeersReply};
