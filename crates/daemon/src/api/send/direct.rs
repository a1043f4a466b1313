//! A letter that goes to the broker at once, over a connection of its own: sealed, fingerprinted and framed as the outbox
//! does it, and accepted only when the broker has it (CLI spec §1.15).

use std::time::Duration;

use claudemesh_ipc::api::{RowStatus, SendReply};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::id::ROW_ID_CHARS;

use super::{Draft, Letter, RequestParts};
use crate::api::caller::Caller;
use crate::api::failure::Failure;
use crate::mesh::{ColdLine, Line as _, RequestError, Resolved};

/// Seals a letter, hands it over and waits until the broker has it.
///
/// # Errors
/// `invalid_field` for a part of an id, the failure of sealing, or what the broker says; `outcome_unknown` when it may
/// have the message all the same.
pub(crate) async fn hand_over(
    mesh: &ColdLine,
    caller: &Caller,
    letter: &Letter,
    resolved: &Resolved,
    limit: Duration,
) -> Result<SendReply, Failure> {
    let reply_to = letter.reply_to_id.as_deref();
    // Which message a prefix means only the daemon's own databases know.
    if let Some(id) = reply_to.filter(|id| id.chars().count() < WHOLE_ID_MIN_CHARS) {
        let message =
            format!("{id:?} is no whole id, and only the daemon knows which begin with it");
        return Err(Failure::field("reply_to_id", message).hint("claudemesh daemon up"));
    }
    let request = RequestParts {
        target: &resolved.target,
        reply_to_id: reply_to,
        priority: letter.priority,
        meta: letter.meta.as_ref(),
        message: &letter.message,
    };
    let fingerprint = request.fingerprint()?;
    let draft = Draft { caller, letter, mesh, resolved };
    let reply_to = letter.reply_to_id.clone();
    let (row, meta_dropped) = draft.seal(mesh.max_age(), reply_to, fingerprint)?;
    let taken = mesh
        .hand_over(row.outbound(), limit)
        .await
        .map_err(|error| not_taken(&error, &letter.client_message_id))?;
    Ok(SendReply {
        duplicate: taken.is_duplicate,
        broker_message_id: taken.broker_message_id,
        history_id: taken.history_id,
        meta_dropped,
        broker_answer: Some(taken.answer),
        ..draft.reply(RowStatus::Done)
    })
}

/// Shortest id that a client makes by itself: a ULID.
const WHOLE_ID_MIN_CHARS: usize = 26;
const _: () = assert!(WHOLE_ID_MIN_CHARS <= ROW_ID_CHARS, "an id of the broker is a whole id");

fn not_taken(error: &RequestError, id: &str) -> Failure {
    if error.may_have_run {
        return unconfirmed(id);
    }
    let failure = crate::ops::broker_failure(error).with("client_message_id", id);
    if error.code == ErrorCode::IdempotencyConflict.as_str() {
        // The broker has the other one.
        return failure.with("row_status", RowStatus::Done.as_str());
    }
    failure
}

/// The broker may have the message, and did not say so in time.
pub(crate) fn unconfirmed(id: &str) -> Failure {
    Failure::new(ErrorCode::OutcomeUnknown, "the broker did not confirm the message in time")
        .with("client_message_id", id)
        .hint(format!("send it again with --client-id {id}: it arrives once"))
}
