//! `PATCH /mesh/:id/settings` (broker spec §4.28).

use axum::Json;
use axum::extract::{Path, Request, State};
use claudemesh_protocol::limits::{DEDUPE_DAYS, MESH_RETENTION_DAYS};
use claudemesh_protocol::permission::Permission;
use claudemesh_protocol::status::GroupEncryption;
use claudemesh_store::{ClonePolicy, DedupeRetention, MeshSettings};
use serde_json::{Map, Value, json};

use super::requester::{MeshName, Requester};
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::request::Fields;
use crate::ops::news;
use crate::state::Broker;

/// Changes the settings that are named; everybody in the mesh is told which.
pub(crate) async fn patch(
    State(broker): State<Broker>,
    Path(mesh): Path<String>,
    request: Request,
) -> ApiResult<Json<Value>> {
    let asking = Requester::read(&broker, MeshName::Id(mesh), request).await?;
    asking.require(Permission::ManagePermissions)?;
    let mut settings = asking.mesh.settings.clone();
    let most_peers = broker.limits().max_connections_per_mesh;
    let what = apply(&asking.fields, &mut settings, most_peers)?;
    if what.is_empty() {
        return Err(ApiError::new(
            claudemesh_protocol::ErrorCode::Malformed,
            "no fields to update",
        ));
    }
    let (id, by) = (&asking.mesh.id, Some(&asking.member.id));
    let changed =
        broker.store().set_mesh_settings(id, settings, what.clone(), by, broker.now()).await?;
    let (_, event) = changed.ok_or_else(|| ApiError::not_found("mesh"))?;
    broker.live().roster_changed(id);
    if let Some(loaded) = broker.live().loaded(id) {
        news::tell(&loaded, &event);
    }
    Ok(Json(json!({ "ok": true, "changes": what })))
}

/// Reads what is named into `settings`; answers the names.
fn apply(
    fields: &Fields,
    settings: &mut MeshSettings,
    most_peers: usize,
) -> ApiResult<Vec<&'static str>> {
    let mut what = Vec::new();
    let switches = "an object of true and false";
    if let Some(given) = fields.optional_value::<Map<String, Value>>("selfEditable", switches)? {
        let editable = &mut settings.self_editable;
        for (field, value) in given {
            let wrong =
                || ApiError::field("selfEditable", "displayName, roleTag, groups, messageMode");
            let switch = match field.as_str() {
                "displayName" => &mut editable.display_name,
                "roleTag" => &mut editable.role_tag,
                "groups" => &mut editable.groups,
                "messageMode" => &mut editable.message_mode,
                _ => return Err(wrong()),
            };
            *switch = value.as_bool().ok_or_else(wrong)?;
        }
        what.push("selfEditable");
    }
    if let Some(word) = fields.optional_text("cloneConcurrencyPolicy")? {
        settings.clone_policy = match word {
            "prefer_newest" => ClonePolicy::PreferNewest,
            "prefer_oldest" => ClonePolicy::PreferOldest,
            "allow_concurrent" => ClonePolicy::AllowConcurrent,
            _ => {
                let words = "prefer_newest, prefer_oldest or allow_concurrent";
                return Err(ApiError::field("cloneConcurrencyPolicy", words));
            }
        };
        what.push("cloneConcurrencyPolicy");
    }
    let days = number(fields, "dedupeDays", *DEDUPE_DAYS.start(), *DEDUPE_DAYS.end())?;
    let mode = fields.optional_text("dedupeMode")?;
    match (mode, days) {
        (None, None) => {}
        (Some("permanent"), None) => settings.dedupe = DedupeRetention::Permanent,
        (Some("retention_scoped") | None, Some(days)) => {
            settings.dedupe = DedupeRetention::Days(days);
        }
        (Some("retention_scoped"), None) => settings.dedupe = DedupeRetention::default(),
        _ => {
            let words = "retention_scoped, with dedupeDays, or permanent, without";
            return Err(ApiError::field("dedupeMode", words));
        }
    }
    if mode.is_some() || days.is_some() {
        what.push("dedupeMode");
    }
    let words = "off, preferred or required";
    if let Some(mode) = fields.optional_value::<GroupEncryption>("groupEncryption", words)? {
        settings.group_encryption = mode;
        what.push("groupEncryption");
    }
    for (name, switch) in
        [("openData", &mut settings.open_data), ("showPaths", &mut settings.show_paths)]
    {
        if let Some(value) = fields.optional_value::<bool>(name, "true or false")? {
            *switch = value;
            what.push(name);
        }
    }
    let (least, most) = (*MESH_RETENTION_DAYS.start(), *MESH_RETENTION_DAYS.end());
    if fields.names("retentionDays") {
        settings.retention_days = number(fields, "retentionDays", least, most)?;
        what.push("retentionDays");
    }
    if fields.names("max_peers") {
        let most = u32::try_from(most_peers).unwrap_or(u32::MAX);
        settings.max_peers = number(fields, "max_peers", 1, most)?;
        what.push("max_peers");
    }
    Ok(what)
}

fn number(fields: &Fields, name: &str, least: u32, most: u32) -> ApiResult<Option<u32>> {
    let Some(number) = fields.optional_integer(name)? else { return Ok(None) };
    u32::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .map(Some)
        .ok_or_else(|| ApiError::field(name, &format!("{least} to {most}")))
}
