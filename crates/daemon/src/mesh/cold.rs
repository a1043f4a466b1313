//! A mesh over a connection of its own, opened when the first question is asked and closed with a goodbye when the call
//! has ended (CLI spec §1.15). Nobody is told that it came or went (`transient`, wire spec §2.2), and nothing that is
//! pushed on it is acknowledged: what belongs to the member stays for the member's daemon.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_client::hello::PresenceInfo;
use claudemesh_client::{
    Close, Connection, ConnectionEvent, ConnectionOptions, Dialer, DisabledReason, HelloClock,
    MemberHello, Role, Status, Timing,
};
use claudemesh_crypto::direct::SharedKeyCache;
use claudemesh_ipc::api::{BrokerAnswer, MeshStatus};
use claudemesh_protocol::body::Meta;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::wire::hello::{capability, channel};
use claudemesh_protocol::wire::{Ack, ClientFrame, ServerFrame, WrappedKey};
use claudemesh_protocol::{MemberId, MeshId, PublicKey, TargetSpec};
use serde_json::Value;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::drain::{answer_of, facts_of, frame_of, resealed};
use super::features::{FeatureTerms, negotiate};
use super::handle::{banned, code_of, request_error};
use super::http::MemberHttp;
use super::line::Line;
use super::outcome::{Outcome, of_ack};
use super::refresh::lists;
use super::resolve::{Asker, resolve};
use super::roster::{Roster, RosterView};
use super::seal::{Draft, Policy, audience, seal, wrap_keys};
use super::{
    AgeSettings, MemberIdentity, MeshError, Negotiated, RequestError, Resolution, SealError,
    Sealed, Sender, Via, api_status,
};
use crate::clock;
use crate::home::config::MeshEntry;
use crate::outbox::OutboundRow;

/// Agreed keys kept: those of one group message.
const SHARED_KEYS: usize = 1_024;
/// Handshakes tried: another process of the member may have signed one in the same millisecond.
const HANDSHAKES: u32 = 4;

/// How a call connects.
pub(crate) struct Terms {
    /// Whether `ws://` to another machine is allowed.
    pub plain: PlainHttp,
    /// Opens the byte stream below the connection.
    pub dialer: Arc<dyn Dialer>,
    /// Host name shown to the own member.
    pub hostname: Option<String>,
    /// Time for the connection, and again for each answer.
    pub patience: Duration,
    /// The connections' tasks.
    pub tasks: TaskTracker,
    /// Ends the connections.
    pub stop: CancellationToken,
}

/// One mesh of one call. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct ColdLine {
    shared: Arc<Shared>,
}

struct Shared {
    terms: Arc<Terms>,
    slug: String,
    id: MeshId,
    broker_url: String,
    member: MemberIdentity,
    link: OnceCell<Result<Link, RequestError>>,
    roster: Roster,
    agreed: SharedKeyCache,
}

/// The open connection.
struct Link {
    connection: Connection,
    negotiated: Negotiated,
}

/// What the broker said to a message it has.
pub(crate) struct Taken {
    /// Its id there.
    pub broker_message_id: Option<String>,
    /// Its place in the history.
    pub history_id: Option<String>,
    /// It had it before.
    pub is_duplicate: bool,
    /// What it said beside the ids.
    pub answer: BrokerAnswer,
}

impl ColdLine {
    /// Nothing is opened yet.
    pub(crate) fn new(entry: &MeshEntry, terms: Arc<Terms>) -> Self {
        let member = MemberIdentity {
            member_id: entry.member_id.clone(),
            public: entry.keys.public(),
            keys: Arc::new(entry.keys.clone()),
        };
        Self::of_member((&entry.slug, &entry.mesh_id), &entry.broker_url, member, terms)
    }

    /// As [`ColdLine::new`], for a member that stands in no config.
    pub(super) fn of_member(
        (slug, id): (&str, &MeshId),
        broker_url: &str,
        member: MemberIdentity,
        terms: Arc<Terms>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                terms,
                slug: slug.to_owned(),
                id: id.clone(),
                broker_url: broker_url.to_owned(),
                member,
                link: OnceCell::new(),
                roster: Roster::default(),
                agreed: SharedKeyCache::new(SHARED_KEYS),
            }),
        }
    }

    /// Hands a message to the broker and waits until it has it. A connection that breaks before the answer is opened
    /// again while there is time: under one id the broker takes a message once.
    ///
    /// # Errors
    /// [`RequestError`]; with `may_have_run` the broker may have it all the same.
    pub(crate) async fn hand_over(
        &self,
        mut row: OutboundRow,
        limit: Duration,
    ) -> Result<Taken, RequestError> {
        let deadline = Instant::now() + limit;
        let link = self.link().await?;
        let mut was_written = false;
        loop {
            let (wrapped_keys, left_out) = self.wraps(&row);
            let frame = frame_of(&row, wrapped_keys, link.negotiated.max_age);
            let left = deadline.saturating_duration_since(Instant::now());
            let queued = || was_written = true;
            match link.connection.send_message_then(frame, left, queued).await {
                Ok(ack) => match of_ack(&ack, facts_of(&row)) {
                    Outcome::Done => return Ok(taken(ack, &left_out, false)),
                    Outcome::Duplicate { .. } => return Ok(taken(ack, &left_out, true)),
                    Outcome::Reseal(reason) => {
                        let member = self.shared.member.public;
                        row.body = resealed(&self.roster(), member, &row)
                            .map_err(|text| refused(&reason.code, &text, None))?;
                    }
                    Outcome::Dead(reason) => return Err(refused(&reason.code, &reason.text, None)),
                    Outcome::Retry(reason, after) => {
                        return Err(refused(&reason.code, &reason.text, after));
                    }
                    Outcome::Release => return Err(refused("internal", "nothing was sent", None)),
                },
                Err(error) => {
                    let is_broken = matches!(
                        error,
                        claudemesh_client::RequestError::Disconnected
                            | claudemesh_client::RequestError::NotOpen
                    );
                    if !is_broken || !opened_again(&link.connection, deadline).await {
                        let error = request_error(&error);
                        return Err(RequestError { may_have_run: was_written, ..error });
                    }
                }
            }
        }
    }

    /// Content keys for the audience of a group message, as the roster of this call has it.
    fn wraps(&self, row: &OutboundRow) -> (Option<Vec<WrappedKey>>, Vec<MemberId>) {
        let Some(content_key) = &row.body.content_key else { return (None, Vec::new()) };
        let member = &self.shared.member;
        let audience = audience(&row.target_spec, &self.roster(), member.public);
        let cache = &self.shared.agreed;
        let wrapped = wrap_keys(content_key, &member.keys, &audience.members, cache);
        (Some(wrapped), audience.left_out)
    }

    /// Opens the connection, for whoever wants to know only whether the broker takes the key.
    ///
    /// # Errors
    /// [`RequestError`]; `unauthorized` when it does not.
    pub(super) async fn greet(&self) -> Result<(), RequestError> {
        self.link().await.map(|_| ())
    }

    async fn link(&self) -> Result<&Link, RequestError> {
        let opened = self.shared.link.get_or_init(|| self.open()).await;
        opened.as_ref().map_err(Clone::clone)
    }

    async fn open(&self) -> Result<Link, RequestError> {
        let shared = &self.shared;
        let terms = &shared.terms;
        let pid = std::process::id();
        let cwd = std::env::current_dir().unwrap_or_default();
        let hello = MemberHello {
            mesh_id: shared.id.clone(),
            member_id: shared.member.member_id.clone(),
            key: Arc::clone(&shared.member.keys),
            info: PresenceInfo {
                session_id: format!("cli-{pid}-{}", crate::ids::next()),
                pid,
                cwd: cwd.to_string_lossy().into_owned(),
                hostname: terms.hostname.clone(),
                ..PresenceInfo::default()
            },
            // `client_ack`: a push that should come all the same is not taken as read because it was written.
            capabilities: [capability::TRANSIENT, capability::CLIENT_ACK, capability::FEATURES]
                .map(str::to_owned)
                .to_vec(),
            channel: channel::CLI,
            host_fingerprint: None,
            clock: Arc::<HelloClock>::default(),
        };
        let mut options = ConnectionOptions::new(
            &shared.broker_url,
            Role::ControlPlane,
            terms.plain,
            Arc::new(hello),
        )
        .mesh(&shared.slug);
        options.dialer = Arc::clone(&terms.dialer);
        let timing =
            Timing { connect: terms.patience, hello_ack: terms.patience, ..Timing::default() };
        options.timing = timing.into();
        let (connection, mut events) =
            Connection::open(options, &terms.tasks, terms.stop.child_token());
        let opened = self.await_ack(&connection, &mut events);
        let negotiated = match tokio::time::timeout(terms.patience, opened).await {
            Ok(Ok(negotiated)) => negotiated,
            Ok(Err(error)) => {
                connection.close();
                return Err(error);
            }
            Err(_) => {
                connection.close();
                let seconds = terms.patience.as_secs_f32();
                return Err(self.unreachable(&format!("timeout {seconds}s")));
            }
        };
        // The connection reads on only while somebody takes its events.
        terms.tasks.spawn(async move { while events.recv().await.is_some() {} });
        Ok(Link { connection, negotiated })
    }

    /// Waits for the broker's answer to the handshake. Only one that was signed at a bad moment is worth another try.
    async fn await_ack(
        &self,
        connection: &Connection,
        events: &mut mpsc::Receiver<ConnectionEvent>,
    ) -> Result<Negotiated, RequestError> {
        let mut tried = 0;
        while let Some(event) = events.recv().await {
            match event {
                ConnectionEvent::Opened(ack) => {
                    return negotiate(&ack, AgeSettings::default(), &FeatureTerms::default())
                        .map_err(|problem| {
                            let (feature, detail) = (problem.feature, problem.detail);
                            let text = format!("the broker cannot be used: {feature}: {detail}");
                            refused(ErrorCode::BrokerUnavailable.as_str(), &text, None)
                        });
                }
                ConnectionEvent::Closed { close, status, .. } => {
                    tried += 1;
                    if !is_bad_moment(&close) || tried == HANDSHAKES {
                        return Err(self.not_opened(&close, status));
                    }
                    connection.retry_now();
                }
                _ => {}
            }
        }
        Err(self.unreachable("stopped"))
    }

    fn not_opened(&self, close: &Close, status: Status) -> RequestError {
        let Shared { slug, .. } = &*self.shared;
        let word = word_of(close);
        match (status, ErrorCode::parse(word)) {
            (Status::Disabled(DisabledReason::Revoked), _) => banned(slug),
            (_, Some(code)) if close.code == REFUSED_CLOSE => {
                let text = format!("the broker of \"{slug}\" refuses this member: {word}");
                refused(code.as_str(), &text, None)
            }
            _ => self.unreachable(&close.reason),
        }
    }

    fn unreachable(&self, why: &str) -> RequestError {
        let text = format!("broker {} unreachable ({why})", self.shared.broker_url);
        refused(ErrorCode::BrokerUnavailable.as_str(), &text, None)
    }
}

/// Close code of a refused handshake.
const REFUSED_CLOSE: u16 = 1008;

fn word_of(close: &Close) -> &str {
    close.reason.split([':', ' ']).next().unwrap_or_default()
}

/// The handshake was signed too early or too late, or in the same millisecond as another one of this member.
fn is_bad_moment(close: &Close) -> bool {
    close.code == REFUSED_CLOSE && matches!(word_of(close), "timestamp_skew" | "bad_signature")
}

/// True once the connection is open again, false when that does not happen in time.
async fn opened_again(connection: &Connection, deadline: Instant) -> bool {
    let mut state = connection.watch();
    let open = state.wait_for(|state| state.status == Status::Open);
    tokio::time::timeout_at(deadline, open).await.is_ok_and(|open| open.is_ok())
}

fn taken(ack: Ack, left_out: &[MemberId], is_duplicate: bool) -> Taken {
    Taken {
        is_duplicate,
        answer: answer_of(&ack, left_out),
        history_id: ack.history_id,
        broker_message_id: Some(ack.message_id).filter(|id| !id.is_empty()),
    }
}

fn refused(code: &str, text: &str, after: Option<Duration>) -> RequestError {
    let text = text.strip_prefix(code).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
    RequestError {
        code: code.to_owned(),
        message: text.to_owned(),
        retry_after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        may_have_run: false,
    }
}

impl Line for ColdLine {
    fn slug(&self) -> &str {
        &self.shared.slug
    }

    fn member(&self) -> &MemberIdentity {
        &self.shared.member
    }

    fn roster(&self) -> Arc<RosterView> {
        self.shared.roster.view()
    }

    fn status(&self) -> MeshStatus {
        match self.shared.link.get() {
            Some(Ok(link)) => api_status(&link.connection.state()),
            Some(Err(_)) => MeshStatus::Closed,
            None => MeshStatus::Connecting,
        }
    }

    fn max_age(&self) -> Duration {
        match self.shared.link.get() {
            Some(Ok(link)) => link.negotiated.max_age,
            _ => Negotiated::default().max_age,
        }
    }

    fn resolve(&self, text: &str, caller: Option<PublicKey>) -> Resolution {
        let asker = Asker { member: self.shared.member.public, session: caller };
        resolve(text, &self.roster(), asker)
    }

    fn seal(
        &self,
        target: &TargetSpec,
        message: &str,
        meta: Option<&Meta>,
        hops: u32,
        _sender: &Sender,
    ) -> Result<Sealed, SealError> {
        let negotiated = match self.shared.link.get() {
            Some(Ok(link)) => link.negotiated.clone(),
            _ => Negotiated::default(),
        };
        let policy = Policy {
            group_encryption: negotiated.group_encryption,
            max_message_bytes: negotiated.max_message_bytes,
        };
        let draft = Draft { target, text: message, meta, hops };
        let member = &self.shared.member;
        let cache = &self.shared.agreed;
        seal(&draft, &member.keys, member.public, &self.roster(), policy, cache)
    }

    async fn fetch_roster(&self) -> Result<(), MeshError> {
        let failed = |error: RequestError| MeshError {
            code: ErrorCode::parse(&error.code).unwrap_or(ErrorCode::BrokerUnavailable),
            message: error.message,
        };
        let link = self.link().await.map_err(failed)?;
        let asked_at = clock::now();
        let patience = self.shared.terms.patience;
        let lists = lists(&link.connection, link.negotiated.is_legacy, patience).await;
        let (peers, members) = lists
            .map_err(|error| MeshError { code: code_of(&error), message: error.to_string() })?;
        self.shared.roster.replace(peers, members, asked_at);
        Ok(())
    }

    async fn look(&self) -> Result<(), MeshError> {
        if self.shared.roster.age().is_some() { Ok(()) } else { self.fetch_roster().await }
    }

    async fn request_within(
        &self,
        _via: Via,
        frame: ClientFrame,
        limit: Duration,
    ) -> Result<ServerFrame, RequestError> {
        let link = self.link().await?;
        link.connection.request(&frame, limit).await.map_err(|error| request_error(&error))
    }

    async fn rename_member(&self, name: &str) -> Result<(), RequestError> {
        self.http()?.rename(name).await
    }

    fn http(&self) -> Result<MemberHttp, RequestError> {
        let Shared { slug, broker_url, terms, id, member, .. } = &*self.shared;
        MemberHttp::new(broker_url, terms.plain, (slug, id), member)
    }

    /// Nobody listens to a call.
    fn state_was_set(&self, _key: &str, _value: &Value, _by_session: Option<&str>) {}
}
