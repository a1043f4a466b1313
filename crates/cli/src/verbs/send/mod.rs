//! `message send`: hands a text to the daemon and says honestly what became of it (CLI spec §3.6).

use std::time::Duration;

use claudemesh_ipc::Client;
use claudemesh_ipc::api::{EventsQuery, SendReply, SendRequest};
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::ops::OperationKind;
use claudemesh_protocol::{Priority, limits};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{PriorityWord, SendArgs};
use crate::grammar::input::read_stdin;
use crate::link;
use crate::output::{Fields, Report};
use crate::select::Several;
use crate::verbs::person;

mod target;
mod watch;
mod wording;

use target::Target;
use watch::Watch;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "ok",
        "client_message_id",
        "broker_message_id",
        "history_id",
        "target",
        "mesh",
        "status",
        "outcome",
        "recipient_online",
        "rerouted_to",
        "recipients",
        "held",
        "unreadable_by",
        "left_out",
        "skipped_no_key",
        "duplicate",
        "results",
        "via",
    ],
    id: "client_message_id",
};

/// Time for the daemon to accept (CLI spec §9).
const TIMEOUT: Duration = Duration::from_secs(3);
/// A roster younger than this is given again instead of being fetched (daemon spec §7.5).
const ROSTER_MEMORY: Duration = Duration::from_millis(500);

/// How the broker begins its refusal when the receiver does not let the sender write (wire spec §3.1).
const BLOCKED: &str = "blocked by recipient grants";

/// Runs the verb.
///
/// # Errors
/// Exit 3 for bad input, 4 without daemon, 5 for an unknown peer, 6 for an id used otherwise, 7 when forbidden.
pub(crate) async fn run(context: &Context, args: &SendArgs) -> Outcome<Report> {
    let text = text(context, args)?;
    if let Some(id) = &args.reply_to {
        crate::verbs::status::check_id(&format!("{}: --reply-to", context.spoken), id)?;
    }
    let config = context.config()?;
    let chosen = context.meshes(&config, Several::Aggregate).await?;
    let target = Target::read(context, &config, &args.to, chosen.one().map(str::to_owned))?;
    let meshes = target.mesh.as_ref().map_or_else(|| chosen.slugs(), std::slice::from_ref);
    context.admit(meshes, Some(&target.to)).await?;
    let client = context.client_of(OperationKind::MessageSend).await?;
    if args.require_online {
        target.require_online(&client).await?;
    }
    let request = SendRequest {
        to: target.to.clone(),
        message: text,
        priority: Some(priority(args.priority)),
        reply_to_id: args.reply_to.clone(),
        client_message_id: args.client_id.clone(),
        mesh: target.mesh.clone(),
        to_self: args.to_self,
        ..SendRequest::default()
    };
    send(context, args, &client, &target, request).await
}

async fn send(
    context: &Context,
    args: &SendArgs,
    client: &Client,
    target: &Target,
    request: SendRequest,
) -> Outcome<Report> {
    // Opened before the send, so that the broker's word about it cannot be missed.
    let kinds = Some("message_sent,receipt,outbox_dead".to_owned());
    let query = EventsQuery { kinds, ..EventsQuery::default() };
    let events =
        client.clone().with_timeout(limits::CLI_SEND_WORDING_WAIT).events(&query, None).await.ok();
    let client = client.clone().with_timeout(context.budget(TIMEOUT));
    let work = settled(&client, async || accepted(&client, &request, target).await);
    let reply =
        context.out.during("sending", work).await.map_err(|failure| refused(target, failure))?;
    if reply.results.is_some() {
        return Ok(wording::fan_out(&reply));
    }
    if args.to_self {
        context.out.warning("--self had no effect: the target is somebody else");
    }
    if reply.duplicate {
        return Ok(wording::duplicate(&reply));
    }
    let mut watch = Watch::new(events, &reply);
    let sent =
        watch.sent(limits::CLI_SEND_WORDING_WAIT).await.map_err(|dead| refused(target, dead))?;
    let delivered = match args.wait {
        None => None,
        Some(wait) => {
            let waiting = watch.delivered(&client, wait);
            Some(context.out.during("waiting for the recipient", waiting).await?)
        }
    };
    let sent = sent.or_else(|| watch.last_word());
    let is_open = match sent {
        Some(_) => true,
        None => is_mesh_open(&client, &reply).await,
    };
    let name = target.name(context, &client, &reply).await;
    let said = wording::Said {
        reply: &reply,
        kind: target.kind,
        name: &name,
        sent: sent.as_ref(),
        is_open,
        delivered,
        waited: args.wait.unwrap_or_default(),
    };
    Ok(said.report())
}

/// Hands the message over. The daemon knows names from its roster, which may be older than somebody who joined just
/// now: before a name is called unknown the roster is fetched anew. A refused send leaves no trace, so the repeat is safe.
async fn accepted(client: &Client, request: &SendRequest, target: &Target) -> Outcome<SendReply> {
    let mut result = client.send(request).await.map_err(link::failure);
    for pause in [Duration::ZERO, ROSTER_MEMORY] {
        let is_unknown = result.as_ref().is_err_and(|failure| failure.code == "target_not_found");
        if !is_unknown || !target.is_by_name() {
            break;
        }
        tokio::time::sleep(pause).await;
        if client.members(request.mesh.as_deref()).await.is_err() {
            break;
        }
        result = client.send(request).await.map_err(link::failure);
    }
    result
}

/// True when the mesh has its connection; a send then only waits for its turn.
async fn is_mesh_open(client: &Client, reply: &SendReply) -> bool {
    let open = claudemesh_ipc::api::MeshStatus::Open;
    client.health().await.is_ok_and(|health| health.brokers.get(&reply.mesh) == Some(&open))
}

const fn priority(word: PriorityWord) -> Priority {
    match word {
        PriorityWord::Now => Priority::Now,
        PriorityWord::Next => Priority::Next,
        PriorityWord::Low => Priority::Low,
    }
}

/// The words, or what stdin holds.
fn text(context: &Context, args: &SendArgs) -> Outcome<String> {
    let missing = || {
        Failure::new(ErrorCode::MissingField, format!("{}: missing <text>", context.spoken))
            .exit(ExitCode::InvalidArgs)
            .detail(format!("usage: claudemesh {} <to> <text…>", context.spoken))
            .with("field", "text")
    };
    let is_dash = args.text.len() == 1 && args.text.first().is_some_and(|word| word == "-");
    if args.from_stdin && !args.text.is_empty() && !is_dash {
        return Err(Failure::invalid(format!("{}: --from-stdin and a text", context.spoken))
            .detail("expected: one of the two"));
    }
    let text =
        if args.from_stdin || is_dash { read_stdin(&context.spoken)? } else { args.text.join(" ") };
    if text.trim().is_empty() { Err(missing()) } else { Ok(text) }
}

/// The daemon's refusal, in the words of the catalogue.
fn refused(target: &Target, failure: Failure) -> Failure {
    let to = claudemesh_protocol::text::sanitized_line(&target.to, 60);
    match failure.code.as_str() {
        "self_target" => Failure {
            message: format!("\"{to}\" is you"),
            details: vec!["expected: somebody else".to_owned()],
            action: Some("pass --self to reach your own other sessions".to_owned()),
            exit: ExitCode::InvalidArgs as u8,
            ..failure
        },
        "target_not_found" | "ambiguous_target" => {
            person::refused(&target.to, target.mesh.as_deref(), failure)
        }
        "payload_too_large" => {
            let max = failure.background.extra.get("max_bytes").and_then(serde_json::Value::as_u64);
            match max {
                Some(max) => Failure {
                    message: format!("message too large (at most {max} bytes)"),
                    ..failure
                },
                None => failure,
            }
        }
        "idempotency_conflict" => Failure {
            details: failure
                .background
                .extra
                .get("row_status")
                .and_then(serde_json::Value::as_str)
                .map(|status| format!("the message first sent under it is {status}"))
                .into_iter()
                .collect(),
            message: "this --client-id was used for another message".to_owned(),
            action: Some("use a new --client-id".to_owned()),
            ..failure
        },
        "forbidden" if failure.message.starts_with(BLOCKED) => Failure {
            message: format!("\"{to}\" takes no messages from you"),
            action: Some("ask them: claudemesh grant <your name> dm".to_owned()),
            ..failure
        },
        "loop_stopped" => failure.action("claudemesh message status <id>"),
        "daemon_unreachable" => failure,
        _ if failure.action.is_none() && failure.exit == ExitCode::Network as u8 => {
            failure.action("claudemesh daemon status")
        }
        _ => failure.with_way_to_permission(),
    }
}
