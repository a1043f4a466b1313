//! What was promised and what was seen: every letter with what its sender was told, every time an agent was shown one,
//! and how far receipts said it came.

use std::collections::BTreeMap;

use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{Priority, PublicKey, receipt};
use parking_lot::Mutex;

use crate::tap::SECRET_MARK;

/// Number of a letter within its run; also the end of its text.
pub(crate) type LetterNumber = usize;

/// Who a letter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Address {
    /// The member of a daemon.
    Member(usize),
    /// The session of an agent.
    Agent(usize),
    /// Everybody else.
    Everyone,
    /// A group.
    Group,
}

/// What the sender was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing yet, or nothing certain.
    Unknown,
    /// The daemon has it; the number is the place among all accepts of the run.
    Accepted(usize),
    /// The daemon refused it.
    Refused(String),
}

/// One message of a run.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// Daemon of the sender.
    pub(crate) daemon: usize,
    pub(crate) to: Address,
    pub(crate) priority: Priority,
    pub(crate) client_message_id: String,
    /// It may end before it arrives.
    pub(crate) may_expire: bool,
    pub(crate) outcome: Outcome,
}

/// What the runs of a seed is judged by.
#[derive(Default)]
pub(crate) struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    letters: Vec<Letter>,
    accepted: usize,
    /// By agent and letter: the inbox rows under which it was shown.
    shown: BTreeMap<(usize, LetterNumber), Vec<String>>,
    /// By client message id and recipient: the furthest receipt.
    furthest: BTreeMap<(String, PublicKey), ReceiptState>,
    violations: Vec<String>,
}

impl Ledger {
    /// Enters a letter.
    pub(crate) fn write(&self, letter: Letter) -> LetterNumber {
        let mut inner = self.inner.lock();
        inner.letters.push(letter);
        inner.letters.len() - 1
    }

    /// The sender was told something.
    pub(crate) fn told(&self, number: LetterNumber, outcome: Outcome) {
        if let Some(letter) = self.inner.lock().letters.get_mut(number) {
            letter.outcome = outcome;
        }
    }

    /// The daemon accepted it.
    pub(crate) fn accepted(&self, number: LetterNumber) {
        let mut inner = self.inner.lock();
        let place = inner.accepted;
        inner.accepted += 1;
        if let Some(letter) = inner.letters.get_mut(number) {
            letter.outcome = Outcome::Accepted(place);
        }
    }

    /// Every letter so far.
    pub(crate) fn letters(&self) -> Vec<Letter> {
        self.inner.lock().letters.clone()
    }

    /// An agent was told of an inbox row.
    pub(crate) fn shown(&self, agent: usize, body: &str, inbox_id: &str) {
        let Some(number) = number_of(body) else { return };
        let mut inner = self.inner.lock();
        let rows = inner.shown.entry((agent, number)).or_default();
        if rows.iter().any(|row| row == inbox_id) {
            return;
        }
        rows.push(inbox_id.to_owned());
        if rows.len() > 1 {
            let rows = rows.join(", ");
            inner
                .violations
                .push(format!("agent {agent} was shown letter {number} twice: rows {rows}"));
        }
    }

    /// A receipt is shown to the sender.
    pub(crate) fn receipt(
        &self,
        client_message_id: &str,
        recipient: PublicKey,
        state: ReceiptState,
    ) {
        let Some(rank) = receipt::rank(state) else { return };
        let mut inner = self.inner.lock();
        // No agent of a simulation keeps a record or answers: whoever says so has forged it.
        if matches!(
            state,
            ReceiptState::InContext | ReceiptState::TurnEnded | ReceiptState::Answered
        ) {
            inner.violations.push(format!("a forged receipt of {client_message_id}: {state:?}"));
        }
        let key = (client_message_id.to_owned(), recipient);
        let before = inner.furthest.get(&key).copied();
        if let Some(before) = before
            && receipt::rank(before).is_some_and(|before| before > rank)
        {
            inner.violations.push(format!(
                "the receipt of {client_message_id} went back from {before:?} to {state:?}"
            ));
        }
        inner.furthest.insert(key, state);
    }

    /// The furthest receipts, by client message id and recipient.
    pub(crate) fn receipts(&self) -> BTreeMap<(String, PublicKey), ReceiptState> {
        self.inner.lock().furthest.clone()
    }

    /// Something that must not be.
    pub(crate) fn violated(&self, what: String) {
        self.inner.lock().violations.push(what);
    }

    /// Everything that must not be, so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.inner.lock().violations.clone()
    }
}

/// The text of a letter.
pub(crate) fn text_of(number: LetterNumber) -> String {
    format!("{SECRET_MARK} {number}")
}

/// The letter of a text.
pub(crate) fn number_of(text: &str) -> Option<LetterNumber> {
    text.strip_prefix(SECRET_MARK)?.trim().parse().ok()
}
