//! The road to the daemon: reached, lost, reached again; what comes over it goes to the pipe in order (MCP spec §3, §4.1).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::session::{Heartbeat, ServedClient};
use claudemesh_ipc::api::{Event, EventKind, EventScope, EventsQuery, InboxItem};
use claudemesh_ipc::client::Client;
use claudemesh_ipc::{EventStream, IpcError, Paths};
use claudemesh_protocol::Priority;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::{
    MCP_DAEMON_READY_BUDGET, MCP_DAEMON_RETRY_SECS, MCP_STREAM_RETRY,
};
use claudemesh_protocol::time::Timestamp;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::road::{RoadWorks, Trouble};
use crate::session::{Registrar, Standing};
use crate::tools::Tally;
use crate::{server, unread};

/// Makes sure that a daemon runs, starting one where the rules of the command line allow it; the text says why not.
pub type EnsureDaemon = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Things that come over the road.
pub(crate) enum News {
    /// The daemon cannot be reached; said at the first failure of a row of failures.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The daemon knows this session, and its events follow.
    Connected(Standing),
    /// The session changed.
    Changed(Standing),
    /// Rows that were stored while nobody listened, oldest first.
    Missed {
        /// The rows worth pushing.
        items: Vec<InboxItem>,
        /// There may be more than these.
        is_complete: bool,
    },
    /// An event.
    Event(Event),
}

/// The task that keeps the road open.
pub(crate) struct Link {
    /// Where the daemon lies.
    pub paths: Paths,
    /// Starts it.
    pub ensure_daemon: EnsureDaemon,
    /// Makes the session known.
    pub registrar: Registrar,
    /// Where news goes; a full queue holds the stream back, and the daemon then says `lagged`.
    pub news_tx: mpsc::Sender<News>,
    /// Turns to ready when the client may be written to; events are not fetched before.
    pub client_rx: watch::Receiver<server::Client>,
    /// Who the client is, once it has said so.
    pub served_rx: watch::Receiver<Option<ServedClient>>,
    /// Tells tool calls how the road stands.
    pub road: RoadWorks,
    /// What tool calls counted.
    pub tally: Tally,
    /// Carries read marks to the daemon, which takes them only while the session is there.
    pub marking: JoinHandle<()>,
    /// Ends the task.
    pub cancel: CancellationToken,
}

/// How a stream ended.
enum End {
    /// Nobody takes news any more.
    Stopped,
    /// The daemon closed it, or it broke.
    Broken,
    /// The session must be made known again.
    SessionLost,
}

impl Link {
    /// Runs until cancelled, then says farewell for a session of its own.
    pub(crate) async fn run(mut self) {
        let cancel = self.cancel.clone();
        cancel.run_until_cancelled(self.keep_open()).await;
        // The pipe ends with us; what it has shown is marked before the session goes.
        let _ = (&mut self.marking).await;
        if let Ok(client) = self.client() {
            if let Some(client) = self.registrar.own(&client) {
                self.tally.report(&client).await;
            }
            self.registrar.farewell(&client).await;
        }
    }

    async fn keep_open(&mut self) {
        let mut failures = 0_usize;
        let mut last_id: Option<String> = None;
        loop {
            self.road.opening();
            match self.open(last_id.as_deref()).await {
                Ok((standing, mut stream, is_fresh)) => {
                    failures = 0;
                    let end = self.follow(&standing, &mut stream, is_fresh).await;
                    last_id = stream.last_event_id().map(str::to_owned).or(last_id);
                    match end {
                        Ok(End::Stopped) => return,
                        Ok(End::Broken) => {
                            tracing::info!("the event stream ended; opening it again");
                        }
                        Ok(End::SessionLost) => {
                            tracing::info!("the session ended at the daemon; registering it again");
                        }
                        Err(error) => {
                            tracing::info!(%error, "the event stream broke; opening it again");
                        }
                    }
                    self.road.opening();
                    self.road.rest(MCP_STREAM_RETRY).await;
                }
                Err(trouble) => {
                    self.road.closed(&trouble);
                    let reason = trouble.reason;
                    tracing::warn!(reason, "daemon not reached");
                    if failures == 0
                        && self.news_tx.send(News::Unreachable { reason }).await.is_err()
                    {
                        return;
                    }
                    let last = MCP_DAEMON_RETRY_SECS.len() - 1;
                    let seconds =
                        MCP_DAEMON_RETRY_SECS.get(failures.min(last)).copied().unwrap_or(30);
                    failures += 1;
                    self.road.rest(Duration::from_secs(seconds)).await;
                }
            }
        }
    }

    /// Daemon, session, stream. The flag is false when the stream continues where the last one ended.
    async fn open(
        &mut self,
        last_id: Option<&str>,
    ) -> Result<(Standing, EventStream, bool), Trouble> {
        let ready = tokio::time::timeout(MCP_DAEMON_READY_BUDGET, (self.ensure_daemon)());
        ready
            .await
            .map_err(|_| Trouble::unreachable("the daemon did not become ready in time"))?
            .map_err(Trouble::unreachable)?;
        let client = self.client().map_err(|error| Trouble::unreachable(error.to_string()))?;
        let standing = self.registrar.standing(&client).await?;
        if self.registrar.needs_session() && standing.session.is_none() {
            return Err(Trouble {
                code: ErrorCode::Forbidden,
                reason: "--caps restricts a session, and none could be registered; with several \
                         meshes, choose one by --mesh"
                    .to_owned(),
            });
        }
        self.road.open(&standing);
        let _ = self.client_rx.wait_for(|client| *client == server::Client::Ready).await;
        // Before the stream: the daemon must know whether anybody listens to what goes into it.
        self.introduce(&standing).await;
        let query = EventsQuery {
            scope: Some(if standing.session.is_some() {
                EventScope::Session
            } else {
                EventScope::Member
            }),
            mesh: self.registrar.pinned_mesh().map(str::to_owned),
            kinds: None,
        };
        let stream = standing.client.events(&query, last_id).await?;
        Ok((standing, stream, last_id.is_none()))
    }

    /// Tells the daemon whom this server serves, when the client has said so.
    async fn introduce(&self, standing: &Standing) {
        let served = self.served_rx.borrow().clone();
        if let (Some(client), Some(_)) = (served, &standing.session) {
            let sign = Heartbeat { client: Some(client), ..Heartbeat::default() };
            if let Err(error) = standing.client.heartbeat(&sign).await {
                tracing::info!(%error, "the daemon was not told which client this is");
            }
        }
    }

    async fn follow(
        &mut self,
        standing: &Standing,
        stream: &mut EventStream,
        is_fresh: bool,
    ) -> Result<End, IpcError> {
        if self.news_tx.send(News::Connected(standing.clone())).await.is_err() {
            return Ok(End::Stopped);
        }
        // The stream is open, so what the inbox does not show now will come over it; doubles are known by their ids.
        if is_fresh && self.tell_missed(standing).await? {
            return Ok(End::Stopped);
        }
        while let Some(event) = stream.next().await? {
            let is_ours = concerns(standing, &event);
            match &event.kind {
                EventKind::Lagged => {
                    if self.tell_missed(standing).await? {
                        return Ok(End::Stopped);
                    }
                    continue;
                }
                EventKind::SessionEnded if is_ours => return Ok(End::SessionLost),
                EventKind::SessionUpdated if is_ours => {
                    let session = match standing.client.session().await {
                        Ok(session) => session,
                        Err(error) if error.is(ErrorCode::UnknownSession) => {
                            return Ok(End::SessionLost);
                        }
                        Err(error) => return Err(error),
                    };
                    let changed = Standing { session: Some(session), ..standing.clone() };
                    self.road.open(&changed);
                    if self.news_tx.send(News::Changed(changed)).await.is_err() {
                        return Ok(End::Stopped);
                    }
                    continue;
                }
                // A mesh appeared while none could be chosen: it may be the only one now.
                EventKind::BrokerStatus if standing.session.is_none() => {
                    return Ok(End::SessionLost);
                }
                _ => {}
            }
            if self.news_tx.send(News::Event(event)).await.is_err() {
                return Ok(End::Stopped);
            }
        }
        Ok(End::Broken)
    }

    /// Tells what was stored while nobody listened; true when nobody takes news any more.
    async fn tell_missed(&mut self, standing: &Standing) -> Result<bool, IpcError> {
        let page = unread::page(&standing.client, self.registrar.pinned_mesh()).await?;
        let is_complete = page.next_cursor.is_none();
        let mut items: Vec<InboxItem> =
            page.items.into_iter().filter(|item| was_missed(item, standing)).collect();
        items.reverse();
        if items.is_empty() {
            return Ok(false);
        }
        Ok(self.news_tx.send(News::Missed { items, is_complete }).await.is_err())
    }

    fn client(&self) -> std::io::Result<Client> {
        Ok(Client::new(self.paths.socket()?))
    }
}

/// Not pushed yet, to be pushed one by one now, and younger than this session.
fn was_missed(item: &InboxItem, standing: &Standing) -> bool {
    let is_young =
        Timestamp::parse_iso(&item.received_at).is_none_or(|at| at >= standing.listens_since);
    let is_wanted = !item.digest && !item.held && !item.is_answered_elsewhere();
    item.pushed_at.is_none() && is_wanted && item.priority != Priority::Low && is_young
}

/// True when the event is about this session.
fn concerns(standing: &Standing, event: &Event) -> bool {
    let Some(session) = &standing.session else { return false };
    let word = |key: &str| event.data.get(key).and_then(serde_json::Value::as_str);
    let same_session = word("session_id") == Some(session.session_id.as_str());
    same_session && word("mesh").is_none_or(|mesh| mesh == session.mesh)
}
