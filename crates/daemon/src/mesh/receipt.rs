//! Receipts: saying how far a message of others came, and believing what others say about ours (daemon spec §10.7,
//! wire spec §3.1).

use claudemesh_crypto::{KeyPair, statement};
use claudemesh_protocol::canonical;
use claudemesh_protocol::wire::{Receipt, ReceiptState};
use claudemesh_protocol::{MeshId, MessageId, PublicKey, SignatureBytes, Timestamp};

use super::roster::{RosterView, member_of};

/// What a signed receipt is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) broker_message_id: MessageId,
    pub(super) client_message_id: String,
    pub(super) recipient: PublicKey,
}

/// Signs a receipt with the recipient's member key; `None` when an id cannot be signed.
pub(super) fn sign(
    mesh: &MeshId,
    subject: Subject,
    state: ReceiptState,
    member: &KeyPair,
    at: Timestamp,
) -> Option<Receipt> {
    let text =
        canonical::receipt(mesh, &subject.broker_message_id, subject.recipient, state.as_str(), at);
    let signature = statement::sign(text, member).ok()?;
    Some(Receipt {
        broker_message_id: subject.broker_message_id,
        client_message_id: subject.client_message_id,
        recipient: subject.recipient,
        state,
        path: None,
        evidence: None,
        reason: None,
        at: at.as_millis(),
        signature: Some(signature.to_hex()),
        asserted_by: None,
    })
}

/// True when a receipt about a message of ours can be believed: the broker asserts only what it can know, everything
/// else is signed by the recipient's member key.
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
    let member = match view.member(receipt.recipient) {
        Some(member) => member.pubkey,
        None => match view.presence(receipt.recipient) {
            Some(row) => member_of(row),
            None => return false,
        },
    };
    let at = Timestamp::from_millis(receipt.at);
    let text = canonical::receipt(
        mesh,
        &receipt.broker_message_id,
        receipt.recipient,
        receipt.state.as_str(),
        at,
    );
    view.member(member).is_some() && statement::verify(text, member, &signature).is_ok()
}

#[cfg(test)]
mod tests {
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
                broker_message_id: MessageId::new("Q"),
                client_message_id: "c".to_owned(),
                recipient,
            };
            sign(&mesh, subject, ReceiptState::OnDevice, by, Timestamp::from_millis(5)).unwrap()
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
