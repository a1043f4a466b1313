//! What people and programs see of an operation's result: the sentence, the record or the table that its entry
//! declares; JSON is the result itself (CLI spec §1.9, §8.2, §12.1).

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::ops::{OperationKind, Shape};
use claudemesh_protocol::text::sanitized_line;
use serde_json::{Map, Value};

use crate::context::Context;
use crate::grammar::operations::kebab;
use crate::output::{Document, Report, Screen, Side, Table};

/// Longest text of one value, in characters.
const VALUE_MAX_CHARS: usize = 2000;
/// Characters of a key; a signature has twice as many.
const KEY_CHARS: usize = 64;
/// Characters of a key that people see.
const KEY_SHOWN_CHARS: usize = 16;

/// How values are written.
#[derive(Clone, Copy)]
pub(in crate::verbs) struct Manner {
    pub(in crate::verbs) is_verbose: bool,
    pub(in crate::verbs) now: Timestamp,
}

/// Both forms of the result.
pub(super) fn report(
    context: &Context,
    kind: OperationKind,
    arguments: &Map<String, Value>,
    mesh: Option<&str>,
    result: Value,
) -> Report {
    let manner = Manner { is_verbose: context.out.is_verbose(), now: Context::now() };
    drawn(kind, arguments, mesh, result, manner)
}

pub(in crate::verbs) fn drawn(
    kind: OperationKind,
    arguments: &Map<String, Value>,
    mesh: Option<&str>,
    result: Value,
    manner: Manner,
) -> Report {
    let spec = kind.spec();
    let verb = spec.verb.unwrap_or(claudemesh_protocol::ops::Verb::of(""));
    let schema = kind.output_schema();
    let owner = match spec.shape {
        Shape::List(list) => format!("/properties/{list}/items/properties"),
        _ => "/properties".to_owned(),
    };
    let is_any_json = |name: &str| {
        schema.pointer(&format!("{owner}/{name}")).is_some_and(|property| {
            ["type", "anyOf", "oneOf", "enum"].iter().all(|key| property.get(key).is_none())
        })
    };
    let field = |name: &str, value: &Value| {
        // A value of the state is what a program wrote; an entry of the audit log is about something.
        let is_verbatim = kind != OperationKind::AuditQuery && is_any_json(name);
        if is_verbatim && !value.is_null() {
            sanitized_line(&value.to_string(), VALUE_MAX_CHARS)
        } else {
            shown(value, manner)
        }
    };
    let mut screen = Screen::new();
    if let Shape::List(list) = spec.shape {
        let (rows, envelope) = rows_of(result, list, mesh);
        if rows.is_empty() {
            screen.note(verb.none);
        } else {
            let of_several = mesh.is_none().then_some("mesh");
            let columns: Vec<&str> =
                of_several.into_iter().chain(verb.columns.iter().copied()).collect();
            screen.table(table(&rows, &columns, field));
        }
        return Report::new(Document::List { items: rows, envelope }, screen);
    }
    let mut map = match result {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    if let Some(mesh) = mesh {
        map.entry("mesh").or_insert_with(|| mesh.into());
    }
    if verb.done.is_empty() {
        record(&mut screen, &map, verb.columns, &field);
    } else {
        let fill = |sentence: &str| filled(sentence, &map, arguments, is_any_json, manner);
        screen.done(fill(sentence(kind, arguments).unwrap_or(verb.done)));
        if !verb.hint.is_empty() {
            screen.hint(fill(verb.hint));
        }
    }
    Report::new(Document::Object(map), screen)
}

/// What the one sentence of a table cannot say for every argument (CLI spec §3.7, §3.10).
fn sentence(kind: OperationKind, arguments: &Map<String, Value>) -> Option<&'static str> {
    let given = |name: &str| arguments.get(name);
    Some(match kind {
        OperationKind::ProfileVisible if given("visible") == Some(&Value::Bool(true)) => {
            "you are now visible"
        }
        OperationKind::ProfileVisible => "hidden (direct messages still arrive)",
        OperationKind::ProfileSummary if given("summary") == Some(&"".into()) => "summary cleared",
        OperationKind::StateSet if given("value") == Some(&Value::Null) => "{key} removed",
        _ => return None,
    })
}

/// The rows of a list and what stands beside them.
fn rows_of(result: Value, list: &str, mesh: Option<&str>) -> (Vec<Value>, Map<String, Value>) {
    let named = mesh.map(|mesh| ("mesh".to_owned(), Value::from(mesh)));
    let mut envelope: Map<String, Value> = named.into_iter().collect();
    let rows = match result {
        Value::Array(rows) => rows,
        Value::Object(mut map) => {
            let rows = map.remove(list);
            envelope.extend(map);
            match rows {
                Some(Value::Array(rows)) => rows,
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    };
    (rows, envelope)
}

/// The sentence with its fields: those of the result, else those that were asked for.
fn filled(
    sentence: &str,
    result: &Map<String, Value>,
    arguments: &Map<String, Value>,
    is_any_json: impl Fn(&str) -> bool,
    manner: Manner,
) -> String {
    let mut text = String::with_capacity(sentence.len());
    let mut rest = sentence;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let Some((name, after)) = after.split_once('}') else { break };
        let value = result.get(name).or_else(|| arguments.get(name)).unwrap_or(&Value::Null);
        text.push_str(&match value {
            value if is_any_json(name) => sanitized_line(&value.to_string(), VALUE_MAX_CHARS),
            Value::Array(items) if items.is_empty() => "nothing".to_owned(),
            value => shown(value, manner),
        });
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Lines of a record: its columns, else every value that fits on a line; then a table for each list of records.
fn record(
    screen: &mut Screen,
    map: &Map<String, Value>,
    columns: &[&str],
    field: &impl Fn(&str, &Value) -> String,
) {
    let is_shown = |name: &str| columns.is_empty() || columns.contains(&name);
    let order: Vec<&str> = if columns.is_empty() {
        map.keys().map(String::as_str).filter(|name| *name != "ok").collect()
    } else {
        columns.to_vec()
    };
    let names: Vec<(String, String)> = order
        .iter()
        .filter_map(|name| {
            let value = map.get(*name).filter(|value| !value.is_null())?;
            (!is_list_of_records(value)).then(|| (title(name), field(name, value)))
        })
        .collect();
    let pairs: Vec<(&str, String)> =
        names.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    screen.pairs(&pairs);
    for (name, value) in map.iter().filter(|(name, _)| is_shown(name)) {
        if let (true, Value::Array(rows)) = (is_list_of_records(value), value) {
            screen.section(&title(name));
            screen.table(table(rows, &[], field));
        }
    }
}

fn is_list_of_records(value: &Value) -> bool {
    value.as_array().and_then(|items| items.first()).is_some_and(Value::is_object)
}

/// One row for each record; without declared columns those of the first.
fn table(rows: &[Value], columns: &[&str], field: impl Fn(&str, &Value) -> String) -> Table {
    let names: Vec<&str> = match columns {
        [] => rows
            .iter()
            .find_map(Value::as_object)
            .map(|row| row.keys().map(String::as_str).filter(|name| *name != "mesh").collect())
            .unwrap_or_default(),
        columns => columns.to_vec(),
    };
    let side = |name: &str| {
        let mut values =
            rows.iter().filter_map(|row| row.get(name)).filter(|value| !value.is_null());
        let is_number = |value: &Value| value.is_number();
        match values.next() {
            Some(first) if is_number(first) && values.all(is_number) => Side::Right,
            _ => Side::Left,
        }
    };
    let mut table = Table::new(names.iter().map(|name| (title(name), side(name))).collect());
    for row in rows {
        let cell = |name: &&str| row.get(*name).map(|value| field(name, value)).unwrap_or_default();
        table.row(names.iter().map(cell).collect());
    }
    table
}

/// `updatedBy` as `updated by`.
fn title(name: &str) -> String {
    kebab(name).replace('-', " ")
}

/// A value on one line, with nothing in it that acts on a terminal.
fn shown(value: &Value, manner: Manner) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(is_true) => if *is_true { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text_shown(text, manner),
        Value::Array(items) if items.is_empty() => "(none)".to_owned(),
        Value::Array(items) => {
            items.iter().map(|item| shown(item, manner)).collect::<Vec<_>>().join(", ")
        }
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                format!("{} {}", title(&sanitized_line(key, 60)), shown(value, manner))
            })
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn text_shown(text: &str, manner: Manner) -> String {
    // Keys, hashes and signatures: nobody reads them, and their beginning tells them apart.
    let is_key = text.len() >= KEY_CHARS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_key && !manner.is_verbose {
        let start: String = text.chars().take(KEY_SHOWN_CHARS).collect();
        return format!("{start}…");
    }
    let is_time = text.len() >= "2026-01-01T00:00:00Z".len() && text.ends_with('Z');
    match Timestamp::parse_iso(text).filter(|_| is_time && !manner.is_verbose) {
        Some(at) => crate::verbs::inbox::clock(at, manner.now),
        None => sanitized_line(text, VALUE_MAX_CHARS),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Style;
    use crate::output::screen::WithHint;

    fn text_of(
        kind: OperationKind,
        arguments: Value,
        result: Value,
        width: Option<usize>,
    ) -> String {
        let arguments = match arguments {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let manner = Manner { is_verbose: true, now: Timestamp::from_seconds(0) };
        let report = drawn(kind, &arguments, Some("dev"), result, manner);
        report.screen.render(Style { colour: false, unicode: true, width }, WithHint::Yes)
    }

    #[test]
    fn a_write_says_its_sentence_with_json_where_any_json_is_meant() {
        let set = |value: Value| {
            let result = json!({ "ok": true, "mesh": "dev", "key": "sprint", "value": value });
            text_of(OperationKind::StateSet, json!({}), result, None)
        };
        assert_eq!(set(json!(14)), "  ✔ sprint = 14\n");
        assert_eq!(set(json!("14")), "  ✔ sprint = \"14\"\n");
        assert_eq!(set(json!({ "a": [1, null] })), "  ✔ sprint = {\"a\":[1,null]}\n");
    }

    #[test]
    fn a_grant_says_what_is_left() {
        let result = json!({ "peer": "Mou", "memberPubkey": "ab", "now": [], "isDefault": false });
        assert_eq!(
            text_of(OperationKind::GrantRemove, json!({}), result, None),
            "  ✔ Mou may now: nothing\n"
        );
        let result = json!({ "peer": "Mou", "memberPubkey": "ab", "now": [], "isDefault": false });
        assert_eq!(
            text_of(OperationKind::GrantBlock, json!({}), result, None),
            "  ✔ blocked Mou\n  → undo with: claudemesh grant Mou --reset\n"
        );
    }

    #[test]
    fn an_empty_list_says_so() {
        for kind in OperationKind::ALL {
            let spec = kind.spec();
            let (Shape::List(list), Some(verb)) = (spec.shape, spec.verb) else { continue };
            if verb.is_drawn_by_hand {
                continue;
            }
            let text = text_of(*kind, json!({}), json!({ list: [] }), None);
            assert_eq!(text, format!("  {}\n", verb.none), "{}", spec.name);
            assert!(verb.none.starts_with('('), "{}", spec.name);
        }
    }

    /// CLI spec §8: text of others cannot leave its cell.
    #[test]
    fn hostile_values_stay_in_their_cell() {
        let row = json!({
            "key": "a\n✔ fake\u{1b}[2J", "value": "\u{202e}x\r", "version": 1,
            "updatedBy": "Mou\u{7}", "updatedAt": "later",
        });
        let text = text_of(OperationKind::StateList, json!({}), json!({ "entries": [row] }), None);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}', '\r']), "{text:?}");
    }

    #[test]
    fn records_show_pairs_then_tables() {
        let report = json!({
            "ws_status": "open", "peers_online": 2, "message_mode": null, "channel": "enabled",
            "results": [{ "priority": "now", "ok": true, "send_ack_ms": 3, "loopback_ms": 5 }],
        });
        assert_eq!(
            text_of(OperationKind::MeshPing, json!({}), report, Some(60)),
            "  ws status     open\n  peers online  2\n  channel       enabled\n  mesh          dev\n\n  — results\n\n  priority  ok   send ack ms  loopback ms\n  now       yes            3            5\n"
        );
    }

    #[test]
    fn a_list_is_bare_and_its_companions_are_in_the_envelope() {
        let (rows, envelope) =
            rows_of(json!({ "entries": [{ "id": 1 }], "total": 9 }), "entries", Some("dev"));
        assert_eq!(rows, [json!({ "id": 1 })]);
        assert_eq!((&envelope["mesh"], &envelope["total"]), (&json!("dev"), &json!(9)));
    }
}
