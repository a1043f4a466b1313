//! Permissions as people read them: what a member may do in a few words, and the eleven of one member line by line.
//! Programs get every permission by its name.

use claudemesh_protocol::permission::Permission;
use claudemesh_protocol::text::sanitized_line;
use serde_json::{Map, Value};

use super::NAME_MAX_CHARS;
use crate::output::{Screen, Side, Table};

/// The result with words in the place of maps of permissions, and owners as such.
pub(super) fn worded(mut result: Value) -> Value {
    match result.get_mut("members").and_then(Value::as_array_mut) {
        Some(rows) => rows.iter_mut().filter_map(Value::as_object_mut).for_each(word),
        None => result.as_object_mut().into_iter().for_each(word),
    }
    result
}

/// Grants in which a peer that may do nothing is called blocked (CLI spec §3.5).
pub(super) fn blocked_marked(mut result: Value) -> Value {
    let rows = result.get_mut("grants").and_then(Value::as_array_mut);
    for row in rows.into_iter().flatten().filter_map(Value::as_object_mut) {
        if row.get("now").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            row.insert("now".to_owned(), "(blocked)".into());
        }
    }
    result
}

fn word(row: &mut Map<String, Value>) {
    if is_owner(row) {
        row.insert("role".to_owned(), "owner".into());
    }
    let said = row.get("permissions").and_then(Value::as_object).map(in_words);
    if let Some(said) = said {
        row.insert("permissions".to_owned(), said.into());
    }
}

fn is_owner(row: &Map<String, Value>) -> bool {
    row.get("is_owner") == Some(&Value::Bool(true))
}

/// `everything`, `everything but canDeleteMesh`, `canSend, canUseTools`, `nothing`.
fn in_words(permissions: &Map<String, Value>) -> String {
    let (held, lacking): (Vec<&str>, Vec<&str>) = Permission::ALL
        .iter()
        .map(|permission| permission.as_str())
        .partition(|word| permissions.get(*word) == Some(&Value::Bool(true)));
    match (held.as_slice(), lacking.as_slice()) {
        (_, []) => "everything".to_owned(),
        ([], _) => "nothing".to_owned(),
        (held, lacking) if lacking.len() < held.len() => {
            format!("everything but {}", lacking.join(", "))
        }
        (held, _) => held.join(", "),
    }
}

/// One member: each permission on a line, with what it means.
pub(super) fn of_one(result: &Value) -> Option<Screen> {
    let [row] = result.get("members")?.as_array()?.as_slice() else { return None };
    let row = row.as_object()?;
    let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    let role = if is_owner(row) { "owner" } else { text("role") };
    let permissions = row.get("permissions")?.as_object()?;
    let mut screen = Screen::new();
    let name = sanitized_line(text("display_name"), NAME_MAX_CHARS);
    screen.section(&format!("{name}, {role} of {}", text("mesh")));
    let columns = ["permission", "may", "what it lets a member do"];
    let mut table =
        Table::new(columns.iter().map(|name| ((*name).to_owned(), Side::Left)).collect());
    for permission in Permission::ALL {
        let may = permissions.get(permission.as_str()) == Some(&Value::Bool(true));
        let meaning = permission.meaning().trim_end_matches('.');
        let texts = [permission.as_str(), if may { "yes" } else { "no" }, meaning];
        table.row(texts.map(str::to_owned).to_vec());
    }
    screen.table(table);
    Some(screen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(held: &[Permission], is_owner: bool) -> Value {
        let permissions: Map<String, Value> = Permission::ALL
            .iter()
            .map(|one| (one.as_str().to_owned(), held.contains(one).into()))
            .collect();
        json!({
            "display_name": "Mou", "role": "admin", "is_owner": is_owner, "mesh": "home",
            "permissions": permissions,
        })
    }

    #[test]
    fn what_a_member_may_do_is_said_the_short_way() {
        let said = |held: &[Permission]| worded(row(held, false))["permissions"].clone();
        assert_eq!(said(Permission::ALL), "everything");
        assert_eq!(said(&[]), "nothing");
        assert_eq!(said(&[Permission::Send, Permission::UseTools]), "canSend, canUseTools");
        let but_one: Vec<Permission> =
            Permission::ALL.iter().copied().filter(|one| *one != Permission::DeleteMesh).collect();
        assert_eq!(said(&but_one), "everything but canDeleteMesh");
    }

    #[test]
    fn an_owner_is_called_one() {
        assert_eq!(worded(row(Permission::ALL, true))["role"], "owner");
        let list = worded(json!({ "members": [row(&[], false), row(Permission::ALL, true)] }));
        assert_eq!(
            (&list["members"][0]["role"], &list["members"][1]["role"]),
            (&"admin".into(), &"owner".into())
        );
    }

    #[test]
    fn one_member_has_a_line_for_each_permission() {
        use crate::output::Style;
        use crate::output::screen::WithHint;

        let list = json!({ "members": [row(&[Permission::Send], false)] });
        for width in [Some(60), Some(80), None] {
            let style = Style { colour: false, unicode: true, width };
            let text = of_one(&list).unwrap().render(style, WithHint::No);
            for permission in Permission::ALL {
                assert!(text.contains(permission.as_str()), "{width:?} {text}");
            }
            assert_eq!(text.matches("  yes  ").count(), 1, "{text}");
        }
        assert!(of_one(&json!({ "members": [] })).is_none());
    }
}
