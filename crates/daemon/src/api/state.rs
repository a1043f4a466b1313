//! `/v1/state`: the operations of the shared state under the names of older clients (daemon spec §9.7).

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

/// Body limit of a write, in bytes: a value of 32 KiB, however it is escaped.
const BODY_MAX_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
struct Query {
    key: Option<String>,
    prefix: Option<String>,
    mesh: Option<String>,
}

/// With `key` that entry, else those that begin with `prefix`, or all.
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Map<String, Value>>, Failure> {
    let query: Query = input::query(&request)?;
    let (kind, field, value) = match (query.key, query.prefix) {
        (Some(_), Some(_)) => {
            return Err(Failure::field("prefix", "\"key\" and \"prefix\" exclude each other"));
        }
        (Some(key), None) => (OperationKind::StateGet, "key", Some(key)),
        (None, prefix) => (OperationKind::StateList, "prefix", prefix),
    };
    let arguments = value.map(|value| (field.to_owned(), value.into())).into_iter().collect();
    let answer = ops::run(&api, &caller, kind, query.mesh.as_deref(), arguments).await?;
    Ok(Json(answer.result))
}

/// Answered after the broker confirmed.
pub(super) async fn write(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Map<String, Value>>, Failure> {
    let arguments: Map<String, Value> = input::json(request, BODY_MAX_BYTES).await?;
    let answer = ops::run(&api, &caller, OperationKind::StateSet, None, arguments).await?;
    Ok(Json(answer.result))
}
