//! How far a message came, per delivery row: one ladder state and at most one side state (wire spec §3.1, Receipts).
//! The broker keeps this for every delivery, the sender's daemon for every recipient; both by the same rule.

use serde::{Deserialize, Serialize};

use crate::wire::ReceiptState;

/// What is stored: a ladder state, and a side state while there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The highest rank reached.
    pub ladder: ReceiptState,
    /// A side exit below `in_context`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<ReceiptState>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { ladder: ReceiptState::Accepted, side: None }
    }
}

/// Rank of a ladder state; `None` for side exits.
pub const fn rank(state: ReceiptState) -> Option<u8> {
    match state {
        ReceiptState::Accepted => Some(1),
        ReceiptState::OnDevice => Some(2),
        ReceiptState::Handed => Some(3),
        ReceiptState::InContext => Some(4),
        ReceiptState::TurnEnded => Some(5),
        ReceiptState::Answered => Some(6),
        _ => None,
    }
}

const IN_CONTEXT_RANK: u8 = 4;

/// True for states a recipient's daemon may assert; the others are the broker's own.
pub const fn is_of_recipient(state: ReceiptState) -> bool {
    !matches!(state, ReceiptState::Accepted | ReceiptState::Expired | ReceiptState::Rerouted)
}

/// Who vouches for a state that a recipient reported: the agent's own record from `in_context` on.
pub fn asserted_by(state: ReceiptState) -> &'static str {
    match rank(state) {
        Some(rank) if rank >= IN_CONTEXT_RANK => "agent_record",
        _ => "recipient_daemon",
    }
}

impl Progress {
    /// What is shown.
    pub fn shown(self) -> ReceiptState {
        self.side.unwrap_or(self.ladder)
    }

    /// True when nothing that is reported changes it any more.
    pub fn is_final(self) -> bool {
        matches!(self.side, Some(ReceiptState::Refused | ReceiptState::Expired))
    }

    /// The progress after a report; `None` when the report changes nothing.
    pub fn after(self, reported: ReceiptState) -> Option<Self> {
        if self.is_final() {
            return None;
        }
        match rank(reported) {
            Some(new) if Some(new) > rank(self.ladder) => {
                Some(Self { ladder: reported, side: None })
            }
            Some(_) => None,
            None if rank(self.ladder) >= Some(IN_CONTEXT_RANK) || self.side == Some(reported) => {
                None
            }
            None => Some(Self { side: Some(reported), ..self }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// MST-3.
    #[test]
    fn ranks_only_rise() {
        let start = Progress::default();
        let device = start.after(ReceiptState::OnDevice).unwrap();
        let context = device.after(ReceiptState::InContext).unwrap();
        assert_eq!(context.after(ReceiptState::Handed), None);
        assert_eq!(context.after(ReceiptState::Held), None);
        assert_eq!(asserted_by(context.shown()), "agent_record");
        assert_eq!(asserted_by(ReceiptState::Handed), "recipient_daemon");
    }

    #[test]
    fn a_higher_rank_clears_the_side_state_and_refusal_is_final() {
        let held = Progress::default().after(ReceiptState::Held).unwrap();
        assert_eq!(held.shown(), ReceiptState::Held);
        let handed = held.after(ReceiptState::Handed).unwrap();
        assert_eq!((handed.shown(), handed.side), (ReceiptState::Handed, None));
        let refused = held.after(ReceiptState::Refused).unwrap();
        assert_eq!(refused.after(ReceiptState::Answered), None);
    }

    proptest! {
        #[test]
        fn progress_never_goes_back(states in prop::collection::vec(0..ReceiptState::ALL.len(), 0..30)) {
            let mut progress = Progress::default();
            for state in states {
                if let Some(next) = progress.after(ReceiptState::ALL[state]) {
                    prop_assert!(rank(next.ladder) >= rank(progress.ladder));
                    prop_assert_ne!(next, progress);
                    progress = next;
                }
            }
        }
    }
}
