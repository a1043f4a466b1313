//! Operations without a daemon: a program opens its own connection to the broker of each mesh it asks, runs the same
//! operations as the daemon over it, and says goodbye (CLI spec §1.15). Socket, databases and files of a daemon are
//! not touched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::{OpReply, OutboxItem, SendReply, SendRequest};
use claudemesh_ipc::{ApiError, IpcError, StandIn};
use claudemesh_protocol::ops::OperationKind;
use claudemesh_protocol::{ErrorCode, PublicKey};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::send::{self, Addressed, Letter};
use crate::api::{Api, Caller, Failure};
use crate::boot::{dialer_from_env, plain_from_env};
use crate::home::config::Config;
use crate::hooks;
use crate::mesh::{ColdLine, Line as _, Resolved, Terms};
use crate::ops::{self, Limits, Place};
use crate::outbox::ExistingRow;

/// How much longer than one answer of the broker an operation may take: what went wrong inside is said by name.
const MARGIN: Duration = Duration::from_millis(500);
/// Time for the broker to take a message of a one-shot program (wire spec §1.2).
const SEND_ACK_ONE_SHOT: Duration = Duration::from_secs(10);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// The meshes of one program run. Connections are opened when the first question is asked.
pub struct Cold {
    lines: BTreeMap<String, ColdLine>,
    default_mesh: Option<String>,
    /// What was said with `--timeout`.
    timeout: Option<Duration>,
    grants: Mutex<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Time for the connection, for an answer that names no time of its own, and for the broker to take a message.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// What the person said; it stands above the other.
    pub asked: Option<Duration>,
    /// Otherwise.
    pub usual: Duration,
}

impl Cold {
    /// The joined meshes of a configuration, with what the environment says about proxies and plain connections. Must be
    /// used inside a runtime.
    pub fn new(config: &Config, patience: Patience) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let terms = Arc::new(Terms {
            plain: plain_from_env(),
            dialer: dialer_from_env(),
            hostname: hostname::get().ok().and_then(|name| name.into_string().ok()),
            patience: patience.asked.unwrap_or(patience.usual),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let line = |entry| ColdLine::new(entry, Arc::clone(&terms));
        Self {
            lines: config.meshes().map(|entry| (entry.slug.clone(), line(entry))).collect(),
            default_mesh: config.default_mesh().map(str::to_owned),
            timeout: patience.asked,
            grants: Mutex::default(),
            tasks,
            stop,
        }
    }

    /// Closes what was opened, as meant; takes at most half a second.
    pub async fn say_goodbye(&self) {
        self.stop.cancel();
        self.tasks.close();
        // What does not end in time ends with the program.
        let _late = tokio::time::timeout(GOODBYE, self.tasks.wait()).await;
    }

    fn limits(&self, usual: Duration) -> Limits {
        let answer = self.timeout.unwrap_or(usual);
        Limits { answer, whole: answer + MARGIN }
    }
}

impl StandIn for Cold {
    fn operate<'a>(
        &'a self,
        kind: OperationKind,
        mesh: Option<&'a str>,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'a, Result<OpReply, IpcError>> {
        Box::pin(async move {
            let limits = self.limits(kind.spec().timeout);
            let caller = Caller::person();
            let answer = ops::run_at(self, &caller, kind, mesh, arguments, limits).await;
            let answer = answer.map_err(said)?;
            Ok(OpReply {
                ok: true,
                op: kind.spec().name.to_owned(),
                mesh: answer.mesh,
                result: Value::Object(answer.result),
            })
        })
    }

    fn send<'a>(&'a self, request: &'a SendRequest) -> BoxFuture<'a, Result<SendReply, IpcError>> {
        Box::pin(async move {
            let caller = Caller::person();
            let letter = Letter::checked(request.clone(), None).map_err(said)?;
            let sent = async {
                let addressed = self.address(&caller, &letter).await?;
                self.deliver(&caller, &letter, addressed).await
            };
            let limit = self.limits(SEND_ACK_ONE_SHOT).whole;
            let sent = tokio::time::timeout(limit, sent).await;
            sent.unwrap_or_else(|_| Err(send::unconfirmed(&letter.client_message_id))).map_err(said)
        })
    }
}

/// A failure as a daemon would have answered it; what only a daemon can promise is left out.
fn said(failure: Failure) -> IpcError {
    let silence = [ErrorCode::BrokerUnavailable, ErrorCode::BrokerTimeout];
    let is_silence = silence.iter().any(|code| code.as_str() == failure.code());
    let failure = if is_silence { failure.hint("claudemesh list") } else { failure };
    let (status, body, retry_after) = failure.into_body(String::new());
    ApiError { status, body: Box::new(body), retry_after }.into()
}

impl Place for Cold {
    type Line = ColdLine;

    fn mesh(&self, slug: &str) -> Option<ColdLine> {
        self.lines.get(slug).cloned()
    }

    fn all(&self) -> Vec<ColdLine> {
        self.lines.values().cloned().collect()
    }

    fn default_mesh(&self) -> Option<String> {
        self.default_mesh.clone()
    }

    fn sessions(&self, _mesh: &ColdLine) -> Vec<PublicKey> {
        Vec::new()
    }

    fn as_daemon(&self) -> Option<&Api> {
        None
    }

    async fn changing_grants(&self) -> MutexGuard<'_, ()> {
        self.grants.lock().await
    }

    /// Nothing is kept.
    async fn sent_from_here(&self, _id: &str) -> Result<Vec<OutboxItem>, Failure> {
        Ok(Vec::new())
    }

    async fn address(
        &self,
        caller: &Caller,
        letter: &Letter,
    ) -> Result<Addressed<ColdLine>, Failure> {
        send::destination(self, caller, letter).await
    }

    async fn accept_one(
        &self,
        caller: &Caller,
        letter: &Letter,
        mesh: &ColdLine,
        resolved: &Resolved,
        _stored: Option<&ExistingRow>,
    ) -> Result<SendReply, Failure> {
        let limit = self.limits(SEND_ACK_ONE_SHOT).answer;
        send::hand_over(mesh, caller, letter, resolved, limit).await
    }

    async fn deliver(
        &self,
        caller: &Caller,
        letter: &Letter,
        addressed: Addressed<ColdLine>,
    ) -> Result<SendReply, Failure> {
        hooks::without_daemon(addressed.mesh().slug()).await?;
        send::accept(self, caller, letter, addressed).await
    }
}
