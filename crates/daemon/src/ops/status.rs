//! Operation `message.status`: how far a message came, and what happens next (daemon spec §10.7, wire spec §3.1).
//!
//! The broker knows best. What it cannot say is answered from the outbox row: a message that is still on this machine,
//! one that was refused or grew too old, and, while the broker cannot be asked, the last state each recipient reported.

use claudemesh_ipc::api::system::MeshStatus;
use claudemesh_ipc::api::{OutboxItem, RecipientProgress, RowStatus};
use claudemesh_protocol::limits::ID_PREFIX_MIN_CHARS;
use claudemesh_protocol::wire::{ClientFrame, MessageStatus, ReceiptState, ServerFrame};
use claudemesh_protocol::{ErrorCode, PublicKey, Timestamp};
use serde_json::{Map, Value, json};

use super::{Answer, Call, Place, broker_failure, fields};
use crate::api::Failure;
use crate::mesh::{Line, RequestError, Via};

/// Who vouches for what is told from the outbox; the broker's own words for others stand in wire spec §3.1.
const SENDER: &str = "sender_daemon";
/// The broker, as one who vouches.
const BROKER: &str = "broker";

/// Code of a row whose time was over before the broker took it (daemon spec §11.5).
const TOO_OLD: &str = "max_age_exceeded";

pub(super) async fn run<P: Place>(
    call: Call<'_, P>,
    asked: MessageStatus,
) -> Result<Answer, Failure> {
    let id = asked.message_id;
    if id.chars().count() < ID_PREFIX_MIN_CHARS {
        let chars = id.chars().count();
        let message = format!("id is {chars} chars, needs ≥{ID_PREFIX_MIN_CHARS}");
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    }
    let mut rows = call.place.sent_from_here(&id).await?;
    if rows.len() > 1 {
        return Err(Failure::new(
            ErrorCode::AmbiguousPrefix,
            "several messages begin with that id",
        ));
    }
    let row = rows.pop();
    let slug = row.as_ref().map(|row| row.mesh.as_str()).or(call.mesh);
    let mesh = call.place.one_mesh(slug, call.caller)?;
    let via = call.voice(&mesh);
    let answer = match row.as_ref().map(|row| row.broker_message_id.as_ref()) {
        Some(None) => None,
        Some(Some(known)) => ask(&mesh, via, known.clone(), row.as_ref()).await?,
        None => ask(&mesh, via, id, None).await?,
    };
    let mut result = match (answer, &row) {
        (Some(answer), _) => answer,
        (None, Some(row)) => fields(&from_row(row, &mesh))?,
        (None, None) => return Err(Failure::new(ErrorCode::NotFound, "no message of that id")),
    };
    // Without names the answer is as true as with them.
    let _ = mesh.look().await;
    name(&mut result, &mesh, row.as_ref());
    result.insert("mesh".to_owned(), mesh.slug().into());
    if let Some(row) = &row {
        result.insert("outbox".to_owned(), outbox_part(row));
    }
    Ok(Answer::on(&mesh, result))
}

/// Asks the broker. `None` when it cannot be asked and the row can answer for it.
async fn ask(
    mesh: &impl Line,
    via: Via,
    message_id: String,
    row: Option<&OutboxItem>,
) -> Result<Option<Map<String, Value>>, Failure> {
    let frame = ClientFrame::MessageStatus(Box::new(MessageStatus { message_id }));
    let answer = match mesh.request(via, frame).await {
        Ok(answer) => answer,
        Err(error) if row.is_some() && is_silence(&error) => return Ok(None),
        Err(error) => return Err(broker_failure(&error)),
    };
    let ServerFrame::MessageStatusResult(answer) = answer else {
        return Err(Failure::of_broker("broker_error", "the broker gave an unexpected answer"));
    };
    let mut answer = fields(&answer)?;
    answer.shift_remove("_reqId");
    Ok(Some(answer))
}

/// True when nobody answered, as opposed to a refusal.
fn is_silence(error: &RequestError) -> bool {
    let silent = [ErrorCode::BrokerUnavailable, ErrorCode::BrokerTimeout, ErrorCode::Unavailable];
    silent.iter().any(|code| code.as_str() == error.code)
}

/// Names in place of keys, where the roster has them: for the target, and for recipients that the broker has no name of.
fn name(fields: &mut Map<String, Value>, mesh: &impl Line, row: Option<&OutboxItem>) {
    let key = |value: Option<&Value>| value.and_then(Value::as_str)?.parse::<PublicKey>().ok();
    let typed = || row.map(|row| row.to.clone()).filter(|to| to.parse::<PublicKey>().is_err());
    if let Some(target) = key(fields.get("targetSpec"))
        && let Some(name) = mesh.name_of(target).or_else(typed)
    {
        fields.insert("targetName".to_owned(), name.into());
    }
    let recipients = fields.get_mut("recipients").and_then(Value::as_array_mut);
    for recipient in recipients.into_iter().flatten().filter_map(Value::as_object_mut) {
        let is_named = recipient.get("name").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
        if !is_named && let Some(name) = key(recipient.get("pubkey")).and_then(|k| mesh.name_of(k))
        {
            recipient.insert("name".to_owned(), name.into());
        }
    }
}

/// The answer without the broker, in the same shape; `live:false` says so.
fn from_row(row: &OutboxItem, mesh: &impl Line) -> Value {
    let recipients = match row.status {
        RowStatus::Done if row.receipts.is_empty() => vec![accepted(row, mesh)],
        RowStatus::Done => {
            row.receipts.iter().map(|progress| reported(row, progress, mesh)).collect()
        }
        _ => vec![not_sent(row, mesh)],
    };
    // A delivery that nobody spoke for may be there: only the broker can tell that all have arrived.
    let deliveries = row.answer.as_ref().and_then(|answer| answer.recipients).unwrap_or(1);
    let arrived = row.receipts.iter().filter(|progress| has_arrived(progress));
    let is_delivered = row.status == RowStatus::Done && arrived.clone().count() >= deliveries;
    let delivered_at = arrived.map(|progress| &progress.at).max().filter(|_| is_delivered);
    json!({
        "messageId": row.broker_message_id,
        "targetSpec": row.target,
        "delivered": is_delivered,
        "deliveredAt": delivered_at,
        "recipients": recipients,
        "live": false,
    })
}

/// What a recipient's daemon says of a message it says with the message on its disk; the broker also speaks of others.
fn has_arrived(progress: &RecipientProgress) -> bool {
    progress.asserted_by != BROKER
}

fn accepted(row: &OutboxItem, mesh: &impl Line) -> Value {
    let next = match row.target.parse::<PublicKey>() {
        Ok(key) => {
            format!(
                "the broker hands it to {} by itself",
                mesh.name_of(key).unwrap_or_else(|| row.to.clone())
            )
        }
        Err(_) => "the broker hands it out by itself".to_owned(),
    };
    json!({
        "name": name_for(row, mesh), "pubkey": row.target, "status": "held",
        "state": ReceiptState::Accepted, "since": row.delivered_at, "assertedBy": BROKER,
        "next": next,
    })
}

/// Whom the row is for, in words: the roster's name, else what was typed.
fn name_for(row: &OutboxItem, mesh: &impl Line) -> String {
    let known = row.target.parse().ok().and_then(|key| mesh.name_of(key));
    known.unwrap_or_else(|| row.to.clone())
}

fn reported(row: &OutboxItem, progress: &RecipientProgress, mesh: &impl Line) -> Value {
    let is_direct = row.target.parse::<PublicKey>().is_ok();
    let name = mesh
        .name_of(progress.recipient)
        .unwrap_or_else(|| if is_direct { row.to.clone() } else { progress.recipient.short(8) });
    let mut fields = json!({
        "name": name, "pubkey": progress.recipient,
        "status": if has_arrived(progress) { "delivered" } else { "held" },
        "state": progress.state, "since": progress.at, "assertedBy": progress.asserted_by,
    });
    let optional =
        [("path", &progress.path), ("evidence", &progress.evidence), ("reason", &progress.reason)];
    for (name, value) in optional {
        if let (Some(value), Some(fields)) = (value, fields.as_object_mut()) {
            fields.insert(name.to_owned(), value.as_str().into());
        }
    }
    fields
}

/// A message the broker has not accepted: waiting on this machine, or given up.
fn not_sent(row: &OutboxItem, mesh: &impl Line) -> Value {
    let code = row.last_error_code.as_deref();
    let (state, reason, next) = match row.status {
        RowStatus::Dead if code == Some(TOO_OLD) => {
            (ReceiptState::Expired, code, "nothing; send it again".to_owned())
        }
        RowStatus::Dead => {
            let requeue = format!(
                "nothing by itself; claudemesh daemon outbox requeue {} tries again",
                row.id
            );
            (ReceiptState::Refused, code.or(Some("refused")), requeue)
        }
        RowStatus::Aborted => {
            let next = match &row.superseded_by {
                Some(id) => format!("sent again as {id}"),
                None => "nothing; it was dropped by hand".to_owned(),
            };
            (ReceiptState::Refused, Some("aborted"), next)
        }
        _ if mesh.status() != MeshStatus::Open => (
            ReceiptState::Held,
            Some("broker_unreachable"),
            "sent as soon as the broker is reachable".to_owned(),
        ),
        _ => (ReceiptState::Held, code.or(Some("sending")), waits(row)),
    };
    json!({
        "name": name_for(row, mesh), "pubkey": row.target, "status": "held",
        "state": state, "since": row.aborted_at.as_ref().unwrap_or(&row.enqueued_at), "assertedBy": SENDER,
        "reason": reason, "next": next,
    })
}

/// When a row on an open connection is tried again.
fn waits(row: &OutboxItem) -> String {
    let now = crate::clock::now();
    let at = Timestamp::parse_iso(&row.next_attempt_at).filter(|at| *at > now);
    match (at, row.attempts) {
        (Some(at), attempts) if attempts > 0 => {
            format!("tried again in {} s (attempt {})", at.since(now).as_secs() + 1, attempts + 1)
        }
        _ => "it goes to the broker at any moment".to_owned(),
    }
}

fn outbox_part(row: &OutboxItem) -> Value {
    json!({
        "id": row.id, "status": row.status, "attempts": row.attempts,
        "last_error": row.last_error, "last_error_code": row.last_error_code,
    })
}
