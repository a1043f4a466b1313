//! `GET /v1/ops` and `POST /v1/ops/<op>`: the operations of the table by name (daemon spec §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use claudemesh_ipc::api::OpReply;
use claudemesh_ipc::api::system::{OpRequest, OpsReply};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::ops::OperationKind;
use serde_json::Value;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input};
use crate::ops;

pub(super) async fn list() -> Json<&'static OpsReply> {
    Json(ops::table())
}

pub(super) async fn run(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(op): Path<String>,
    request: Request,
) -> Result<Json<OpReply>, Failure> {
    let name = input::segment(&op)?;
    let kind = OperationKind::of_name(name).ok_or_else(|| {
        Failure::new(ErrorCode::UnknownOp, format!("there is no operation {name:?}"))
    })?;
    let body: OpRequest = input::json(request, input::MESSAGE).await?;
    let answer = ops::run(&api, &caller, kind, body.mesh.as_deref(), body.args).await?;
    let result = Value::Object(answer.result);
    Ok(Json(OpReply { ok: true, op, mesh: answer.mesh, result }))
}
