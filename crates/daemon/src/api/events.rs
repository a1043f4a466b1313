//! `GET /v1/events`: the event stream (daemon spec §14.2, §14.3).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use bytes::Bytes;
use claudemesh_ipc::api::{EventKind, EventScope, EventsQuery};
use claudemesh_protocol::ErrorCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use tokio::sync::mpsc;

use super::caller::{Caller, Transport};
use super::failure::Failure;
use super::slots::Slot;
use super::{Api, input};
use crate::events::{Filter, Subscription, View};
use crate::ops::not_attached;
use crate::sessions::activity::LivePath;

/// Period of keepalive comments.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// A write that does not go on for this long ends the stream.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Chunks between the stream's task and the socket; the subscription's own queue is the buffer.
const CHUNKS: usize = 1;

pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failure> {
    let query: EventsQuery = input::query(&request)?;
    if api.daemon.pressure().is_degraded() {
        return Err(Failure::new(
            ErrorCode::Degraded,
            "the daemon has no space left; no new streams",
        ));
    }
    if api.daemon.context().resources.is_short_of_descriptors() {
        let message = "the daemon has used up its descriptors; no new streams";
        return Err(Failure::new(ErrorCode::TooManyStreams, message)
            .retry_after(claudemesh_protocol::limits::DAEMON_TICK));
    }
    let filter = filter_of(&api, &caller, query)?;
    let max_streams = api.daemon.context().settings.get().ipc.max_sse;
    let slot = api.streams.take(max_streams).ok_or_else(|| {
        Failure::new(ErrorCode::TooManyStreams, "too many event streams are open")
            .retry_after(Duration::from_secs(1))
    })?;
    let last_event_id = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let context = api.daemon.context();
    let live_path = match (&filter.view, &caller.session) {
        (View::Session { .. }, Some(session)) if is_wanted(&filter, &EventKind::Message) => {
            Some(session.activity.open_stream())
        }
        _ => None,
    };
    let over = caller.session.as_ref().map(|session| session.ended().clone()).unwrap_or_default();
    let subscription = context.events.subscribe_until(over, filter, last_event_id);
    let (chunk_tx, chunk_rx) = mpsc::channel(CHUNKS);
    let pump = Pump { subscription, chunk_tx, caller, _slot: slot, _live_path: live_path };
    let shutdown = context.shutdown.clone();
    context.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = pump.run() => {}
            () = shutdown.cancelled() => {}
        }
    });
    let chunks = futures_util::stream::unfold(chunk_rx, |mut chunk_rx| async move {
        let chunk: Bytes = chunk_rx.recv().await?;
        Some((Ok::<_, Infallible>(chunk), chunk_rx))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn filter_of(api: &Api, caller: &Caller, query: EventsQuery) -> Result<Filter, Failure> {
    if let Some(slug) = &query.mesh
        && api.mesh(slug).is_none()
    {
        return Err(not_attached(slug));
    }
    let kinds =
        query.kinds.map(|kinds| kinds.split(',').map(|kind| kind.trim().to_owned()).collect());
    let view = match (query.scope, &caller.session) {
        (Some(EventScope::Session) | None, Some(session)) => View::Session {
            mesh: session.mesh.clone(),
            session_id: session.session_id.clone(),
            key: session.key(),
        },
        (Some(EventScope::Session), None) => {
            caller.need_session()?;
            return Err(Failure::new(ErrorCode::Internal, "no session"));
        }
        // A session sees what is its own, whatever it asks for; the member's part of it when it says so.
        (Some(EventScope::Member | EventScope::All), Some(session)) => {
            View::Member { mesh: Some(session.mesh.clone()) }
        }
        (Some(EventScope::Member), None) => View::Member { mesh: query.mesh },
        // Over TCP there is no telling who asks: what is addressed to sessions is theirs.
        (Some(EventScope::All) | None, None) if caller.peer.transport == Transport::Tcp => {
            View::Member { mesh: query.mesh }
        }
        (Some(EventScope::All) | None, None) => View::All { mesh: query.mesh },
    };
    Ok(Filter { view, kinds })
}

/// Moves events from the bus to the socket.
struct Pump {
    subscription: Subscription,
    chunk_tx: mpsc::Sender<Bytes>,
    caller: Caller,
    _slot: Slot,
    /// While it is there, messages for the session count as put before the agent.
    _live_path: Option<LivePath>,
}

fn is_wanted(filter: &Filter, kind: &EventKind) -> bool {
    filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(kind.as_str()))
}

impl Pump {
    async fn run(mut self) {
        let mut chunk = Bytes::from_static(b": connected\n\n");
        loop {
            match tokio::time::timeout(STALLED_AFTER, self.chunk_tx.send(chunk)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    // The reader stopped reading: only ending the connection frees what it holds.
                    self.caller.peer.close.cancel();
                    return;
                }
            }
            let session_ended = async {
                match &self.caller.session {
                    Some(session) => session.ended().cancelled().await,
                    None => std::future::pending().await,
                }
            };
            chunk = tokio::select! {
                biased;
                event = self.subscription.next() => event.into(),
                () = tokio::time::sleep_until(crate::clock::next_tick(KEEPALIVE)) => Bytes::from_static(b": keepalive\n\n"),
                () = session_ended => return,
                () = self.chunk_tx.closed() => return,
            };
        }
    }
}
