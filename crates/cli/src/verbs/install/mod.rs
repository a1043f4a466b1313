//! `install`: coding agents learn of this program — MCP server, hooks, skill, permissions, status line, service (CLI spec
//! §6.1, MCP spec §10).

use claudemesh_agents::agent::AgentKind;
use claudemesh_agents::install::{Allow, Choice};
use claudemesh_daemon::care::arm_crash_points;
use claudemesh_daemon::home::config::Config;
use claudemesh_protocol::error::ExitCode;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{InstallArgs, InstallServiceArgs};
use crate::output::prompt::Default;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};
use crate::verbs::service;

pub(crate) mod account;
pub(crate) mod edit;
pub(crate) mod skill;
pub(crate) mod store;
pub(crate) mod surroundings;
pub(crate) mod turn;

use account::Account;
use edit::Aim;
use surroundings::Surroundings;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "ok",
        "dry_run",
        "mcp",
        "hooks",
        "permissions",
        "skill",
        "codex",
        "service",
        "broker",
        "backups",
        "failed",
        "changes",
    ],
    id: "",
};

/// Runs the verb. Each step stands alone: one that fails keeps none of the others from being done.
///
/// # Errors
/// Exit 1 when the person declines, 3 for bad tools or a program that agents could not find again, 7 when nobody can be
/// asked. Files that stay as they are make exit code 10 of a result.
pub(crate) async fn run(context: &Context, args: &InstallArgs) -> Outcome<Report> {
    arm_crash_points();
    if let Some(tools) = &args.tools {
        claudemesh_mcp::Toolset::parse(tools).map_err(|unknown| {
            Failure::invalid(format!("--tools \"{tools}\"")).detail(unknown.to_string())
        })?;
    }
    let around = Surroundings::of(context, true)?;
    let kinds = around.chosen(&args.agents);
    let choice = choice(args);
    let mut wanted = Account::new(Aim::Put);
    for kind in &kinds {
        wanted.look(&around, *kind, &for_agent(&choice, *kind), !args.no_skill);
    }
    let wants_service = !args.no_service && !service::is_current(context);
    if args.dry_run {
        return Ok(dry_run(&around, &wanted, &kinds, wants_service));
    }
    if wanted.is_change() {
        agree(context, &wanted, &question(&wanted, wants_service))?;
    }
    let mut account = Account::new(Aim::Put);
    for kind in &kinds {
        account.carry_out(&around, *kind, &for_agent(&choice, *kind), !args.no_skill);
    }
    let (service_word, broker) = if args.no_service {
        ("skipped", None)
    } else {
        serve(context, args, wants_service, &mut account).await
    };
    Ok(report(context, &around, &account, &kinds, service_word, broker))
}

fn choice(args: &InstallArgs) -> Choice {
    let allow = match args {
        _ if args.no_permissions => Allow::Nothing,
        InstallArgs { allow: Some(_), .. } | InstallArgs { allow_bash: true, .. } => Allow::All,
        _ => Allow::Usual,
    };
    Choice {
        hooks: !args.no_hooks,
        bell: !args.no_bell,
        allow,
        status_line: args.status_line,
        tools: args.tools.clone(),
    }
}

/// Codex runs commands where they reach no socket: its model gets tools unless something else is said.
fn for_agent(choice: &Choice, kind: AgentKind) -> Choice {
    let mut choice = choice.clone();
    if kind == AgentKind::Codex && choice.tools.is_none() {
        choice.tools = Some(claudemesh_mcp::client_config::default_list());
    }
    choice
}

/// Shows what will change and asks once.
pub(crate) fn agree(context: &Context, wanted: &Account, question: &str) -> Outcome<()> {
    if context.global.yes {
        return Ok(());
    }
    if context.out.may_prompt() {
        let mut screen = Screen::new();
        wanted.show_changes(&mut screen);
        context.out.aside(&screen);
    }
    context.consent(question, Default::Yes)
}

/// What `install` asks.
fn question(wanted: &Account, wants_service: bool) -> String {
    let files = crate::verbs::backup::counted(wanted.changed(), "file is", "files are");
    let service = if wants_service { ", and the daemon starts with your login" } else { "" };
    format!("{files} written{service}. Continue?")
}

/// The daemon as a service; what became of that, and the mesh it is connected to. Where a service cannot be, the daemon
/// starts on demand, and that is no failure.
async fn serve(
    context: &Context,
    args: &InstallArgs,
    is_wanted: bool,
    account: &mut Account,
) -> (&'static str, Option<Value>) {
    if !is_wanted {
        account.screen.done("daemon: service unchanged");
        return ("unchanged", None);
    }
    let how = InstallServiceArgs {
        user: true,
        system: false,
        allow_ci_persistent: args.allow_ci_persistent,
        name: None,
    };
    match service::install(context, &how).await {
        Ok(report) => {
            account.screen.append(report.screen);
            let connected = match report.document {
                Document::Object(map) => map.get("connected").cloned(),
                Document::List { .. } | Document::Raw(_) => None,
            };
            ("installed", connected)
        }
        Err(failure) if failure.exit == ExitCode::Io as u8 => {
            account.screen.line(
                Line::new()
                    .icon(Icon::Failed)
                    .put(Token::Plain, format!("daemon: {}", failure.message)),
            );
            account.failed.push(
                json!({ "path": "service", "reason": failure.message, "fix": failure.action }),
            );
            ("failed", None)
        }
        Err(failure) => {
            let why = failure.details.first().map(|why| format!(": {why}")).unwrap_or_default();
            account.screen.note(format!("daemon: no service, {}{why}", failure.message));
            ("skipped", None)
        }
    }
}

fn dry_run(
    around: &Surroundings,
    wanted: &Account,
    kinds: &[AgentKind],
    wants_service: bool,
) -> Report {
    let mut screen = Screen::new();
    wanted.show_changes(&mut screen);
    screen.append(wanted.screen.clone());
    if wants_service {
        screen.note("daemon: a service would be installed where there is a service manager");
    }
    screen.note("nothing was written");
    let service = if wants_service { "added" } else { "unchanged" };
    let mut document = document(around, wanted, kinds, service, None);
    document.insert("dry_run".to_owned(), Value::Bool(true));
    document.insert(
        "changes".to_owned(),
        wanted
            .changes
            .iter()
            .map(|change| json!({ "path": change.path, "diff": change.diff }))
            .collect(),
    );
    finish(wanted, document, screen)
}

fn report(
    context: &Context,
    around: &Surroundings,
    account: &Account,
    kinds: &[AgentKind],
    service: &str,
    broker: Option<Value>,
) -> Report {
    let mut screen = account.screen.clone();
    for kind in kinds {
        if account.has_changed(*kind) {
            screen.line(Line::new().put(Token::Accent, kind.afterwards()));
        }
    }
    let meshes =
        Config::read(&context.paths.membership_file()).map(|config| config.meshes().count());
    screen.hint(if meshes.unwrap_or_default() == 0 {
        "claudemesh join <invite>"
    } else {
        "claudemesh peers"
    });
    let document = document(around, account, kinds, service, broker);
    finish(account, document, screen)
}

fn document(
    around: &Surroundings,
    account: &Account,
    kinds: &[AgentKind],
    service: &str,
    broker: Option<Value>,
) -> Map<String, Value> {
    let mut document = Map::new();
    document.insert("ok".to_owned(), Value::Bool(account.failed.is_empty()));
    document.insert("dry_run".to_owned(), Value::Bool(false));
    document.extend(account.document(AgentKind::Claude));
    let codex = kinds.contains(&AgentKind::Codex).then(|| account.document(AgentKind::Codex));
    document.insert("codex".to_owned(), codex.map_or(Value::Null, Value::Object));
    document.insert("service".to_owned(), Value::from(service));
    document.insert("broker".to_owned(), broker.unwrap_or(Value::Null));
    document.insert("backups".to_owned(), account.backups(around));
    document.insert("failed".to_owned(), account.failed.clone().into());
    document
}

fn finish(account: &Account, document: Map<String, Value>, screen: Screen) -> Report {
    let report = Report::new(Document::Object(document), screen);
    if account.failed.is_empty() { report } else { report.exit(ExitCode::Io) }
}
