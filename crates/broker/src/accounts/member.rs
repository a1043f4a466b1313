//! Members over HTTP: `GET /mesh/:id/members`, `PATCH /mesh/:id/member/:member` (broker spec §4.29).

use axum::Json;
use axum::extract::{Path, Request, State};
use claudemesh_protocol::account::{MemberDetail, MembersReply};
use claudemesh_protocol::limits::{
    GROUP_ROLE_MAX_CHARS, GROUPS_PER_PRESENCE, MEMBER_NAME_MAX_CHARS,
};
use claudemesh_protocol::permission::{Permission, Standing};
use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::wire::Push;
use claudemesh_protocol::wire::hello::SelfEditable;
use claudemesh_protocol::{ErrorCode, Group, MemberId, Timestamp, text};
use claudemesh_store::{EditMember, Member, MemberChange, Mesh};
use serde_json::{Map, Value, json};

use super::requester::{MeshName, Requester, standing};
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::request::Fields;
use crate::live;
use crate::state::Broker;

/// The members, for members.
pub(crate) async fn list(
    State(broker): State<Broker>,
    Path(mesh): Path<String>,
    request: Request,
) -> ApiResult<Json<MembersReply>> {
    let asking = Requester::read(&broker, MeshName::Id(mesh), request).await?;
    let roster = broker.store().roster(&asking.mesh.id).await?;
    let members = roster.iter().map(|entry| detail(&broker, &asking.mesh, &entry.member));
    Ok(Json(MembersReply { ok: true, members: members.collect() }))
}

fn detail(broker: &Broker, mesh: &Mesh, member: &Member) -> MemberDetail {
    let (online, session_count) = broker.live().loaded(&mesh.id).map_or((false, 0), |loaded| {
        let state = loaded.lock();
        let shown = || state.of_member(&member.id).filter(|one| !one.presence.is_transient());
        let sessions = shown().filter(|entry| entry.presence.session_key.is_some()).count();
        (shown().next().is_some(), sessions)
    });
    MemberDetail {
        id: member.id.clone(),
        pubkey: member.pubkey,
        display_name: member.display_name.clone(),
        role_tag: member.role_tag.clone(),
        groups: member.default_groups.clone(),
        message_mode: member.message_mode,
        permission: member.role,
        is_owner: standing(mesh, member) == Standing::Owner,
        joined_at: member.joined_at.to_iso(),
        last_seen_at: member.last_seen_at.map(Timestamp::to_iso),
        online,
        session_count,
    }
}

/// Edits a member: oneself as far as the mesh lets members, anybody with `canManagePermissions`, roles by admins.
pub(crate) async fn patch(
    State(broker): State<Broker>,
    Path((mesh, member)): Path<(String, String)>,
    request: Request,
) -> ApiResult<Json<Value>> {
    let asking = Requester::read(&broker, MeshName::Id(mesh), request).await?;
    let id = if member == "me" { asking.member.id.clone() } else { MemberId::new(member) };
    let is_self = id == asking.member.id;
    if !is_self {
        asking.require(Permission::ManagePermissions)?;
    }
    let (change, said) = read_change(&asking.fields)?;
    if said.is_empty() {
        return Err(ApiError::new(ErrorCode::Malformed, "no fields to update"));
    }
    let refused = admin_managed(&asking, &change);
    if !refused.is_empty() {
        let text = format!("admin-managed fields: {}", refused.join(", "));
        return Err(ApiError::new(ErrorCode::AdminManaged, text).with("fields", refused));
    }
    if change.role.is_some() {
        refuse_owner(&broker, &asking, &id).await?;
    }
    let now = broker.now();
    let by = Some(&asking.member.id);
    let edited = match broker.store().edit_member(&asking.mesh.id, &id, change, by, now).await? {
        EditMember::Edited(member) => member,
        EditMember::NameTaken => {
            return Err(ApiError::new(ErrorCode::Invalid, "another member has this name"));
        }
        EditMember::NotFound => return Err(ApiError::not_found("member")),
    };
    tell(&broker, &asking.mesh, &edited, &said);
    let member = detail(&broker, &asking.mesh, &edited);
    Ok(Json(json!({ "ok": true, "member": member, "changes": said })))
}

/// What is to change, and the same as it was said.
fn read_change(fields: &Fields) -> ApiResult<(MemberChange, Map<String, Value>)> {
    let mut said = Map::new();
    let display_name = fields
        .optional_text("displayName")?
        .map(|name| text::display_name(name, MEMBER_NAME_MAX_CHARS))
        .transpose()
        .map_err(|error| ApiError::field("displayName", &error.to_string()))?;
    if let Some(name) = &display_name {
        said.insert("displayName".to_owned(), json!(name));
    }
    let role_tag = match (fields.names("roleTag"), fields.optional_text("roleTag")?) {
        (false, _) => None,
        (true, None | Some("")) => Some(None),
        (true, Some(tag)) => Some(Some(
            text::display_name(tag, GROUP_ROLE_MAX_CHARS)
                .map_err(|error| ApiError::field("roleTag", &error.to_string()))?,
        )),
    };
    if let Some(tag) = &role_tag {
        said.insert("roleTag".to_owned(), json!(tag));
    }
    let groups = fields.optional_value::<Vec<Group>>("groups", "a list of groups")?;
    if groups.as_ref().is_some_and(|groups| groups.len() > GROUPS_PER_PRESENCE) {
        return Err(ApiError::field("groups", "at most 32 groups"));
    }
    if let Some(groups) = &groups {
        said.insert("groups".to_owned(), json!(groups));
    }
    let message_mode = fields.optional_value::<MessageMode>("messageMode", "push, inbox or off")?;
    if let Some(mode) = message_mode {
        said.insert("messageMode".to_owned(), json!(mode));
    }
    let role = fields.optional_value::<MemberRole>("permission", "admin or member")?;
    if let Some(role) = role {
        said.insert("permission".to_owned(), json!(role));
    }
    Ok((MemberChange { display_name, role_tag, groups, message_mode, role }, said))
}

/// Fields the caller may not change on itself; nothing is changed then.
fn admin_managed(asking: &Requester, change: &MemberChange) -> Vec<&'static str> {
    let is_manager = asking.caller.may(Permission::ManagePermissions);
    let SelfEditable { display_name, role_tag, groups, message_mode } =
        asking.mesh.settings.self_editable;
    [
        ("displayName", change.display_name.is_some(), display_name || is_manager),
        ("roleTag", change.role_tag.is_some(), role_tag || is_manager),
        ("groups", change.groups.is_some(), groups || is_manager),
        ("messageMode", change.message_mode.is_some(), message_mode || is_manager),
        ("permission", change.role.is_some(), asking.caller.standing.is_admin()),
    ]
    .into_iter()
    .filter_map(|(field, is_said, is_allowed)| (is_said && !is_allowed).then_some(field))
    .collect()
}

async fn refuse_owner(broker: &Broker, asking: &Requester, id: &MemberId) -> ApiResult<()> {
    let target = broker.store().member(&asking.mesh.id, id).await?;
    let is_owner = target.is_some_and(|target| standing(&asking.mesh, &target) == Standing::Owner);
    if is_owner {
        return Err(ApiError::new(ErrorCode::Forbidden, "the owner is an admin, always"));
    }
    Ok(())
}

/// Tells the member's own presences; what it may do from now on counts with its next frame.
fn tell(broker: &Broker, mesh: &Mesh, member: &Member, said: &Map<String, Value>) {
    broker.live().roster_changed(&mesh.id);
    let Some(loaded) = broker.live().loaded(&mesh.id) else { return };
    let mut data = said.clone();
    data.remove("permission");
    let id = live::event_id();
    let push =
        Push::system(&mesh.id, id, broker.now().to_iso(), "profile_updated", Value::Object(data));
    loaded.lock().announce(push, |presence| presence.member_id == member.id);
}
