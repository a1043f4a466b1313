//! Client message ids against the list of every use (wire spec §4.7).

use std::collections::BTreeMap;

use claudemesh_core::dedupe::{FirstUse, Reuse, compare};
use claudemesh_protocol::MemberId;
use proptest::prelude::*;

/// A use of an id by a member for a request.
type Use = (u8, u8, u8);

fn fingerprint(request: u8) -> [u8; 32] {
    std::array::from_fn(|place| request.wrapping_mul(31).wrapping_add(u8::try_from(place).unwrap()))
}

/// What the list of all uses so far says: the first one of an id owns it for ever, and only exactly that use repeats it.
fn by_the_list(list: &[Use], (id, member, request): Use) -> Option<Reuse> {
    let first = list.iter().find(|(used, _, _)| *used == id)?;
    if *first == (id, member, request) {
        return Some(Reuse::Duplicate);
    }
    let hex: Vec<String> =
        fingerprint(first.2).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(Reuse::Conflict { fingerprint_prefix: hex.concat() })
}

proptest! {
    /// IDM-2: whoever uses which id for what, in whatever order, the first use is the only one that is ever taken.
    #[test]
    fn the_first_use_of_an_id_owns_it(uses in prop::collection::vec((0_u8..4, 0_u8..3, 0_u8..3), 0..60)) {
        let mut taken: BTreeMap<u8, (MemberId, [u8; 32])> = BTreeMap::new();
        let mut list: Vec<Use> = Vec::new();
        for (id, member, request) in uses {
            let (sender, print) = (MemberId::new(format!("member-{member}")), fingerprint(request));
            let answer = taken.get(&id).map(|(first, first_print)| {
                compare(
                    FirstUse { sender: first, fingerprint: first_print },
                    FirstUse { sender: &sender, fingerprint: &print },
                )
            });
            prop_assert_eq!(&answer, &by_the_list(&list, (id, member, request)));
            if answer.is_none() {
                taken.insert(id, (sender, print));
            }
            list.push((id, member, request));
        }
    }
}
