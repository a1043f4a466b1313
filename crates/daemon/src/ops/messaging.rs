//! Sending, reading the inbox, and lifting loop stops (MCP spec §7.1).

use std::collections::HashMap;

use claudemesh_ipc::api::{InboxItem, SendReply, SendRequest};
use claudemesh_protocol::limits::{CLIENT_MESSAGE_ID_MAX_CHARS, MCP_RESULT_MAX_BYTES};
use claudemesh_protocol::ops::messaging::{
    CheckMessages, CheckedMessages, LoopLifted, OnePeer, SendMessage, SendOutcome, SendOutcomes,
    Targets,
};
use claudemesh_protocol::wire::{ClientFrame, LoopUnblock, ServerFrame};
use claudemesh_protocol::{ErrorCode, TargetSpec};
use serde_json::Value;

use super::{Answer, Call, Place, broker_failure, fields, not_attached};
use crate::api::input;
use crate::api::send::{Addressed, Letter};
use crate::api::{Api, Failure};
use crate::inbox::InboxFilter;
use crate::mesh::{Line, Via};

/// Targets of one call (MCP spec §7.1).
const TARGETS_MAX: usize = 32;
/// Messages of one call when no number is given.
const MESSAGES_DEFAULT: u32 = 50;
/// Messages of one call.
const MESSAGES_MAX: u32 = 200;
/// Bytes of JSON of one call: three quarters of what a tool's answer may hold, since an answer is JSON inside of JSON.
const PAGE_MAX_BYTES: usize = MCP_RESULT_MAX_BYTES / 4 * 3;

/// `message.send`: one message for each target that is somebody else, under `<id>/<n>` when a list was given.
pub(super) async fn send<P: Place>(
    call: Call<'_, P>,
    asked: SendMessage,
) -> Result<Answer, Failure> {
    let letters = letters(call, &asked)?;
    let mut sent: HashMap<Destination, SendOutcome> = HashMap::new();
    let mut results = Vec::with_capacity(letters.len());
    let mut first_failure = None;
    for letter in letters {
        let outcome = match one(call, &letter, &sent).await {
            Ok((destination, outcome)) => {
                sent.entry(destination).or_insert_with(|| outcome.clone());
                outcome
            }
            Err(failure) => {
                let error = Some(format!("{}: {}", failure.code(), failure.message()));
                first_failure.get_or_insert(failure);
                SendOutcome { error, ..refused(&letter.to) }
            }
        };
        results.push(outcome);
    }
    let outcomes = fields(&SendOutcomes { results })?;
    if let Some(failure) = first_failure.filter(|_| sent.is_empty()) {
        let results = outcomes.get("results").cloned().unwrap_or_default();
        let is_list = results.as_array().is_some_and(|results| results.len() > 1);
        return Err(if is_list { failure.with("results", results) } else { failure });
    }
    let mut meshes = sent.keys().map(|(mesh, _)| mesh);
    let mesh = meshes.next().cloned().filter(|first| meshes.all(|other| other == first));
    Ok(Answer { mesh, result: outcomes })
}

/// Mesh and target; none for the own other sessions.
type Destination = (String, Option<TargetSpec>);

/// Sends one letter, unless the same peer got it under another name.
async fn one<P: Place>(
    call: Call<'_, P>,
    letter: &Letter,
    sent: &HashMap<Destination, SendOutcome>,
) -> Result<(Destination, SendOutcome), Failure> {
    let addressed = call.place.address(call.caller, letter).await?;
    call.caller.need_capability(addressed.capability())?;
    let destination = destination(&addressed);
    if let Some(same) = sent.get(&destination) {
        return Ok((destination, SendOutcome { to: letter.to.clone(), ..same.clone() }));
    }
    let reply = call.place.deliver(call.caller, letter, addressed).await?;
    Ok((destination, accepted(&letter.to, reply)))
}

fn destination(addressed: &Addressed<impl Line>) -> Destination {
    match addressed {
        Addressed::Again(mesh, row) => (mesh.slug().to_owned(), Some(row.target_spec.clone())),
        Addressed::One(mesh, resolved) => (mesh.slug().to_owned(), Some(resolved.target.clone())),
        Addressed::Siblings(mesh, _) => (mesh.slug().to_owned(), None),
    }
}

fn letters<P>(call: Call<'_, P>, asked: &SendMessage) -> Result<Vec<Letter>, Failure> {
    let request = |to: String, client_message_id: Option<String>| SendRequest {
        to,
        message: asked.message.clone(),
        priority: asked.priority,
        reply_to_id: asked.reply_to.clone(),
        client_message_id,
        mesh: call.mesh.map(str::to_owned),
        to_self: asked.to_self.unwrap_or(false),
        ..SendRequest::default()
    };
    let targets = match &asked.to {
        Targets::One(to) => {
            return Ok(vec![Letter::checked(
                request(to.clone(), asked.client_message_id.clone()),
                None,
            )?]);
        }
        Targets::Several(targets) => targets,
    };
    if targets.is_empty() || targets.len() > TARGETS_MAX {
        return Err(Failure::field("to", format!("\"to\" has 1 to {TARGETS_MAX} targets")));
    }
    let first = targets.first().cloned().unwrap_or_default();
    let id =
        Letter::checked(request(first, asked.client_message_id.clone()), None)?.client_message_id;
    let numbered = |(index, to)| {
        let mut letter = Letter::checked(request(to, None), None)?;
        letter.client_message_id = format!("{id}/{}", index + 1);
        if letter.client_message_id.len() > CLIENT_MESSAGE_ID_MAX_CHARS {
            let message = "the id of a list leaves room for a number: at most 125 characters";
            return Err(Failure::field("client_message_id", message));
        }
        Ok(letter)
    };
    targets.iter().cloned().enumerate().map(numbered).collect()
}

fn refused(to: &str) -> SendOutcome {
    SendOutcome {
        to: to.to_owned(),
        ok: false,
        client_message_id: None,
        broker_message_id: None,
        status: None,
        mesh: None,
        target: None,
        recipient_online: None,
        error: None,
    }
}

fn accepted(to: &str, reply: SendReply) -> SendOutcome {
    let shown = serde_json::to_value(&reply).unwrap_or_default();
    SendOutcome {
        to: to.to_owned(),
        ok: true,
        status: shown.get("status").and_then(Value::as_str).map(str::to_owned),
        client_message_id: Some(reply.client_message_id),
        broker_message_id: reply.broker_message_id,
        mesh: Some(reply.mesh),
        target: Some(reply.target),
        recipient_online: reply.recipient_online,
        error: None,
    }
}

/// `message.inbox`: what nobody read yet, oldest first.
pub(super) async fn inbox(call: Call<'_, Api>, asked: CheckMessages) -> Result<Answer, Failure> {
    let Call { place: api, caller, mesh, .. } = call;
    if let Some(slug) = mesh
        && api.mesh(slug).is_none()
    {
        return Err(not_attached(slug));
    }
    let filter = InboxFilter {
        since: input::time("since", asked.since.as_deref())?,
        topic: asked.topic,
        from: asked.from,
        mesh: mesh.map(str::to_owned),
        unread_only: true,
        limit: input::limit(asked.limit, MESSAGES_DEFAULT, MESSAGES_MAX)?,
        ..InboxFilter::default()
    };
    let scope = api.scope(caller)?;
    api.pull(caller).await;
    let (mut messages, waiting) = api.unread(&scope, &filter).await?;
    messages.truncate(fitting(&messages));
    let remaining = waiting.saturating_sub(messages.len() as u64);
    api.hand_over(caller, &scope, &mut messages, asked.mark_seen.unwrap_or(true)).await?;
    let result = fields(&CheckedMessages { messages, remaining })?;
    Ok(Answer { mesh: mesh.map(str::to_owned), result })
}

/// How many of these an agent can be shown at once, at least one: what is marked read must not have been cut off.
fn fitting(messages: &[InboxItem]) -> usize {
    let mut bytes = 0;
    let fit = messages.iter().take_while(|item| {
        bytes += serde_json::to_string(item).map_or(0, |text| text.len());
        bytes <= PAGE_MAX_BYTES
    });
    fit.count().max(1)
}

/// `peer.unblock-loop`: lifts the stop of a loop between our sessions and a peer's (wire spec §4.10). The daemon cannot
/// tell a person from a script; the command line asks for a terminal, and no MCP tool leads here.
pub(super) async fn unblock<P: Place>(
    call: Call<'_, P>,
    asked: OnePeer,
) -> Result<Answer, Failure> {
    let (mesh, resolved) = call.place.peer(call.caller, call.mesh, &asked.peer).await?;
    let TargetSpec::Key(key) = resolved.target else {
        return Err(Failure::new(ErrorCode::InvalidTarget, "a loop has one peer, not a group"));
    };
    let mut is_lifted = false;
    for peer in mesh.roster().keys_of_member(key) {
        let frame = ClientFrame::LoopUnblock(Box::new(LoopUnblock { peer }));
        let answer =
            mesh.request(Via::Member, frame).await.map_err(|error| broker_failure(&error))?;
        is_lifted |= matches!(answer, ServerFrame::Ack(ack) if ack.lifted == Some(true));
    }
    let name = mesh.name_of(key).unwrap_or(asked.peer);
    let mut result = fields(&LoopLifted { peer: key, name, lifted: is_lifted })?;
    result.insert("mesh".to_owned(), mesh.slug().into());
    Ok(Answer::on(&mesh, result))
}
