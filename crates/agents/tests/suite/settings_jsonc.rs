//! Claude Code's settings files, one shape after the other (MCP spec §10.1, §10.2, §10.6; CLI spec §6.1–6.3).

use claudemesh_agents::settings::{
    Entry, Outcome, Record, SettingsError, Syntax, Undone, diff, put, take, undo,
};
use serde_json::json;

use crate::settings_property::{OURS, entries};

fn server() -> Vec<Entry> {
    vec![Entry::keyed(
        &["mcpServers"],
        "claudemesh",
        json!({ "command": "claudemesh", "args": ["mcp"] }),
    )]
}

/// The text after an edit.
fn with(text: &str, entries: &[Entry]) -> String {
    put(Syntax::Jsonc, text, entries).unwrap().text
}

#[test]
fn an_entry_looks_like_its_neighbours() {
    for (before, after) in [
        (
            "",
            "{\n  \"mcpServers\": {\n    \"claudemesh\": {\n      \"command\": \"claudemesh\",\n      \"args\": [\"mcp\"]\n    }\n  }\n}\n",
        ),
        (
            "{\n\t\"mcpServers\": {\n\t\t// theirs\n\t\t\"x\": {}, // last\n\t},\n\t\"y\": 1\n}",
            "{\n\t\"mcpServers\": {\n\t\t// theirs\n\t\t\"x\": {}, // last\n\t\t\"claudemesh\": {\n\t\t\t\"command\": \"claudemesh\",\n\t\t\t\"args\": [\"mcp\"]\n\t\t},\n\t},\n\t\"y\": 1\n}",
        ),
        (
            "{\r\n    \"a\": 1 // one\r\n}\r\n",
            "{\r\n    \"a\": 1, // one\r\n    \"mcpServers\": {\r\n        \"claudemesh\": {\r\n            \"command\": \"claudemesh\",\r\n            \"args\": [\"mcp\"]\r\n        }\r\n    }\r\n}\r\n",
        ),
        (
            "{\"a\":1}",
            "{\"a\":1, \"mcpServers\": {\"claudemesh\":{\"command\":\"claudemesh\",\"args\":[\"mcp\"]}}}",
        ),
        (
            "{\"mcpServers\":{}}",
            "{\"mcpServers\":{\"claudemesh\": {\"command\":\"claudemesh\",\"args\":[\"mcp\"]}}}",
        ),
        (
            "\u{feff}// mine\n{ }",
            "\u{feff}// mine\n{\n  \"mcpServers\": {\n    \"claudemesh\": {\n      \"command\": \"claudemesh\",\n      \"args\": [\"mcp\"]\n    }\n  }\n}",
        ),
    ] {
        assert_eq!(with(before, &server()), after);
    }
}

/// CLI spec §6.1 step 1, MCP spec §10.1: the user's own keys of our entry stay; others of it are brought up to date.
#[test]
fn an_old_entry_is_updated_where_it_stands() {
    let before = "{\"mcpServers\": {\"claudemesh\": {\"command\": \"/old\", \"args\": [\n \"mcp\"], \"env\": {\"A\": \"1\"}}, \"z\": 1}}";
    let edited = put(Syntax::Jsonc, before, &server()).unwrap();
    assert_eq!(edited.outcomes, [Outcome::Updated]);
    assert_eq!(edited.text, before.replace("/old", "claudemesh"));
}

/// CLI spec §6.1 step 3: an outdated path is updated in place, doubles go, other people's handlers in one group stay.
#[test]
fn hooks_are_known_by_their_command() {
    let value = json!({ "hooks": [{ "type": "command", "command": "claudemesh hook claude Stop", "timeout": 5 }] });
    let entry = [Entry::hook(&["hooks", "Stop"], value, OURS)];
    let before = r#"{"hooks": {"Stop": [
    {"hooks": [{"type": "command", "command": "/old/claudemesh hook idle"}]}, // kept
    {"matcher": "x", "hooks": [{"command": "lint"}, {"command": "claudemesh hook claude Stop"}]},
    {"hooks": [{"type": "command", "command": "claudemesh hook claude Stop"}]}
]}}"#;
    let edited = put(Syntax::Jsonc, before, &entry).unwrap();
    assert_eq!(edited.outcomes, [Outcome::Updated]);
    let expected = r#"{"hooks": {"Stop": [
    {"hooks": [{"type":"command","command":"claudemesh hook claude Stop","timeout":5}]}, // kept
    {"matcher": "x", "hooks": [{"command": "lint"}]}
]}}"#;
    assert_eq!(edited.text, expected);
    let taken = take(Syntax::Jsonc, &edited.text, &entry, &[]).unwrap();
    assert!(taken.text.contains("lint") && !taken.text.contains("claudemesh"), "{}", taken.text);
}

/// CLI spec §6.1 step 5: a foreign status line is kept.
#[test]
fn a_foreign_status_line_is_kept() {
    let before = "{\"statusLine\": {\"type\": \"command\", \"command\": \"mine\"}}";
    let edited = put(Syntax::Jsonc, before, &entries()[4..]).unwrap();
    assert_eq!((edited.outcomes.as_slice(), edited.is_change()), (&[Outcome::Foreign][..], false));
    let taken = take(Syntax::Jsonc, before, &entries()[4..], &[]).unwrap();
    assert_eq!((taken.outcomes.as_slice(), taken.is_change()), (&[Outcome::Foreign][..], false));
}

/// A rule that the user had before is the user's.
#[test]
fn a_rule_that_was_there_stays() {
    let rule = [Entry::element(&["permissions", "allow"], "Bash(claudemesh send:*)")];
    let before = "{\"permissions\": {\"allow\": [\"Bash(claudemesh send:*)\", \"Bash(claudemesh send:*)\"]}}";
    let edited = put(Syntax::Jsonc, before, &rule).unwrap();
    assert!(!edited.is_change());
    let record = Record::of(Some(before), &rule, &edited);
    let undone = undo(Syntax::Jsonc, before, &rule, Some(&record)).unwrap();
    assert_eq!(undone, Undone::Untouched);
    assert!(matches!(undo(Syntax::Jsonc, before, &rule, None).unwrap(), Undone::Text { .. }));
}

/// MCP spec §10.6: a file we created is removed, also when it was written again in between.
#[test]
fn a_file_of_our_making_goes() {
    let edited = put(Syntax::Jsonc, "", &entries()).unwrap();
    let record = Record::of(None, &entries(), &edited);
    assert_eq!(
        undo(Syntax::Jsonc, &edited.text, &entries(), Some(&record)).unwrap(),
        Undone::Delete
    );
    let rewritten = format!("{}\n\n", edited.text);
    assert_eq!(undo(Syntax::Jsonc, &rewritten, &entries(), Some(&record)).unwrap(), Undone::Delete);
    let more = edited.text.replacen('{', "{\n  // mine", 1);
    let kept = undo(Syntax::Jsonc, &more, &entries(), Some(&record)).unwrap();
    let Undone::Text { text, .. } = kept else { panic!("{kept:?}") };
    assert_eq!(text, "{\n  // mine\n}\n");
}

/// An update in a later installation goes back to the very beginning, too.
#[test]
fn two_installations_are_undone_as_one() {
    let before = "{ \"a\": [1,\n2], }\n";
    let first = put(Syntax::Jsonc, before, &server()).unwrap();
    let moved = [Entry::keyed(
        &["mcpServers"],
        "claudemesh",
        json!({ "command": "/opt/claudemesh", "args": ["mcp"] }),
    )];
    let second = put(Syntax::Jsonc, &first.text, &moved).unwrap();
    assert_eq!(second.outcomes, [Outcome::Updated]);
    let record = Record::of(Some(before), &server(), &first).and(Some(&first.text), &second);
    let undone = undo(Syntax::Jsonc, &second.text, &moved, Some(&record)).unwrap();
    assert!(matches!(&undone, Undone::Text { text, .. } if text == before), "{undone:?}");
}

/// CLI spec §6.1–6.3: what cannot be read is left alone, and said why, with the place.
#[test]
fn what_is_no_settings_file_is_refused() {
    let refused = |text: &str| put(Syntax::Jsonc, text, &entries()).unwrap_err();
    assert!(
        matches!(
            refused("{\n  \"a\": 1\n  \"b\": 2\n}"),
            SettingsError::Unreadable { line: 2 | 3, .. }
        ),
        "{:?}",
        refused("{\n  \"a\": 1\n  \"b\": 2\n}")
    );
    for text in ["{'a': 1}", "{a: 1}", "{\"a\": 0x1F}", "{\"a\": 1", "[1", "{} {}"] {
        assert!(matches!(refused(text), SettingsError::Unreadable { .. }), "{text}");
    }
    assert_eq!(refused("[]").to_string(), "the document is an array, not an object");
    assert_eq!(refused("{\"mcpServers\": null}").to_string(), "mcpServers is null, not an object");
    let message = refused("{\"hooks\": {\"Stop\": {}}}").to_string();
    assert_eq!(message, "hooks.Stop is an object, not an array");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(refused(&deep), SettingsError::Unreadable { .. }));
}

/// Of two members with one name programs read the last.
#[test]
fn doubled_keys_are_read_as_programs_read_them() {
    let before = "{\"mcpServers\": {\"x\": 1}, \"mcpServers\": {\"y\": 2}}";
    let edited = put(Syntax::Jsonc, before, &server()).unwrap();
    assert!(
        edited
            .text
            .starts_with("{\"mcpServers\": {\"x\": 1}, \"mcpServers\": {\"y\": 2, \"claudemesh\"")
    );
    let record = Record::of(Some(before), &server(), &edited);
    let undone = undo(Syntax::Jsonc, &edited.text, &server(), Some(&record)).unwrap();
    assert!(matches!(&undone, Undone::Text { text, .. } if text == before), "{undone:?}");
}

/// CLI spec §6.1: `--dry-run` prints the diff.
#[test]
fn the_diff_shows_our_lines_alone() {
    let before = "{\n  \"a\": 1\n}\n";
    let shown = diff("settings.json", before, &with(before, &server()[..1]));
    let added = shown.lines().filter(|line| line.starts_with('+') && !line.starts_with("+++"));
    assert_eq!(added.count(), 7, "{shown}");
    assert!(shown.contains("-  \"a\": 1\n+  \"a\": 1,\n"), "{shown}");
    assert_eq!(diff("x", before, before), "");
}
