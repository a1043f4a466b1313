//! `uninstall`: what `install` did, back again; memberships, keys and messages stay (CLI spec §6.3, MCP spec §10.6).

use claudemesh_agents::agent::AgentKind;
use claudemesh_agents::install::Choice;
use claudemesh_daemon::care::arm_crash_points;
use claudemesh_protocol::error::ExitCode;
use claudemesh_protocol::limits;
use serde_json::{Map, Value, json};

use super::install::account::Account;
use super::install::edit::Aim;
use super::install::surroundings::Surroundings;
use super::service;
use super::{daemon, install};
use crate::context::Context;
use crate::failure::Outcome;
use crate::grammar::args::UninstallAgentsArgs;
use crate::output::{Document, Fields, Report, Screen};
use crate::service::Manager;
use crate::verbs::backup::counted;

/// Keys of the result.
pub(crate) const FIELDS: Fields =
    Fields { names: &["ok", "dry_run", "removed", "backups", "failed", "changes"], id: "" };

/// Runs the verb. Each step stands alone, as those of `install`.
///
/// # Errors
/// Exit 1 when the person declines, 4 when the daemon does not stop, 7 when nobody can be asked, 10 for files.
pub(crate) async fn run(context: &Context, args: &UninstallAgentsArgs) -> Outcome<Report> {
    arm_crash_points();
    let around = Surroundings::of(context, false)?;
    let is_named = |kind: &AgentKind| args.agents.is_empty() || args.agents.contains(kind);
    let kinds: Vec<AgentKind> = AgentKind::ALL.into_iter().filter(is_named).collect();
    // The service is no agent's alone.
    let takes_service = args.agents.is_empty() && !args.keep_service;
    let unit = if takes_service { Manager::installed(&context.environment) } else { None };
    let everything = Choice::everything();
    let mut wanted = Account::new(Aim::Take);
    for kind in &kinds {
        wanted.look(&around, *kind, &everything, true);
    }
    if args.dry_run {
        let mut screen = Screen::new();
        wanted.show_changes(&mut screen);
        screen.append(wanted.screen.clone());
        if let Some(unit) = &unit {
            screen.note(format!("{} would be removed", unit.unit().display()));
        }
        screen.note("nothing was written");
        let service = unit.as_ref().map(|_| "removed");
        let mut document = document(&around, &wanted, &kinds, service);
        document.insert("dry_run".to_owned(), Value::Bool(true));
        let changes = wanted.changes.iter();
        let changes = changes.map(|change| json!({ "path": change.path, "diff": change.diff }));
        document.insert("changes".to_owned(), changes.collect());
        return Ok(finish(&wanted, document, screen));
    }
    if wanted.is_change() || unit.is_some() {
        install::agree(context, &wanted, &question(&wanted, unit.is_some()))?;
    }
    let mut account = Account::new(Aim::Take);
    for kind in &kinds {
        account.carry_out(&around, *kind, &everything, true);
    }
    if let Err(untouched) = around.store.remove_dirs() {
        account.failed.push(json!({
            "path": around.shown(&untouched.path), "reason": untouched.why, "fix": untouched.fix,
        }));
        account.screen.attention(untouched.why);
    }
    let mut is_service_removed = None;
    if takes_service {
        while let Some(manager) = Manager::installed(&context.environment) {
            let shown = around.shown(&manager.unit());
            service::remove(&manager).await?;
            account.screen.done(format!("daemon: removed {shown}"));
            is_service_removed = Some("removed");
        }
        if wanted.is_change() || is_service_removed.is_some() {
            let stopping = daemon::stop(context, limits::DAEMON_STOP_BUDGET);
            if context.out.during("stopping the daemon", stopping).await?.was_running() {
                account.screen.done("daemon: stopped");
            }
        }
    }
    let mut screen = account.screen.clone();
    screen.note("memberships, keys and messages stay; this takes them away, too:");
    screen.hint("claudemesh daemon uninstall");
    let document = document(&around, &account, &kinds, is_service_removed);
    Ok(finish(&account, document, screen))
}

/// What it asks.
fn question(wanted: &Account, has_unit: bool) -> String {
    let files = counted(wanted.changed(), "file is", "files are");
    let service = if has_unit { ", and the daemon's service is removed" } else { "" };
    format!("{files} changed{service}. Continue?")
}

fn document(
    around: &Surroundings,
    account: &Account,
    kinds: &[AgentKind],
    service: Option<&str>,
) -> Map<String, Value> {
    let mut removed = Map::new();
    for kind in kinds {
        removed.insert(kind.agent().word.to_owned(), Value::Object(account.document(*kind)));
    }
    removed.insert("service".to_owned(), json!(service.unwrap_or("not present")));
    Map::from_iter([
        ("ok".to_owned(), Value::Bool(account.failed.is_empty())),
        ("dry_run".to_owned(), Value::Bool(false)),
        ("removed".to_owned(), Value::Object(removed)),
        ("backups".to_owned(), account.backups(around)),
        ("failed".to_owned(), account.failed.clone().into()),
    ])
}

fn finish(account: &Account, document: Map<String, Value>, screen: Screen) -> Report {
    let report = Report::new(Document::Object(document), screen);
    if account.failed.is_empty() { report } else { report.exit(ExitCode::Io) }
}
