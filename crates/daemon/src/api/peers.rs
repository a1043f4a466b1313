//! `GET /v1/peers`: operation `peer.list` (daemon spec §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use claudemesh_protocol::ops::OperationKind;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input};
use crate::ops;

#[derive(Deserialize)]
struct Query {
    mesh: Option<String>,
    all: Option<bool>,
}

pub(super) async fn peers(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Map<String, Value>>, Failure> {
    let query: Query = input::query(&request)?;
    let arguments = query.all.map(|all| ("all".to_owned(), all.into())).into_iter().collect();
    let kind = OperationKind::PeerList;
    let answer = ops::run(&api, &caller, kind, query.mesh.as_deref(), arguments).await?;
    Ok(Json(answer.result))
}
