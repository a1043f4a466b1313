//! Verbs that follow from the operation table: check, choose the mesh, ask the gate, let the daemon do it, show the
//! result (CLI spec §12.1). What a table cannot say about one of them stands in [`afterwards`] and [`named_target`].

use std::time::Duration;

use claudemesh_ipc::client::PeerFilter;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::ops::policy::TARGET_FIELDS;
use claudemesh_protocol::ops::{ArgumentError, Class, Operation, OperationKind, Run, Shape, Verb};
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::wire::{FrameKind, Right};
use serde_json::{Map, Value};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::Invoked;
use crate::grammar::operations::typed_name;
use crate::link;
use crate::output::{Fields, Report};
use crate::select::Several;
use crate::verbs::person;

mod audit;
pub(super) mod draw;
mod named;
mod rights;

/// Longest name in a sentence, in characters.
const NAME_MAX_CHARS: usize = 100;

/// What somebody does who is no admin.
const WHO_IS_ADMIN: &str = "see who is: claudemesh members";

/// Names of the fields of the result, or of a row of its list.
pub(crate) fn field_names(kind: OperationKind) -> Vec<String> {
    let schema = kind.output_schema();
    let owner = match kind.spec().shape {
        Shape::List(list) => format!("/properties/{list}/items/properties"),
        _ => "/properties".to_owned(),
    };
    match schema.pointer(&owner) {
        Some(Value::Object(properties)) => properties.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// These names, and what `id` stands for among them.
pub(crate) fn fields<'a>(names: &'a [&'a str]) -> Fields<'a> {
    let id = ["id", "pubkey", "memberPubkey", "key", "name"];
    let id = id.iter().find_map(|wanted| names.iter().find(|name| *name == wanted));
    Fields { names, id: id.copied().unwrap_or_default() }
}

/// Runs the operation.
///
/// # Errors
/// Exit 3 for arguments that do not fit, 7 when the gate or the broker refuses, 4 without daemon or broker, 5 when there
/// is no such thing.
pub(crate) async fn run(context: &Context, invoked: &Invoked) -> Outcome<Report> {
    let spec = invoked.kind.spec();
    let Some(verb) = spec.verb else {
        return Err(Failure::new(ErrorCode::UnknownOp, format!("{} is no verb", spec.name)));
    };
    let arguments = invoked
        .kind
        .arguments(invoked.arguments.clone())
        .map_err(|error| unfit(&error, verb, &context.spoken))?;
    let chosen = context.meshes(&context.config()?, several(&spec)).await?;
    ask_gate(context, invoked.kind, &arguments, chosen.slugs()).await?;
    let client = context.client_for(invoked.kind, &arguments).await?;
    let work = settled(&client, async || {
        let reply = client.op(invoked.kind, chosen.one(), arguments.clone()).await;
        reply.map_err(link::failure)
    });
    let work = Box::pin(work);
    let reply = match context.out.during(&format!("waiting for {}", context.spoken), work).await {
        Err(failure) if named::is_unknown_peer(&spec, &failure, &arguments) => {
            named::as_spelled(&client, invoked.kind, chosen.one(), &arguments, failure).await
        }
        reply => reply,
    };
    let reply =
        reply.map_err(|failure| explained(failure, &spec, verb, &arguments, chosen.one()))?;
    afterwards(context, invoked.kind, &reply.result)?;
    let mut report =
        draw::report(context, invoked.kind, &arguments, chosen.one(), reply.result.clone());
    if invoked.kind == OperationKind::PeerUnban {
        report.screen.hint("on the member's machine: claudemesh daemon restart");
    }
    if invoked.kind == OperationKind::MeshPing
        && reply.result.get("ws_status") != Some(&"open".into())
    {
        report = report.exit(ExitCode::Network);
    }
    if context.out.is_json() {
        return Ok(report);
    }
    let worded = match invoked.kind {
        OperationKind::AuditQuery => audit::worded(&client, chosen.one(), reply.result).await,
        OperationKind::MeshInfo => overview(reply.result, reply.mesh.as_deref()),
        OperationKind::GrantList => rights::blocked_marked(reply.result),
        OperationKind::MemberPermissions if arguments.contains_key("peer") => {
            report.screen = rights::of_one(&reply.result).unwrap_or(report.screen);
            return Ok(report);
        }
        OperationKind::MemberPermissions
        | OperationKind::MemberAllow
        | OperationKind::MemberDeny
        | OperationKind::MemberRole => rights::worded(reply.result),
        _ => return Ok(report),
    };
    report.screen = draw::report(context, invoked.kind, &arguments, chosen.one(), worded).screen;
    Ok(report)
}

/// What `mesh info` says to a person: the name of the mesh instead of its id, and no list of what this version has not.
fn overview(mut result: Value, slug: Option<&str>) -> Value {
    let Some(fields) = result.as_object_mut() else { return result };
    if let Some(slug) = slug {
        fields.insert("mesh".to_owned(), slug.into());
    }
    if let Some(Value::Array(warnings)) = fields.get_mut("warnings") {
        let is_missing = |warning: &Value| {
            warning.as_str().is_some_and(|text| text.ends_with("not available in this version"))
        };
        warnings.retain(|warning| !is_missing(warning));
        if warnings.is_empty() {
            fields.remove("warnings");
        }
    }
    result
}

/// A list is read from every mesh; anything else needs one.
fn several(spec: &Operation) -> Several {
    match (spec.class, spec.shape) {
        (Class::Read, Shape::List(_)) => Several::Aggregate,
        _ => Several::Choose,
    }
}

/// The gate, with the number of sessions that `--all` means in its question.
async fn ask_gate(
    context: &Context,
    kind: OperationKind,
    arguments: &Map<String, Value>,
    meshes: &[String],
) -> Outcome<()> {
    let target = TARGET_FIELDS
        .iter()
        .find_map(|name| arguments.get(*name))
        .or_else(|| kind.spec().verb.and_then(|verb| arguments.get(*verb.positional.first()?)))
        .and_then(Value::as_str);
    let Some(judged) = context.judge(meshes, target).await? else { return Ok(()) };
    if judged.asks() && target.is_none() && context.out.may_prompt() {
        let named = named_target(context, arguments, meshes.first().map(String::as_str)).await?;
        return context.settle(&judged.naming(named));
    }
    context.settle(&judged)
}

/// What `--all` and `--stale` mean, in words.
async fn named_target(
    context: &Context,
    arguments: &Map<String, Value>,
    mesh: Option<&str>,
) -> Outcome<String> {
    if let Some(stale) = arguments.get("stale").and_then(Value::as_u64) {
        let span = Context::span(Duration::from_millis(stale));
        return Ok(format!("everybody silent for {span}"));
    }
    let client = context.client_of(OperationKind::PeerList).await?;
    let peers = settled(&client, async || {
        client.peers(mesh, PeerFilter::Reachable).await.map_err(link::failure)
    });
    let others =
        peers.await?.peers.iter().filter(|peer| !peer.is_this_session && !peer.no_session).count();
    Ok(format!("all {others} sessions"))
}

/// An argument that passed the grammar and does not fit the operation.
fn unfit(error: &ArgumentError, verb: Verb, spoken: &str) -> Failure {
    let place = |field: &str| {
        if verb.positional.contains(&field) {
            format!("<{}>", typed_name(verb, field))
        } else {
            format!("--{}", typed_name(verb, field))
        }
    };
    let failure = match error {
        ArgumentError::Missing { field } => {
            Failure::invalid(format!("{spoken}: missing {}", place(field)))
        }
        ArgumentError::Value { field, expected } => {
            Failure::invalid(format!("{spoken}: {}", place(field)))
                .detail(format!("expected: {expected}"))
        }
        other => Failure::invalid(format!("{spoken}: {other}")),
    };
    failure.with("field", error.field().to_owned())
}

/// The daemon's refusal, with what this verb knows about it.
fn explained(
    mut failure: Failure,
    spec: &Operation,
    verb: Verb,
    arguments: &Map<String, Value>,
    mesh: Option<&str>,
) -> Failure {
    let named = verb
        .positional
        .first()
        .and_then(|name| arguments.get(*name))
        .and_then(Value::as_str)
        .map(|text| sanitized_line(text, NAME_MAX_CHARS));
    if let Some(typed) = TARGET_FIELDS.iter().find_map(|name| arguments.get(*name)?.as_str()) {
        failure = person::refused(typed, mesh, failure);
    }
    // A capability may have the name of a frame, and stays what it is.
    if let (Run::Forward(frame), false) = (spec.run, failure.background.extra.contains_key("cap")) {
        let frame = frame.spec();
        // The broker names its frame; people know the verb.
        let word = format!("\"{}\"", frame.word);
        failure.message = failure.message.replace(&word, &format!("\"{}\"", verb.words));
        if frame.right == Right::Admin && failure.code == "forbidden" && failure.action.is_none() {
            failure.action = Some(WHO_IS_ADMIN.to_owned());
        }
    }
    match (failure.code.as_str(), named) {
        ("not_found", None) if verb.positional == ["target"] => {
            "no session matches".clone_into(&mut failure.message);
            failure.action = Some("claudemesh peers".to_owned());
        }
        ("not_found", Some(name)) if matches!(spec.shape, Shape::RecordUnlessEmpty(_)) => {
            let none = verb.none.trim_matches(['(', ')']);
            failure.message = format!("\"{name}\": {none}");
            let resource = verb.words.split(' ').next().unwrap_or_default();
            failure.action = Some(format!("claudemesh {resource} list"));
        }
        ("version_conflict", Some(name)) if spec.run == Run::Forward(FrameKind::SetState) => {
            failure.action = Some(format!("claudemesh state get {name}"));
        }
        ("admin_managed", _) if verb.words == "member role" => {
            "only the owner or an admin can use \"member role\"".clone_into(&mut failure.message);
            failure.action = Some(WHO_IS_ADMIN.to_owned());
        }
        ("unknown_op", _) => {
            failure.message = format!("the running daemon does not know {}", spec.name);
            failure.action = Some("claudemesh daemon restart".to_owned());
        }
        _ => {}
    }
    failure
}

/// Meshes that could not be asked are said, and an answer that is no success for the person who asked is none.
///
/// # Errors
/// Exit 5 when a kick or a disconnect reached nobody, 8 when the audit log was changed.
fn afterwards(context: &Context, kind: OperationKind, result: &Value) -> Outcome<()> {
    for error in result.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        context.out.warning(&format!("{}: {}", text("mesh"), text("error")));
    }
    if kind == OperationKind::AuditVerify && result.get("valid") == Some(&Value::Bool(false)) {
        return Err(broken_chain(result));
    }
    if !matches!(kind, OperationKind::PeerKick | OperationKind::PeerDisconnect) {
        return Ok(());
    }
    let names = |key: &str| -> Vec<String> {
        let list = result.get(key).and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(|text| sanitized_line(text, NAME_MAX_CHARS)).collect()
    };
    let (affected, skipped) = (names("affected"), names("skipped_control_plane"));
    if !skipped.is_empty() {
        context.out.warning(&format!(
            "{}: the daemon's own connection was left alone, it would come back at once",
            skipped.join(", ")
        ));
    }
    if !affected.is_empty() {
        return Ok(());
    }
    Err(if skipped.is_empty() {
        Failure::not_found("no session matches").action("claudemesh peers")
    } else {
        Failure::not_found("only connections of daemons match")
            .detail("to keep the member out: claudemesh ban; on its own machine: claudemesh daemon down")
            .action("claudemesh ban <member>")
    })
}

/// An audit log that was changed: no success, whatever else the answer says.
fn broken_chain(result: &Value) -> Failure {
    let at = result.get("brokenAt").and_then(Value::as_i64);
    let place = at.map(|id| format!(" at entry {id}")).unwrap_or_default();
    let mut failure =
        Failure::of_word("audit_chain_broken", format!("the audit log was changed{place}"))
            .exit(ExitCode::Internal);
    if let Some(why) = result.get("explanation").and_then(Value::as_str) {
        failure = failure.detail(sanitized_line(why, NAME_MAX_CHARS * 2));
    }
    if let Some(fields) = result.as_object() {
        failure.background.extra.extend(fields.clone());
    }
    failure.action("claudemesh audit query, and compare with a copy you kept")
}

#[cfg(test)]
mod tests;
