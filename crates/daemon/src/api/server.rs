//! Accepting connections on the Unix socket: whose they are is checked before a byte is read (daemon spec §9.1).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::limits::{IPC_HEADER_MAX_BYTES, IPC_HEADER_TIMEOUT, IPC_WRITE_TIMEOUT};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::Api;
use super::caller::Transport;
use super::routes::router;
use crate::daemon::Daemon;

/// Wait after a failed accept (descriptors used up), so that the loop does not run hot.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The local API, ready to serve connections. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Door {
    api: Arc<Api>,
    service: axum::Router,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Door {
    pub(crate) fn new(daemon: Daemon) -> Self {
        let (tasks, stopping) = (daemon.context().tasks.clone(), daemon.stopping());
        let api = Arc::new(Api::new(daemon));
        Self { service: router(Arc::clone(&api)), api, tasks, stopping }
    }

    /// What the requests are done by, for what is done like a request without being one.
    pub(crate) fn api(&self) -> Arc<Api> {
        Arc::clone(&self.api)
    }

    /// Serves one connection, until it ends or the daemon stops.
    pub(crate) fn admit(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        transport: Transport,
    ) {
        self.admit_held(stream, transport, ());
    }

    /// The same, keeping `held` until the connection has ended.
    pub(super) fn admit_held(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        transport: Transport,
        held: impl Send + 'static,
    ) {
        let serving = connection(stream, transport, self.service.clone(), self.stopping.clone());
        self.tasks.spawn(async move {
            serving.await;
            drop(held);
        });
    }

    pub(super) const fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }
}

/// Serves until the daemon stops taking requests; then connections finish what they have in flight.
pub(crate) async fn serve(door: Door, listener: UnixListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = door.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Some(cred) = admitted(&stream) {
                    door.admit(stream, Transport::Socket(cred.pid()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "ipc_accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Only our own user, or root, is answered.
fn admitted(stream: &UnixStream) -> Option<UCred> {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(cred) if cred.uid() == own || cred.uid() == 0 => Some(cred),
        Ok(cred) => {
            tracing::warn!(uid = cred.uid(), "ipc_foreign_user_refused");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "ipc_peer_unknown");
            None
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    transport: Transport,
    service: axum::Router,
    stopping: CancellationToken,
) {
    let answer = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(transport);
        let service = service.clone();
        async move { Ok::<_, Infallible>(answered(service, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(IPC_HEADER_TIMEOUT)
        .max_buf_size(IPC_HEADER_MAX_BYTES);
    // A reader that stops reading holds what it asked for only so long.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(IPC_WRITE_TIMEOUT));
    let mut stream = std::pin::pin!(stream);
    let serving = http.serve_connection(TokioIo::new(stream.as_mut()), answer);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "ipc_connection_ended");
    }
}

async fn answered(
    service: axum::Router,
    request: hyper::Request<hyper::body::Incoming>,
) -> axum::response::Response {
    match service.oneshot(request.map(axum::body::Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
