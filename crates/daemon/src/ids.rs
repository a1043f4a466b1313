//! ULIDs that grow: two of one millisecond sort in the order in which they were drawn.

use parking_lot::Mutex;
use ulid::{Generator, Ulid};

static GENERATOR: Mutex<Generator> = Mutex::new(Generator::new());

/// The next id.
pub(crate) fn next() -> String {
    // The generator fails only after 2^80 ids in one millisecond; a plain one is unique too.
    GENERATOR.lock().generate().unwrap_or_else(|_| Ulid::generate()).to_string()
}
