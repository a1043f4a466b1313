//! ULIDs that grow: two of one millisecond sort in the order in which they were drawn, also when the clock goes back.

use claudemesh_crypto::random;
use parking_lot::Mutex;
use ulid::Ulid;

use crate::clock;

/// The last id given out.
static LAST: Mutex<Ulid> = Mutex::new(Ulid::nil());

#[cfg(feature = "simulation")]
thread_local! {
    /// As [`LAST`], for a simulation: others run in other threads of the process.
    static SIMULATED_LAST: std::cell::Cell<Ulid> = const { std::cell::Cell::new(Ulid::nil()) };
}

/// The next id.
pub(crate) fn next() -> String {
    #[cfg(feature = "simulation")]
    if clock::is_simulated() {
        let next = after(SIMULATED_LAST.get());
        SIMULATED_LAST.set(next);
        return next.to_string();
    }
    let mut last = LAST.lock();
    *last = after(*last);
    last.to_string()
}

/// A fresh id, or the number after `last` when that is of this millisecond or later, as the ULID specification has it.
fn after(last: Ulid) -> Ulid {
    let millis = u64::try_from(clock::now().as_millis()).unwrap_or_default();
    let fresh = Ulid::from_parts(millis, u128::from_be_bytes(random::bytes()));
    if last.timestamp_ms() < millis {
        return fresh;
    }
    // Only after 2^80 ids of one millisecond there is no next number; a plain one is unique too.
    last.increment().unwrap_or(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Daemon spec §10 Accept 4: minted ids are valid ULIDs and unique over 1e6.
    #[test]
    fn a_million_ids_are_ulids_and_differ() {
        let mut last = next();
        for _ in 0..1_000_000 {
            let id = next();
            assert!(id > last, "growing ids are unique");
            last = id;
        }
        assert_eq!(Ulid::from_string(&last).unwrap().to_string(), last);
    }

    #[test]
    fn ids_grow_within_a_millisecond() {
        let ids: Vec<_> = (0..1_000).map(|_| next()).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
    }
}
