//! A model that is none: an HTTP server on the loopback that answers coding agents as their vendors' servers do, scripted
//! by the text it is shown, and keeps every request (agents spec §2).
//!
//! Whoever asks "did the model see it?" looks into the kept requests: what stands there is what a real model would have
//! read. It speaks Anthropic's Messages (streamed or not) and OpenAI's Responses. The newest user text scripts it: a line
//! `CALL <tool> <json>` makes it call that tool (`CALL <namespace>@<tool> <json>` for Codex), several lines make it call
//! one after the other; anything else is answered with `ack-<number of the request>`.

mod answer;
mod recorded;
mod script;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, Uri};
use axum::response::Response;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tokio::sync::oneshot;

pub use recorded::Recorded;

/// Longest request read: a long conversation with pictures stays far below.
const REQUEST_MAX_BYTES: usize = 64 * 1024 * 1024;

/// The server; it ends with the value.
pub struct MockModel {
    url: String,
    shared: Arc<Shared>,
    stop_tx: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dir: PathBuf,
    requests: Mutex<Vec<Arc<Recorded>>>,
    arrived: Condvar,
}

/// No request fitted in time; says what did come.
#[derive(Debug, thiserror::Error)]
#[error("the model was never shown {what}; the newest of {count} requests, in {}:\n{newest}", dir.display())]
pub struct NeverShown {
    what: String,
    count: usize,
    newest: String,
    dir: PathBuf,
}

impl MockModel {
    /// Opens a port of the loopback; requests are also written to `dir` as `req-0001.json` and so on.
    ///
    /// # Errors
    /// When the directory cannot be made or no port can be opened.
    pub fn start(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            requests: Mutex::default(),
            arrived: Condvar::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop_tx, stop_rx) = oneshot::channel();
        let router = Router::new()
            .fallback(handle)
            .layer(axum::extract::DefaultBodyLimit::max(REQUEST_MAX_BYTES))
            .with_state(Arc::clone(&shared));
        // A thread of its own: tests without a runtime use it, too.
        let thread =
            std::thread::Builder::new().name("mock-model".to_owned()).spawn(move || {
                runtime.block_on(async {
                    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                    tokio::select! {
                        _ended = axum::serve(listener, router).into_future() => {}
                        _stopped = stop_rx => {}
                    }
                });
            })?;
        Ok(Self { url, shared, stop_tx: Some(stop_tx), thread: Some(thread) })
    }

    /// `http://127.0.0.1:<port>`, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where requests are written.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Every request that asked for an answer of the model, oldest first.
    pub fn requests(&self) -> Vec<Arc<Recorded>> {
        self.shared.requests.lock().clone()
    }

    /// The first request that fits, waiting for it if need be.
    ///
    /// # Errors
    /// [`NeverShown`] when none came in time; `what` names it there.
    pub fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        fits: impl Fn(&Recorded) -> bool,
    ) -> Result<Arc<Recorded>, NeverShown> {
        let deadline = Instant::now() + patience;
        let mut requests = self.shared.requests.lock();
        let mut looked_at = 0;
        loop {
            let found = requests.iter().skip(looked_at).find(|request| fits(request));
            if let Some(found) = found {
                return Ok(Arc::clone(found));
            }
            looked_at = requests.len();
            if self.shared.arrived.wait_until(&mut requests, deadline).timed_out() {
                return Err(NeverShown {
                    what: what.to_owned(),
                    count: requests.len(),
                    newest: requests.last().map(|last| last.text()).unwrap_or_default(),
                    dir: self.shared.dir.clone(),
                });
            }
        }
    }

    /// The first request in which this text stands.
    ///
    /// # Errors
    /// [`NeverShown`] when none came in time.
    pub fn wait_for_text(
        &self,
        text: &str,
        patience: Duration,
    ) -> Result<Arc<Recorded>, NeverShown> {
        self.wait_for(text, patience, |request| request.text().contains(text))
    }
}

impl Drop for MockModel {
    fn drop(&mut self) {
        drop(self.stop_tx.take());
        if let Some(thread) = self.thread.take() {
            // It has panicked: that has been printed.
            let _ = thread.join();
        }
    }
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    if method != Method::POST {
        // Probes before the first request; Codex wants a list of models.
        return answer::plain(&serde_json::json!({ "data": [], "models": [] }));
    }
    let Ok(asked) = serde_json::from_slice::<Value>(&body) else {
        return answer::plain(&serde_json::json!({}));
    };
    if uri.path().contains("count_tokens") {
        return answer::plain(&serde_json::json!({ "input_tokens": 10 }));
    }
    let Some(recorded) = Recorded::read(uri.path(), asked) else {
        return answer::plain(&serde_json::json!({}));
    };
    let recorded = shared.keep(recorded);
    answer::to(&recorded)
}

impl Shared {
    /// Numbers a request and keeps it, in memory and in its file.
    fn keep(&self, mut recorded: Recorded) -> Arc<Recorded> {
        let mut requests = self.requests.lock();
        recorded.number = requests.len() + 1;
        let file = self.dir.join(format!("req-{:04}.json", recorded.number));
        if let Err(error) = std::fs::write(&file, recorded.body.to_string()) {
            tracing::warn!(%error, file = %file.display(), "request not written");
        }
        let recorded = Arc::new(recorded);
        requests.push(Arc::clone(&recorded));
        self.arrived.notify_all();
        recorded
    }
}

#[cfg(test)]
mod tests;
