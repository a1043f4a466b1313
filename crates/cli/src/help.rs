//! Help pages that are not those of one command: the main screen, `help all`, `help conventions` (CLI spec app. C).

use crate::grammar::{self, words};
use crate::output::screen::WithHint;
use crate::output::style::padded;
use crate::output::{Icon, Line, Screen, Style, Token};

/// Column of the second half of a line.
const COLUMN: usize = 26;

/// The groups of the main screen.
const GROUPS: [(&str, &[(&str, &str)]); 6] = [
    (
        "Start",
        &[
            ("up", "start broker, daemon and a first mesh here"),
            ("join <invite>", "join a mesh by its link or code"),
            ("create <name>", "create another mesh"),
            ("share", "make an invite link"),
        ],
    ),
    (
        "Talk",
        &[
            ("send <to> <text>", "send to a peer, a @group or @all"),
            ("inbox", "read what arrived"),
            ("peers", "see who is connected"),
            ("group join <group>", "receive what is sent to a group"),
        ],
    ),
    ("Share", &[("state set <key> <value>", "a value that the whole mesh sees")]),
    (
        "Meshes",
        &[
            ("list", "meshes of this machine and your account"),
            ("members", "who belongs to a mesh; member permissions, role"),
            ("grant <peer> <what>", "what a peer may do towards you; block, grants"),
            ("kick|ban <peer>", "end sessions, remove a member; bans, unban <peer>"),
            ("audit query", "who did what, for owner and admins; audit verify"),
            ("leave <slug>", "leave a mesh on this machine"),
            ("whoami", "this session, account, memberships"),
        ],
    ),
    (
        "Setup",
        &[
            ("install", "connect Claude Code and Codex; uninstall, mcp"),
            ("daemon status", "the background process; backup, restore"),
            ("down", "stop daemon and broker"),
            ("completions <shell>", "completion script"),
        ],
    ),
    (
        "More",
        &[
            ("help <command>", "flags, examples, exit codes of one command"),
            ("help all", "every command"),
            ("help conventions", "exit codes, JSON, targets, environment"),
        ],
    ),
];

/// The text of a page.
pub(crate) fn page(name: Option<&str>, style: Style) -> String {
    let screen = match name {
        Some("all") => all(),
        Some("conventions") => conventions(),
        _ => main_screen(),
    };
    screen.render(style, WithHint::Yes)
}

fn heading(text: &str) -> Line {
    Line::new().put(Token::Accent, text)
}

fn entry(command: &str, what: &str) -> Line {
    let line = Line::new().indent(4).hanging(4 + COLUMN);
    line.put(Token::Code, padded(command, COLUMN)).put(Token::Plain, what)
}

fn main_screen() -> Screen {
    let mut screen = Screen::new();
    screen.line(
        Line::new()
            .icon(Icon::Brand)
            .put(Token::Accent, "claudemesh")
            .put(Token::Plain, "  agents and people on different machines talk, encrypted"),
    );
    screen.blank();
    screen.line(heading("Usage").put(Token::Plain, "  claudemesh <command> [flags]"));
    screen.line(Line::new().put(Token::Plain, "       claudemesh <invite-url>"));
    screen.line(Line::new().put(Token::Plain, "       claudemesh help <command>"));
    for (title, entries) in GROUPS {
        screen.blank();
        screen.line(heading(title));
        for (command, what) in entries {
            screen.line(entry(command, what));
        }
    }
    screen
}

fn all() -> Screen {
    let root = grammar::outlined();
    let mut screen = Screen::new();
    let mut verbs: Vec<_> = words::verbs().collect();
    // What is about the same thing stands together, in the order in which things come first.
    let things: Vec<&str> = verbs.iter().map(|verb| first_word(verb.canonical)).collect();
    verbs.sort_by_key(|verb| things.iter().position(|thing| *thing == first_word(verb.canonical)));
    for verb in verbs {
        let command = verb
            .canonical
            .split(' ')
            .try_fold(&root, |command, word| command.find_subcommand(word));
        let about = command.and_then(clap::Command::get_about).map(ToString::to_string);
        let about = about.unwrap_or_else(|| "Show help".to_owned());
        screen.line(entry(verb.canonical, &about).indent(2).hanging(2 + COLUMN));
    }
    screen
}

fn first_word(words: &str) -> &str {
    words.split(' ').next().unwrap_or(words)
}

fn conventions() -> Screen {
    let mut screen = Screen::new();
    screen.line(heading("Exit codes"));
    for (code, what) in [
        ("0", "done, or nothing to do"),
        ("1", "declined, or a diagnosis failed"),
        ("2", "not signed in, signature or token refused"),
        ("3", "bad input"),
        ("4", "broker or daemon unreachable, time-out, rate limit"),
        ("5", "not found"),
        ("6", "exists already"),
        ("7", "not allowed, or confirmation missing (-y)"),
        ("8", "a bug, or part of the work failed"),
        ("10", "local files or databases"),
    ] {
        screen
            .line(Line::new().indent(4).put(Token::Code, padded(code, 6)).put(Token::Plain, what));
    }
    for (title, lines) in [
        (
            "JSON",
            [
                "--json prints one document; --json=a,b or --fields a,b only these keys",
                "objects begin with schema_version; lists are bare arrays (--json-envelope wraps)",
                "errors are {ok:false, error, message, hint?, exit_code} on stdout",
            ],
        ),
        (
            "Mesh",
            [
                "--mesh SLUG, else the session's own, else the only one joined",
                "verbs that only read use all joined meshes; others ask, or exit 3",
                "",
            ],
        ),
        (
            "Targets",
            [
                "a name, a key, 8 or more characters of a key, name@mesh",
                "@group and @all reach several; absent members get it when they return",
                "",
            ],
        ),
        (
            "Policy",
            [
                "--approval-mode plan|read-only denies every write, yolo asks nobody; so does -y",
                "~/.claudemesh/policy.yaml allows, asks, denies; deny wins over -y",
                "see claudemesh policy show; every decision stands in ~/.claudemesh/audit.log",
            ],
        ),
        (
            "Environment",
            [
                "CLAUDEMESH_BROKER_DATA_DIR, CLAUDEMESH_CONFIG_DIR, CLAUDEMESH_DAEMON_DIR",
                "CLAUDEMESH_TOKEN, CLAUDEMESH_ALLOW_INSECURE=1, CLAUDEMESH_NO_DAEMON=1",
                "NO_COLOR, CLAUDEMESH_NO_UNICODE=1, CLAUDEMESH_DEBUG=1",
            ],
        ),
    ] {
        screen.blank();
        screen.line(heading(title));
        for line in lines.into_iter().filter(|line| !line.is_empty()) {
            screen.line(Line::new().indent(4).put(Token::Plain, line));
        }
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::style::cells;

    const PLAIN: Style = Style { colour: false, unicode: true, width: None };

    /// App. C: the main screen has at most 40 lines of 80 columns.
    #[test]
    fn the_main_screen_fits_a_terminal() {
        for name in [None, Some("all"), Some("conventions")] {
            for width in [60, 80] {
                let text = page(name, Style { width: Some(width), ..PLAIN });
                assert_eq!(text.lines().find(|line| cells(line) > width), None, "{name:?}");
            }
        }
        let text = page(None, PLAIN);
        assert_eq!(text.lines().find(|line| cells(line) > 80), None);
        assert!(text.lines().count() <= 40);
    }

    /// X1: every verb stands in `help all` exactly once.
    #[test]
    fn help_all_lists_every_verb_once() {
        let text = page(Some("all"), PLAIN);
        for verb in words::verbs() {
            let count = text
                .lines()
                .filter(|line| {
                    line.trim_start().strip_prefix(verb.canonical).is_some_and(|rest| {
                        rest.starts_with("  ")
                            || rest.starts_with(' ')
                                && rest.trim_start().chars().next().is_some_and(char::is_uppercase)
                    })
                })
                .count();
            assert_eq!(count, 1, "{}", verb.canonical);
        }
    }
}
