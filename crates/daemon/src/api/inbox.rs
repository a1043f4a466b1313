//! `/v1/inbox` and below (daemon spec §9.7, §13).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use claudemesh_ipc::api::inbox::{FlushQuery, Removed, SeenReply, SeenRequest};
use claudemesh_ipc::api::{InboxPage, InboxQuery};
use claudemesh_protocol::ErrorCode;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input, mesh_choice};
use crate::inbox::{InboxFilter, Scope, SessionScope, Stamp};
use crate::mesh::Via;

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1_000;
/// Rows marked by one call.
const IDS_MAX: usize = 1_000;
/// How long a listing waits for what the broker may still hold.
const PULL_WAIT: Duration = Duration::from_millis(300);

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<InboxPage>, Failure> {
    let query: InboxQuery = input::query(&request)?;
    let cursor = query.cursor.as_deref();
    let filter = InboxFilter {
        since: input::time("since", query.since.as_deref())?,
        before: input::time("before", query.before.as_deref())?,
        topic: query.topic,
        from: query.from,
        unread_only: query.unread_only.unwrap_or(false),
        after: cursor
            .map(|text| {
                crate::inbox::Cursor::parse(text)
                    .ok_or_else(|| Failure::field("cursor", "the cursor is not one of ours"))
            })
            .transpose()?,
        limit: input::limit(query.limit, PAGE_DEFAULT, PAGE_MAX)?,
        mesh: query.mesh,
    };
    if let Some(slug) = &filter.mesh
        && api.mesh(slug).is_none()
    {
        return Err(mesh_choice::not_attached(slug));
    }
    let scope = api.scope(&caller)?;
    if filter.after.is_none() {
        api.pull(&caller).await;
    }
    let context = api.daemon.context();
    let page = context.inbox.list(&scope, &filter).await?;
    let mut marked_seen = 0;
    if query.mark_seen.unwrap_or(true) {
        let unseen = page.items.iter().filter(|item| item.seen_at.is_none());
        let ids: Vec<_> = unseen.map(|item| item.id.clone()).collect();
        marked_seen = context.inbox.mark(&scope, &ids, Stamp::Seen, crate::clock::now()).await?;
        if let Some(session) = &caller.session {
            page.items.iter().for_each(|item| session.was_shown(item.hops));
        }
    }
    Ok(Json(InboxPage { items: page.items, marked_seen, next_cursor: page.next_cursor }))
}

pub(super) async fn seen(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<SeenReply>, Failure> {
    let body: SeenRequest = input::json(request, input::LARGE).await?;
    if body.ids.is_empty() || body.ids.len() > IDS_MAX {
        return Err(Failure::field("ids", format!("\"ids\" has 1 to {IDS_MAX} entries")));
    }
    let scope = api.scope(&caller)?;
    let stamp = if body.pushed { Stamp::Pushed } else { Stamp::Seen };
    let inbox = &api.daemon.context().inbox;
    let marked_seen = inbox.mark(&scope, &body.ids, stamp, crate::clock::now()).await?;
    if let Some(session) = &caller.session
        && let Some(hops) = inbox.most_hops(&body.ids).await?
    {
        session.was_shown(hops);
    }
    Ok(Json(SeenReply { marked_seen }))
}

pub(super) async fn flush(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Removed>, Failure> {
    let query: FlushQuery = input::query(&request)?;
    let before = input::time("before", query.before.as_deref())?;
    if query.mesh.is_none() && before.is_none() && query.all != Some(true) {
        return Err(Failure::new(
            ErrorCode::MissingFilter,
            "refusing to delete everything; pass mesh, before or all=true",
        ));
    }
    let scope = api.scope(&caller)?;
    let inbox = &api.daemon.context().inbox;
    let removed = inbox.flush(&scope, query.mesh.as_deref(), before).await?;
    Ok(Json(Removed { removed, id: None }))
}

pub(super) async fn delete_one(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Removed>, Failure> {
    let id = input::segment(&id)?;
    let scope = api.scope(&caller)?;
    if api.daemon.context().inbox.delete_one(&scope, id).await? {
        return Ok(Json(Removed { removed: 1, id: Some(id.to_owned()) }));
    }
    Err(Failure::new(ErrorCode::NotFound, "no message of that id"))
}

impl Api {
    /// What of the inbox the caller sees.
    pub(super) fn scope(&self, caller: &Caller) -> Result<Scope, Failure> {
        let Some(session) = &caller.session else { return Ok(Scope::Everything) };
        let mesh =
            self.mesh(&session.mesh).ok_or_else(|| mesh_choice::not_attached(&session.mesh))?;
        Ok(Scope::Session(SessionScope {
            mesh: session.mesh.clone(),
            session_id: session.session_id.clone(),
            key: session.key(),
            member_key: mesh.member().public,
            registered_at: session.registered_at,
        }))
    }

    /// Asks the brokers for what they still hold: best effort, for a moment. The mesh does it at most once in five
    /// seconds for each connection.
    async fn pull(&self, caller: &Caller) {
        let Ok(meshes) = self.meshes(None, caller) else { return };
        let key = caller.session.as_ref().and_then(|session| session.key());
        let via = key.map_or(Via::Member, Via::Session);
        let pulls = meshes.iter().map(|mesh| mesh.pull(via));
        // What comes later is there at the next listing.
        let _ = tokio::time::timeout(PULL_WAIT, futures_util::future::join_all(pulls)).await;
    }
}
