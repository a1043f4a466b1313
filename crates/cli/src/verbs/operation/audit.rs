//! Entries of the audit log as people read them: who did it by name, and what it was about in words (CLI spec §3.19).
//! Programs get the entries as they are.

use std::collections::BTreeMap;

use claudemesh_ipc::Client;
use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value};

/// Fields of a payload that say by id or key what another one says by name.
const IDENTIFIERS: [&str; 4] = ["Id", "Ids", "Pubkey", "pubkey"];

/// The result with names in the place of member ids, and payloads in words. Without a roster the ids stay.
pub(super) async fn worded(client: &Client, mesh: Option<&str>, mut result: Value) -> Value {
    let names = names(client, mesh).await;
    let entries = result.get_mut("entries").and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(actor) = entry.get_mut("actor")
            && let Some(name) = actor.as_str().and_then(|id| names.get(id))
        {
            *actor = name.as_str().into();
        }
        if let Some(payload) = entry.get_mut("payload")
            && let Some(fields) = payload.as_object()
        {
            *payload = about(fields);
        }
    }
    result
}

/// What is left when ids and keys are taken out; all of it when nothing else is there.
fn about(fields: &Map<String, Value>) -> Value {
    let is_named = |name: &String| !IDENTIFIERS.iter().any(|end| name.ends_with(end));
    let named: Map<String, Value> = fields
        .iter()
        .filter(|(name, _)| is_named(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Value::Object(if named.is_empty() { fields.clone() } else { named })
}

/// Names of members by id; of those who are banned too, since they stand in the log.
async fn names(client: &Client, mesh: Option<&str>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    if let Ok(reply) = client.op(OperationKind::MemberList, mesh, Map::new()).await {
        let members = reply.result.get("members").and_then(Value::as_array).cloned();
        for member in members.into_iter().flatten() {
            let text = |key: &str| member.get(key).and_then(Value::as_str).map(str::to_owned);
            if let (Some(id), Some(name)) = (text("memberId"), text("displayName")) {
                names.insert(id, name);
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
        let read = |value: Value| about(value.as_object().unwrap());
        assert_eq!(
            read(
                json!({ "reason": "lost", "target": "Bob", "targetMemberId": "x", "targetPubkey": "y" })
            ),
            json!({ "reason": "lost", "target": "Bob" })
        );
        assert_eq!(read(json!({ "memberId": "x" })), json!({ "memberId": "x" }));
    }
}
