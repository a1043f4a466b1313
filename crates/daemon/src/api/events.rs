//! `GET /v1/events`: the event stream (daemon spec §14.2, §14.3).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use claudemesh_ipc::api::{EventKind, EventScope, EventsQuery};
use claudemesh_protocol::ErrorCode;
use futures_util::Stream;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::caller::{Caller, Transport};
use super::failure::Failure;
use super::slots::Slot;
use super::{Api, input};
use crate::events::{Filter, Subscription, View};
use crate::ops::not_attached;
use crate::sessions::activity::LivePath;

/// Period of keepalive comments.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// From here on a chunk takes no further event, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

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
    let slot = api.take_stream()?;
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
    let session_ended = match &caller.session {
        Some(session) => session.ended().clone(),
        // Never cancelled.
        None => CancellationToken::new(),
    };
    let stream = EventStream {
        greeting: Some(Bytes::from_static(b": connected\n\n")),
        subscription,
        keepalive: Box::pin(tokio::time::sleep_until(crate::clock::next_tick(KEEPALIVE))),
        session_ended: Box::pin(session_ended.cancelled_owned()),
        shutdown: Box::pin(context.shutdown.clone().cancelled_owned()),
        _slot: slot,
        _live_path: live_path,
    };
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Api {
    /// A place among the event streams, and what lasts like one.
    pub(super) fn take_stream(&self) -> Result<Slot, Failure> {
        let max_streams = self.daemon.context().settings.get().ipc.max_sse;
        self.streams.take(max_streams).ok_or_else(|| {
            Failure::new(ErrorCode::TooManyStreams, "too many event streams are open")
                .retry_after(Duration::from_secs(1))
        })
    }
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
        (Some(EventScope::All) | None, None) if caller.transport == Transport::Tcp => {
            View::Member { mesh: query.mesh }
        }
        (Some(EventScope::All) | None, None) => View::All { mesh: query.mesh },
    };
    Ok(Filter { view, kinds })
}

fn is_wanted(filter: &Filter, kind: &EventKind) -> bool {
    filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(kind.as_str()))
}

/// The text of a stream, as fast as its reader takes it: the subscription's own queue is the buffer, and the connection
/// ends when the reader stops reading ([`IPC_WRITE_TIMEOUT`](claudemesh_protocol::limits::IPC_WRITE_TIMEOUT)).
struct EventStream {
    greeting: Option<Bytes>,
    subscription: Subscription,
    keepalive: Pin<Box<Sleep>>,
    session_ended: Pin<Box<WaitForCancellationFutureOwned>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    _slot: Slot,
    /// While it is there, messages for the session count as put before the agent.
    _live_path: Option<LivePath>,
}

impl EventStream {
    /// What waits together leaves together, up to [`CHUNK_BYTES`].
    fn with_what_waits(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let Poll::Ready(second) = self.subscription.poll_next(cx) else { return first };
        let mut chunk = BytesMut::from(&*first);
        chunk.extend_from_slice(&second);
        while chunk.len() < CHUNK_BYTES
            && let Poll::Ready(next) = self.subscription.poll_next(cx)
        {
            chunk.extend_from_slice(&next);
        }
        chunk.freeze()
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(greeting) = self.greeting.take() {
            return Poll::Ready(Some(Ok(greeting)));
        }
        // What was published before the end is told before it.
        if let Poll::Ready(first) = self.subscription.poll_next(cx) {
            return Poll::Ready(Some(Ok(self.with_what_waits(first, cx))));
        }
        if self.session_ended.as_mut().poll(cx).is_ready()
            || self.shutdown.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        if self.keepalive.as_mut().poll(cx).is_ready() {
            self.keepalive.as_mut().reset(crate::clock::next_tick(KEEPALIVE));
            return Poll::Ready(Some(Ok(Bytes::from_static(b": keepalive\n\n"))));
        }
        Poll::Pending
    }
}
