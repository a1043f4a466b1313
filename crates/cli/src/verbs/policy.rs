//! `policy show|path|check|init`: the gate's rules, seen and tried (CLI spec §1.17).

use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::ops::policy::{Action, Decision, Gated, Source};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::gate;
use crate::grammar::args::{PolicyCheckArgs, PolicyVerb};
use crate::output::{Document, Fields, Report, Screen, Side, Table};

/// Keys of the result.
pub(crate) const fn fields(verb: &PolicyVerb) -> Fields<'static> {
    let names: &[&str] = match verb {
        PolicyVerb::Show => &["path", "exists", "mode", "default", "rules", "builtin"],
        PolicyVerb::Path => &["path", "exists"],
        PolicyVerb::Check(_) => {
            &["resource", "verb", "mesh", "mode", "decision", "source", "rule", "reason"]
        }
        PolicyVerb::Init(_) => &["path", "written"],
    };
    Fields { names, id: "path" }
}

/// Runs the verb.
///
/// # Errors
/// Exit 3 for an unknown verb, 6 when there is a file already, 10 when it cannot be written.
pub(crate) async fn run(context: &Context, verb: &PolicyVerb) -> Outcome<Report> {
    match verb {
        PolicyVerb::Show => show(context),
        PolicyVerb::Path => Ok(path(context)),
        PolicyVerb::Check(args) => check(context, args).await,
        PolicyVerb::Init(args) => init(context, args.force),
    }
}

fn show(context: &Context) -> Outcome<Report> {
    let policy = context.policy()?;
    let mode = context.approval_mode()?;
    let (path, _) = context.policy_path();
    let builtin: Vec<_> =
        gate::gated_verbs().into_iter().filter(|gated| !gated.reason_to_ask.is_empty()).collect();
    let mut screen = Screen::new();
    screen.section(&format!("policy {}", path.display()));
    let columns = ["rule", "resource", "verb", "mesh", "peers", "decision", "reason"];
    let mut table = Table::new(
        columns
            .iter()
            .map(|name| {
                ((*name).to_owned(), if *name == "rule" { Side::Right } else { Side::Left })
            })
            .collect(),
    );
    let line = |text: &str| claudemesh_protocol::text::sanitized_line(text, 200);
    for (at, rule) in policy.rules.iter().enumerate() {
        table.row(vec![
            (at + 1).to_string(),
            line(&rule.resource),
            line(&rule.verb),
            line(rule.mesh.as_deref().unwrap_or("*")),
            rule.peers.as_ref().map_or_else(|| "*".to_owned(), |peers| line(&peers.join(", "))),
            rule.decision.as_str().to_owned(),
            line(rule.reason.as_deref().unwrap_or_default()),
        ]);
    }
    // A rule for everybody decides before a built-in one is looked at.
    let is_overruled = |gated: &Gated| {
        policy.rules.iter().any(|rule| {
            let fits = |pattern: &str, word: &str| pattern == "*" || pattern == word;
            let is_for_all = rule.mesh.is_none() && rule.peers.is_none();
            is_for_all && fits(&rule.resource, gated.resource) && fits(&rule.verb, gated.verb)
        })
    };
    for gated in builtin.iter().filter(|gated| !is_overruled(gated)) {
        table.row(
            ["", gated.resource, gated.verb, "*", "*", "prompt", gated.reason_to_ask]
                .map(str::to_owned)
                .to_vec(),
        );
    }
    screen.table(table);
    screen.blank();
    screen.note(format!(
        "everything else: {} · approval mode: {}",
        policy.default.as_str(),
        mode.as_str()
    ));
    let builtin: Vec<Value> = builtin
        .iter()
        .map(|gated| {
            json!({
                "resource": gated.resource, "verb": gated.verb,
                "decision": "prompt", "reason": gated.reason_to_ask,
            })
        })
        .collect();
    let document = json!({
        "path": path.display().to_string(),
        "exists": path.exists(),
        "mode": mode.as_str(),
        "default": policy.default,
        "rules": policy.rules,
        "builtin": builtin,
    });
    Ok(Report::new(Document::object(document), screen))
}

fn path(context: &Context) -> Report {
    let (path, _) = context.policy_path();
    let mut screen = Screen::new();
    screen.line(
        crate::output::Line::new()
            .indent(0)
            .put(crate::output::Token::Plain, path.display().to_string()),
    );
    let document = json!({ "path": path.display().to_string(), "exists": path.exists() });
    Report::new(Document::object(document), screen)
}

/// Names, keys and groups of the target, as the gate will see them; `None` when no daemon that runs can tell. Trying a
/// rule starts nothing.
async fn names_behind(context: &Context, mesh: Option<&str>, target: &str) -> Option<Vec<String>> {
    let client = context.running_daemon().await?;
    claudemesh_ipc::policy::names_of(&client, mesh, target).await.ok()
}

async fn check(context: &Context, args: &PolicyCheckArgs) -> Outcome<Report> {
    let gated = gate::gated_verb(&args.resource, &args.verb)?;
    let policy = context.policy()?;
    let mode = context.approval_mode()?;
    let mesh = context.global.mesh.as_deref();
    let mut target_names: Vec<String> = args.target.iter().cloned().collect();
    if let Some(target) = &args.target
        && policy.rules.iter().any(|rule| rule.asks_for_target(gated))
    {
        match names_behind(context, mesh, target).await {
            Some(names) => target_names.extend(names),
            None => context
                .out
                .warning("no daemon to ask: rules with peers see the target as it was typed"),
        }
    }
    let verdict = policy.decide(&Action { gated, mesh, target_names: &target_names }, mode);
    let mut document = Map::from_iter([
        ("resource".to_owned(), Value::from(gated.resource)),
        ("verb".to_owned(), Value::from(gated.verb)),
        ("mode".to_owned(), Value::from(mode.as_str())),
        ("decision".to_owned(), Value::from(verdict.decision.as_str())),
        ("source".to_owned(), json!(verdict.source)),
    ]);
    let extra = [
        ("mesh", mesh.map(Value::from)),
        ("rule", verdict.rule.map(Value::from)),
        ("reason", verdict.reason.clone().map(Value::from)),
    ];
    for (key, value) in extra {
        if let Some(value) = value {
            document.insert(key.to_owned(), value);
        }
    }
    let ground = match (verdict.source, verdict.rule) {
        (Source::File, Some(rule)) => format!("rule {rule}"),
        (Source::File, None) => "the policy file".to_owned(),
        (Source::Builtin, _) => "a built-in rule".to_owned(),
        (Source::Default, _) => "the default".to_owned(),
        (Source::Mode, _) => "the approval mode".to_owned(),
    };
    let reason = verdict.reason.as_deref().map(|reason| format!(" — {reason}")).unwrap_or_default();
    let sentence = claudemesh_protocol::text::sanitized_line(
        &format!(
            "{} {}: {} by {ground}{reason}",
            gated.resource,
            gated.verb,
            verdict.decision.as_str()
        ),
        300,
    );
    let mut screen = Screen::new();
    match verdict.decision {
        Decision::Allow => screen.done(sentence),
        Decision::Prompt | Decision::Deny => screen.attention(sentence),
    };
    let report = Report::new(Document::Object(document), screen);
    Ok(match verdict.decision {
        Decision::Deny => report.exit(ExitCode::PermissionDenied),
        Decision::Allow | Decision::Prompt => report,
    })
}

fn init(context: &Context, is_forced: bool) -> Outcome<Report> {
    let (path, _) = context.policy_path();
    let cannot =
        |error: &std::io::Error| Failure::io(format!("cannot write {}", path.display()), error);
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        claudemesh_daemon::home::file::create_private_dir(dir).map_err(|error| cannot(&error))?;
    }
    let text = gate::default_file();
    if is_forced {
        use claudemesh_daemon::home::file::{self, Symlinks};

        file::replace(&path, text.as_bytes(), file::SECRET, Symlinks::Refuse)
            .map_err(|error| cannot(&error))?;
    } else {
        gate::write_new(&path, &text).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::new(ErrorCode::Io, format!("{} exists", path.display()))
                    .exit(ExitCode::AlreadyExists)
                    .action("claudemesh policy init --force   (replaces it)")
            }
            _ => cannot(&error),
        })?;
    }
    let mut screen = Screen::new();
    screen.done(format!("wrote {}", path.display()));
    let document = json!({ "path": path.display().to_string(), "written": true });
    Ok(Report::new(Document::object(document), screen))
}
