//! Claiming an invite: the checks, the use and the member row in one transaction.

use std::collections::HashSet;

use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::limits::MEMBER_NAME_MAX_CHARS;
use claudemesh_protocol::text::{folded_name, instead_of_taken};
use claudemesh_protocol::{InviteId, PublicKey, Timestamp, UserId};

use super::{ClaimInvite, Invite, InviteForm, invite_columns};
use crate::audit::append_all;
use crate::engine::{Conn, Sql, to_json};
use crate::member::{find_by_key, insert_member, joined_entry};
use crate::{
    AddMember, AuditPayload, Member, NewAuditEntry, NewIdentity, NewMember, Result, RevokeKind,
};

pub(super) async fn claim(
    conn: &mut Conn<'_>,
    id: &InviteId,
    mut member: NewMember,
    now: Timestamp,
) -> Result<ClaimInvite> {
    let Some((invite, is_archived)) = lock_invite(conn, id).await? else {
        return Ok(ClaimInvite::NotFound);
    };
    member.role = invite.role;
    member.mesh_id = invite.mesh_id.clone();
    if invite.revoked_at.is_some() {
        return Ok(ClaimInvite::Revoked);
    }
    if invite.expires_at <= now {
        return Ok(ClaimInvite::Expired);
    }
    let key = match &member.identity {
        NewIdentity::Key(key) => Some(*key),
        NewIdentity::Unbound { .. } => None,
    };
    let known = match &key {
        Some(key) => find_by_key(conn, &invite.mesh_id, key).await?,
        None => None,
    };
    if let Some(known) = &known
        && known.revoked.is_none()
        && !is_archived
    {
        return Ok(ClaimInvite::AlreadyMember(known.clone()));
    }
    let is_banned = match &key {
        Some(key) => is_refused(conn, &member, known.as_ref(), key).await?,
        None => false,
    };
    // The two versions answer in different orders when several reasons hold (broker spec §4.26).
    if matches!(invite.form, InviteForm::Token { .. }) && is_banned {
        return Ok(ClaimInvite::Banned);
    }
    if invite.used_count >= invite.max_uses {
        return Ok(ClaimInvite::Exhausted);
    }
    if is_archived {
        return Ok(ClaimInvite::MeshArchived);
    }
    if is_banned {
        return Ok(ClaimInvite::Banned);
    }
    if !take_use(conn, id, now).await? {
        return Ok(ClaimInvite::Exhausted);
    }
    if let Some(name) = name_instead(conn, &member).await? {
        member.display_name = name;
    }
    let joined = match (known, &key) {
        (Some(former), Some(key)) => rejoin(conn, &former, &member, key).await?,
        _ => match insert_member(conn, &member, Some(id)).await? {
            AddMember::Added(joined) => joined,
            // The same key joined by another invite in this very moment.
            AddMember::Exists(known) => {
                give_back_use(conn, id).await?;
                return Ok(ClaimInvite::AlreadyMember(known));
            }
        },
    };
    let mut entries = vec![NewAuditEntry {
        mesh_id: invite.mesh_id.clone(),
        event: AuditEvent::InviteClaimed,
        actor: Some(joined.id.clone()),
        payload: AuditPayload::new()
            .with("invite", id.as_str())
            .with("name", joined.display_name.as_str()),
        at: now,
    }];
    if let Some(key) = &key {
        note_claim(conn, id, key, &joined, now).await?;
        entries.push(joined_entry(&joined, "invite", now));
    }
    append_all(conn, &invite.mesh_id, &entries).await?;
    Ok(ClaimInvite::Joined(joined))
}

/// Reads the invite so that no other claim of this mesh runs beside this one, and whether the mesh is archived.
async fn lock_invite(conn: &mut Conn<'_>, id: &InviteId) -> Result<Option<(Invite, bool)>> {
    const SQLITE: &str = concat!(
        "SELECT ",
        invite_columns!(),
        ", g.archived_at FROM invite i JOIN mesh g ON g.id = i.mesh_id WHERE i.id = $1"
    );
    const POSTGRES: &str = concat!(
        "SELECT ",
        invite_columns!(),
        ", g.archived_at FROM invite i JOIN mesh g ON g.id = i.mesh_id WHERE i.id = $1 FOR UPDATE OF i FOR NO KEY UPDATE OF g"
    );
    let row = conn.first(Sql::per_engine(SQLITE, POSTGRES), &[id.as_str().into()]).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((Invite::from_row(&row)?, row.time_option("archived_at")?.is_some())))
}

async fn is_refused(
    conn: &mut Conn<'_>,
    member: &NewMember,
    known: Option<&Member>,
    key: &PublicKey,
) -> Result<bool> {
    let kind = known.and_then(|known| known.revoked.as_ref()).map(|revocation| revocation.kind);
    if matches!(kind, Some(RevokeKind::Ban | RevokeKind::Rotate)) {
        return Ok(true);
    }
    let listed = conn
        .first(
            "SELECT revoked_pubkey FROM revocation WHERE mesh_id = $1 AND revoked_pubkey = $2
             UNION ALL SELECT old_pubkey FROM member_key_history WHERE mesh_id = $1 AND old_pubkey = $2",
            &[member.mesh_id.as_str().into(), key.into()],
        )
        .await?;
    Ok(listed.is_some())
}

/// The one statement that changes a use count upwards.
async fn take_use(conn: &mut Conn<'_>, id: &InviteId, now: Timestamp) -> Result<bool> {
    let rows = conn
        .execute(
            "UPDATE invite SET used_count = used_count + 1
             WHERE id = $1 AND used_count < max_uses AND revoked_at IS NULL AND expires_at > $2",
            &[id.as_str().into(), now.into()],
        )
        .await?;
    Ok(rows > 0)
}

/// Another name for the joiner when a member of the mesh, bound or not yet, has the one it wants.
async fn name_instead(conn: &mut Conn<'_>, member: &NewMember) -> Result<Option<String>> {
    let rows = conn
        .all(
            "SELECT display_name FROM member WHERE mesh_id = $1 AND revoked_at IS NULL",
            &[member.mesh_id.as_str().into()],
        )
        .await?;
    let taken: HashSet<String> = rows
        .iter()
        .map(|row| Ok(folded_name(&row.get::<String>("display_name")?)))
        .collect::<Result<_>>()?;
    Ok(instead_of_taken(&member.display_name, MEMBER_NAME_MAX_CHARS, |name| taken.contains(name)))
}

async fn give_back_use(conn: &mut Conn<'_>, id: &InviteId) -> Result<()> {
    conn.execute(
        "UPDATE invite SET used_count = used_count - 1 WHERE id = $1",
        &[id.as_str().into()],
    )
    .await
    .map(drop)
}

/// Lets the row of a key that had left live again, with the values of this join.
async fn rejoin(
    conn: &mut Conn<'_>,
    former: &Member,
    member: &NewMember,
    key: &PublicKey,
) -> Result<Member> {
    conn.execute(
        "UPDATE member SET revoked_at = NULL, revoked_by = NULL, revoke_kind = NULL, user_id = $2, display_name = $3,
            role = $4, role_tag = $5, default_groups = $6, message_mode = $7, joined_at = $8
         WHERE id = $1",
        &[
            former.id.as_str().into(),
            member.user_id.as_ref().map(UserId::as_str).into(),
            member.display_name.as_str().into(),
            member.role.as_str().into(),
            member.role_tag.as_deref().into(),
            to_json(&member.default_groups, "member.default_groups")?.into(),
            member.message_mode.as_str().into(),
            member.joined_at.into(),
        ],
    )
    .await?;
    let row = find_by_key(conn, &member.mesh_id, key).await?;
    row.ok_or_else(|| crate::StoreError::corrupt("member.peer_pubkey"))
}

async fn note_claim(
    conn: &mut Conn<'_>,
    id: &InviteId,
    key: &PublicKey,
    joined: &Member,
    now: Timestamp,
) -> Result<()> {
    conn.execute(
        "INSERT INTO invite_claim (invite_id, peer_pubkey, member_id, claimed_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (invite_id, peer_pubkey) DO UPDATE SET claimed_at = excluded.claimed_at",
        &[id.as_str().into(), key.into(), joined.id.as_str().into(), now.into()],
    )
    .await
    .map(drop)
}
