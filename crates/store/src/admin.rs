//! Bans, key rotation, edits of members, and the numbered events that peers must learn even when they were away
//! (broker spec §2.5, §2.6, §4.25, §4.29). Every change writes its audit entry in its own transaction.

use std::collections::HashSet;

use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::limits::{MEMBER_NAME_MAX_CHARS, MESH_EVENTS_KEPT, ROTATED_KEY_GRACE};
use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::text::{folded_name, instead_of_taken};
use claudemesh_protocol::{Group, MemberId, MeshId, PublicKey, SignatureBytes, Timestamp};
use serde_json::{Value as Json, json};

use crate::audit::append_audit;
use crate::engine::{Conn, Row, Sql, Value, to_json};
use crate::member::{find_by_key, find_live, find_member};
use crate::message::{DroppedRow, drop_messages_of};
use crate::{AuditPayload, Grants, Member, NewAuditEntry, Result, RevokeKind, Store, StoreError};

/// A ban to be written.
#[derive(Debug, Clone)]
pub struct NewBan {
    /// The mesh.
    pub mesh_id: MeshId,
    /// Who is removed.
    pub member_id: MemberId,
    /// Which member says so.
    pub by: MemberId,
    /// Why.
    pub reason: Option<String>,
    /// Now.
    pub at: Timestamp,
}

/// A ban that was written.
#[derive(Debug, Clone)]
pub struct Banned {
    /// What peers learn.
    pub event: MeshEvent,
    /// Undelivered messages of the member, dropped.
    pub dropped: Vec<DroppedRow>,
}

/// A banned member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// The member.
    pub member: Member,
    /// Its key.
    pub key: PublicKey,
    /// When.
    pub at: Timestamp,
    /// Name of the member that banned it, when it is still known.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// A change of the mesh with its place in the mesh's count.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshEvent {
    /// From 1.
    pub seq: u64,
    /// Its name.
    pub event: String,
    /// Its data.
    pub data: Json,
    /// When.
    pub at: Timestamp,
}

/// Which events somebody missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Those after this one.
    After(u64),
    /// Those from this time on.
    Since(Timestamp),
}

/// A key that a member had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerKey {
    /// The key.
    pub key: PublicKey,
    /// When another took its place.
    pub rotated_at: Timestamp,
    /// Until when messages to it still reach the member.
    pub valid_until: Timestamp,
    /// How both keys signed the change; `None` in rows of an earlier version.
    pub proof: Option<RotationProof>,
}

/// The statement of a change of keys, for whoever was away (wire spec §5.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationProof {
    /// When, as it was signed.
    pub signed_at: Timestamp,
    /// By the key until then.
    pub by_old: SignatureBytes,
    /// By the key from then on.
    pub by_new: SignatureBytes,
}

/// A member's change of keys; both signatures are verified.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The member.
    pub member_id: MemberId,
    /// Its key until now.
    pub old: PublicKey,
    /// Its key from now on.
    pub new: PublicKey,
    /// How both have signed it.
    pub proof: RotationProof,
    /// Now.
    pub at: Timestamp,
}

/// What came of a rotation.
#[derive(Debug, Clone, PartialEq)]
pub enum RotateKey {
    /// The new key counts; what peers learn.
    Rotated(MeshEvent),
    /// The new key is, was or must not become a member's of this mesh.
    KeyTaken,
    /// The member does not have the old key.
    NotFound,
}

/// An edit of a member; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberChange {
    /// Name.
    pub display_name: Option<String>,
    /// Label of the role; the inner `None` removes it.
    pub role_tag: Option<Option<String>>,
    /// Default groups.
    pub groups: Option<Vec<Group>>,
    /// How it wants messages.
    pub message_mode: Option<MessageMode>,
    /// Role.
    pub role: Option<MemberRole>,
}

/// What came of an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an answer is moved once and matched at once")]
pub enum EditMember {
    /// The member as it stands now.
    Edited(Member),
    /// Another member has that name.
    NameTaken,
    /// There is no such live member.
    NotFound,
}

impl Store {
    /// Bans a live member: its row, the permanent list of keys, its undelivered messages and the event are one
    /// transaction. `None` when there is no such live member.
    pub async fn ban_member(&self, ban: NewBan) -> Result<Option<Banned>> {
        self.write(move |mut conn| Box::pin(async move { write_ban(&mut conn, &ban).await })).await
    }

    /// Lets a banned member back in, under another name when somebody took its own. `None` when it is not banned.
    pub async fn unban_member(
        &self,
        mesh: &MeshId,
        id: &MemberId,
        by: &MemberId,
        now: Timestamp,
    ) -> Result<Option<Member>> {
        let (mesh, id, by) = (mesh.clone(), id.clone(), by.clone());
        self.write(move |mut conn| {
            Box::pin(async move {
                let found = find_member(&mut conn, &mesh, &id).await?.filter(|member| {
                    member.revoked.as_ref().is_some_and(|how| how.kind == RevokeKind::Ban)
                });
                let Some(member) = found else { return Ok(None) };
                let taken = live_names(&mut conn, &mesh, &id).await?;
                let instead =
                    instead_of_taken(&member.display_name, MEMBER_NAME_MAX_CHARS, |name| {
                        taken.contains(name)
                    });
                let name = instead.unwrap_or_else(|| member.display_name.clone());
                conn.execute(
                    "UPDATE member SET revoked_at = NULL, revoked_by = NULL, revoke_kind = NULL, revoke_reason = NULL,
                        peer_grants = '{}', display_name = $2
                     WHERE id = $1",
                    &[id.as_str().into(), name.as_str().into()],
                )
                .await?;
                conn.execute(
                    "DELETE FROM revocation WHERE mesh_id = $1 AND revoked_pubkey = $2",
                    &[mesh.as_str().into(), member.pubkey.as_ref().into()],
                )
                .await?;
                let payload = target_payload(&member);
                append(&mut conn, &mesh, AuditEvent::MemberUnbanned, &by, payload, now).await?;
                find_live(&mut conn, &mesh, &id).await
            })
        })
        .await
    }

    /// Banned members, newest ban first.
    pub async fn bans(&self, mesh: &MeshId) -> Result<Vec<Ban>> {
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all(
                concat!(
                    "SELECT ",
                    crate::member::member_columns!(),
                    ", m.revoke_reason, b.display_name AS banned_by
                     FROM member m
                     LEFT JOIN permission p ON p.member_id = m.id
                     LEFT JOIN member b ON b.id = m.revoked_by
                     WHERE m.mesh_id = $1 AND m.revoke_kind = 'ban' AND m.peer_pubkey IS NOT NULL
                     ORDER BY m.revoked_at DESC, m.id"
                ),
                &[mesh.as_str().into()],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Ban {
                    member: Member::from_row(row)?,
                    key: row.parsed("peer_pubkey")?,
                    at: row.time("revoked_at")?,
                    by: row.get("banned_by")?,
                    reason: row.get("revoke_reason")?,
                })
            })
            .collect()
    }

    /// Gives a member another key. What others granted the old key counts for the new one.
    pub async fn rotate_key(&self, rotation: Rotation) -> Result<RotateKey> {
        self.write(move |mut conn| Box::pin(async move { rotate(&mut conn, &rotation).await }))
            .await
    }

    /// Events of a mesh that somebody missed, oldest first.
    pub async fn mesh_events(&self, mesh: &MeshId, missed: Missed) -> Result<Vec<MeshEvent>> {
        let (seq, time) = match missed {
            Missed::After(seq) => (i64::try_from(seq).unwrap_or(i64::MAX), i64::MIN),
            Missed::Since(time) => (0, time.as_millis()),
        };
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all(
                "SELECT seq, event, data, created_at FROM mesh_event
                 WHERE mesh_id = $1 AND seq > $2 AND created_at >= $3 ORDER BY seq",
                &[mesh.as_str().into(), seq.into(), time.into()],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(MeshEvent {
                    seq: row.count("seq")?,
                    event: row.get("event")?,
                    data: row.json("data")?,
                    at: row.time("created_at")?,
                })
            })
            .collect()
    }

    /// Edits a live member. A new role is one entry of the audit log, everything else another.
    pub async fn edit_member(
        &self,
        mesh: &MeshId,
        id: &MemberId,
        change: MemberChange,
        by: Option<&MemberId>,
        now: Timestamp,
    ) -> Result<EditMember> {
        let (mesh, id, by) = (mesh.clone(), id.clone(), by.cloned());
        self.write(move |mut conn| {
            Box::pin(async move { edit(&mut conn, &mesh, &id, change, by.as_ref(), now).await })
        })
        .await
    }
}

/// Keeps others from changing the mesh's members meanwhile; SQLite has one writer anyway.
async fn lock_mesh(conn: &mut Conn<'_>, mesh: &MeshId) -> Result<()> {
    let sql = Sql::per_engine(
        "SELECT id FROM mesh WHERE id = $1",
        "SELECT id FROM mesh WHERE id = $1 FOR NO KEY UPDATE",
    );
    conn.first(sql, &[mesh.as_str().into()]).await.map(drop)
}

async fn write_ban(conn: &mut Conn<'_>, ban: &NewBan) -> Result<Option<Banned>> {
    lock_mesh(conn, &ban.mesh_id).await?;
    let found = find_live(conn, &ban.mesh_id, &ban.member_id).await?;
    let Some((member, key)) = found.and_then(|member| member.pubkey.map(|key| (member, key)))
    else {
        return Ok(None);
    };
    conn.execute(
        "UPDATE member SET revoked_at = $2, revoked_by = $3, revoke_kind = 'ban', revoke_reason = $4
         WHERE id = $1 AND revoked_at IS NULL",
        &[
            ban.member_id.as_str().into(),
            ban.at.into(),
            ban.by.as_str().into(),
            ban.reason.as_deref().into(),
        ],
    )
    .await?;
    conn.execute(
        "INSERT INTO revocation (mesh_id, revoked_pubkey, kind, revoked_at, revoked_by)
         VALUES ($1, $2, 'member', $3, $4)
         ON CONFLICT (mesh_id, revoked_pubkey) DO NOTHING",
        &[ban.mesh_id.as_str().into(), (&key).into(), ban.at.into(), ban.by.as_str().into()],
    )
    .await?;
    let dropped = drop_messages_of(conn, &ban.mesh_id, &ban.member_id).await?;
    let data = json!({
        "pubkey": key, "memberId": ban.member_id, "name": member.display_name,
        "revokedAt": ban.at.to_iso(),
    });
    let event = append_event(conn, &ban.mesh_id, "member_revoked", data, ban.at).await?;
    let payload = target_payload(&member).with("reason", ban.reason.clone());
    append(conn, &ban.mesh_id, AuditEvent::MemberBanned, &ban.by, payload, ban.at).await?;
    Ok(Some(Banned { event, dropped }))
}

/// Counts an event of the mesh and keeps it; the oldest go.
pub(crate) async fn append_event(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    event: &str,
    data: Json,
    at: Timestamp,
) -> Result<MeshEvent> {
    let seq = conn
        .number(
            "UPDATE mesh SET event_seq = event_seq + 1, last_event_at = $2 WHERE id = $1 RETURNING event_seq",
            &[mesh.as_str().into(), at.into()],
        )
        .await?;
    conn.execute(
        "INSERT INTO mesh_event (mesh_id, seq, event, data, created_at) VALUES ($1, $2, $3, $4, $5)",
        &[
            mesh.as_str().into(),
            seq.into(),
            event.into(),
            to_json(&data, "mesh_event.data")?.into(),
            at.into(),
        ],
    )
    .await?;
    let oldest = seq.saturating_sub(i64::try_from(MESH_EVENTS_KEPT).unwrap_or(i64::MAX));
    conn.execute(
        "DELETE FROM mesh_event WHERE mesh_id = $1 AND seq <= $2",
        &[mesh.as_str().into(), oldest.into()],
    )
    .await?;
    let seq = u64::try_from(seq).map_err(|_| StoreError::corrupt("mesh.event_seq"))?;
    Ok(MeshEvent { seq, event: event.to_owned(), data, at })
}

async fn rotate(conn: &mut Conn<'_>, rotation: &Rotation) -> Result<RotateKey> {
    let Rotation { mesh_id, member_id, old, new, proof, at } = rotation;
    lock_mesh(conn, mesh_id).await?;
    let Some(member) = find_live(conn, mesh_id, member_id).await? else {
        return Ok(RotateKey::NotFound);
    };
    if member.pubkey != Some(*old) {
        return Ok(RotateKey::NotFound);
    }
    if is_used(conn, mesh_id, new).await? {
        return Ok(RotateKey::KeyTaken);
    }
    conn.execute(
        "UPDATE member SET peer_pubkey = $2, key_epoch = key_epoch + 1 WHERE id = $1",
        &[member_id.as_str().into(), new.into()],
    )
    .await?;
    let valid_until = at.plus(ROTATED_KEY_GRACE);
    conn.execute(
        "INSERT INTO member_key_history (mesh_id, member_id, old_pubkey, rotated_at, valid_until, signed_at,
            signature_old, signature_new)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &[
            mesh_id.as_str().into(),
            member_id.as_str().into(),
            old.into(),
            (*at).into(),
            valid_until.into(),
            proof.signed_at.into(),
            proof.by_old.to_hex().into(),
            proof.by_new.to_hex().into(),
        ],
    )
    .await?;
    rename_in_grants(conn, mesh_id, old, new).await?;
    let data = json!({
        "memberId": member_id, "oldPubkey": old, "newPubkey": new, "graceUntil": valid_until.to_iso(),
    });
    let event = append_event(conn, mesh_id, "member_keypair_rotated", data, *at).await?;
    let payload =
        AuditPayload::new().with("oldPubkey", old.to_hex()).with("newPubkey", new.to_hex());
    append(conn, mesh_id, AuditEvent::MemberKeypairRotated, member_id, payload, *at).await?;
    Ok(RotateKey::Rotated(event))
}

/// True when a key is a member's, was one's, or is refused in this mesh.
async fn is_used(conn: &mut Conn<'_>, mesh: &MeshId, key: &PublicKey) -> Result<bool> {
    if find_by_key(conn, mesh, key).await?.is_some() {
        return Ok(true);
    }
    let rows = conn
        .number(
            "SELECT (SELECT COUNT(*) FROM revocation WHERE mesh_id = $1 AND revoked_pubkey = $2)
                + (SELECT COUNT(*) FROM member_key_history WHERE mesh_id = $1 AND old_pubkey = $2)
                + (SELECT COUNT(*) FROM session_key_seen WHERE mesh_id = $1 AND session_pubkey = $2)",
            &[mesh.as_str().into(), key.into()],
        )
        .await?;
    Ok(rows > 0)
}

/// A member that was blocked stays blocked under its new key.
async fn rename_in_grants(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    old: &PublicKey,
    new: &PublicKey,
) -> Result<()> {
    let sql = Sql::per_engine(
        "SELECT id, peer_grants FROM member WHERE mesh_id = $1 AND peer_grants LIKE $2",
        "SELECT id, peer_grants FROM member WHERE mesh_id = $1 AND peer_grants LIKE $2 FOR UPDATE",
    );
    let rows = conn.all(sql, &[mesh.as_str().into(), format!("%{old}%").into()]).await?;
    for row in rows {
        let mut grants: Grants = row.json("peer_grants")?;
        if let Some(entry) = grants.remove(old) {
            grants.insert(*new, entry);
        }
        conn.execute(
            "UPDATE member SET peer_grants = $2 WHERE id = $1",
            &[row.get::<String>("id")?.into(), to_json(&grants, "member.peer_grants")?.into()],
        )
        .await?;
    }
    Ok(())
}

/// Former keys of every member of a mesh, oldest first.
pub(crate) async fn former_keys(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
) -> Result<Vec<(MemberId, FormerKey)>> {
    let rows = conn
        .all(
            "SELECT member_id, old_pubkey, rotated_at, valid_until, signed_at, signature_old, signature_new
             FROM member_key_history WHERE mesh_id = $1 ORDER BY rotated_at",
            &[mesh.as_str().into()],
        )
        .await?;
    rows.iter().map(former_key).collect()
}

fn former_key(row: &Row) -> Result<(MemberId, FormerKey)> {
    let key = FormerKey {
        key: row.parsed("old_pubkey")?,
        rotated_at: row.time("rotated_at")?,
        valid_until: row.time("valid_until")?,
        proof: rotation_proof(row)?,
    };
    Ok((MemberId::new(row.get::<String>("member_id")?), key))
}

fn rotation_proof(row: &Row) -> Result<Option<RotationProof>> {
    let Some(signed_at) = row.time_option("signed_at")? else { return Ok(None) };
    let (by_old, by_new) = (row.parsed("signature_old")?, row.parsed("signature_new")?);
    Ok(Some(RotationProof { signed_at, by_old, by_new }))
}

async fn edit(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    id: &MemberId,
    change: MemberChange,
    by: Option<&MemberId>,
    now: Timestamp,
) -> Result<EditMember> {
    lock_mesh(conn, mesh).await?;
    let Some(before) = find_live(conn, mesh, id).await? else { return Ok(EditMember::NotFound) };
    if let Some(name) = &change.display_name
        && live_names(conn, mesh, id).await?.contains(&folded_name(name))
    {
        return Ok(EditMember::NameTaken);
    }
    let mut after = before.clone();
    after.display_name = change.display_name.unwrap_or(after.display_name);
    after.role_tag = change.role_tag.unwrap_or(after.role_tag);
    after.default_groups = change.groups.unwrap_or(after.default_groups);
    after.message_mode = change.message_mode.unwrap_or(after.message_mode);
    after.role = change.role.unwrap_or(after.role);
    let values: [Value<'_>; 6] = [
        id.as_str().into(),
        after.display_name.as_str().into(),
        after.role_tag.as_deref().into(),
        to_json(&after.default_groups, "member.default_groups")?.into(),
        after.message_mode.as_str().into(),
        after.role.as_str().into(),
    ];
    conn.execute(
        "UPDATE member SET display_name = $2, role_tag = $3, default_groups = $4, message_mode = $5, role = $6
         WHERE id = $1",
        &values,
    )
    .await?;
    let mut entries = Vec::new();
    if before.role != after.role {
        let payload = target_payload(&after).with("role", after.role.as_str());
        entries.push((AuditEvent::MemberRoleChanged, payload));
    }
    let fields: Vec<&str> = [
        ("displayName", before.display_name != after.display_name),
        ("roleTag", before.role_tag != after.role_tag),
        ("groups", before.default_groups != after.default_groups),
        ("messageMode", before.message_mode != after.message_mode),
    ]
    .into_iter()
    .filter_map(|(field, has_changed)| has_changed.then_some(field))
    .collect();
    if !fields.is_empty() {
        let payload = target_payload(&after).with("fields", fields);
        entries.push((AuditEvent::MemberProfileChanged, payload));
    }
    for (event, payload) in entries {
        let actor = by.cloned();
        let entry = NewAuditEntry { mesh_id: mesh.clone(), event, actor, payload, at: now };
        append_audit(conn, &entry).await?;
    }
    Ok(EditMember::Edited(after))
}

/// Names of the other live members, folded.
async fn live_names(conn: &mut Conn<'_>, mesh: &MeshId, but: &MemberId) -> Result<HashSet<String>> {
    let rows = conn
        .all(
            "SELECT display_name FROM member WHERE mesh_id = $1 AND id <> $2 AND revoked_at IS NULL",
            &[mesh.as_str().into(), but.as_str().into()],
        )
        .await?;
    rows.iter().map(|row| Ok(folded_name(&row.get::<String>("display_name")?))).collect()
}

/// Whom an entry of the audit log concerns.
pub(crate) fn target_payload(member: &Member) -> AuditPayload {
    AuditPayload::new()
        .with("target", member.display_name.as_str())
        .with("targetMemberId", member.id.as_str())
        .with("targetPubkey", member.pubkey.map(PublicKey::to_hex))
}

/// Appends one entry; the last step of its transaction.
pub(crate) async fn append(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    event: AuditEvent,
    actor: &MemberId,
    payload: AuditPayload,
    at: Timestamp,
) -> Result<()> {
    let actor = Some(actor.clone());
    append_audit(conn, &NewAuditEntry { mesh_id: mesh.clone(), event, actor, payload, at }).await?;
    claudemesh_sqlite::crash_point("store.administration.before_commit");
    Ok(())
}
