//! Codex's `config.toml` (MCP spec §12).

use claudemesh_agents::settings::{
    Entry, Outcome, Record, SettingsError, Syntax, Undone, put, take, undo,
};
use serde_json::json;

fn server(command: &str) -> Vec<Entry> {
    vec![Entry::keyed(
        &["mcp_servers"],
        "claudemesh",
        json!({ "command": command, "args": ["mcp"] }),
    )]
}

const OURS: &str = "[mcp_servers.claudemesh]\ncommand = \"claudemesh\"\nargs = [\"mcp\"]\n";

#[test]
fn a_table_comes_at_the_end_and_goes_without_a_trace() {
    for before in [
        "",
        "model = \"x\" # c\n",
        "model = \"x\"",
        "# only a comment\n\n",
        "[mcp_servers.other]\ncommand = 'a'\n# about nothing\n",
        "mcp_servers.other.command = \"a\"\r\n[x]\r\ny = 1\r\n",
        "\u{feff}[a]\nb = [\n 1, # one\n]\n",
    ] {
        let edited = put(Syntax::Toml, before, &server("claudemesh")).unwrap();
        assert_eq!(edited.outcomes, [Outcome::Added]);
        assert!(edited.text.starts_with(before) && edited.text.replace('\r', "").ends_with(OURS));
        let again = put(Syntax::Toml, &edited.text, &server("claudemesh")).unwrap();
        assert!(!again.is_change() && again.outcomes == [Outcome::Unchanged]);
        let record = Record::of(Some(before), &server("claudemesh"), &edited);
        let undone =
            undo(Syntax::Toml, &edited.text, &server("claudemesh"), Some(&record)).unwrap();
        assert!(matches!(&undone, Undone::Text { text, .. } if text == before), "{undone:?}");
        // Without the record the bytes are the same but for a line end that the last line lacked.
        let taken = take(Syntax::Toml, &edited.text, &server("claudemesh"), &[]).unwrap();
        assert_eq!(taken.text.trim_end(), before.trim_end());
    }
}

#[test]
fn an_old_table_is_updated_and_goes_with_its_children() {
    let before = "a = 1\n\n[mcp_servers.claudemesh] # ours\ncommand = '/old' # path\nenv.A = \"1\"\n\n\
                  [mcp_servers.claudemesh.tools.send_message]\napproval_mode = \"approve\"\n\n# about b\n[b]\nc = 2\n";
    let edited = put(Syntax::Toml, before, &server("claudemesh")).unwrap();
    assert_eq!(edited.outcomes, [Outcome::Updated]);
    let expected = before
        .replace("'/old'", "\"claudemesh\"")
        .replace("# ours\n", "# ours\nargs = [\"mcp\"]\n");
    assert_eq!(edited.text, expected);
    let taken = take(Syntax::Toml, &edited.text, &server("claudemesh"), &[]).unwrap();
    assert_eq!(taken.outcomes, [Outcome::Removed]);
    assert_eq!(taken.text, "a = 1\n\n# about b\n[b]\nc = 2\n");
    assert_eq!(
        take(Syntax::Toml, &taken.text, &server("x"), &[]).unwrap().outcomes,
        [Outcome::Absent]
    );
}

#[test]
fn a_dotted_or_inline_server_is_known_as_well() {
    let dotted = "mcp_servers.claudemesh.command = \"old\"\nmcp_servers.claudemesh.args = [\"mcp\"]\nx = 1\n";
    let edited = put(Syntax::Toml, dotted, &server("claudemesh")).unwrap();
    assert_eq!(edited.text, dotted.replace("old", "claudemesh"));
    assert_eq!(take(Syntax::Toml, dotted, &server("claudemesh"), &[]).unwrap().text, "x = 1\n");
    let inline = "[mcp_servers]\nclaudemesh = { command = \"old\" }\nother = { command = \"b\" }\n";
    let refused = put(Syntax::Toml, inline, &server("claudemesh")).unwrap_err().to_string();
    assert_eq!(refused, "mcp_servers.claudemesh is written on one line, not a table");
    let taken = take(Syntax::Toml, inline, &server("claudemesh"), &[]).unwrap().text;
    assert_eq!(taken, "[mcp_servers]\nother = { command = \"b\" }\n");
    let all_inline = "mcp_servers = { other = { command = \"b\" } }\n";
    let refused = put(Syntax::Toml, all_inline, &server("claudemesh")).unwrap_err().to_string();
    assert_eq!(refused, "mcp_servers is written on one line, not a table");
}

#[test]
fn what_is_no_toml_is_refused_with_its_place() {
    let refused = put(Syntax::Toml, "a = 1\nb = = 2\n", &server("x")).unwrap_err();
    assert!(matches!(refused, SettingsError::Unreadable { line: 2, .. }), "{refused:?}");
}
