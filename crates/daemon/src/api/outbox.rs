//! `GET /v1/outbox` (daemon spec §11.2).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use claudemesh_ipc::api::{OutboxPage, OutboxQuery, RowStatus};

use super::failure::Failure;
use super::{Api, input};
use crate::outbox::list::ListFilter;

const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 500;

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<OutboxPage>, Failure> {
    let query: OutboxQuery = input::query(&request)?;
    let unknown = |word: &str| Failure::field("status", format!("{word:?} is no state of a row"));
    let status = query.status.as_deref();
    let cursor = query.cursor.as_deref();
    let filter = ListFilter {
        status: status
            .map(|word| RowStatus::parse(word).ok_or_else(|| unknown(word)))
            .transpose()?,
        mesh: query.mesh,
        limit: input::limit(query.limit, PAGE_DEFAULT, PAGE_MAX)?,
        before_seq: cursor
            .map(|text| {
                text.parse().map_err(|_| Failure::field("cursor", "the cursor is not one of ours"))
            })
            .transpose()?,
    };
    Ok(Json(api.daemon.context().outbox.list(&filter).await?))
}
