//! Verbs that follow from the operation table: check, choose the mesh, ask the gate, let the daemon do it, show the
//! result (CLI spec §12.1). What a table cannot say about one of them stands in [`afterwards`] and [`named_target`].

use std::time::Duration;

use claudemesh_ipc::client::PeerFilter;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::ops::policy::TARGET_FIELDS;
use claudemesh_protocol::ops::{ArgumentError, Class, Operation, OperationKind, Shape, Verb};
use claudemesh_protocol::text::sanitized_line;
use serde_json::{Map, Value};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::Invoked;
use crate::grammar::operations::kebab;
use crate::link;
use crate::output::{Fields, Report};
use crate::select::Several;

mod draw;

/// Longest name in a sentence, in characters.
const NAME_MAX_CHARS: usize = 100;

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
    let client = context.daemon_client().await?;
    let work = settled(&client, async || {
        let reply = client.op(invoked.kind, chosen.one(), arguments.clone()).await;
        reply.map_err(link::failure)
    });
    let work = Box::pin(within(context.global.timeout, work));
    let reply = context.out.during(&format!("waiting for {}", context.spoken), work).await;
    let reply = reply.map_err(|failure| explained(failure, &spec, verb, &arguments))?;
    afterwards(context, invoked.kind, &reply.result)?;
    Ok(draw::report(context, invoked.kind, &arguments, chosen.one(), reply.result))
}

/// A list is read from every mesh; anything else needs one.
fn several(spec: &Operation) -> Several {
    match (spec.class, spec.shape) {
        (Class::Read, Shape::List(_)) => Several::Aggregate,
        _ => Several::Choose,
    }
}

/// The operation has a time of its own; `--timeout` replaces it.
///
/// # Errors
/// Exit 4 when the time is over.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let Some(limit) = limit else { return work.await };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        Err(Failure::new(ErrorCode::Timeout, format!("no answer within {seconds} s"))
            .detail("it may have happened all the same"))
    })
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
    let client = context.daemon_client().await?;
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
            format!("<{}>", kebab(field))
        } else {
            format!("--{}", kebab(field))
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
) -> Failure {
    let named = verb
        .positional
        .first()
        .and_then(|name| arguments.get(*name))
        .and_then(Value::as_str)
        .map(|text| sanitized_line(text, NAME_MAX_CHARS));
    match (failure.code.as_str(), named) {
        ("not_found", Some(name)) if matches!(spec.shape, Shape::RecordUnlessEmpty(_)) => {
            let none = verb.none.trim_matches(['(', ')']);
            failure.message = format!("\"{name}\": {none}");
            failure.action = None;
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
/// Exit 5 when a kick or a disconnect reached nobody.
fn afterwards(context: &Context, kind: OperationKind, result: &Value) -> Outcome<()> {
    for error in result.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        context.out.warning(&format!("{}: {}", text("mesh"), text("error")));
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
        Failure::not_found("no session matches").action("claudemesh peers --all")
    } else {
        Failure::not_found("only connections of daemons match")
            .detail("to keep the member out: claudemesh ban; on its own machine: claudemesh daemon down")
            .action("claudemesh ban <member>")
    })
}

#[cfg(test)]
mod tests;
