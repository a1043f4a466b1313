//! Members: durable identities of a mesh with role, profile, grants and permissions (broker spec §1.1, §4.22, §4.24).

use std::collections::BTreeMap;

use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::permission::{Grant, Permission};
use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::{Group, InviteId, MemberId, MeshId, PublicKey, Timestamp, UserId};

use crate::admin::former_keys;
use crate::audit::append_audit;
use crate::engine::{Conn, Row, Sql, Value, stored_word, to_json};
use crate::{AuditPayload, FormerKey, NewAuditEntry, Result, Store, StoreError};

/// Columns of a member `m` with its permission row `p`, as [`Member::from_row`] reads them.
macro_rules! member_columns {
    () => {
        "m.id AS member_id, m.mesh_id, m.user_id, m.peer_pubkey, m.bind_until, m.display_name, m.role, m.role_tag,
         m.default_groups, m.message_mode, m.peer_grants, p.overrides, m.joined_at, m.last_seen_at, m.revoked_at,
         m.revoked_by, m.revoke_kind"
    };
}
pub(crate) use member_columns;

/// Why a member no longer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeKind {
    /// Banned by an admin; the key is refused for good.
    Ban,
    /// Left; may join again.
    Leave,
    /// Replaced by a newer key.
    Rotate,
}

/// When and how a member was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// How.
    pub kind: RevokeKind,
    /// By which member; `None` for the broker's operator.
    pub by: Option<MemberId>,
}

/// What a member grants single senders, by the sender's key. A missing entry means the defaults, an empty list blocks.
pub type Grants = BTreeMap<PublicKey, Vec<Grant>>;

/// Permissions set for one member; what is missing follows its role.
pub type PermissionOverrides = BTreeMap<Permission, bool>;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its mesh.
    pub mesh_id: MeshId,
    /// Its account, when it has one.
    pub user_id: Option<UserId>,
    /// Its key; `None` while unbound (wire spec §5.8).
    pub pubkey: Option<PublicKey>,
    /// Until when an unbound row waits for its first hello.
    pub bind_until: Option<Timestamp>,
    /// Name, 1 to 64 characters.
    pub display_name: String,
    /// Role.
    pub role: MemberRole,
    /// Free label of the role.
    pub role_tag: Option<String>,
    /// Groups of presences that name none.
    pub default_groups: Vec<Group>,
    /// How it wants messages; advice for clients.
    pub message_mode: MessageMode,
    /// What it grants single senders.
    pub grants: Grants,
    /// Permissions that differ from its role's.
    pub permissions: PermissionOverrides,
    /// When it joined.
    pub joined_at: Timestamp,
    /// When it was last connected.
    pub last_seen_at: Option<Timestamp>,
    /// Set once it no longer counts.
    pub revoked: Option<Revocation>,
}

/// A member of the live roster with what its last connection left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterEntry {
    /// The member: bound and not revoked.
    pub member: Member,
    /// Groups its own connection was last in (`peer_state` of the member); `None` when it never was connected.
    pub last_groups: Option<Vec<Group>>,
    /// Keys it had before, oldest first.
    pub former_keys: Vec<FormerKey>,
}

impl RosterEntry {
    /// The key it had at this time: what it wrote then was written under that one. What bears the very time of a change was
    /// accepted before it; the new key needs a connection first.
    pub fn key_at(&self, time: Timestamp) -> Option<PublicKey> {
        let former = self.former_keys.iter().find(|former| time <= former.rotated_at);
        former.map_or(self.member.pubkey, |former| Some(former.key))
    }
}

/// A member to be made.
#[derive(Debug, Clone)]
pub struct NewMember {
    /// A fresh id; unused when the key has a row already.
    pub id: MemberId,
    /// Its mesh.
    pub mesh_id: MeshId,
    /// Its account, when it has one.
    pub user_id: Option<UserId>,
    /// Its key, or the time an unbound row waits for one.
    pub identity: NewIdentity,
    /// Name.
    pub display_name: String,
    /// Role.
    pub role: MemberRole,
    /// Free label of the role.
    pub role_tag: Option<String>,
    /// Groups of presences that name none.
    pub default_groups: Vec<Group>,
    /// How it wants messages.
    pub message_mode: MessageMode,
    /// Now.
    pub joined_at: Timestamp,
}

/// Key of a new member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewIdentity {
    /// It has proved this key.
    Key(PublicKey),
    /// It has shown none; its first hello before that time binds one.
    Unbound {
        /// End of the wait.
        until: Timestamp,
    },
}

/// What came of adding a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddMember {
    /// A row was made.
    Added(Member),
    /// The key has a row already, revoked or not; it is unchanged.
    Exists(Member),
}

/// What came of binding a key to an unbound member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an answer is moved once and matched at once")]
pub enum BindMember {
    /// The key is now the member's.
    Bound(Member),
    /// No such unbound row, or its time is over.
    NotFound,
    /// Another member of the mesh has this key.
    KeyTaken,
}

impl Store {
    /// Looks a member up by key, revoked ones too.
    pub async fn member_by_key(&self, mesh: &MeshId, key: &PublicKey) -> Result<Option<Member>> {
        let mut reader = self.reader().await?;
        find_by_key(&mut reader.conn(), mesh, key).await
    }

    /// Looks a member up by id within a mesh, revoked and unbound ones too.
    pub async fn member(&self, mesh: &MeshId, id: &MemberId) -> Result<Option<Member>> {
        let mut reader = self.reader().await?;
        find_member(&mut reader.conn(), mesh, id).await
    }

    /// The account's live member row in a mesh, when it has one.
    pub async fn member_of_user(&self, mesh: &MeshId, user: &UserId) -> Result<Option<Member>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                concat!(
                    "SELECT ",
                    member_columns!(),
                    " FROM member m LEFT JOIN permission p ON p.member_id = m.id
                     WHERE m.mesh_id = $1 AND m.user_id = $2 AND m.revoked_at IS NULL AND m.peer_pubkey IS NOT NULL
                     ORDER BY m.joined_at, m.id LIMIT 1"
                ),
                &[mesh.as_str().into(), user.as_str().into()],
            )
            .await?;
        row.as_ref().map(Member::from_row).transpose()
    }

    /// Every bound, live member of a mesh, in the order they joined.
    pub async fn roster(&self, mesh: &MeshId) -> Result<Vec<RosterEntry>> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn();
        let mut former: BTreeMap<MemberId, Vec<FormerKey>> = BTreeMap::new();
        for (member, key) in former_keys(&mut conn, mesh).await? {
            former.entry(member).or_default().push(key);
        }
        let rows = conn
            .all(
                concat!(
                    "SELECT ",
                    member_columns!(),
                    ", s.groups_json AS last_groups
                     FROM member m
                     LEFT JOIN permission p ON p.member_id = m.id
                     LEFT JOIN peer_state s ON s.mesh_id = m.mesh_id AND s.member_id = m.id AND s.session_pubkey = ''
                     WHERE m.mesh_id = $1 AND m.peer_pubkey IS NOT NULL AND m.revoked_at IS NULL
                     ORDER BY m.joined_at, m.id"
                ),
                &[mesh.as_str().into()],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let has_state = row.get::<Option<String>>("last_groups")?.is_some();
                let last_groups = if has_state { Some(row.json("last_groups")?) } else { None };
                let member = Member::from_row(row)?;
                let former_keys = former.remove(&member.id).unwrap_or_default();
                Ok(RosterEntry { member, last_groups, former_keys })
            })
            .collect()
    }

    /// Adds members outside of an invite (provisioning), in one transaction. Answers stand in the order of the input.
    pub async fn add_members(&self, members: Vec<NewMember>) -> Result<Vec<AddMember>> {
        self.write(move |mut conn| {
            Box::pin(async move {
                let mut answers = Vec::with_capacity(members.len());
                for member in &members {
                    answers.push(insert_member(&mut conn, member, None).await?);
                }
                for answer in &answers {
                    // One that has no key yet has not joined.
                    if let AddMember::Added(member) = answer
                        && member.pubkey.is_some()
                    {
                        let entry = joined_entry(member, "operator", member.joined_at);
                        append_audit(&mut conn, &entry).await?;
                    }
                }
                Ok(answers)
            })
        })
        .await
    }

    /// Gives an unbound member its key, once, before its time is over.
    pub async fn bind_member(
        &self,
        mesh: &MeshId,
        id: &MemberId,
        key: &PublicKey,
        now: Timestamp,
    ) -> Result<BindMember> {
        let (mesh, id, key) = (mesh.clone(), id.clone(), *key);
        self.write(move |mut conn| {
            Box::pin(async move {
                if find_by_key(&mut conn, &mesh, &key).await?.is_some() {
                    return Ok(BindMember::KeyTaken);
                }
                let rows = conn
                    .execute(
                        "UPDATE member SET peer_pubkey = $3, bind_until = NULL, unbound_invite_id = NULL
                         WHERE mesh_id = $1 AND id = $2 AND peer_pubkey IS NULL AND bind_until > $4
                            AND revoked_at IS NULL",
                        &[mesh.as_str().into(), id.as_str().into(), (&key).into(), now.into()],
                    )
                    .await?;
                let bound = if rows > 0 { find_member(&mut conn, &mesh, &id).await? } else { None };
                if let Some(member) = &bound {
                    append_audit(&mut conn, &joined_entry(member, "invite", now)).await?;
                }
                Ok(bound.map_or(BindMember::NotFound, BindMember::Bound))
            })
        })
        .await
    }

    /// Deletes unbound members whose time is over and gives the uses back to their invites. Returns how many.
    pub async fn purge_unbound_members(&self, now: Timestamp) -> Result<u64> {
        self.write(move |mut conn| {
            Box::pin(async move {
                let gone = conn
                    .all(
                        "DELETE FROM member WHERE peer_pubkey IS NULL AND bind_until <= $1
                         RETURNING unbound_invite_id",
                        &[now.into()],
                    )
                    .await?;
                for row in &gone {
                    conn.execute(
                        "UPDATE invite SET used_count = used_count - 1 WHERE id = $1 AND used_count > 0",
                        &[row.get::<Option<String>>("unbound_invite_id")?.into()],
                    )
                    .await?;
                }
                Ok(u64::try_from(gone.len()).unwrap_or(u64::MAX))
            })
        })
        .await
    }

    /// Notes that members were connected at `at`; never moves a time back.
    pub async fn touch_members(&self, members: Vec<MemberId>, at: Timestamp) -> Result<()> {
        let ids: Vec<String> = members.into_iter().map(MemberId::into_string).collect();
        self.write(move |mut conn| {
            Box::pin(async move {
                let sql = Sql::per_engine(
                    "UPDATE member SET last_seen_at = $2
                     WHERE id IN (SELECT value FROM json_each($1)) AND (last_seen_at IS NULL OR last_seen_at < $2)",
                    "UPDATE member SET last_seen_at = $2
                     WHERE id = ANY($1) AND (last_seen_at IS NULL OR last_seen_at < $2)",
                );
                conn.execute(sql, &[Value::Texts(&ids), at.into()]).await.map(drop)
            })
        })
        .await
    }

    /// Replaces the default groups. `None` when there is no such live member.
    pub async fn set_default_groups(
        &self,
        mesh: &MeshId,
        id: &MemberId,
        groups: Vec<Group>,
    ) -> Result<Option<Member>> {
        let (mesh, id) = (mesh.clone(), id.clone());
        self.write(move |mut conn| {
            Box::pin(async move {
                conn.execute(
                    "UPDATE member SET default_groups = $3
                     WHERE mesh_id = $1 AND id = $2 AND revoked_at IS NULL",
                    &[
                        mesh.as_str().into(),
                        id.as_str().into(),
                        to_json(&groups, "member.default_groups")?.into(),
                    ],
                )
                .await?;
                find_live(&mut conn, &mesh, &id).await
            })
        })
        .await
    }

    /// Revokes a live member; a ban also enters the permanent list of revoked keys. False when there is none.
    pub async fn revoke_member(
        &self,
        mesh: &MeshId,
        id: &MemberId,
        revocation: Revocation,
    ) -> Result<bool> {
        let (mesh, id) = (mesh.clone(), id.clone());
        self.write(move |mut conn| {
            Box::pin(async move {
                let by = revocation.by.as_ref().map(MemberId::as_str);
                let revoked = conn
                    .first(
                        "UPDATE member SET revoked_at = $3, revoked_by = $4, revoke_kind = $5
                         WHERE mesh_id = $1 AND id = $2 AND revoked_at IS NULL
                         RETURNING peer_pubkey",
                        &[
                            mesh.as_str().into(),
                            id.as_str().into(),
                            revocation.at.into(),
                            by.into(),
                            revocation.kind.stored().into(),
                        ],
                    )
                    .await?;
                let Some(row) = revoked else { return Ok(false) };
                let key = row.get::<Option<String>>("peer_pubkey")?;
                let left_key = key.clone();
                if let (RevokeKind::Ban, Some(key)) = (revocation.kind, key) {
                    conn.execute(
                        "INSERT INTO revocation (mesh_id, revoked_pubkey, kind, revoked_at, revoked_by)
                         VALUES ($1, $2, 'member', $3, $4)
                         ON CONFLICT (mesh_id, revoked_pubkey) DO NOTHING",
                        &[mesh.as_str().into(), key.into(), revocation.at.into(), by.into()],
                    )
                    .await?;
                }
                if revocation.kind == RevokeKind::Leave {
                    let entry = NewAuditEntry {
                        mesh_id: mesh.clone(),
                        event: AuditEvent::MemberLeft,
                        actor: revocation.by.clone(),
                        payload: AuditPayload::new()
                            .with("member", id.as_str())
                            .with("pubkey", left_key),
                        at: revocation.at,
                    };
                    append_audit(&mut conn, &entry).await?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// Which of these keys stand in the permanent list of revoked keys.
    pub async fn revoked_keys(&self, mesh: &MeshId, keys: &[PublicKey]) -> Result<Vec<PublicKey>> {
        let keys: Vec<String> = keys.iter().map(|key| key.to_hex()).collect();
        let sql = Sql::per_engine(
            "SELECT revoked_pubkey FROM revocation
             WHERE mesh_id = $1 AND revoked_pubkey IN (SELECT value FROM json_each($2))",
            "SELECT revoked_pubkey FROM revocation WHERE mesh_id = $1 AND revoked_pubkey = ANY($2)",
        );
        let mut reader = self.reader().await?;
        let rows = reader.conn().all(sql, &[mesh.as_str().into(), Value::Texts(&keys)]).await?;
        rows.iter().map(|row| row.parsed("revoked_pubkey")).collect()
    }
}

stored_word!(RevokeKind, "member.revoke_kind" { Ban = "ban", Leave = "leave", Rotate = "rotate", });

impl Member {
    /// Reads the columns of `member_columns!`.
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        let overrides = match row.get::<Option<String>>("overrides")? {
            Some(_) => row.json("overrides")?,
            None => PermissionOverrides::new(),
        };
        let revoked =
            match (row.time_option("revoked_at")?, row.get::<Option<String>>("revoke_kind")?) {
                (Some(at), Some(kind)) => Some(Revocation {
                    at,
                    kind: RevokeKind::from_stored(&kind)?,
                    by: row.get::<Option<String>>("revoked_by")?.map(MemberId::new),
                }),
                _ => None,
            };
        Ok(Self {
            id: MemberId::new(row.get::<String>("member_id")?),
            mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
            user_id: row.get::<Option<String>>("user_id")?.map(UserId::new),
            pubkey: row.parsed_option("peer_pubkey")?,
            bind_until: row.time_option("bind_until")?,
            display_name: row.get("display_name")?,
            role: row.parsed("role")?,
            role_tag: row.get("role_tag")?,
            default_groups: row.json("default_groups")?,
            message_mode: row.parsed("message_mode")?,
            grants: row.json("peer_grants")?,
            permissions: overrides,
            joined_at: row.time("joined_at")?,
            last_seen_at: row.time_option("last_seen_at")?,
            revoked,
        })
    }
}

/// Looks a member up by key within a transaction.
pub(crate) async fn find_by_key(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    key: &PublicKey,
) -> Result<Option<Member>> {
    let row = conn
        .first(
            concat!(
                "SELECT ",
                member_columns!(),
                " FROM member m LEFT JOIN permission p ON p.member_id = m.id
                 WHERE m.mesh_id = $1 AND m.peer_pubkey = $2"
            ),
            &[mesh.as_str().into(), key.into()],
        )
        .await?;
    row.as_ref().map(Member::from_row).transpose()
}

/// Looks a member up by id within a transaction.
pub(crate) async fn find_member(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    id: &MemberId,
) -> Result<Option<Member>> {
    let row = conn
        .first(
            concat!(
                "SELECT ",
                member_columns!(),
                " FROM member m LEFT JOIN permission p ON p.member_id = m.id
                 WHERE m.mesh_id = $1 AND m.id = $2"
            ),
            &[mesh.as_str().into(), id.as_str().into()],
        )
        .await?;
    row.as_ref().map(Member::from_row).transpose()
}

/// The account's live member of a mesh, for who acted.
pub(crate) async fn live_member_of(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    user: &UserId,
) -> Result<Option<MemberId>> {
    let row = conn
        .first(
            "SELECT id FROM member
             WHERE mesh_id = $1 AND user_id = $2 AND revoked_at IS NULL AND peer_pubkey IS NOT NULL
             ORDER BY joined_at, id LIMIT 1",
            &[mesh.as_str().into(), user.as_str().into()],
        )
        .await?;
    row.map(|row| Ok(MemberId::new(row.get::<String>("id")?))).transpose()
}

/// Tells the audit log that a key became a member, and which way.
pub(crate) fn joined_entry(member: &Member, via: &str, at: Timestamp) -> NewAuditEntry {
    NewAuditEntry {
        mesh_id: member.mesh_id.clone(),
        event: AuditEvent::MemberJoined,
        actor: Some(member.id.clone()),
        payload: AuditPayload::new()
            .with("name", member.display_name.as_str())
            .with("pubkey", member.pubkey.map(PublicKey::to_hex))
            .with("role", member.role.as_str())
            .with("via", via),
        at,
    }
}

pub(crate) async fn find_live(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    id: &MemberId,
) -> Result<Option<Member>> {
    Ok(find_member(conn, mesh, id).await?.filter(|member| member.revoked.is_none()))
}

/// Inserts a member unless its key has a row. `invite` is the one whose use an unbound row gives back later.
pub(crate) async fn insert_member(
    conn: &mut Conn<'_>,
    member: &NewMember,
    invite: Option<&InviteId>,
) -> Result<AddMember> {
    let (key, bind_until, refunded) = match &member.identity {
        NewIdentity::Key(key) => (Some(key), None, None),
        NewIdentity::Unbound { until } => (None, Some(*until), invite),
    };
    let rows = conn
        .execute(
            "INSERT INTO member (id, mesh_id, user_id, peer_pubkey, bind_until, unbound_invite_id, display_name, role,
                role_tag, default_groups, message_mode, peer_grants, joined_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '{}', $12)
             ON CONFLICT (mesh_id, peer_pubkey) DO NOTHING",
            &[
                member.id.as_str().into(),
                member.mesh_id.as_str().into(),
                member.user_id.as_ref().map(UserId::as_str).into(),
                key.into(),
                bind_until.into(),
                refunded.map(InviteId::as_str).into(),
                member.display_name.as_str().into(),
                member.role.as_str().into(),
                member.role_tag.as_deref().into(),
                to_json(&member.default_groups, "member.default_groups")?.into(),
                member.message_mode.as_str().into(),
                member.joined_at.into(),
            ],
        )
        .await?;
    let found = match key {
        Some(key) => find_by_key(conn, &member.mesh_id, key).await?,
        None => find_member(conn, &member.mesh_id, &member.id).await?,
    };
    let found = found.ok_or_else(|| StoreError::corrupt("member.id"))?;
    Ok(if rows > 0 { AddMember::Added(found) } else { AddMember::Exists(found) })
}
