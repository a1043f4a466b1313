//! `claudemesh status-line`: one line about a mesh for an agent's status bar (CLI spec §6.5). It asks nobody: it reads the
//! memberships and the small file that the daemon keeps, and whatever is wrong with them, it prints a line and succeeds.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use claudemesh_daemon::home::config::Config;
use claudemesh_ipc::Paths;
use claudemesh_protocol::limits::{
    STATUS_LINE_FRESH, STATUS_LINE_STALE, STATUS_LINE_STDIN_WAIT, STATUS_LINE_WIDTH,
};
use claudemesh_protocol::{Timestamp, text};

use crate::context::Context;
use crate::environment::Environment;
use crate::hook::stdin;
use crate::output::style::{Style, Token, cells, cut};
use crate::peer_cache::{self, Entry};

/// The first word.
const STATUS_LINE: &str = "status-line";
/// The word for a connection that works.
const OPEN: &str = "open";
/// Where the daemon is, or was: what is shown of it is longest.
const NAME_MAX_CHARS: usize = 40;

/// Prints the line; `None` when the arguments are for somebody else.
pub(crate) fn enter(arguments: &[OsString]) -> Option<ExitCode> {
    let (first, rest) = arguments.split_first()?;
    let wants_help = rest.iter().any(|word| word == "--help" || word == "-h");
    (first == STATUS_LINE && !wants_help).then(run)
}

/// Prints the line, without an end of line.
pub(crate) fn run() -> ExitCode {
    let environment = Environment::read();
    let style = Style {
        // Agents show colours, though what they read is no terminal.
        colour: !environment.no_color && !environment.dumb_terminal,
        unicode: environment.unicode,
        width: None,
    };
    let told = stdin::read(STATUS_LINE_STDIN_WAIT).unwrap_or_default();
    let session = told.get("session_id").and_then(serde_json::Value::as_str);
    let line = Paths::from_env().map_or_else(
        |_| Line::nothing(NOT_JOINED),
        |paths| Line::of(&paths, session, Context::now()),
    );
    let mut stdout = std::io::stdout().lock();
    // Who does not read it does not want it.
    let _ = stdout.write_all(line.painted(style).as_bytes());
    let _ = stdout.flush();
    ExitCode::SUCCESS
}

const NOT_JOINED: &str = " (not joined)";

/// The line: a name, and what is said of it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    name: String,
    token: Token,
    rest: String,
}

impl Line {
    fn nothing(why: &str) -> Self {
        Self { name: "claudemesh".to_owned(), token: Token::Dim, rest: why.to_owned() }
    }

    fn of(paths: &Paths, session: Option<&str>, now: Timestamp) -> Self {
        let Ok(config) = Config::read(&paths.membership_file()) else { return Self::nothing("") };
        let slugs: Vec<&str> = config.meshes().map(|mesh| mesh.slug.as_str()).collect();
        let cache = peer_cache::read(&paths.peer_cache_file());
        let has_session = |slug: &&&str| {
            let entry = cache.get(**slug);
            entry.zip(session).is_some_and(|(entry, id)| entry.sessions.iter().any(|one| one == id))
        };
        let default = config.default_mesh().and_then(|slug| slugs.iter().find(|one| **one == slug));
        let slug = slugs.iter().find(has_session).or(default).or(slugs.first());
        match slug {
            Some(slug) => Self::of_mesh(slug, cache.get(*slug), now),
            None => Self::nothing(NOT_JOINED),
        }
    }

    fn of_mesh(slug: &str, entry: Option<&Entry>, now: Timestamp) -> Self {
        let name = text::sanitized_line(slug, NAME_MAX_CHARS);
        let written =
            entry.and_then(|entry| Some((entry, Timestamp::parse_iso(&entry.updated_at)?)));
        // One from the future was written under another clock, and says as little as an old one.
        let told = written.filter(|(_, at)| {
            *at <= now.plus(STATUS_LINE_FRESH) && now.since(*at) <= STATUS_LINE_STALE
        });
        let Some((entry, at)) = told else {
            return Self { name, token: Token::Dim, rest: " · idle".to_owned() };
        };
        let unread = match entry.unread {
            0 => String::new(),
            count => format!(" · {count} unread"),
        };
        let (token, mut rest) = if entry.status == OPEN {
            let you = text::sanitized_line(&entry.you, NAME_MAX_CHARS);
            let own = if you.is_empty() { you } else { format!(" · {you}") };
            (Token::Ok, format!(" · {}/{} online{unread}{own}", entry.online, entry.total))
        } else {
            (Token::Warn, format!(" · offline{unread}"))
        };
        let is_stale = now.since(at) >= STATUS_LINE_FRESH;
        if is_stale {
            rest.push_str(" (stale)");
        }
        Self { name, token: if is_stale { Token::Dim } else { token }, rest }
    }

    fn painted(&self, style: Style) -> String {
        let sign = if style.unicode { "◇" } else { "*" };
        let room = STATUS_LINE_WIDTH.saturating_sub(cells(sign) + 1);
        let name = cut(&self.name, room);
        let rest = cut(&self.rest, room.saturating_sub(cells(&name)));
        let (sign, name) = (style.paint(self.token, sign), style.paint(Token::Accent, &name));
        format!("{sign} {name}{}", style.paint(Token::Dim, &rest))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PLAIN: Style = Style { colour: false, unicode: true, width: None };

    fn now() -> Timestamp {
        Timestamp::from_seconds(1_000_000)
    }

    fn entry(age: u64, change: impl FnOnce(&mut Entry)) -> Entry {
        let updated_at = now().minus(Duration::from_secs(age)).to_iso();
        let mut entry = Entry {
            total: 5,
            online: 3,
            you: "Mou".to_owned(),
            unread: 2,
            status: OPEN.to_owned(),
            updated_at,
            sessions: Vec::new(),
        };
        change(&mut entry);
        entry
    }

    fn shown(entry: Option<&Entry>) -> String {
        Line::of_mesh("dev", entry, now()).painted(PLAIN)
    }

    #[test]
    fn the_table_of_situations() {
        let rows: [(Option<Entry>, &str); 9] = [
            (Some(entry(59, |_| {})), "◇ dev · 3/5 online · 2 unread · Mou"),
            (Some(entry(0, |entry| entry.unread = 0)), "◇ dev · 3/5 online · Mou"),
            (
                Some(entry(0, |entry| entry.status = "reconnecting".to_owned())),
                "◇ dev · offline · 2 unread",
            ),
            (Some(entry(60, |_| {})), "◇ dev · 3/5 online · 2 unread · Mou (stale)"),
            (Some(entry(600, |_| {})), "◇ dev · 3/5 online · 2 unread · Mou (stale)"),
            (Some(entry(601, |_| {})), "◇ dev · idle"),
            (Some(entry(0, |entry| entry.updated_at = "soon".to_owned())), "◇ dev · idle"),
            (
                Some(entry(0, |entry| {
                    entry.updated_at = now().plus(Duration::from_mins(10)).to_iso();
                })),
                "◇ dev · idle",
            ),
            (None, "◇ dev · idle"),
        ];
        for (entry, line) in rows {
            assert_eq!(shown(entry.as_ref()), line);
        }
        assert_eq!(Line::nothing(NOT_JOINED).painted(PLAIN), "◇ claudemesh (not joined)");
    }

    #[test]
    fn what_others_chose_stays_one_short_line() {
        let entry = entry(0, |entry| entry.you = format!("\u{1b}[31mMou\n{}", "漢".repeat(80)));
        let line = Line::of_mesh(&"long".repeat(30), Some(&entry), now()).painted(PLAIN);
        assert!(cells(&line) <= STATUS_LINE_WIDTH, "{line}");
        assert!(!line.contains(['\u{1b}', '\n']), "{line:?}");
        let line = shown(Some(&entry));
        assert!(
            cells(&line) <= STATUS_LINE_WIDTH && line.starts_with("◇ dev · 3/5 online"),
            "{line}"
        );
    }

    #[test]
    fn a_terminal_without_unicode_gets_plain_letters() {
        let style = Style { unicode: false, ..PLAIN };
        let line = Line::of_mesh("dev", Some(&entry(0, |_| {})), now()).painted(style);
        assert_eq!(line, "* dev | 3/5 online | 2 unread | Mou");
    }
}
