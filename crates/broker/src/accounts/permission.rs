//! `GET` and `POST /cli/mesh/:slug/permissions`, `POST /cli/mesh/:slug/grants` (broker spec §4.22, §4.24).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Request, State};
use claudemesh_core::authorize::Caller;
use claudemesh_protocol::account::{MemberPermissions, PermissionsReply};
use claudemesh_protocol::permission::{Grant, Permission, Standing};
use claudemesh_protocol::{ErrorCode, MemberId, PublicKey};
use claudemesh_store::Member;
use serde_json::{Map, Value, json};

use super::requester::{MeshName, Requester, missing_permission, standing};
use crate::edge::error::{ApiError, ApiResult};
use crate::ops::{Refusal, grants};
use crate::state::Broker;

/// What every member may do.
pub(crate) async fn list(
    State(broker): State<Broker>,
    Path(slug): Path<String>,
    request: Request,
) -> ApiResult<Json<PermissionsReply>> {
    let asking = Requester::read(&broker, MeshName::SlugOrId(slug), request).await?;
    let roster = broker.store().roster(&asking.mesh.id).await?;
    let members = roster.into_iter().map(|entry| {
        let member = entry.member;
        let caller = caller_of(&asking, &member);
        MemberPermissions {
            permissions: Permission::ALL.iter().map(|one| (*one, caller.may(*one))).collect(),
            is_owner: caller.standing == Standing::Owner,
            member_id: member.id,
            display_name: member.display_name,
            role: member.role,
        }
    });
    let mesh = asking.mesh.slug.as_str().to_owned();
    Ok(Json(PermissionsReply { mesh, members: members.collect() }))
}

fn caller_of(asking: &Requester, member: &Member) -> Caller {
    Caller {
        standing: standing(&asking.mesh, member),
        overrides: member.permissions.clone(),
        session_caps: None,
    }
}

/// Gives and takes permissions, flag by flag; null goes back to the role's default.
pub(crate) async fn change(
    State(broker): State<Broker>,
    Path(slug): Path<String>,
    request: Request,
) -> ApiResult<Json<Value>> {
    let asking = Requester::read(&broker, MeshName::SlugOrId(slug), request).await?;
    asking.require(Permission::ManagePermissions)?;
    let changes = changes(&asking)?;
    let id = MemberId::new(asking.fields.text("member_id")?);
    let mesh = &asking.mesh.id;
    let member = broker.store().member(mesh, &id).await?;
    let member = member
        .filter(|member| member.revoked.is_none() && member.pubkey.is_some())
        .ok_or_else(|| ApiError::not_found("member"))?;
    let before = caller_of(&asking, &member);
    if before.standing == Standing::Owner {
        return Err(ApiError::new(ErrorCode::Forbidden, "the owner has every permission, always"));
    }
    let mut after = before.clone();
    for (permission, may) in &changes {
        match may {
            Some(may) => after.overrides.insert(*permission, *may),
            None => after.overrides.remove(permission),
        };
    }
    let lacking = Permission::ALL.iter().find(|permission| {
        after.may(**permission) && !before.may(**permission) && !asking.caller.may(**permission)
    });
    if let Some(permission) = lacking {
        return Err(missing_permission(*permission));
    }
    let by = &asking.member.id;
    let done = broker.store().merge_permissions(mesh, &id, changes, by, broker.now()).await?;
    done.ok_or_else(|| ApiError::not_found("member"))?;
    broker.live().roster_changed(mesh);
    Ok(Json(json!({ "ok": true })))
}

fn changes(asking: &Requester) -> ApiResult<BTreeMap<Permission, Option<bool>>> {
    let expected = "an object of true, false and null";
    let flags: Map<String, Value> = asking
        .fields
        .optional_value("permissions", expected)?
        .ok_or_else(|| ApiError::field("permissions", expected))?;
    flags
        .into_iter()
        .map(|(word, may)| {
            let permission: Permission = word.parse().map_err(|_| {
                ApiError::new(ErrorCode::InvalidPermission, format!("no permission \"{word}\""))
            })?;
            match may {
                Value::Null => Ok((permission, None)),
                Value::Bool(may) => Ok((permission, Some(may))),
                _ => Err(ApiError::field("permissions", expected)),
            }
        })
        .collect()
}

/// Merges entries into what the caller grants others.
pub(crate) async fn set_grants(
    State(broker): State<Broker>,
    Path(slug): Path<String>,
    request: Request,
) -> ApiResult<Json<Value>> {
    let asking = Requester::read(&broker, MeshName::Slug(slug), request).await?;
    let expected = "{key: [\"read\", \"dm\", …] or null}";
    let changes = asking
        .fields
        .optional_value::<BTreeMap<PublicKey, Option<Vec<Grant>>>>("grants", expected)
        .ok()
        .flatten()
        .ok_or_else(|| {
            ApiError::new(ErrorCode::InvalidArgs, format!("field \"grants\": expected {expected}"))
        })?;
    let merged = grants::merge(&broker, &asking.mesh.id, &asking.member.id, changes).await?;
    Ok(Json(json!({ "ok": true, "grants": merged })))
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.message)
    }
}
