//! What a member grants others, and what it may do itself (broker spec §4.22, §4.24).

use std::collections::BTreeMap;

use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::limits::GRANTS_MAX;
use claudemesh_protocol::permission::{Grant, Permission};
use claudemesh_protocol::{MemberId, MeshId, PublicKey, Timestamp};

use crate::admin::{append, target_payload};
use crate::engine::{Sql, to_json};
use crate::member::find_live;
use crate::{AuditPayload, Grants, Member, Result, Store};

/// What came of merging grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeGrants {
    /// All entries as they stand now.
    Merged(Grants),
    /// They would be more than [`GRANTS_MAX`]; nothing was changed.
    TooMany,
    /// There is no such live member.
    NotFound,
}

impl Store {
    /// Merges grants: `None` for a key resets it to the defaults.
    pub async fn merge_grants(
        &self,
        mesh: &MeshId,
        id: &MemberId,
        changes: BTreeMap<PublicKey, Option<Vec<Grant>>>,
        now: Timestamp,
    ) -> Result<MergeGrants> {
        let (mesh, id) = (mesh.clone(), id.clone());
        self.write(move |mut conn| {
            Box::pin(async move {
                let locked = conn
                    .first(
                        Sql::per_engine(
                            "SELECT peer_grants FROM member WHERE mesh_id = $1 AND id = $2 AND revoked_at IS NULL",
                            "SELECT peer_grants FROM member WHERE mesh_id = $1 AND id = $2 AND revoked_at IS NULL
                             FOR UPDATE",
                        ),
                        &[mesh.as_str().into(), id.as_str().into()],
                    )
                    .await?;
                let Some(row) = locked else { return Ok(MergeGrants::NotFound) };
                let mut grants: Grants = row.json("peer_grants")?;
                let keys: Vec<String> = changes.keys().map(|key| key.to_hex()).collect();
                for (key, granted) in changes {
                    match granted {
                        Some(granted) => grants.insert(key, granted),
                        None => grants.remove(&key),
                    };
                }
                if grants.len() > GRANTS_MAX {
                    return Ok(MergeGrants::TooMany);
                }
                conn.execute(
                    "UPDATE member SET peer_grants = $2 WHERE id = $1",
                    &[id.as_str().into(), to_json(&grants, "member.peer_grants")?.into()],
                )
                .await?;
                let payload = AuditPayload::new().with("keys", keys);
                append(&mut conn, &mesh, AuditEvent::GrantsChanged, &id, payload, now).await?;
                Ok(MergeGrants::Merged(grants))
            })
        })
        .await
    }

    /// Sets permissions of a member flag by flag; `None` goes back to its role's. `None` when there is no such live member.
    pub async fn merge_permissions(
        &self,
        mesh: &MeshId,
        id: &MemberId,
        changes: BTreeMap<Permission, Option<bool>>,
        by: &MemberId,
        now: Timestamp,
    ) -> Result<Option<Member>> {
        let (mesh, id, by) = (mesh.clone(), id.clone(), by.clone());
        self.write(move |mut conn| {
            Box::pin(async move {
                let lock = Sql::per_engine(
                    "SELECT id FROM member WHERE mesh_id = $1 AND id = $2",
                    "SELECT id FROM member WHERE mesh_id = $1 AND id = $2 FOR UPDATE",
                );
                conn.first(lock, &[mesh.as_str().into(), id.as_str().into()]).await?;
                let Some(mut member) = find_live(&mut conn, &mesh, &id).await? else {
                    return Ok(None);
                };
                let mut words = Vec::with_capacity(changes.len());
                for (permission, may) in changes {
                    if let Some(may) = may {
                        words.push(format!("{permission}={may}"));
                        member.permissions.insert(permission, may);
                    } else {
                        words.push(format!("{permission}=default"));
                        member.permissions.remove(&permission);
                    }
                }
                conn.execute(
                    "INSERT INTO permission (member_id, overrides, updated_at, updated_by) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (member_id) DO UPDATE SET overrides = excluded.overrides,
                        updated_at = excluded.updated_at, updated_by = excluded.updated_by",
                    &[
                        id.as_str().into(),
                        to_json(&member.permissions, "permission.overrides")?.into(),
                        now.into(),
                        by.as_str().into(),
                    ],
                )
                .await?;
                let payload = target_payload(&member).with("permissions", words);
                append(&mut conn, &mesh, AuditEvent::PermissionChanged, &by, payload, now).await?;
                Ok(Some(member))
            })
        })
        .await
    }
}
