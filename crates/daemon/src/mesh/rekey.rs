//! Rows that were sealed under a member key that has been rotated out: sealed anew at the attempt that finds them, so that
//! nobody has to know when the last of them was accepted (daemon spec §19.1).
//!
//! What if the power goes between these two lines? The new form is on disk before it is sent. A death before that leaves
//! the old form, which the next attempt seals anew; a broker that has taken an earlier attempt knows the id and the
//! fingerprint, which stay.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::TargetSpec;
use claudemesh_protocol::body::Meta;

use super::Mesh;
use super::outcome::{Outcome, Reason};
use super::seal::{Draft, Policy, seal};
use crate::outbox::OutboundRow;
use crate::storage::Causes;

/// How long the roster is waited for, where one is needed.
const ROSTER_WAIT: Duration = Duration::from_secs(5);

/// The row as the member's present key seals it; anything else than a direct message of the member as it is.
///
/// # Errors
/// What becomes of a row that cannot be sealed or written.
pub(super) async fn rekeyed(
    mesh: &Arc<Mesh>,
    mut row: OutboundRow,
) -> Result<OutboundRow, (OutboundRow, Outcome)> {
    let is_sealed_by_us = row.sender_session_pubkey.is_none()
        && matches!(row.target_spec, TargetSpec::Key(_))
        && row.body.content_key.is_none();
    if !is_sealed_by_us || row.body.sealed_by == Some(mesh.voice_key()) {
        return Ok(row);
    }
    // Metadata goes along when the roster says that the recipient reads it, so there has to be one.
    if (row.meta.is_some() || row.hops > 0)
        && mesh.roster.age().is_none()
        && !matches!(tokio::time::timeout(ROSTER_WAIT, mesh.refresh.now()).await, Ok(Ok(())))
    {
        let reason = Reason::new("broker_disconnected", "the roster is not there yet");
        return Err((row, Outcome::Retry(reason, None)));
    }
    let dead = |reason: &str| Outcome::Dead(Reason::new("internal", reason));
    let Ok(text) = std::str::from_utf8(&row.payload) else {
        return Err((row, dead("the text of the message is damaged")));
    };
    let meta: Option<Meta> = row.meta.as_deref().and_then(|meta| serde_json::from_str(meta).ok());
    let draft = Draft { target: &row.target_spec, text, meta: meta.as_ref(), hops: row.hops };
    let member = &mesh.member;
    let negotiated = mesh.negotiated();
    let policy = Policy {
        group_encryption: negotiated.group_encryption,
        max_message_bytes: negotiated.max_message_bytes,
    };
    let view = mesh.roster.view();
    let sealed = seal(&draft, mesh.voice(), member.public, &view, policy, &mesh.shared_keys);
    let body = match sealed {
        Ok(sealed) => sealed.into(),
        Err(error) => {
            let reason = Reason::new(error.code.as_str(), &error.message);
            return Err((row, Outcome::Dead(reason)));
        }
    };
    if let Err(error) = mesh.context.outbox.rekeyed(&row.id, &body).await {
        tracing::warn!(mesh = %mesh.slug, id = %row.id, error = %Causes(&error), "outbox_rekey_not_written");
        let reason = Reason::new("internal", "the new form could not be written");
        return Err((row, Outcome::Retry(reason, None)));
    }
    tracing::debug!(mesh = %mesh.slug, id = %row.id, "outbox_row_rekeyed");
    row.body = body;
    Ok(row)
}
