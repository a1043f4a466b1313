//! Wall clocks as machines have them: they run, and now and then somebody sets them.

use std::ops::Range;

use claudemesh_protocol::Timestamp;
use proptest::prelude::*;

/// Steps of a clock in milliseconds: mostly small ones forward, now and then a jump of up to two hours either way.
pub fn step_ms(usual: Range<i64>) -> impl Strategy<Value = i64> {
    prop_oneof![12 => usual, 1 => -7_200_000_i64..7_200_000]
}

/// A moment of a test, from milliseconds after its begin; far enough from zero that a clock may go back.
pub const fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000 + millis)
}
