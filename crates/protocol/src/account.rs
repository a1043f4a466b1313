//! Bodies of the broker's HTTP routes around accounts, meshes and invites (wire spec appendix A, broker spec §5.2).
//!
//! Times are ISO-8601 UTC. Tokens and setup codes are secrets: the types that carry one have no `Debug`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::group::Group;
use crate::id::{MemberId, MeshId, UserId};
use crate::invite::InvitePreset;
use crate::key::PublicKey;
use crate::permission::Permission;
use crate::status::{MemberRole, MessageMode};

/// Body of `POST /cli/setup`. No `Debug`: it carries the setup code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupRequest {
    /// The one-time code of the server's data directory.
    pub setup_code: String,
    /// Name of the first account.
    pub display_name: String,
    /// Machine that signs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Processor architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// The session token the caller wants (`cm_session_…`, fresh, already on its disk), so that an answer lost in a
    /// crash does not lock it out; without it the broker draws one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
}

/// Answer to a setup. No `Debug`: it carries the session token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupReply {
    /// Token of the new session.
    pub session_token: String,
    /// The account.
    pub user: AccountUser,
}

/// An account as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountUser {
    /// The account.
    pub id: UserId,
    /// Its name.
    pub display_name: String,
    /// Its address; a local account has none.
    #[serde(default)]
    pub email: Option<String>,
}

/// The credential a request was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// Its id.
    pub id: String,
    /// `session` or `token`.
    pub kind: String,
    /// Host name or label.
    #[serde(default)]
    pub name: Option<String>,
    /// End of its life.
    #[serde(default)]
    pub expires_at: Option<String>,
}

/// Answer of `GET /cli/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeReply {
    /// The account.
    pub user: AccountUser,
    /// What it signed in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
}

/// One mesh of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountMesh {
    /// The mesh.
    pub id: MeshId,
    /// Its slug.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// The account's role in it.
    pub role: MemberRole,
    /// True for the owner.
    pub is_owner: bool,
    /// Members.
    pub member_count: u64,
    /// Live peers.
    pub active_peers: u64,
    /// When the account joined.
    #[serde(default)]
    pub joined_at: Option<String>,
    /// WebSocket address of its broker.
    pub broker_url: String,
}

/// Answer of `GET /cli/meshes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshesReply {
    /// Meshes the account is in, or owns.
    pub meshes: Vec<AccountMesh>,
}

/// What one member may do in a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct MemberPermissions {
    /// The member.
    pub member_id: MemberId,
    /// Its name.
    pub display_name: String,
    /// Its role.
    pub role: MemberRole,
    /// True for the owner, who may everything.
    pub is_owner: bool,
    /// Every permission with what counts today.
    pub permissions: BTreeMap<Permission, bool>,
}

/// Answer of `GET /cli/mesh/:slug/permissions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionsReply {
    /// Slug of the mesh.
    pub mesh: String,
    /// Its members, in the order they joined.
    pub members: Vec<MemberPermissions>,
}

/// A member as its mesh sees it over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberDetail {
    /// The member.
    pub id: MemberId,
    /// Its key.
    #[serde(default)]
    pub pubkey: Option<PublicKey>,
    /// Its name.
    pub display_name: String,
    /// Free label of its role.
    #[serde(default)]
    pub role_tag: Option<String>,
    /// Groups of presences that name none.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// How it wants messages.
    pub message_mode: MessageMode,
    /// Its role.
    pub permission: MemberRole,
    /// True for the owner.
    pub is_owner: bool,
    /// ISO.
    pub joined_at: String,
    /// ISO.
    #[serde(default)]
    pub last_seen_at: Option<String>,
    /// True with a live or leased presence.
    pub online: bool,
    /// Its sessions among them.
    pub session_count: usize,
}

/// Answer of `GET /mesh/:id/members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersReply {
    /// Always true.
    pub ok: bool,
    /// In the order they joined.
    pub members: Vec<MemberDetail>,
}

/// Body of `POST /cli/mesh/create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshCreateRequest {
    /// Name for people.
    pub name: String,
    /// The creator's member key, hex64.
    pub pubkey: PublicKey,
    /// Wanted slug; taken is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The creator's name in the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
}

/// Answer to a mesh creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshCreateReply {
    /// The mesh.
    pub id: MeshId,
    /// Its slug.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// The creator.
    pub member_id: MemberId,
}

/// Body of `POST /cli/mesh/:slug/invite`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InviteCreateRequest {
    /// Where to mail it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Role of the joiner; default member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MemberRole>,
    /// Seconds it is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<i64>,
    /// How often it can be used; default once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u32>,
    /// What is fixed for the joiner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<InvitePreset>,
}

/// Answer to an invite creation. No `Debug`: whoever has the link may join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteCreateReply {
    /// The link to give away.
    pub url: String,
    /// Its code.
    pub code: String,
    /// End of its life.
    pub expires_at: String,
    /// True when it was mailed.
    #[serde(default)]
    pub emailed: bool,
}

/// One invite of a mesh. No `Debug`: its code may still be good.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRow {
    /// Its code.
    pub code: String,
    /// Role of the joiner.
    pub role: MemberRole,
    /// How often it can be used.
    pub max_uses: u32,
    /// How often it was used.
    pub used_count: u32,
    /// When it was made.
    pub created_at: String,
    /// End of its life.
    pub expires_at: String,
    /// When it was revoked.
    #[serde(default)]
    pub revoked_at: Option<String>,
    /// True while it can be claimed.
    pub valid: bool,
}

/// Answer of `GET /cli/mesh/:slug/invites`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitesReply {
    /// Newest first.
    pub invites: Vec<InviteRow>,
}

/// Body of `POST /join`, the old way to use an invite. No `Debug`: it carries the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinV1Request {
    /// The token as it stood in the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite_token: Option<String>,
    /// Its decoded payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite_payload: Option<serde_json::Value>,
    /// The joiner's member key, hex64.
    pub peer_pubkey: String,
    /// The joiner's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Unix milliseconds of the proof; absent from old clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// Proof by the member key, hex128; absent from old clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Answer to a join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinV1Reply {
    /// Always true.
    pub ok: bool,
    /// The new member.
    pub member_id: MemberId,
    /// Name of the member in the mesh: the wish, or with a number when another member has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// True when this key was a member before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub already_member: Option<bool>,
}

/// Body of `POST /cli/session/revoke`. No `Debug`: it carries a token.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionRevokeRequest {
    /// The token to end, by possession.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Or the session to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Answer to a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRevokeReply {
    /// Always true.
    pub ok: bool,
    /// False when the token was no session.
    pub found: bool,
}
