//! Entries of the audit log as people read them: who did it by name, and what it was about in words (CLI spec §3.19).
//! Programs get the entries as they are.

use std::collections::{BTreeMap, BTreeSet};

use claudemesh_ipc::Client;
use claudemesh_protocol::ops::OperationKind;
use claudemesh_protocol::permission::Permission;
use serde_json::{Map, Value};

/// Fields of a payload that say by id, key or hash what another one says by name, or what nobody reads.
const IDENTIFIERS: [&str; 6] = ["Id", "Ids", "Pubkey", "pubkey", "sha256", "invite"];

/// Names of members by their ids and their keys.
type Names = BTreeMap<String, String>;

/// The result with names in the place of member ids, and payloads in words. Without a roster the ids stay.
pub(super) async fn worded(client: &Client, mesh: Option<&str>, mut result: Value) -> Value {
    let names = names(client, mesh).await;
    let entries = result.get_mut("entries").and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(actor) = entry.get_mut("actor") {
            *actor = named(actor, &names);
        }
        let actor = entry.get("actor").cloned().unwrap_or_default();
        if let Some(payload) = entry.get_mut("payload")
            && let Some(fields) = payload.as_object()
        {
            *payload = about(fields, &actor, &names);
        }
    }
    result
}

/// What is left when ids and empty lists are taken out, and the actor's own name unless nothing else is there; all of it
/// when there are only ids.
fn about(fields: &Map<String, Value>, actor: &Value, names: &Names) -> Value {
    let is_id = |name: &String| IDENTIFIERS.iter().any(|end| name.ends_with(end));
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let said: Map<String, Value> = fields
        .iter()
        .filter(|(name, value)| !is_id(name) && !is_empty(value))
        .map(|(name, value)| (name.clone(), in_short(&named(value, names))))
        .collect();
    if said.is_empty() {
        return Value::Object(fields.clone());
    }
    let mut more = said.clone();
    more.retain(|name, value| name != "name" || value != actor);
    Value::Object(if more.is_empty() { said } else { more })
}

/// Every permission changed alike, as `canInvite=default` and so on, is said once.
fn in_short(value: &Value) -> Value {
    let Some(items) = value.as_array().filter(|items| items.len() == Permission::ALL.len()) else {
        return value.clone();
    };
    let change = |item: &Value| item.as_str()?.split_once('=').map(|(_, change)| change.to_owned());
    let changes: BTreeSet<Option<String>> = items.iter().map(change).collect();
    match changes.into_iter().collect::<Vec<_>>().as_slice() {
        [Some(change)] => format!("all={change}").into(),
        _ => value.clone(),
    }
}

/// A member's id or key, or a list of them, by name.
fn named(value: &Value, names: &Names) -> Value {
    match value {
        Value::String(text) => {
            names.get(text).map_or_else(|| value.clone(), |name| name.as_str().into())
        }
        Value::Array(items) => items.iter().map(|item| named(item, names)).collect(),
        other => other.clone(),
    }
}

/// Names of members by id and by key; who is banned stands in the log under its name.
async fn names(client: &Client, mesh: Option<&str>) -> Names {
    let mut names = Names::new();
    if let Ok(reply) = client.op(OperationKind::MemberList, mesh, Map::new()).await {
        let members = reply.result.get("members").and_then(Value::as_array).cloned();
        for member in members.into_iter().flatten() {
            let text = |key: &str| member.get(key).and_then(Value::as_str).map(str::to_owned);
            let Some(name) = text("displayName") else { continue };
            for key in ["memberId", "pubkey"] {
                names.extend(text(key).map(|id| (id, name.clone())));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_and_keys_give_way_to_names() {
        let names = Names::from([("ab12".to_owned(), "Mou".to_owned())]);
        let read = |value: Value| about(value.as_object().unwrap(), &json!("Ana"), &names);
        assert_eq!(
            read(
                json!({ "reason": "lost", "target": "Bob", "targetMemberId": "x", "targetPubkey": "y" })
            ),
            json!({ "reason": "lost", "target": "Bob" })
        );
        assert_eq!(read(json!({ "memberId": "x" })), json!({ "memberId": "x" }));
        assert_eq!(read(json!({ "keys": ["ab12", "cd34"] })), json!({ "keys": ["Mou", "cd34"] }));
        assert_eq!(
            read(json!({ "name": "Ana", "groups": [], "role": "session", "via": "hello" })),
            json!({ "role": "session", "via": "hello" })
        );
        assert_eq!(read(json!({ "name": "Bob", "via": "invite" }))["name"], "Bob");
        assert_eq!(
            read(json!({ "key": "sprint", "value_sha256": "ff" })),
            json!({ "key": "sprint" })
        );
        assert_eq!(read(json!({ "invite": "x", "name": "Ana" })), json!({ "name": "Ana" }));
        let all: Vec<String> = Permission::ALL.iter().map(|one| format!("{one}=default")).collect();
        assert_eq!(read(json!({ "permissions": all }))["permissions"], "all=default");
    }
}
