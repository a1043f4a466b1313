//! Reading and recomputing the audit log, for owner and admins (wire spec §3.22, broker spec §4.19).

use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::limits::{AUDIT_QUERY_DEFAULT, AUDIT_QUERY_MAX};
use claudemesh_protocol::wire::{AuditEntry, AuditQuery, AuditResult, AuditVerifyResult};
use claudemesh_store::AuditFault;

use super::{Peer, Refusal, Reply};
use crate::audit::{catch_up, on_the_wire};

/// Longest type of an event, in characters.
const EVENT_TYPE_MAX_CHARS: usize = 64;

/// `audit_query`. A type that no entry has gives an empty answer: another version may have written others.
pub(super) async fn query(peer: &Peer, query: AuditQuery, req_id: Option<String>) -> Reply {
    let limit = query.limit.unwrap_or(AUDIT_QUERY_DEFAULT);
    if !(1..=AUDIT_QUERY_MAX).contains(&limit) {
        let text = format!("limit is 1 to {AUDIT_QUERY_MAX}");
        return Err(Refusal::new(ErrorCode::InvalidArgs, text));
    }
    let event = query.event_type.as_deref();
    let is_word = |word: &str| {
        (1..=EVENT_TYPE_MAX_CHARS).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    if event.is_some_and(|word| !is_word(word)) {
        let text = "eventType is a word such as member_banned";
        return Err(Refusal::new(ErrorCode::InvalidArgs, text));
    }
    let offset = query.offset.unwrap_or(0);
    catch_up(&peer.broker, &peer.mesh.id).await;
    let page = peer.broker.store().audit_entries(&peer.mesh.id, event, limit, offset).await?;
    let entries = page.entries.into_iter().map(|entry| AuditEntry {
        id: entry.id,
        event_type: entry.event,
        actor: entry.actor.map(claudemesh_protocol::MemberId::into_string),
        // A payload that somebody damaged is shown as it stands; `audit_verify` names it.
        payload: serde_json::from_str(&entry.payload).unwrap_or_else(|_| entry.payload.into()),
        hash: entry.hash,
        created_at: entry.created_at.to_iso(),
    });
    let result = AuditResult { entries: entries.collect(), total: page.total, req_id };
    Ok(Some(result.into()))
}

/// `audit_verify`: recomputes the chain from its first entry and compares it with what was signed.
pub(super) async fn verify(peer: &Peer, req_id: Option<String>) -> Reply {
    catch_up(&peer.broker, &peer.mesh.id).await;
    let broker_key = peer.broker.signing_key().public();
    let verdict = peer.broker.store().verify_audit(&peer.mesh.id, broker_key).await?;
    let broken = verdict.broken_at.zip(verdict.fault);
    if let Some((id, fault)) = broken {
        tracing::error!(mesh_id = %peer.mesh.id, id, ?fault, "the audit log was changed");
    }
    let result = AuditVerifyResult {
        valid: broken.is_none(),
        entries: verdict.entries,
        broken_at: verdict.broken_at,
        explanation: broken.map(|(id, fault)| explanation(id, fault)),
        signed_head: verdict.head.map(on_the_wire),
        req_id,
    };
    Ok(Some(result.into()))
}

fn explanation(id: i64, fault: AuditFault) -> String {
    match fault {
        AuditFault::Changed => format!(
            "entry {id} does not follow from the one before it: it was changed, or the one before it was changed or removed"
        ),
        AuditFault::Gone => format!(
            "entry {id} was signed by the broker and is missing or another one now: entries were removed or rewritten"
        ),
        AuditFault::Forged => format!(
            "what was signed of entry {id} is not signed by this broker: it was changed, or the broker has another key now"
        ),
    }
}
