//! `daemon recover`: what is wrong with the message databases, and what can be done about it (daemon spec §20.3).

use claudemesh_daemon::care::recover::{Condition, Findings};
use claudemesh_daemon::care::{self, recover};
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::error::ExitCode;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{RecoverArgs, RecoverChoice};
use crate::output::prompt::Default;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};
use crate::verbs::backup::{counted, failure};

/// Keys of the result.
pub(super) const FIELDS: Fields = Fields {
    names: &["ok", "outbox", "inbox", "queued", "choice", "rows", "unreadable", "kept"],
    id: "",
};
/// Queued messages shown to a person.
const SHOWN: usize = 10;

/// Runs the verb. Without a choice it only looks; damage is then a result with exit 1.
///
/// # Errors
/// Exit 6 while a daemon runs and something is to be done, 7 without consent, 10 when it cannot be done.
pub(super) async fn run(context: &Context, args: &RecoverArgs) -> Outcome<Report> {
    let paths = &context.paths;
    let looking = recover::look(paths);
    let found = context.out.during("reading the databases", looking).await.map_err(failure)?;
    let Some(choice) = args.choice else { return Ok(look(&found)) };
    if care::is_daemon_running(paths).map_err(failure)? {
        return Err(failure(care::CareError::DaemonRunning));
    }
    let now = Context::now();
    let mut screen = Screen::new();
    let mut document = json!({ "ok": true, "choice": word(choice) });
    let mut add = |key: &str, value: Value| {
        if let Some(map) = document.as_object_mut() {
            map.insert(key.to_owned(), value);
        }
    };
    match choice {
        RecoverChoice::Salvage => {
            if found.outbox == Condition::Missing {
                return Err(Failure::not_found("there is no outbox to salvage"));
            }
            let salvaged = recover::salvage(paths, now).await.map_err(|error| {
                failure(error).action("claudemesh daemon recover --choice wipe-outbox")
            })?;
            let rows = usize::try_from(salvaged.rows).unwrap_or(usize::MAX);
            screen.done(format!(
                "kept {} of the outbox, {} of them to be sent",
                counted(rows, "row", "rows"),
                salvaged.queued
            ));
            if salvaged.unreadable > 0 {
                screen.attention(format!("{} could not be read", salvaged.unreadable));
            }
            let kept = salvaged.kept.display().to_string();
            screen.note("the damaged file is kept as");
            screen.line(Line::new().indent(4).put(Token::Code, kept.clone()));
            add("rows", salvaged.rows.into());
            add("queued", salvaged.queued.into());
            add("unreadable", salvaged.unreadable.into());
            add("kept", kept.into());
        }
        RecoverChoice::RebuildInbox => {
            let question = "received messages go aside, and only what was not acknowledged comes again. Continue?";
            context.consent(question, Default::No)?;
            let kept = recover::begin_inbox_anew(paths, now).await.map_err(failure)?;
            screen.done("the inbox begins anew at the next start");
            if let Some(kept) = &kept {
                screen.note("the old one is kept as");
                screen.line(Line::new().indent(4).put(Token::Code, kept.display().to_string()));
            }
            add("kept", kept.map(|kept| kept.display().to_string()).into());
        }
        RecoverChoice::WipeOutbox | RecoverChoice::WipeAll => {
            give_up(context, choice, &found)?;
            if choice == RecoverChoice::WipeAll {
                recover::wipe_all(paths).await.map_err(failure)?;
                screen.done("outbox, inbox and session registry removed");
            } else {
                recover::wipe_outbox(paths).await.map_err(failure)?;
                screen.done("outbox removed");
            }
            add("queued", found.queued.len().into());
        }
    }
    screen.hint("claudemesh daemon up");
    Ok(Report::new(Document::object(document), screen))
}

/// Lists what will be lost, then asks.
fn give_up(context: &Context, choice: RecoverChoice, found: &Findings) -> Outcome<()> {
    let mut screen = Screen::new();
    list(&mut screen, found);
    context.out.aside(&screen);
    let lost = counted(found.queued.len(), "queued message is", "queued messages are");
    let question = match choice {
        RecoverChoice::WipeAll => {
            format!("{lost} lost, and every received one and every session with them. Continue?")
        }
        _ => format!("{lost} lost. Continue?"),
    };
    context.consent(&question, Default::No)
}

fn list(screen: &mut Screen, found: &Findings) {
    for row in found.queued.iter().take(SHOWN) {
        let line = Line::new().indent(4).put(Token::Dim, format!("{} ", row.id));
        let to = row.to.parse::<PublicKey>().map(|key| format!("{}…", key.short(16)));
        let to = to.as_deref().unwrap_or(&row.to);
        let line = line.foreign(Token::Plain, &format!("{} to {to}", row.mesh));
        screen.line(
            line.put(Token::Dim, format!(" ({} ago)", Context::age_of(row.enqueued_at))).cut(),
        );
    }
    if found.queued.len() > SHOWN {
        screen.note(format!("  … and {} more", found.queued.len() - SHOWN));
    }
}

fn look(found: &Findings) -> Report {
    let mut screen = Screen::new();
    say(&mut screen, "outbox", &found.outbox);
    say(&mut screen, "inbox", &found.inbox);
    if !found.queued.is_empty() {
        let waiting = counted(found.queued.len(), "message waits", "messages wait");
        screen.note(format!("{waiting} to be sent"));
        list(&mut screen, found);
    }
    let is_damaged = |condition: &Condition| matches!(condition, Condition::Damaged(_));
    if is_damaged(&found.outbox) {
        screen.hint("claudemesh daemon recover --choice salvage");
    } else if is_damaged(&found.inbox) {
        screen.hint("claudemesh daemon recover --choice rebuild-inbox");
    }
    let queued: Vec<Value> = found
        .queued
        .iter()
        .map(|row| {
            json!({ "id": row.id, "mesh": row.mesh, "to": row.to, "enqueued_at": row.enqueued_at.to_iso() })
        })
        .collect();
    let is_well = [&found.outbox, &found.inbox]
        .iter()
        .all(|condition| matches!(condition, Condition::Whole | Condition::Missing));
    let document = json!({
        "ok": is_well, "outbox": state(&found.outbox), "inbox": state(&found.inbox), "queued": queued,
    });
    let report = Report::new(Document::object(document), screen);
    if is_well { report } else { report.exit(ExitCode::Cancelled) }
}

fn say(screen: &mut Screen, name: &str, condition: &Condition) {
    match condition {
        Condition::Missing => screen.note(format!("{name}: none yet")),
        Condition::Whole => screen.done(format!("{name}: whole")),
        Condition::Damaged(reason) => {
            let line =
                Line::new().icon(Icon::Failed).put(Token::Plain, format!("{name}: damaged, "));
            screen.line(line.foreign(Token::Plain, reason))
        }
        Condition::Newer => {
            screen.attention(format!("{name}: of a newer version; install that version"))
        }
    };
}

fn state(condition: &Condition) -> Value {
    match condition {
        Condition::Missing => json!({ "state": "missing" }),
        Condition::Whole => json!({ "state": "whole" }),
        Condition::Damaged(reason) => json!({ "state": "damaged", "reason": reason }),
        Condition::Newer => json!({ "state": "newer" }),
    }
}

const fn word(choice: RecoverChoice) -> &'static str {
    match choice {
        RecoverChoice::Salvage => "salvage",
        RecoverChoice::RebuildInbox => "rebuild-inbox",
        RecoverChoice::WipeOutbox => "wipe-outbox",
        RecoverChoice::WipeAll => "wipe-all",
    }
}
