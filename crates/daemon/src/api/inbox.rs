//! `/v1/inbox` and below (daemon spec §9.7, §13).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use claudemesh_ipc::api::inbox::{
    FlushQuery, Removed, SearchPage, SearchQuery, SeenReply, SeenRequest,
};
use claudemesh_ipc::api::{InboxItem, InboxPage, InboxQuery, MessageMode};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::limits::RECEIPT_PATH_MAX_CHARS;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input, paging};
use crate::inbox::{InboxFilter, Scope, SearchFilter, SessionScope, Stamp};
use crate::mesh::Via;
use crate::ops::{Place as _, not_attached};
use crate::sessions::{Opening, Session};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1_000;
/// Rows marked by one call.
const IDS_MAX: usize = 1_000;
/// Findings of a page when no number is given.
const SEARCH_PAGE_DEFAULT: u32 = 50;
const SEARCH_PAGE_MAX: u32 = 200;
/// Characters of a search.
const SEARCH_MAX_CHARS: usize = 1_000;
/// Messages handed to one hook; it shows five (MCP spec §10.3).
const HOOK_MESSAGES: u32 = 20;
/// How long a listing waits for what the broker may still hold.
const PULL_WAIT: Duration = Duration::from_millis(300);

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failure> {
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
        return Err(not_attached(slug));
    }
    let scope = api.scope(&caller)?;
    if filter.after.is_none() {
        api.pull(&caller).await;
    }
    let context = api.daemon.context();
    let mut page = context.inbox.list(&scope, &filter).await?;
    let is_seen = query.mark_seen.unwrap_or(true);
    let marked_seen = api.hand_over(&caller, &scope, &mut page.items, is_seen).await?;
    let page = InboxPage { items: page.items, marked_seen, next_cursor: page.next_cursor };
    Ok(paging::answer(request.uri(), &page))
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
    let mut stamp = if body.pushed { Stamp::pushed() } else { Stamp::seen() };
    if let Some(path) = body.path {
        stamp.path = checked_path(path)?;
    }
    let inbox = &api.daemon.context().inbox;
    let marked_seen = api.mark(&caller, &scope, &body.ids, stamp).await?;
    if let Some(session) = &caller.session
        && let Some(hops) = inbox.most_hops(&body.ids).await?
    {
        session.was_shown(hops);
    }
    Ok(Json(SeenReply { marked_seen }))
}

/// The word for a way to an agent, as it is told to senders.
fn checked_path(path: String) -> Result<String, Failure> {
    let is_word = (1..=RECEIPT_PATH_MAX_CHARS).contains(&path.len())
        && path.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
        });
    if is_word {
        return Ok(path);
    }
    Err(Failure::field("path", "a path is 1 to 64 of a-z 0-9 _ -"))
}

pub(super) async fn search(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failure> {
    let query: SearchQuery = input::query(&request)?;
    if query.q.trim().is_empty() || query.q.chars().count() > SEARCH_MAX_CHARS {
        let message = format!("\"q\" has 1 to {SEARCH_MAX_CHARS} characters");
        return Err(Failure::field("q", message));
    }
    if let Some(slug) = &query.mesh
        && api.mesh(slug).is_none()
    {
        return Err(not_attached(slug));
    }
    let inbox = &api.daemon.context().inbox;
    if !inbox.is_searchable() {
        return Err(Failure::new(ErrorCode::NotFound, "the inbox has no search index")
            .hint("set inbox.fts = true in config.toml and restart the daemon"));
    }
    let after = query.cursor.as_deref().map(|text| {
        text.parse().map_err(|_| Failure::field("cursor", "the cursor is not one of ours"))
    });
    let filter = SearchFilter {
        text: query.q,
        mesh: query.mesh,
        after: after.transpose()?,
        limit: input::limit(query.limit, SEARCH_PAGE_DEFAULT, SEARCH_PAGE_MAX)?,
    };
    let found = inbox.search(&api.scope(&caller)?, &filter).await?;
    let next_cursor = found.next.map(|seq| seq.to_string());
    Ok(paging::answer(request.uri(), &SearchPage { items: found.items, next_cursor }))
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
    /// What nobody read yet, oldest first, and how many such there are in all.
    pub(crate) async fn unread(
        &self,
        scope: &Scope,
        filter: &InboxFilter,
    ) -> Result<(Vec<InboxItem>, u64), Failure> {
        Ok(self.daemon.context().inbox.unread(scope, filter).await?)
    }

    /// Gives messages to the caller: says which of them its gate holds back, and marks them read when it asks for that.
    /// Answers how many were unread.
    pub(crate) async fn hand_over(
        &self,
        caller: &Caller,
        scope: &Scope,
        items: &mut [InboxItem],
        is_seen: bool,
    ) -> Result<u64, Failure> {
        if let Some(session) = &caller.session {
            for item in items.iter_mut() {
                let is_new = item.seen_at.is_none() && item.pushed_at.is_none() && !item.digest;
                item.held = is_new && session.activity.holds(item.priority);
            }
        }
        if !is_seen {
            return Ok(0);
        }
        let unseen = items.iter().filter(|item| item.seen_at.is_none());
        let ids: Vec<_> = unseen.map(|item| item.id.clone()).collect();
        let marked_seen = self.mark(caller, scope, &ids, Stamp::seen()).await?;
        if let Some(session) = &caller.session {
            for item in items.iter() {
                session.was_shown(item.hops);
            }
        }
        Ok(marked_seen)
    }

    /// Marks messages; what a session was given by that is told to the senders.
    async fn mark(
        &self,
        caller: &Caller,
        scope: &Scope,
        ids: &[String],
        stamp: Stamp,
    ) -> Result<u64, Failure> {
        let path = stamp.path.clone();
        let inbox = &self.daemon.context().inbox;
        let marked = inbox.mark(scope, ids, stamp, crate::clock::now()).await?;
        if let Some(session) = &caller.session
            && let Some(mesh) = self.mesh(&session.mesh)
        {
            mesh.handed(marked.handed, &path, &session.display_name);
        }
        Ok(marked.unseen)
    }

    /// What a gate that opens this far lets through to a session, unless its own event stream shows it: from memory and
    /// the inbox alone.
    pub(super) async fn let_through(&self, session: &Session, opening: Opening) -> Vec<InboxItem> {
        let activity = &session.activity;
        if session.message_mode != MessageMode::Push || opening == Opening::Closed {
            return Vec::new();
        }
        self.take_back(session).await;
        if !activity.may_wait(opening) {
            return Vec::new();
        }
        let Some(scope) = self.session_scope(session) else { return Vec::new() };
        activity.looking(opening);
        match self.daemon.context().inbox.waiting(&scope, opening, HOOK_MESSAGES).await {
            Ok(mut items) => {
                if !items.is_empty() {
                    activity.look_again();
                }
                items.retain(|item| !activity.is_under_way(&item.id));
                items
            }
            Err(error) => {
                activity.look_again();
                tracing::warn!(error = %crate::storage::Causes(&error), "hook_messages_not_read");
                Vec::new()
            }
        }
    }

    /// What of the inbox belongs to a session; `None` when its mesh is not attached.
    pub(super) fn session_scope(&self, session: &Session) -> Option<SessionScope> {
        Some(SessionScope {
            mesh: session.mesh.clone(),
            session_id: session.session_id.clone(),
            key: session.key(),
            member_key: self.mesh(&session.mesh)?.voice_key(),
            registered_at: session.registered_at,
        })
    }

    /// What of the inbox the caller sees.
    pub(crate) fn scope(&self, caller: &Caller) -> Result<Scope, Failure> {
        let Some(session) = &caller.session else { return Ok(Scope::Everything) };
        let scope = self.session_scope(session);
        scope.map(Scope::Session).ok_or_else(|| not_attached(&session.mesh))
    }

    /// Asks the brokers for what they still hold: best effort, for a moment. The mesh does it at most once in five
    /// seconds for each connection.
    pub(crate) async fn pull(&self, caller: &Caller) {
        let Ok(meshes) = self.meshes(None, caller) else { return };
        let key = caller.session.as_ref().and_then(|session| session.key());
        let via = key.map_or(Via::Member, Via::Session);
        let pulls = meshes.iter().map(|mesh| mesh.pull(via));
        // What comes later is there at the next listing.
        let _ = tokio::time::timeout(PULL_WAIT, futures_util::future::join_all(pulls)).await;
    }
}
