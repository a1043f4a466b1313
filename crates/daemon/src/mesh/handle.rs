//! What the local API asks of one mesh.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_client::{Connection, DisabledReason, Status};
use claudemesh_crypto::KeyPair;
use claudemesh_ipc::api::MeshStatus;
use claudemesh_protocol::body::Meta;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::{PULL_INTERVAL, REQUEST_TIMEOUT};
use claudemesh_protocol::wire::{ClientFrame, MemberRow, ServerFrame};
use claudemesh_protocol::{MeshId, PublicKey, TargetSpec};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::http::MemberHttp;
use super::resolve::{Asker, Resolution, resolve};
use super::roster::{Crowd, Listing, Peers};
use super::seal::{Draft, Policy, SealError, Sealed, seal};
use super::session::SessionPresence;
use super::{ColdLine, MemberIdentity, MeshHandle, Terms, api_status};
use crate::sessions::Session;

/// Age of a roster above which who asks for a name that is not in it is told that it is being fetched anew (daemon
/// spec §7.5).
const STALE_FOR_NAMES: Duration = Duration::from_secs(5);
/// How long a listing of the inbox waits for what the broker holds (daemon spec §9.7).
const PULL_WAIT: Duration = Duration::from_millis(300);

/// On which connection something goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// The daemon's own: the member's, or that of the session which an ephemeral daemon is.
    Member,
    /// That of the session with this key.
    Session(PublicKey),
}

/// Whose key seals a message.
#[derive(Clone)]
pub enum Sender {
    /// That of the daemon's own connection: the member's, or that of the session which an ephemeral daemon is.
    Member,
    /// A session's.
    Session(Arc<KeyPair>),
}

/// The broker did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// Stable code; the broker's own where it answered.
    pub code: String,
    /// For people.
    pub message: String,
    /// When it may be tried again.
    pub retry_after_ms: Option<u64>,
    /// The broker may have done it: the frame went out, and no answer came.
    pub may_have_run: bool,
}

/// A listing could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MeshError {
    /// Stable code.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// Health of one mesh's connection.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshLink {
    /// Where it stands.
    pub status: MeshStatus,
    /// Round trip of the last ping.
    pub lag_ms: Option<u64>,
    /// Code and reason of the last close.
    pub last_close: Option<(u16, String)>,
    /// Why it is disabled.
    pub disabled_reason: Option<&'static str>,
    /// Version of the broker program.
    pub broker_version: Option<String>,
    /// What the broker can do.
    pub features: Map<String, Value>,
    /// The broker states no features.
    pub is_legacy: bool,
    /// Characters of ciphertext, nonce and target of one send.
    pub max_message_bytes: usize,
    /// Age at which a waiting row gives up.
    pub max_age: Duration,
    /// Age of the roster.
    pub roster_age: Option<Duration>,
}

impl MeshHandle {
    /// Its slug.
    pub fn slug(&self) -> &str {
        &self.mesh.slug
    }

    /// Its id.
    pub fn mesh_id(&self) -> &MeshId {
        &self.mesh.id
    }

    /// Our member in it.
    pub fn member(&self) -> &MemberIdentity {
        &self.mesh.member
    }

    /// Where its connection stands.
    pub fn status(&self) -> MeshStatus {
        self.mesh
            .control()
            .map_or(MeshStatus::Connecting, |connection| api_status(&connection.state()))
    }

    /// Our member was removed from it, as far as the broker said last.
    pub fn is_revoked(&self) -> bool {
        let state = self.mesh.control().map(|connection| connection.state().status);
        state == Some(Status::Disabled(DisabledReason::Revoked))
    }

    /// The broker does not know our member's key, as far as it said last.
    pub(crate) fn is_unauthorized(&self) -> bool {
        let state = self.mesh.control().map(|connection| connection.state().status);
        state == Some(Status::Disabled(DisabledReason::Unauthorized))
    }

    /// The key that its broker had signed with, and the other one that it names now; `None` while it is the same.
    pub(crate) fn changed_broker_key(&self) -> Option<(PublicKey, PublicKey)> {
        self.mesh.state.changed_broker_key()
    }

    /// Takes the other key for the broker's from now on; false when the broker does not name it any more. Blocks.
    pub(crate) fn trust_broker(&self, key: PublicKey) -> std::io::Result<bool> {
        let is_trusted = self.mesh.state.trust_broker(key);
        self.mesh.state.save().map(|()| is_trusted)
    }

    /// Asks the broker, over a short connection of its own, whether it takes `keys` for our member.
    ///
    /// # Errors
    /// [`RequestError`]; `unauthorized` when it does not.
    pub(crate) async fn probe_key(&self, keys: &KeyPair) -> Result<(), RequestError> {
        let (mesh, settings) = (&self.mesh, &self.mesh.context.settings);
        let (tasks, stop) = (TaskTracker::new(), mesh.stop.child_token());
        let terms = Terms {
            plain: settings.plain,
            dialer: Arc::clone(&settings.dialer),
            hostname: settings.hostname.clone(),
            patience: REQUEST_TIMEOUT,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let identity = MemberIdentity {
            member_id: mesh.member.member_id.clone(),
            public: keys.public(),
            keys: Arc::new(keys.clone()),
        };
        let line = ColdLine::of_member(
            (&mesh.slug, &mesh.id),
            &mesh.broker_url,
            identity,
            Arc::new(terms),
        );
        let greeted = line.greet().await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        greeted
    }

    /// Ends its tasks and connections; when this returns, what was on its way is stored, or a few seconds have passed.
    pub(crate) async fn end(&self) {
        self.mesh.shutdown().await;
    }

    /// Everything health shows about its connection.
    pub fn health(&self) -> MeshLink {
        let negotiated = self.mesh.negotiated();
        let state = self.mesh.control().map(|connection| connection.state());
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        MeshLink {
            status: state.as_ref().map_or(MeshStatus::Connecting, api_status),
            lag_ms: state.as_ref().and_then(|state| state.lag).map(millis),
            last_close: state
                .as_ref()
                .and_then(|state| state.last_close.as_ref())
                .map(|close| (close.code, close.reason.clone())),
            disabled_reason: match state.map(|state| state.status) {
                Some(Status::Disabled(reason)) => Some(reason.as_str()),
                _ => None,
            },
            broker_version: negotiated.broker_version.clone(),
            features: negotiated.features.clone(),
            is_legacy: negotiated.is_legacy,
            max_message_bytes: negotiated.max_message_bytes,
            max_age: negotiated.max_age,
            roster_age: self.mesh.roster.age(),
        }
    }

    /// What a text without a mesh slug means here; from memory alone. `caller` is the calling session's key.
    pub fn resolve(&self, text: &str, caller: Option<PublicKey>) -> Resolution {
        let asker = Asker {
            member: self.mesh.member.public,
            session: caller.or(self.mesh.own_session_key()),
        };
        let resolution = resolve(text, &self.mesh.roster.view(), asker);
        match resolution {
            Resolution::None { names, .. } => {
                let is_refreshing = self.mesh.roster.age().is_none_or(|age| age > STALE_FOR_NAMES);
                // Whoever joined a moment ago is not in a young roster either.
                self.mesh.refresh.soon();
                Resolution::None { names, is_refreshing }
            }
            found => found,
        }
    }

    /// Keys of our member's live sessions on all its machines, except one.
    pub fn own_live_sessions(&self, except: Option<PublicKey>) -> Vec<PublicKey> {
        self.mesh.roster.view().live_sessions(self.mesh.member.public, except)
    }

    /// Members in numbers, as far as the roster in memory has them.
    pub(crate) fn crowd(&self) -> Crowd {
        self.mesh.roster.view().crowd()
    }

    /// The name of a session or member, as far as the roster in memory has it.
    pub fn name_of(&self, key: PublicKey) -> Option<String> {
        self.mesh.roster.view().name_of(key)
    }

    /// The member key behind a session's key, as far as the roster in memory has it; else the key itself.
    pub fn member_behind(&self, key: PublicKey) -> PublicKey {
        self.mesh.roster.view().member_behind(key).unwrap_or(key)
    }

    /// Whether the roster in memory has a member with this key, present or absent.
    pub fn is_member(&self, key: PublicKey) -> bool {
        self.mesh.roster.view().member(key).is_some()
    }

    /// Every key the member behind `key` is known by here: the key itself, its member key, and those of its presences.
    pub fn keys_of_member(&self, key: PublicKey) -> Vec<PublicKey> {
        self.mesh.roster.view().keys_of_member(key)
    }

    /// Seals a message for `target`; CPU only.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(
        &self,
        target: &TargetSpec,
        message: &str,
        meta: Option<&Meta>,
        hops: u32,
        sender: &Sender,
    ) -> Result<Sealed, SealError> {
        let mesh = &self.mesh;
        let negotiated = mesh.negotiated();
        let keys = match sender {
            Sender::Member => mesh.voice(),
            Sender::Session(keys) => keys,
        };
        let policy = Policy {
            group_encryption: negotiated.group_encryption,
            max_message_bytes: negotiated.max_message_bytes,
        };
        let draft = Draft { target, text: message, meta, hops };
        seal(&draft, keys, mesh.member.public, &mesh.roster.view(), policy, &mesh.shared_keys)
    }

    /// Who seals a row: the member, or the session with this key, live or ended; `None` when its key pair is gone.
    pub fn sender(&self, session: Option<PublicKey>) -> Option<Sender> {
        match session {
            None => Some(Sender::Member),
            Some(key) => self.mesh.own_keys(key).map(Sender::Session),
        }
    }

    /// Who is there, asked of the broker. With `Listing::All` daemons' own connections too.
    ///
    /// # Errors
    /// [`MeshError`] when the broker cannot be asked; never an empty list in place of it.
    pub async fn peers(&self, listing: Listing) -> Result<Peers, MeshError> {
        self.fetch_roster().await?;
        Ok(self.mesh.roster.view().listed_for(self.mesh.member.public, listing))
    }

    /// The roster, absent members included, asked of the broker.
    ///
    /// # Errors
    /// As [`MeshHandle::peers`].
    pub async fn members(&self) -> Result<Vec<MemberRow>, MeshError> {
        self.fetch_roster().await?;
        Ok(self.mesh.roster.view().members.clone())
    }

    /// Sends a frame on a connection of ours and answers the broker's reply.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, via: Via, frame: ClientFrame) -> Result<ServerFrame, RequestError> {
        self.request_within(via, frame, REQUEST_TIMEOUT).await
    }

    /// As [`MeshHandle::request`], with another time limit.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request_within(
        &self,
        via: Via,
        frame: ClientFrame,
        limit: Duration,
    ) -> Result<ServerFrame, RequestError> {
        let answer = match self.connection(via) {
            Some(connection) => connection.request(&frame, limit).await,
            None => Err(claudemesh_client::RequestError::NotOpen),
        };
        let reply = answer.map_err(|error| match error {
            claudemesh_client::RequestError::NotOpen if self.is_revoked() => {
                banned(&self.mesh.slug)
            }
            error => request_error(&error),
        })?;
        if let Via::Session(key) = via {
            self.mesh.keep_groups(&key, &frame);
        }
        Ok(reply)
    }

    /// Gives our member another name in this mesh, over the broker's HTTP side, signed by the member's key.
    ///
    /// # Errors
    /// [`RequestError`]; the broker's own code when it refuses.
    pub async fn rename_member(&self, name: &str) -> Result<(), RequestError> {
        self.http()?.rename(name).await?;
        self.mesh.refresh.soon();
        Ok(())
    }

    /// The broker's HTTP side, as our member.
    pub(super) fn http(&self) -> Result<MemberHttp, RequestError> {
        let mesh = &self.mesh;
        let plain = mesh.context.settings.plain;
        MemberHttp::new(&mesh.broker_url, plain, (&mesh.slug, &mesh.id), &mesh.member)
    }

    /// Asks the broker for what it holds for a connection, at most once in five seconds; best effort.
    pub async fn pull(&self, via: Via) {
        let key = match via {
            Via::Member => None,
            Via::Session(key) => Some(key),
        };
        let now = Instant::now();
        {
            let mut pulls = self.mesh.pulls.lock();
            pulls.retain(|_, at| now.duration_since(*at) < PULL_INTERVAL);
            if pulls.contains_key(&key) {
                return;
            }
            pulls.insert(key, now);
        }
        let Some(connection) = self.connection(via) else { return };
        let frame = ClientFrame::PullMessages(Box::default());
        if let Err(error) = connection.request(&frame, PULL_WAIT).await {
            tracing::debug!(mesh = %self.mesh.slug, %error, "pull_messages_failed");
        }
    }

    /// Opens the connection of a session; does nothing for one without a key.
    pub fn open_session(&self, session: &Session) {
        let hostname = self.mesh.context.settings.hostname.clone();
        if let Some(presence) = SessionPresence::of(session, hostname) {
            self.mesh.open_presence(presence);
        }
    }

    /// Tells the broker what a session is doing, without waiting for it.
    pub fn tell_status(&self, session: &Session) {
        self.mesh.tell_status(session);
    }

    /// Closes the connection of a session for good.
    pub fn close_session(&self, key: &PublicKey) {
        self.mesh.close_presence(key);
    }

    /// Where the connection of a session stands; `None` when it has none.
    pub fn session_status(&self, key: &PublicKey) -> Option<MeshStatus> {
        self.mesh.session_connection(key).map(|connection| api_status(&connection.state()))
    }

    pub(super) fn connection(&self, via: Via) -> Option<Connection> {
        match via {
            Via::Member => self.mesh.control(),
            Via::Session(key) => self.mesh.session_connection(&key),
        }
    }

    pub(super) async fn fetch_roster(&self) -> Result<(), MeshError> {
        if self.is_revoked() {
            return Err(MeshError {
                code: ErrorCode::MemberRevoked,
                message: banned(&self.mesh.slug).message,
            });
        }
        if !self.mesh.is_open() {
            return Err(MeshError {
                code: ErrorCode::BrokerUnavailable,
                message: format!("no connection to the broker of {}", self.mesh.slug),
            });
        }
        match tokio::time::timeout(REQUEST_TIMEOUT, self.mesh.refresh.now()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(MeshError { code: code_of(&error), message: error.to_string() }),
            Err(_) => Err(MeshError {
                code: ErrorCode::BrokerTimeout,
                message: "the broker did not answer in time".to_owned(),
            }),
        }
    }
}

/// The broker has closed for good with code 4002.
pub(crate) fn banned(slug: &str) -> RequestError {
    RequestError {
        code: ErrorCode::MemberRevoked.as_str().to_owned(),
        message: format!("this member was banned from \"{slug}\""),
        retry_after_ms: None,
        may_have_run: false,
    }
}

pub(super) fn code_of(error: &claudemesh_client::RequestError) -> ErrorCode {
    match error {
        claudemesh_client::RequestError::Timeout => ErrorCode::BrokerTimeout,
        claudemesh_client::RequestError::Refused(frame) => {
            frame.known_code().unwrap_or(ErrorCode::Internal)
        }
        claudemesh_client::RequestError::UnexpectedReply
        | claudemesh_client::RequestError::Encode => ErrorCode::Internal,
        _ => ErrorCode::BrokerUnavailable,
    }
}

pub(super) fn request_error(error: &claudemesh_client::RequestError) -> RequestError {
    match error {
        claudemesh_client::RequestError::Refused(frame) => RequestError {
            code: frame.code.clone(),
            message: frame.message.clone(),
            retry_after_ms: frame.retry_after_ms,
            may_have_run: false,
        },
        other => RequestError {
            code: code_of(other).as_str().to_owned(),
            message: other.to_string(),
            retry_after_ms: None,
            may_have_run: matches!(
                other,
                claudemesh_client::RequestError::Timeout
                    | claudemesh_client::RequestError::Disconnected
            ),
        },
    }
}
