//! `GET /v1/sessions/bell`: a question that is answered when something waits for an idle session (agents spec §1.6b). A
//! background hook asks it, and wakes the agent by its end.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use claudemesh_ipc::api::MessageMode;
use claudemesh_ipc::api::session::{BellEnd, BellQuery, BellReply};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::limits::{AGENT_HOOK_MESSAGES_MAX, BELL_WAIT_MAX};
use hyper::StatusCode;
use tokio::time::Instant;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input};
use crate::sessions::activity::{ArmedBell, BellStep};
use crate::sessions::{Opening, Session};

/// Rows looked at; more are not counted.
const LOOK_ROWS: u32 = 20;

pub(super) async fn bell(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failure> {
    let query: BellQuery = input::query(&request)?;
    let wait = query.wait.map_or(BELL_WAIT_MAX, Duration::from_secs).min(BELL_WAIT_MAX);
    let Some(session) = api.session_of(&caller, &query) else {
        return Ok(answer(BellEnd::Unknown, 0));
    };
    let until = crate::clock::now().plus(wait);
    let bell = session.activity.arm_bell(until);
    // However short the wait is, it is looked once.
    if session.activity.bell_step() == BellStep::Look
        && let Look::Rings(waiting) = api.look(&session).await
    {
        return Ok(answer(BellEnd::Rings, waiting));
    }
    let stopping = api.daemon.stopping();
    tokio::select! {
        biased;
        () = stopping.cancelled() => {
            Err(Failure::new(ErrorCode::ShuttingDown, "the daemon is stopping"))
        }
        () = bell.replaced().cancelled() => Ok(answer(BellEnd::Replaced, 0)),
        () = session.ended().cancelled() => Ok(answer(BellEnd::Ended, 0)),
        waiting = api.something_waits(&session, &bell) => Ok(answer(BellEnd::Rings, waiting)),
        () = tokio::time::sleep(wait) => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

fn answer(bell: BellEnd, waiting: u32) -> Response {
    Json(BellReply { ok: true, bell, waiting }).into_response()
}

impl Api {
    /// The session that asks, or that the question describes; `None` when that is none or several.
    fn session_of(&self, caller: &Caller, query: &BellQuery) -> Option<Arc<Session>> {
        if let Some(session) = &caller.session {
            return Some(Arc::clone(session));
        }
        let pids = query.pids.as_deref().unwrap_or_default().split(',');
        let pids: Vec<u32> = pids.filter_map(|pid| pid.trim().parse().ok()).collect();
        let sessions = &self.daemon.context().sessions;
        let found = sessions.matching(query.session_id.as_deref(), &pids, query.cwd.as_deref());
        match <[Arc<Session>; 1]>::try_from(found) {
            Ok([only]) => Some(only),
            Err(_) => None,
        }
    }

    /// Waits until something waits for the session while it is idle; answers how much. In between nothing is done but when
    /// something comes in or the gate moves.
    async fn something_waits(&self, session: &Session, bell: &ArmedBell) -> u32 {
        loop {
            let mut stirred = std::pin::pin!(bell.stirred());
            stirred.as_mut().enable();
            let again_at = match session.activity.bell_step() {
                BellStep::Rest => None,
                BellStep::Settle(until) => Some(until),
                BellStep::Look => match self.look(session).await {
                    Look::Rings(waiting) => return waiting,
                    Look::Silent => None,
                    Look::Again(at) => Some(at),
                },
            };
            tokio::select! {
                () = stirred => {}
                () = at(again_at) => {}
            }
        }
    }

    /// Whether a bell is to ring now.
    async fn look(&self, session: &Session) -> Look {
        let activity = &session.activity;
        if session.message_mode != MessageMode::Push {
            return Look::Silent;
        }
        // Until its mesh is attached nothing comes in either.
        let Some(scope) = self.session_scope(session) else { return Look::Silent };
        let inbox = &self.daemon.context().inbox;
        let rows = match inbox.waiting(&scope, Opening::All, LOOK_ROWS).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(error = %crate::storage::Causes(&error), "bell_messages_not_read");
                return Look::Silent;
            }
        };
        let ways = rows.iter().map(|item| activity.under_way_until(&item.id));
        let under_way = ways.flatten().min();
        let waiting: Vec<&str> = rows
            .iter()
            .map(|item| item.id.as_str())
            .filter(|id| !activity.is_under_way(id))
            .collect();
        // A turn may have begun meanwhile: then its hooks show them.
        if !waiting.is_empty()
            && activity.bell_step() == BellStep::Look
            && activity.rings_for(waiting.iter().take(AGENT_HOOK_MESSAGES_MAX).copied())
        {
            return Look::Rings(u32::try_from(waiting.len()).unwrap_or(u32::MAX));
        }
        under_way.map_or(Look::Silent, Look::Again)
    }
}

/// What a look has shown.
enum Look {
    /// So many messages wait.
    Rings(u32),
    /// Nothing waits, until something happens.
    Silent,
    /// The agent's own server has what waits, and until then the time to show it.
    Again(Instant),
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
