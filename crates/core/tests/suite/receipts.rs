//! How far a message came, against the list of every report (wire spec §3.1, Receipts).

use claudemesh_core::receipt::{Progress, asserted_by, is_of_recipient, rank};
use claudemesh_protocol::wire::ReceiptState;
use proptest::prelude::*;

const LADDER: [&str; 6] =
    ["accepted", "on_device", "handed", "in_context", "turn_ended", "answered"];

/// What the list of reports amounts to, in words. The ladder is the highest step anybody reported before a refusal or an
/// expiry; beside it stands the last side state that came after that step, unless an agent has the message already.
fn by_the_list(list: &[&str]) -> (usize, Option<String>) {
    let (mut step, mut side) = (0, None::<String>);
    for word in list {
        if matches!(side.as_deref(), Some("refused" | "expired")) {
            break;
        }
        match LADDER.iter().position(|name| name == word) {
            Some(higher) if higher > step => (step, side) = (higher, None),
            Some(_) => {}
            None if step >= 3 => {}
            None => side = Some((*word).to_owned()),
        }
    }
    (step, side)
}

proptest! {
    /// MST-3: reports in whatever order, repeated and late ones included, leave what the list says; the ladder only
    /// rises; a report that changes nothing says so.
    #[test]
    fn progress_agrees_with_the_list(reports in prop::collection::vec(0..ReceiptState::ALL.len(), 0..40)) {
        let mut progress = Progress::default();
        let mut list: Vec<&str> = Vec::new();
        for report in reports {
            let state = ReceiptState::ALL[report];
            let before = progress;
            let after = progress.after(state);
            prop_assert_ne!(after, Some(before));
            progress = after.unwrap_or(before);
            list.push(state.as_str());
            let (step, side) = by_the_list(&list);
            prop_assert_eq!(progress.ladder.as_str(), LADDER[step]);
            prop_assert_eq!(progress.side.map(|side| side.as_str().to_owned()), side.clone());
            let shown = side.as_deref().unwrap_or(LADDER[step]);
            prop_assert_eq!(progress.shown().as_str(), shown);
            prop_assert!(rank(progress.ladder) >= rank(before.ladder), "forward only");
            prop_assert!(!before.is_final() || progress == before, "refused and expired stay");
        }
    }

    /// The order of reports of one side does not change how high the message came.
    #[test]
    fn the_height_does_not_depend_on_the_order(
        mut reports in prop::collection::vec(0..LADDER.len(), 0..20),
        swaps in prop::collection::vec((0_usize..20, 0_usize..20), 0..20),
    ) {
        let climb = |reports: &[usize]| {
            reports.iter().fold(Progress::default(), |progress, step| {
                progress.after(ReceiptState::ALL[*step]).unwrap_or(progress)
            })
        };
        let straight = climb(&reports);
        for (one, other) in swaps {
            if one < reports.len() && other < reports.len() {
                reports.swap(one, other);
            }
        }
        prop_assert_eq!(climb(&reports), straight);
    }
}

/// The table of who may say what, word by word.
#[test]
fn only_what_arises_at_the_recipient_is_its_to_say() {
    for state in ReceiptState::ALL {
        let is_brokers = matches!(state.as_str(), "accepted" | "expired" | "rerouted");
        assert_eq!(is_of_recipient(*state), !is_brokers, "{state}");
        let is_record = matches!(state.as_str(), "in_context" | "turn_ended" | "answered");
        assert_eq!(asserted_by(*state) == "agent_record", is_record, "{state}");
    }
}
