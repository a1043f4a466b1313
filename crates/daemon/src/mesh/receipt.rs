//! Receipts: saying how far a message of others came, and believing what others say about ours (daemon spec §10.7,
//! wire spec §3.1).

use claudemesh_crypto::{KeyPair, statement};
use claudemesh_protocol::canonical;
use claudemesh_protocol::limits::{RECEIPT_EVIDENCE_MAX_CHARS, RECEIPT_PATH_MAX_CHARS};
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::wire::{Receipt, ReceiptState};
use claudemesh_protocol::{MeshId, MessageId, SignatureBytes, Timestamp};

use super::roster::RosterView;
use crate::inbox::Subject;

/// What a receipt says about its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// How far it came.
    pub(super) state: ReceiptState,
    /// Which way it took.
    pub(super) path: Option<String>,
    /// What shows it.
    pub(super) evidence: Option<String>,
    /// Why it waits or was refused.
    pub(super) reason: Option<String>,
}

impl From<ReceiptState> for Statement {
    fn from(state: ReceiptState) -> Self {
        Self { state, path: None, evidence: None, reason: None }
    }
}

impl Statement {
    /// It was given to a session, this way.
    pub(super) fn handed(path: &str, session: Option<&str>) -> Self {
        Self {
            path: Some(sanitized_line(path, RECEIPT_PATH_MAX_CHARS))
                .filter(|path| !path.is_empty()),
            evidence: session.map(|name| sanitized_line(name, RECEIPT_EVIDENCE_MAX_CHARS)),
            ..ReceiptState::Handed.into()
        }
    }

    /// The agent's own record shows it.
    pub(super) fn proved(state: ReceiptState, path: &str, evidence: Option<String>) -> Self {
        Self { state, evidence, ..Self::handed(path, None) }
    }

    /// A session replied, or the person did.
    pub(super) fn answered(by: Option<String>) -> Self {
        Self { evidence: by, ..ReceiptState::Answered.into() }
    }
}

/// Signs a receipt with the recipient's member key; `None` when an id cannot be signed.
pub(super) fn sign(
    mesh: &MeshId,
    subject: Subject,
    statement: Statement,
    member: &KeyPair,
    at: Timestamp,
) -> Option<Receipt> {
    let (message, state) = (MessageId::new(subject.broker_message_id), statement.state);
    let text = canonical::receipt(mesh, &message, subject.recipient, state.as_str(), at);
    let signature = statement::sign(text, member).ok()?;
    Some(Receipt {
        broker_message_id: message,
        client_message_id: subject.client_message_id,
        recipient: subject.recipient,
        state,
        path: statement.path,
        evidence: statement.evidence,
        reason: statement.reason,
        at: at.as_millis(),
        signature: Some(signature.to_hex()),
        asserted_by: None,
    })
}

/// True when a receipt about a message of ours can be believed: the broker asserts only what it can know, everything
/// else is signed by a key that the recipient's member has, or had.
pub(super) fn is_credible(receipt: &Receipt, mesh: &MeshId, view: &RosterView) -> bool {
    let Some(signature) = &receipt.signature else {
        return matches!(
            receipt.state,
            ReceiptState::Accepted
                | ReceiptState::Held
                | ReceiptState::Deferred
                | ReceiptState::Refused
                | ReceiptState::Expired
                | ReceiptState::Rerouted
        );
    };
    let Ok(signature) = signature.parse::<SignatureBytes>() else { return false };
    let at = Timestamp::from_millis(receipt.at);
    let text = canonical::receipt(
        mesh,
        &receipt.broker_message_id,
        receipt.recipient,
        receipt.state.as_str(),
        at,
    );
    let Ok(text) = text else { return false };
    // Said before a change of keys and heard after it, or the other way round.
    view.signing_keys(receipt.recipient, at)
        .any(|key| statement::verify(Ok(text.clone()), key, &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use claudemesh_ipc::api::RecipientKind;

    use super::super::roster::fixture::{member, session, view};
    use super::*;

    #[test]
    fn receipts_are_believed_from_the_recipients_member_only() {
        let (bob, stranger) = (KeyPair::generate(), KeyPair::generate());
        let mesh = MeshId::new("M");
        let mut row = member("bob", 2);
        row.pubkey = bob.public();
        let mut presence = session("bob", 20, 2);
        presence.member_pubkey = Some(bob.public());
        let session_key = presence.pubkey;
        let seen = view(vec![presence], vec![row]);
        let signed = |by: &KeyPair, recipient| {
            let subject = Subject {
                broker_message_id: "Q".to_owned(),
                client_message_id: "c".to_owned(),
                recipient,
                kind: RecipientKind::Member,
            };
            let statement = ReceiptState::OnDevice.into();
            sign(&mesh, subject, statement, by, Timestamp::from_millis(5)).unwrap()
        };
        assert!(is_credible(&signed(&bob, bob.public()), &mesh, &seen));
        assert!(is_credible(&signed(&bob, session_key), &mesh, &seen));
        assert!(!is_credible(&signed(&stranger, bob.public()), &mesh, &seen));
        assert!(!is_credible(&signed(&stranger, stranger.public()), &mesh, &seen));
        let mut changed = signed(&bob, bob.public());
        changed.state = ReceiptState::Answered;
        assert!(!is_credible(&changed, &mesh, &seen));
        let unsigned = |state| Receipt { signature: None, state, ..signed(&bob, bob.public()) };
        assert!(is_credible(&unsigned(ReceiptState::Held), &mesh, &seen));
        assert!(!is_credible(&unsigned(ReceiptState::OnDevice), &mesh, &seen));
    }
}
