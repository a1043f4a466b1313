//! Invites: creating, listing, revoking and claiming them (broker spec §1.1, §4.26).

use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::{Group, InviteId, MemberId, MeshId, Timestamp, UserId};

use crate::audit::append_audit;
use crate::engine::{Row, to_json};
use crate::member::live_member_of;
use crate::{AuditPayload, Member, NewAuditEntry, NewMember, Result, Store, StoreError};

mod claim;

/// Columns of an invite `i`, as [`Invite::from_row`] reads them.
macro_rules! invite_columns {
    () => {
        "i.id AS invite_id, i.mesh_id, i.code, i.token, i.capability_v2, i.role, i.preset, i.max_uses, i.used_count,
         i.expires_at, i.created_by, i.created_by_member, i.created_at, i.revoked_at,
         (SELECT maker.revoked_at FROM member maker WHERE maker.id = i.created_by_member AND maker.revoke_kind = 'ban')
            AS maker_banned_at"
    };
}
use invite_columns;

/// Values an invite sets on whoever joins by it; they override what the joiner sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InvitePreset {
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Label of the role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_tag: Option<String>,
    /// Default groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
    /// How messages are handed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_mode: Option<MessageMode>,
}

/// What an invite is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InviteForm {
    /// Short code and the owner's signature (version 2).
    Code {
        /// The code, case-sensitive.
        code: String,
        /// JSON `{"canonical","signature"}` (wire spec §5.8).
        capability: String,
    },
    /// A signed token of an older broker that carries the root key (version 1; accepted, never issued).
    Token {
        /// The token text, which is the lookup key.
        token: String,
    },
}

/// An invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// Its id.
    pub id: InviteId,
    /// Its mesh.
    pub mesh_id: MeshId,
    /// What opens it.
    pub form: InviteForm,
    /// Role of those who join by it.
    pub role: MemberRole,
    /// Values it sets.
    pub preset: InvitePreset,
    /// How many may join, 1 to 1,000.
    pub max_uses: u32,
    /// How many have.
    pub used_count: u32,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The account it counts for: of who made it, else of the owner.
    pub created_by: UserId,
    /// The member that made it; `None` in rows of an earlier version, and once its row is gone.
    pub created_by_member: Option<MemberId>,
    /// When.
    pub created_at: Timestamp,
    /// Set once it was revoked, or its maker banned.
    pub revoked_at: Option<Timestamp>,
}

/// An invite to be made.
#[derive(Debug, Clone)]
pub struct NewInvite {
    /// A fresh id.
    pub id: InviteId,
    /// Its mesh.
    pub mesh_id: MeshId,
    /// What opens it.
    pub form: InviteForm,
    /// Role of those who join by it.
    pub role: MemberRole,
    /// Values it sets.
    pub preset: InvitePreset,
    /// How many may join.
    pub max_uses: u32,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The account it counts for: of who makes it, else of the owner.
    pub created_by: UserId,
    /// The member that makes it; `None` where nobody's membership stands behind it.
    pub created_by_member: Option<MemberId>,
    /// Now.
    pub created_at: Timestamp,
}

/// What came of creating an invite.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an answer is moved once and matched at once")]
pub enum CreateInvite {
    /// It stands.
    Created(Invite),
    /// The code or token exists already; draw another. Nothing was written.
    CodeTaken,
}

/// What came of claiming an invite. Only [`ClaimInvite::Joined`] has consumed a use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimInvite {
    /// A member row was made, or the row of a key that had left lives again.
    Joined(Member),
    /// The key is a live member already; its row is unchanged.
    AlreadyMember(Member),
    /// No such invite.
    NotFound,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
    /// All uses are gone.
    Exhausted,
    /// Its mesh is archived.
    MeshArchived,
    /// The key is banned from the mesh.
    Banned,
}

impl Store {
    /// Stores a new invite.
    pub async fn create_invite(&self, invite: NewInvite) -> Result<CreateInvite> {
        self.write(move |mut conn| {
            Box::pin(async move {
                let (code, capability, token) = match &invite.form {
                    InviteForm::Code { code, capability } => (Some(code), Some(capability), None),
                    InviteForm::Token { token } => (None, None, Some(token)),
                };
                let rows = conn
                    .execute(
                        "INSERT INTO invite (id, mesh_id, code, token, capability_v2, role, preset, max_uses, expires_at,
                            created_by, created_by_member, created_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                         ON CONFLICT DO NOTHING",
                        &[
                            invite.id.as_str().into(),
                            invite.mesh_id.as_str().into(),
                            code.map(String::as_str).into(),
                            token.map(String::as_str).into(),
                            capability.map(String::as_str).into(),
                            invite.role.as_str().into(),
                            to_json(&invite.preset, "invite.preset")?.into(),
                            invite.max_uses.into(),
                            invite.expires_at.into(),
                            invite.created_by.as_str().into(),
                            invite.created_by_member.as_ref().map(MemberId::as_str).into(),
                            invite.created_at.into(),
                        ],
                    )
                    .await?;
                if rows == 0 {
                    return Ok(CreateInvite::CodeTaken);
                }
                let entry = NewAuditEntry {
                    mesh_id: invite.mesh_id.clone(),
                    event: AuditEvent::InviteCreated,
                    actor: match &invite.created_by_member {
                        Some(member) => Some(member.clone()),
                        None => {
                            live_member_of(&mut conn, &invite.mesh_id, &invite.created_by).await?
                        }
                    },
                    payload: AuditPayload::new()
                        .with("invite", invite.id.as_str())
                        .with("role", invite.role.as_str())
                        .with("maxUses", invite.max_uses)
                        .with("expiresAt", invite.expires_at),
                    at: invite.created_at,
                };
                append_audit(&mut conn, &entry).await?;
                Ok(CreateInvite::Created(invite.into_invite()))
            })
        })
        .await
    }

    /// Looks an invite up by its code, whatever its state.
    pub async fn invite_by_code(&self, code: &str) -> Result<Option<Invite>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                concat!("SELECT ", invite_columns!(), " FROM invite i WHERE i.code = $1"),
                &[code.into()],
            )
            .await?;
        row.as_ref().map(Invite::from_row).transpose()
    }

    /// Looks an invite of version 1 up by its token, whatever its state.
    pub async fn invite_by_token(&self, token: &str) -> Result<Option<Invite>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                concat!("SELECT ", invite_columns!(), " FROM invite i WHERE i.token = $1"),
                &[token.into()],
            )
            .await?;
        row.as_ref().map(Invite::from_row).transpose()
    }

    /// All invites of a mesh, newest first.
    pub async fn invites(&self, mesh: &MeshId) -> Result<Vec<Invite>> {
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all(
                concat!(
                    "SELECT ",
                    invite_columns!(),
                    " FROM invite i WHERE i.mesh_id = $1 ORDER BY i.created_at DESC, i.id"
                ),
                &[mesh.as_str().into()],
            )
            .await?;
        rows.iter().map(Invite::from_row).collect()
    }

    /// Revokes the invite with this code in the name of a member. Answers it as it stands; `None` when the mesh has none
    /// with this code. Revoking twice changes nothing.
    pub async fn revoke_invite(
        &self,
        mesh: &MeshId,
        code: &str,
        by: &MemberId,
        now: Timestamp,
    ) -> Result<Option<Invite>> {
        let (mesh, code, by) = (mesh.clone(), code.to_owned(), by.clone());
        self.write(move |mut conn| {
            Box::pin(async move {
                let changed = conn
                    .execute(
                        "UPDATE invite SET revoked_at = $3 WHERE mesh_id = $1 AND code = $2 AND revoked_at IS NULL",
                        &[mesh.as_str().into(), code.as_str().into(), now.into()],
                    )
                    .await?;
                let row = conn
                    .first(
                        concat!(
                            "SELECT ",
                            invite_columns!(),
                            " FROM invite i WHERE i.mesh_id = $1 AND i.code = $2"
                        ),
                        &[mesh.as_str().into(), code.as_str().into()],
                    )
                    .await?;
                let invite = row.as_ref().map(Invite::from_row).transpose()?;
                if let Some(invite) = invite.as_ref().filter(|_| changed > 0) {
                    let entry = NewAuditEntry {
                        mesh_id: mesh.clone(),
                        event: AuditEvent::InviteRevoked,
                        actor: Some(by.clone()),
                        payload: AuditPayload::new().with("invite", invite.id.as_str()),
                        at: now,
                    };
                    append_audit(&mut conn, &entry).await?;
                }
                Ok(invite)
            })
        })
        .await
    }

    /// Uses an invite once: checks, use count and member row in one transaction. Of any number of concurrent claims
    /// no more than `max_uses` join; the same key joining again consumes nothing.
    ///
    /// `member` carries the final values (preset already applied by the caller); its role is taken from the invite.
    /// Checks stand in the order of the invite's version (broker spec §4.26).
    pub async fn claim_invite(
        &self,
        id: &InviteId,
        member: NewMember,
        now: Timestamp,
    ) -> Result<ClaimInvite> {
        let id = id.clone();
        self.write(move |mut conn| {
            Box::pin(async move { claim::claim(&mut conn, &id, member, now).await })
        })
        .await
    }
}

impl NewInvite {
    fn into_invite(self) -> Invite {
        Invite {
            id: self.id,
            mesh_id: self.mesh_id,
            form: self.form,
            role: self.role,
            preset: self.preset,
            max_uses: self.max_uses,
            used_count: 0,
            expires_at: self.expires_at,
            created_by: self.created_by,
            created_by_member: self.created_by_member,
            created_at: self.created_at,
            revoked_at: None,
        }
    }
}

impl Invite {
    fn from_row(row: &Row) -> Result<Self> {
        let code: Option<String> = row.get("code")?;
        let capability: Option<String> = row.get("capability_v2")?;
        let token: Option<String> = row.get("token")?;
        let form = match (code, token) {
            // An empty capability verifies under no key, so a damaged row is refused and not trusted.
            (Some(code), None) => {
                InviteForm::Code { code, capability: capability.unwrap_or_default() }
            }
            (None, Some(token)) => InviteForm::Token { token },
            _ => return Err(StoreError::corrupt("invite.code")),
        };
        Ok(Self {
            id: InviteId::new(row.get::<String>("invite_id")?),
            mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
            form,
            role: row.parsed("role")?,
            preset: row.json("preset")?,
            max_uses: row.small("max_uses")?,
            used_count: row.small("used_count")?,
            expires_at: row.time("expires_at")?,
            created_by: UserId::new(row.get::<String>("created_by")?),
            created_by_member: row.get::<Option<String>>("created_by_member")?.map(MemberId::new),
            created_at: row.time("created_at")?,
            // Whoever is banned does not come back by an invite of its own.
            revoked_at: row.time_option("revoked_at")?.or(row.time_option("maker_banned_at")?),
        })
    }
}
