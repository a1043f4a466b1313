//! Operations that are one frame to the broker and its reply back: one function for all of them (daemon spec §9.7).

use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::ops::{OperationKind, Shape};
use claudemesh_protocol::wire::{ClientFrame, FrameKind, ServerFrame};
use serde_json::{Map, Value};

use super::{Answer, Call, Place, fields, lost_or_failed, unfit};
use crate::api::Failure;
use crate::mesh::Line as _;

pub(super) async fn run<P: Place>(
    call: Call<'_, P>,
    frame: FrameKind,
    arguments: Map<String, Value>,
) -> Result<Answer, Failure> {
    if let (true, Shape::List(list)) = (call.spec.is_aggregating(), call.spec.shape) {
        let arguments = &arguments;
        return call
            .each(list, |mesh: P::Line| async move { ask(call, frame, &mesh, arguments).await })
            .await;
    }
    let mesh = call.one_mesh()?;
    let reply = ask(call, frame, &mesh, &arguments).await?;
    settled(call, &mesh, &arguments);
    Ok(Answer::on(&mesh, shaped(call, &mesh, reply, arguments)?))
}

/// The reply's own fields. On several presences of ours all must have been answered.
async fn ask<P: Place>(
    call: Call<'_, P>,
    frame: FrameKind,
    mesh: &P::Line,
    arguments: &Map<String, Value>,
) -> Result<Map<String, Value>, Failure> {
    let message = ClientFrame::of_operation(call.kind, arguments.clone())
        .map_err(|error| unfit(&error))?
        .ok_or_else(|| Failure::new(ErrorCode::Internal, "the operation has no frame"))?;
    let asked = call
        .roads(mesh)
        .into_iter()
        .map(|via| mesh.request_within(via, message.clone(), call.limit));
    let mut reply = None;
    for answer in futures_util::future::join_all(asked).await {
        reply = Some(answer.map_err(|error| lost_or_failed(call.spec, &error))?);
    }
    reply.map_or_else(|| Err(unexpected()), |reply| fields_of(frame, &reply))
}

/// The fields of a reply of the right kind, as the broker sent them.
fn fields_of(frame: FrameKind, reply: &ServerFrame) -> Result<Map<String, Value>, Failure> {
    let mut fields = fields(reply)?;
    let word = fields.shift_remove("type");
    fields.shift_remove("_reqId");
    if word.as_ref().and_then(Value::as_str) == frame.spec().reply {
        Ok(fields)
    } else {
        Err(unexpected())
    }
}

fn unexpected() -> Failure {
    Failure::of_broker("broker_error", "the broker gave an unexpected answer")
}

fn shaped<P: Place>(
    call: Call<'_, P>,
    mesh: &P::Line,
    mut reply: Map<String, Value>,
    arguments: Map<String, Value>,
) -> Result<Map<String, Value>, Failure> {
    let slug = Value::from(mesh.slug());
    match call.spec.shape {
        Shape::Done(echoed) => {
            let mut result =
                Map::from_iter([("ok".to_owned(), true.into()), ("mesh".to_owned(), slug)]);
            result
                .extend(arguments.into_iter().filter(|(name, _)| echoed.contains(&name.as_str())));
            Ok(result)
        }
        Shape::RecordUnlessEmpty(field) if is_empty(reply.get(field)) => {
            Err(absent(call, &arguments))
        }
        Shape::Record | Shape::RecordUnlessEmpty(_) => {
            reply.entry("mesh").or_insert(slug);
            Ok(reply)
        }
        Shape::List(list) => {
            let rows = reply.get_mut(list).and_then(Value::as_array_mut);
            for row in rows.into_iter().flatten().filter_map(Value::as_object_mut) {
                row.entry("mesh").or_insert_with(|| slug.clone());
            }
            Ok(reply)
        }
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// The record asked for is not there; named by the first thing that was asked for.
fn absent<P>(call: Call<'_, P>, arguments: &Map<String, Value>) -> Failure {
    let asked = call.spec.verb.and_then(|verb| arguments.get(*verb.positional.first()?));
    let message = match asked {
        Some(asked) => format!("there is no {asked} on \"{}\"", call.mesh.unwrap_or("this mesh")),
        None => "there is no such record".to_owned(),
    };
    Failure::new(ErrorCode::NotFound, message)
}

/// What follows here from what the broker did there.
fn settled<P: Place>(call: Call<'_, P>, mesh: &P::Line, arguments: &Map<String, Value>) {
    if call.kind == OperationKind::StateSet
        && let Some(key) = arguments.get("key").and_then(Value::as_str)
    {
        let session = call.caller.session.as_ref().map(|session| session.session_id.as_str());
        let value = arguments.get("value").unwrap_or(&Value::Null);
        mesh.state_was_set(key, value, session);
    }
}
