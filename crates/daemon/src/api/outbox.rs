//! `/v1/outbox` and below: views (daemon spec §11.2) and operator recovery (§11.8).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use claudemesh_ipc::api::{
    DropReply, DropRequest, OutboxItem, OutboxPruneReply, OutboxPruneRequest, OutboxQuery,
    OutboxRowReply, RequeueReply, RequeueRequest, RowStatus,
};
use claudemesh_protocol::ErrorCode;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input, paging};
use crate::outbox::list::ListFilter;
use crate::outbox::operator::{COMPACT_AFTER, Untouched};

mod requeue;

const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 500;

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, Failure> {
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
    Ok(paging::answer(request.uri(), &api.daemon.context().outbox.list(&filter).await?))
}

pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<OutboxRowReply>, Failure> {
    let row = api.outbox_row(input::segment(&id)?).await?;
    let chain = api.daemon.context().outbox.chain(&row.id).await?;
    Ok(Json(OutboxRowReply { row, chain }))
}

pub(super) async fn requeue(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<RequeueReply>, Failure> {
    let body: RequeueRequest = input::json(request, input::MESSAGE).await?;
    let old = api.outbox_row(&body.id).await?;
    Ok(Json(api.requeue(&caller, &old, body).await?))
}

pub(super) async fn drop_row(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<DropReply>, Failure> {
    let body: DropRequest = input::json(request, input::SMALL).await?;
    let row = api.outbox_row(&body.id).await?;
    match api.daemon.context().outbox.drop_row(&row.id, crate::clock::now()).await? {
        Ok(dropped) => Ok(Json(DropReply { aborted_row_id: dropped.id })),
        Err(untouched) => Err(refusal(untouched)),
    }
}

pub(super) async fn prune(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<OutboxPruneReply>, Failure> {
    let body: OutboxPruneRequest = input::json(request, input::SMALL).await?;
    if !body.confirm {
        return Err(Failure::field("confirm", "\"confirm\" must be true"));
    }
    let older_than = body.older_than.map_or(COMPACT_AFTER, Duration::from_secs);
    let outbox = &api.daemon.context().outbox;
    let freed = outbox.compact(older_than, crate::clock::now()).await?;
    Ok(Json(OutboxPruneReply { compacted: freed.rows, bytes_freed: freed.bytes }))
}

impl Api {
    /// The row of a row id, client id or broker id, or of an unambiguous prefix of one.
    async fn outbox_row(&self, id: &str) -> Result<OutboxItem, Failure> {
        let mut rows = self.daemon.context().outbox.by_id(id).await?;
        match (rows.pop(), rows.pop()) {
            (Some(row), None) => Ok(row),
            (Some(_), Some(_)) => {
                let message = "several rows of the outbox begin with that id";
                Err(Failure::new(ErrorCode::AmbiguousPrefix, message))
            }
            (None, _) => Err(refusal(Untouched::NoSuchRow)),
        }
    }
}

fn refusal(untouched: Untouched) -> Failure {
    match untouched {
        Untouched::NoSuchRow => {
            Failure::new(ErrorCode::NotFound, "no row of the outbox has that id")
        }
        Untouched::InFlight => {
            Failure::new(ErrorCode::RowInflight, "this row is on its way to the broker")
                .with("row_status", RowStatus::Inflight.as_str())
                .hint("wait for the answer; with force it may arrive twice")
        }
        Untouched::Finished(status) => {
            let message = format!("this row is {} already", status.as_str());
            Failure::new(ErrorCode::RowFinished, message).with("row_status", status.as_str())
        }
        Untouched::IdTaken => Failure::new(
            ErrorCode::IdempotencyConflict,
            "the id for the new message was used for another one",
        ),
    }
}
