//! `POST /v1/ops/<op>`: operations by name (daemon spec §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use claudemesh_ipc::api::OpReply;
use claudemesh_ipc::api::system::OpRequest;
use claudemesh_protocol::wire::{
    ClientFrame, FrameKind, JoinGroup, LeaveGroup, LoopUnblock, ServerFrame,
};
use claudemesh_protocol::{ErrorCode, GroupName, TargetSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::caller::Caller;
use super::failure::Failure;
use super::profile::broker_failure;
use super::{Api, input, message_status};
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
        "message.status" => message_status::run(&api, &caller, mesh, body.args).await?,
        "peer.unblock_loop" => unblock_loop(&api, &caller, mesh, body.args).await?,
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

/// Lifts the stop of a loop between our sessions and a peer's (wire spec §4.10). The daemon cannot tell a person from a
/// script; the command line asks for a terminal, and no MCP tool leads here.
async fn unblock_loop(
    api: &Api,
    caller: &Caller,
    mesh: Option<&str>,
    args: Map<String, Value>,
) -> Result<(Option<String>, Value), Failure> {
    #[derive(serde::Deserialize)]
    struct Args {
        peer: String,
    }
    caller.need_access(FrameKind::LoopUnblock.spec().access)?;
    let Args { peer } = from_args(args)?;
    let (mesh, resolved) = api.peer(caller, mesh, &peer)?;
    let TargetSpec::Key(key) = resolved.target else {
        return Err(Failure::new(ErrorCode::InvalidTarget, "a loop has one peer, not a group"));
    };
    let mut is_lifted = false;
    for peer in mesh.keys_of_member(key) {
        let frame = ClientFrame::LoopUnblock(Box::new(LoopUnblock { peer }));
        let answer =
            mesh.request(Via::Member, frame).await.map_err(|error| broker_failure(&error))?;
        is_lifted |= matches!(answer, ServerFrame::Ack(ack) if ack.lifted == Some(true));
    }
    let name = mesh.name_of(key).unwrap_or(peer);
    let result = json!({ "peer": key, "name": name, "lifted": is_lifted, "mesh": mesh.slug() });
    Ok((Some(mesh.slug().to_owned()), result))
}

pub(super) fn from_args<T: DeserializeOwned>(args: Map<String, Value>) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(args))
        .map_err(|error| Failure::new(ErrorCode::InvalidArgs, format!("wrong arguments: {error}")))
}

pub(super) fn to_value(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| {
        tracing::error!(%error, "op_result_not_json");
        Failure::new(ErrorCode::Internal, "the result cannot be written")
    })
}
