//! `POST /v1/ops/<op>`: operations by name (daemon spec §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use claudemesh_ipc::api::OpReply;
use claudemesh_ipc::api::system::OpRequest;
use claudemesh_protocol::wire::{
    ClientFrame, FrameKind, JoinGroup, LeaveGroup, MessageStatus, ServerFrame,
};
use claudemesh_protocol::{ErrorCode, GroupName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::caller::Caller;
use super::failure::Failure;
use super::profile::broker_failure;
use super::{Api, input};
use crate::mesh::Via;

pub(super) async fn run(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(op): Path<String>,
    request: Request,
) -> Result<Json<OpReply>, Failure> {
    let op = input::segment(&op)?.to_owned();
    let body: OpRequest = input::json(request, input::MESSAGE).await?;
    let mesh = body.mesh.as_deref();
    let (mesh, result) = match op.as_str() {
        "peer.list" => {
            let listing = super::peers::listing(body.args.get("all").and_then(Value::as_bool));
            (body.mesh.clone(), to_value(&api.peers(&caller, mesh, listing).await?)?)
        }
        "member.list" => (body.mesh.clone(), to_value(&api.members(&caller, mesh).await?)?),
        "group.join" => change_group(&api, &caller, mesh, body.args, Change::Join).await?,
        "group.leave" => change_group(&api, &caller, mesh, body.args, Change::Leave).await?,
        "message.status" => message_status(&api, &caller, mesh, body.args).await?,
        _ => {
            let message = format!("there is no operation {op:?}");
            return Err(Failure::new(ErrorCode::UnknownOp, message));
        }
    };
    Ok(Json(OpReply { ok: true, op, mesh, result }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Join,
    Leave,
}

async fn change_group(
    api: &Api,
    caller: &Caller,
    mesh: Option<&str>,
    args: Map<String, Value>,
    change: Change,
) -> Result<(Option<String>, Value), Failure> {
    #[derive(serde::Deserialize)]
    struct Args {
        name: String,
        role: Option<String>,
    }
    let kind = if change == Change::Join { FrameKind::JoinGroup } else { FrameKind::LeaveGroup };
    caller.need_access(kind.spec().access)?;
    let args: Args = from_args(args)?;
    let name = GroupName::parse_lenient(&args.name)
        .map_err(|error| Failure::field("name", error.to_string()))?;
    let frame = match change {
        Change::Join => ClientFrame::JoinGroup(Box::new(JoinGroup {
            name: name.as_str().to_owned(),
            role: args.role.clone(),
        })),
        Change::Leave => {
            ClientFrame::LeaveGroup(Box::new(LeaveGroup { name: name.as_str().to_owned() }))
        }
    };
    let mesh = api.one_mesh(mesh, caller)?;
    for via in api.presences(&mesh, caller) {
        mesh.request(via, frame.clone()).await.map_err(|error| broker_failure(&error))?;
    }
    let mut result = json!({ "ok": true, "mesh": mesh.slug(), "name": name.as_str() });
    if let (Change::Join, Some(role), Some(fields)) = (change, args.role, result.as_object_mut()) {
        fields.insert("role".to_owned(), role.into());
    }
    Ok((Some(mesh.slug().to_owned()), result))
}

async fn message_status(
    api: &Api,
    caller: &Caller,
    mesh: Option<&str>,
    args: Map<String, Value>,
) -> Result<(Option<String>, Value), Failure> {
    const PREFIX_MIN_CHARS: usize = 8;
    #[derive(serde::Deserialize)]
    struct Args {
        id: String,
    }
    caller.need_access(FrameKind::MessageStatus.spec().access)?;
    let Args { id } = from_args(args)?;
    if id.chars().count() < PREFIX_MIN_CHARS {
        let chars = id.chars().count();
        let message = format!("id is {chars} chars, needs ≥{PREFIX_MIN_CHARS}");
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    }
    let rows = api.daemon.context().outbox.by_id(&id).await?;
    if rows.len() > 1 {
        return Err(Failure::new(
            ErrorCode::AmbiguousPrefix,
            "several messages begin with that id",
        ));
    }
    let row = rows.into_iter().next();
    let outbox = row.as_ref().map(|row| {
        json!({ "status": row.status, "attempts": row.attempts, "last_error": row.last_error,
                "last_error_code": row.last_error_code })
    });
    let mesh = api.one_mesh(row.as_ref().map(|row| row.mesh.as_str()).or(mesh), caller)?;
    let broker_id = match &row {
        None => Some(id),
        Some(row) => row.broker_message_id.clone(),
    };
    let mut result = match broker_id {
        // Not at the broker yet: the row is all there is to tell.
        None => {
            let target = row.as_ref().map(|row| row.target.clone());
            json!({ "messageId": null, "targetSpec": target, "delivered": false, "deliveredAt": null,
                    "recipients": [] })
        }
        Some(message_id) => {
            let frame = ClientFrame::MessageStatus(Box::new(MessageStatus { message_id }));
            let key = caller.session.as_ref().and_then(|session| session.key());
            let via = key.map_or(Via::Member, Via::Session);
            let answer = mesh.request(via, frame).await.map_err(|error| broker_failure(&error))?;
            let ServerFrame::MessageStatusResult(answer) = answer else {
                return Err(Failure::of_broker(
                    "broker_error",
                    "the broker gave an unexpected answer",
                ));
            };
            let mut answer = to_value(&answer)?;
            if let Some(fields) = answer.as_object_mut() {
                fields.shift_remove("_reqId");
            }
            answer
        }
    };
    if let Some(fields) = result.as_object_mut() {
        fields.insert("mesh".to_owned(), mesh.slug().into());
        if let Some(outbox) = outbox {
            fields.insert("outbox".to_owned(), outbox);
        }
    }
    Ok((Some(mesh.slug().to_owned()), result))
}

fn from_args<T: DeserializeOwned>(args: Map<String, Value>) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(args))
        .map_err(|error| Failure::new(ErrorCode::InvalidArgs, format!("wrong arguments: {error}")))
}

fn to_value(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| {
        tracing::error!(%error, "op_result_not_json");
        Failure::new(ErrorCode::Internal, "the result cannot be written")
    })
}
