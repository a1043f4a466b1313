//! Whatever a settings file looks like, ours comes and goes and leaves no trace (MCP spec §10, CLI spec §6.1).

use claudemesh_agents::settings::{Entry, Outcome, Record, Syntax, Undone, put, take, undo};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::foreign::foreign;

pub const OURS: &str = "claudemesh hook ";

/// What an installation puts into a settings file.
pub fn entries() -> Vec<Entry> {
    let hook = |event: &str| {
        let command = format!("{OURS}claude {event}");
        let value = json!({ "hooks": [{ "type": "command", "command": command, "timeout": 5 }] });
        Entry::hook(&["hooks", event], value, OURS)
    };
    vec![
        Entry::keyed(
            &["mcpServers"],
            "claudemesh",
            json!({ "command": "claudemesh", "args": ["mcp"] }),
        ),
        hook("SessionStart"),
        hook("Stop"),
        Entry::element(&["permissions", "allow"], "Bash(claudemesh send:*)"),
        Entry::command_at(
            &[],
            "statusLine",
            json!({ "type": "command", "command": "claudemesh status-line" }),
            "claudemesh status-line",
        ),
    ]
}

fn text_of(undone: Undone) -> String {
    match undone {
        Undone::Text { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

/// The meaning of a file, read by a program that is not ours.
fn meaning(text: &str) -> Value {
    let text = text.trim_start_matches('\u{feff}');
    let options = jsonc_parser::ParseOptions::default();
    let parsed = jsonc_parser::parse_to_value(text, &options).unwrap();
    plain(parsed.unwrap())
}

fn plain(value: jsonc_parser::JsonValue<'_>) -> Value {
    use jsonc_parser::JsonValue as V;

    match value {
        V::String(text) => Value::from(text.into_owned()),
        V::Number(text) => serde_json::from_str(text).unwrap(),
        V::Boolean(word) => Value::from(word),
        V::Null => Value::Null,
        V::Array(all) => all.into_iter().map(plain).collect(),
        V::Object(map) => Value::Object(
            map.into_iter().map(|(key, value)| (key.into_owned(), plain(value))).collect(),
        ),
    }
}

proptest! {
    /// CLI spec §6.1–6.3: install twice changes nothing the second time; uninstall leaves the very bytes.
    #[test]
    fn what_comes_goes_without_a_trace(foreign in foreign()) {
        let before = foreign.text();
        let entries = entries();
        let edited = put(Syntax::Jsonc, &before, &entries).unwrap();
        // Nothing foreign is cut, not even a comment: only blanks of an empty container.
        for step in &edited.steps {
            prop_assert!(step.cut.trim().is_empty(), "{step:?}");
        }
        let again = put(Syntax::Jsonc, &edited.text, &entries).unwrap();
        prop_assert!(!again.is_change(), "{again:?}");
        prop_assert!(again.outcomes.iter().all(|one| matches!(one, Outcome::Unchanged | Outcome::Foreign)));
        let record = Record::of(Some(&before), &entries, &edited).and(Some(&edited.text), &again);
        let stored: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        let undone = undo(Syntax::Jsonc, &edited.text, &entries, Some(&stored)).unwrap();
        prop_assert_eq!(text_of(undone), before);
    }

    /// MCP spec §10.6: with a foreign edit in between, that edit is kept and only ours goes.
    #[test]
    fn a_foreign_edit_in_between_is_kept(foreign in foreign(), more in any::<bool>()) {
        let before = foreign.text();
        let entries = entries();
        let edited = put(Syntax::Jsonc, &before, &entries).unwrap();
        let record = Record::of(Some(&before), &entries, &edited);
        let theirs = if more {
            Entry::keyed(&["theirs", "deep"], "x", json!([1, { "y": "}" }]))
        } else {
            Entry::hook(&["hooks", "Stop"], json!({ "hooks": [{ "command": "theirs" }] }), "theirs")
        };
        let theirs = [theirs];
        let changed = put(Syntax::Jsonc, &edited.text, &theirs).unwrap().text;
        let after = text_of(undo(Syntax::Jsonc, &changed, &entries, Some(&record)).unwrap());
        let expected = put(Syntax::Jsonc, &before, &theirs).unwrap().text;
        prop_assert_eq!(meaning(&after), meaning(&expected));
        for comment in ["// a, \"b\" }", "/* c ] , */"] {
            prop_assert_eq!(after.matches(comment).count(), before.matches(comment).count());
        }
        prop_assert!(!after.contains("claudemesh"));
    }

    /// Without any record, too, ours goes and all else stays; containers that it needed may stay, empty.
    #[test]
    fn ours_is_found_without_a_record(foreign in foreign()) {
        let before = foreign.text();
        let entries = entries();
        let edited = put(Syntax::Jsonc, &before, &entries).unwrap();
        let taken = take(Syntax::Jsonc, &edited.text, &entries, &edited.made).unwrap();
        prop_assert_eq!(meaning(&taken.text), meaning(&before));
        let bare = take(Syntax::Jsonc, &edited.text, &entries, &[]).unwrap();
        prop_assert!(!bare.text.contains("claudemesh"), "{}", bare.text);
        let untouched = take(Syntax::Jsonc, &before, &entries, &[]).unwrap();
        prop_assert!(!untouched.is_change());
    }

    /// Any text at all: it is edited, or it is refused.
    #[test]
    fn nothing_makes_the_editor_fall(text in "[\\[\\]{}:,/*\"a\\\\ \n\r\u{feff}0-9.e+-]{0,40}") {
        for syntax in [Syntax::Jsonc, Syntax::Toml] {
            if let Ok(edited) = put(syntax, &text, &entries()[..1]) {
                let record = Record::of(Some(&text), &entries()[..1], &edited);
                if edited.is_change() {
                    let undone = undo(syntax, &edited.text, &entries()[..1], Some(&record)).unwrap();
                    prop_assert_eq!(text_of(undone), text.clone());
                }
            }
        }
    }
}
