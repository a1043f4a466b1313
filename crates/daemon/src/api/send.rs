//! `POST /v1/send`: the accept algorithm (daemon spec §10.1, §10.4). A 2xx answer means that the row is on disk.

mod direct;
mod request;
mod target;

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, http::StatusCode};
use claudemesh_crypto::fingerprint::{self, Fingerprint};
use claudemesh_ipc::api::{FanoutEntry, RowStatus, SendReply};
use claudemesh_protocol::body::Meta;
use claudemesh_protocol::canonical::DestinationKind;
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::limits::ID_PREFIX_MIN_CHARS;
use claudemesh_protocol::{ErrorCode, Priority, PublicKey, TargetSpec, Timestamp};
use serde_json::Value;
use zeroize::Zeroizing;

use super::Api;
use super::caller::Caller;
use super::failure::Failure;
use crate::hooks::{Asked, Grant, Scope};
use crate::mesh::{Line, MeshHandle, Resolved, Sender, banned};
use crate::ops::Place;
use crate::outbox::{Accepted, ExistingRow, NewRow, SealedBody};
use crate::pressure::Level;
pub(crate) use direct::{hand_over, unconfirmed};
pub(crate) use request::Letter;
pub(super) use request::check_id;
pub(crate) use target::{destination, put_together, searched};

pub(super) async fn send(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failure> {
    let mut letter = Letter::read(request).await?;
    if let Some(grant) = &caller.hook {
        letter.write_as(grant)?;
    }
    let addressed = api.address(&caller, &letter).await?;
    caller.need_capability(addressed.capability())?;
    if let Some(grant) = &caller.hook {
        check_scope(&api, grant, &letter, &addressed)?;
    }
    let reply = api.deliver(&caller, &letter, addressed).await?;
    let status = if reply.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(reply)).into_response())
}

/// A hook's token is for exactly those whom its scopes name, whatever the hook called them (daemon spec §16.4).
fn check_scope(
    api: &Api,
    grant: &Grant,
    letter: &Letter,
    addressed: &Addressed<MeshHandle>,
) -> Result<(), Failure> {
    let topic = letter.to.strip_prefix('#');
    let scope = addressed.single().and_then(|(mesh, target)| grant.covering(mesh, target, topic));
    api.daemon.hooks().called(grant, scope.map(Scope::label));
    if scope.is_some() {
        return Ok(());
    }
    let message = "the hook's token is not for this recipient";
    Err(Failure::new(ErrorCode::ScopeMissing, message))
}

/// Refuses while queue or disk are too full for one more row (daemon spec §11.7).
pub(super) async fn space_left(api: &Api) -> Result<(), Failure> {
    match api.daemon.measure_pressure().await {
        Level::Open => Ok(()),
        Level::Full => Err(Failure::new(ErrorCode::InsufficientStorage, "the outbox is full").hint(
            "messages that wait for a broker fill it; `claudemesh daemon outbox list` shows them",
        )),
    }
}

/// Where a letter goes.
pub(crate) enum Addressed<L> {
    /// It was accepted before, for the target of then.
    Again(L, Box<ExistingRow>),
    /// To one target.
    One(L, Resolved),
    /// To the own other sessions.
    Siblings(L, Vec<PublicKey>),
}

impl<L: Line> Addressed<L> {
    /// The mesh.
    pub(crate) fn mesh(&self) -> &L {
        match self {
            Self::Again(mesh, _) | Self::One(mesh, _) | Self::Siblings(mesh, _) => mesh,
        }
    }

    /// The mesh and the target, when there is one.
    fn single(&self) -> Option<(&str, &TargetSpec)> {
        let target = match self {
            Self::Again(_, row) => &row.target_spec,
            Self::One(_, resolved) => &resolved.target,
            Self::Siblings(..) => return None,
        };
        Some((self.mesh().slug(), target))
    }
}

impl<L> Addressed<L> {
    /// What a session needs to send it: one key is `dm`, everything else `broadcast`.
    pub(crate) fn capability(&self) -> Capability {
        let is_direct = match self {
            Self::Again(_, row) => row.target_spec.is_direct(),
            Self::One(_, resolved) => resolved.target.is_direct(),
            Self::Siblings(..) => true,
        };
        if is_direct { Capability::Dm } else { Capability::Broadcast }
    }
}

impl Api {
    /// Accepts a letter, durably.
    pub(super) async fn accept_letter(
        &self,
        caller: &Caller,
        letter: &Letter,
        addressed: Addressed<MeshHandle>,
    ) -> Result<SendReply, Failure> {
        space_left(self).await?;
        let replaced = self.ask_guards(caller, letter, &addressed).await?;
        let letter = replaced.as_ref().unwrap_or(letter);
        let sent = accept(self, caller, letter, addressed).await;
        if let Err(failure) = &sent
            && failure.code() == ErrorCode::InsufficientStorage.as_str()
        {
            self.daemon.pressure().write_was_refused();
        }
        sent
    }

    /// Phase A: `pre-send` may refuse a letter, or put other words into it (daemon spec §16.6). What a hook wrote is not
    /// asked about.
    async fn ask_guards(
        &self,
        caller: &Caller,
        letter: &Letter,
        addressed: &Addressed<MeshHandle>,
    ) -> Result<Option<Letter>, Failure> {
        if letter.auto.is_some() {
            return Ok(None);
        }
        let mesh = addressed.mesh();
        let target = match addressed.single() {
            Some((_, target)) => target.to_string(),
            None => mesh.member().public.to_hex(),
        };
        let asked = Asked {
            mesh: mesh.slug().to_owned(),
            to: letter.to.clone(),
            target,
            message: letter.message.clone(),
            priority: letter.priority.as_str(),
            meta: letter.meta.clone(),
            sender_session: caller.session.as_ref().map(|session| session.session_id.clone()),
        };
        let replaced = self.daemon.hooks().before_send(asked).await?;
        replaced.map(|message| letter.with_message(message)).transpose()
    }

    /// Step 2: a repeated request means the target that the first one meant, whatever the name means by now.
    pub(super) async fn row_to_reuse(
        &self,
        caller: &Caller,
        letter: &Letter,
    ) -> Result<Option<(MeshHandle, ExistingRow)>, Failure> {
        let outbox = &self.daemon.context().outbox;
        let Some(row) = outbox.find(&letter.client_message_id).await? else { return Ok(None) };
        let Some(mesh) = self.mesh(&row.mesh) else { return Ok(None) };
        let named = self.named_mesh(letter.mesh.as_deref(), caller)?;
        let is_same_mesh = named.is_none_or(|named| named.slug() == row.mesh);
        let is_same_sender = row.sender_session_pubkey == caller.key_in(&mesh);
        let is_same = is_same_mesh && is_same_sender && row.to_raw == letter.to;
        Ok(is_same.then_some((mesh, row)))
    }

    pub(super) async fn accept_one(
        &self,
        caller: &Caller,
        letter: &Letter,
        mesh: &MeshHandle,
        resolved: &Resolved,
        stored: Option<&ExistingRow>,
    ) -> Result<SendReply, Failure> {
        if mesh.is_revoked() {
            return Err(crate::ops::broker_failure(&banned(mesh.slug())));
        }
        let reply_to = self.parent(mesh, letter.reply_to_id.as_deref(), stored).await?;
        let request = RequestParts {
            target: &resolved.target,
            reply_to_id: reply_to.as_deref(),
            priority: letter.priority,
            meta: letter.meta.as_ref(),
            message: &letter.message,
        };
        let fingerprint = request.fingerprint()?;
        let draft = Draft { caller, letter, mesh, resolved };
        let (reply, answered) = if let Some(row) = stored {
            (draft.answer_existing(row, fingerprint)?, row.reply_to_id.clone())
        } else {
            let (row, is_meta_dropped) =
                draft.seal(Self::max_age(mesh), reply_to.clone(), fingerprint)?;
            match self.daemon.context().outbox.accept(row).await? {
                Accepted::Inserted => {
                    self.daemon.pressure().write_went_through();
                    let mut reply = draft.reply(RowStatus::Pending);
                    reply.meta_dropped = is_meta_dropped;
                    (reply, reply_to)
                }
                Accepted::Existing(row) => {
                    (draft.answer_existing(&row, fingerprint)?, row.reply_to_id)
                }
            }
        };
        if let Some(parent) = answered {
            self.daemon.settle(mesh, &parent, caller.session.as_deref()).await;
        }
        Ok(reply)
    }

    /// The id a reply names, as it is stored: the broker's where it is known, else the client's.
    async fn parent(
        &self,
        mesh: &MeshHandle,
        id: Option<&str>,
        stored: Option<&ExistingRow>,
    ) -> Result<Option<String>, Failure> {
        let Some(id) = id else { return Ok(None) };
        if id.chars().count() < ID_PREFIX_MIN_CHARS {
            let message =
                format!("\"reply_to_id\" needs at least {ID_PREFIX_MIN_CHARS} characters");
            return Err(Failure::field("reply_to_id", message));
        }
        let context = self.daemon.context();
        let mut found = context.inbox.by_message_id(mesh.slug(), id).await?;
        if found.is_empty() {
            let rows = context.outbox.by_id(id).await?.into_iter();
            let rows = rows.filter(|row| row.mesh == mesh.slug());
            found = rows.map(|row| (row.broker_message_id, row.client_message_id)).collect();
        }
        let resolved = match found.as_slice() {
            [] => (None, id.to_owned()),
            [one] => one.clone(),
            _ => {
                let message = "several messages begin with that \"reply_to_id\"";
                return Err(Failure::new(ErrorCode::AmbiguousPrefix, message));
            }
        };
        // Since the first request, the parent may have got its broker id: the stored name of it still stands.
        let known = stored.and_then(|row| row.reply_to_id.clone());
        match (known, resolved) {
            (Some(known), (broker, client))
                if known == client || Some(&known) == broker.as_ref() =>
            {
                Ok(Some(known))
            }
            (_, (broker, client)) => Ok(Some(broker.unwrap_or(client))),
        }
    }

    pub(super) fn max_age(mesh: &MeshHandle) -> std::time::Duration {
        mesh.health().max_age
    }
}

/// Accepts a letter, once or for each own session.
pub(crate) async fn accept<P: Place>(
    place: &P,
    caller: &Caller,
    letter: &Letter,
    addressed: Addressed<P::Line>,
) -> Result<SendReply, Failure> {
    match addressed {
        Addressed::Siblings(mesh, keys) => fan_out(place, caller, letter, &mesh, &keys).await,
        Addressed::One(mesh, resolved) => {
            place.accept_one(caller, letter, &mesh, &resolved, None).await
        }
        Addressed::Again(mesh, row) => {
            let same = Resolved {
                target: row.target_spec.clone(),
                recipient_online: online(&mesh, &row.target_spec),
                is_self_member: false,
                is_caller: false,
                is_known: true,
            };
            place.accept_one(caller, letter, &mesh, &same, Some(&row)).await
        }
    }
}

/// A message to oneself: one for each sibling session, `<id>`, `<id>:1`, `<id>:2`, … (daemon spec §10.2).
async fn fan_out<P: Place>(
    place: &P,
    caller: &Caller,
    letter: &Letter,
    mesh: &P::Line,
    keys: &[PublicKey],
) -> Result<SendReply, Failure> {
    let mut results = Vec::with_capacity(keys.len());
    let mut first = None;
    let mut failure = None;
    for (index, key) in keys.iter().enumerate() {
        let mut copy = letter.clone();
        if index > 0 {
            copy.client_message_id = format!("{}:{index}", letter.client_message_id);
        }
        let target = TargetSpec::Key(*key);
        let resolved = Resolved {
            recipient_online: online(mesh, &target),
            target,
            is_self_member: false,
            is_caller: false,
            is_known: true,
        };
        let mut entry = FanoutEntry {
            target: key.to_hex(),
            ok: true,
            client_message_id: Some(copy.client_message_id.clone()),
            error: None,
        };
        match place.accept_one(caller, &copy, mesh, &resolved, None).await {
            Ok(reply) => first = first.or(Some(reply)),
            Err(refused) => {
                entry.ok = false;
                entry.error = Some(refused.code().to_owned());
                failure = Some(refused);
            }
        }
        results.push(entry);
    }
    match (first, failure) {
        (Some(mut reply), _) => {
            reply.client_message_id.clone_from(&letter.client_message_id);
            reply.target = mesh.member().public.to_hex();
            reply.recipient_online = None;
            reply.results = Some(results);
            Ok(reply)
        }
        (None, Some(failure)) => Err(failure),
        (None, None) => {
            Err(Failure::new(ErrorCode::TargetNotFound, "no other session of yours is connected"))
        }
    }
}

/// Whether somebody with this key is there, from memory alone.
fn online(mesh: &impl Line, target: &TargetSpec) -> Option<bool> {
    match mesh.resolve(&target.to_string(), None) {
        crate::mesh::Resolution::One(resolved) => resolved.recipient_online,
        _ => None,
    }
}

/// What the request fingerprint covers (daemon spec §10.3).
pub(super) struct RequestParts<'a> {
    pub(super) target: &'a TargetSpec,
    pub(super) reply_to_id: Option<&'a str>,
    pub(super) priority: Priority,
    pub(super) meta: Option<&'a Meta>,
    pub(super) message: &'a str,
}

impl RequestParts<'_> {
    pub(super) fn fingerprint(&self) -> Result<Fingerprint, Failure> {
        let (destination_kind, destination_ref) = destination_of(self.target);
        let meta = self.meta.cloned().map(Value::Object);
        fingerprint::of_request(&fingerprint::Request {
            destination_kind,
            destination_ref: &destination_ref,
            reply_to_id: self.reply_to_id,
            priority: self.priority,
            meta: meta.as_ref(),
            body: self.message,
        })
        .map_err(|_| Failure::field("meta", "\"meta\" or \"reply_to_id\" has no canonical form"))
    }
}

/// Kind and reference of a target for the fingerprint (daemon spec §10.3).
pub(super) fn destination_of(target: &TargetSpec) -> (DestinationKind, String) {
    match target {
        TargetSpec::Key(key) => (DestinationKind::Dm, key.to_hex()),
        TargetSpec::Everyone => (DestinationKind::Topic, "*".to_owned()),
        TargetSpec::Group(name) => (DestinationKind::Topic, name.as_str().to_owned()),
        TargetSpec::Topic(id) => (DestinationKind::Topic, id.clone()),
    }
}

/// One message to one resolved target.
struct Draft<'a, L> {
    caller: &'a Caller,
    letter: &'a Letter,
    mesh: &'a L,
    resolved: &'a Resolved,
}

impl<L: Line> Draft<'_, L> {
    /// Step 3: encrypts; only for a row that will be inserted.
    fn seal(
        &self,
        max_age: std::time::Duration,
        reply_to_id: Option<String>,
        fingerprint: Fingerprint,
    ) -> Result<(NewRow, bool), Failure> {
        let Self { caller, letter, mesh, resolved } = *self;
        let session = caller.session.as_ref().filter(|session| session.mesh == mesh.slug());
        let hops = match letter.auto {
            Some(auto) => auto.hops,
            None => session.map_or(0, |session| session.next_hops()),
        };
        let meta = letter.sent_meta();
        let sender = session
            .and_then(|session| session.keys.clone())
            .map_or(Sender::Member, Sender::Session);
        let sealed = mesh
            .seal(&resolved.target, &letter.message, meta.as_ref(), hops, &sender)
            .map_err(|error| seal_failure(error.code, error.message).with_all(error.extra))?;
        let (channel, is_meta_dropped) = (sealed.channel, sealed.is_meta_dropped);
        let now = crate::clock::now();
        let age = letter.expires_in.map_or(max_age, |asked| asked.min(max_age));
        let row = NewRow {
            client_message_id: letter.client_message_id.clone(),
            fingerprint,
            mesh: mesh.slug().to_owned(),
            to_raw: letter.to.clone(),
            destination_kind: destination_of(&resolved.target).0,
            target_spec: resolved.target.clone(),
            channel,
            priority: letter.priority,
            payload: Zeroizing::new(letter.message.as_bytes().to_vec()),
            meta: meta.as_ref().and_then(|meta| serde_json::to_string(meta).ok()),
            reply_to_id,
            mentions: letter.mentions.clone(),
            body: SealedBody::from(sealed),
            sender_session_pubkey: caller.key_in(mesh),
            hops,
            enqueued_at: now,
            expires_at: Timestamp::plus(now, age),
        };
        Ok((row, is_meta_dropped))
    }

    /// The table of daemon spec §10.4, rows with an existing id.
    fn answer_existing(
        &self,
        row: &ExistingRow,
        fingerprint: Fingerprint,
    ) -> Result<SendReply, Failure> {
        let is_same = row.fingerprint == fingerprint;
        match (row.status, is_same) {
            (status @ (RowStatus::Pending | RowStatus::Inflight), true) => Ok(self.reply(status)),
            (RowStatus::Done, true) => {
                let mut reply = self.reply(RowStatus::Done);
                reply.duplicate = true;
                reply.broker_message_id.clone_from(&row.broker_message_id);
                reply.history_id.clone_from(&row.history_id);
                Ok(reply)
            }
            (status, is_same) => Err(conflict(row, status, is_same)),
        }
    }

    fn reply(&self, status: RowStatus) -> SendReply {
        SendReply {
            client_message_id: self.letter.client_message_id.clone(),
            status,
            mesh: self.mesh.slug().to_owned(),
            target: self.resolved.target.to_string(),
            recipient_online: self.resolved.recipient_online,
            duplicate: false,
            broker_message_id: None,
            history_id: None,
            meta_dropped: false,
            results: None,
            broker_answer: None,
        }
    }
}

pub(super) fn seal_failure(code: ErrorCode, message: String) -> Failure {
    let failure = Failure::new(code, message);
    if code == ErrorCode::PayloadTooLarge { failure.hint("share it as a file") } else { failure }
}

fn conflict(row: &ExistingRow, status: RowStatus, is_same: bool) -> Failure {
    let verdict = if is_same { "match" } else { "mismatch" };
    let message = if is_same {
        "this id was used for the same message, which will not be sent"
    } else {
        "this id was used for another message"
    };
    let failure = Failure::new(ErrorCode::IdempotencyConflict, message)
        .with("row_status", status.as_str())
        .with("detail", format!("outbox_{}_fingerprint_{verdict}", status.as_str()))
        .with("daemon_fingerprint_prefix", row.fingerprint.prefix())
        .with("broker_message_id", row.broker_message_id.clone());
    match &row.last_error {
        Some(reason) if status == RowStatus::Dead && is_same => {
            failure.with("reason", reason.clone())
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests;
