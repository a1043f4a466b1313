//! Counters of a member over its connections (broker spec §2.2, §2.4).

use claudemesh_protocol::wire::Stats;

fn includes(reported: Option<u64>, earlier: Option<u64>) -> bool {
    reported.unwrap_or(0) >= earlier.unwrap_or(0)
}

fn beyond(reported: Option<u64>, earlier: Option<u64>) -> Option<u64> {
    reported.map(|reported| reported.saturating_sub(earlier.unwrap_or(0)))
}

/// What a connection itself has counted. Old clients start from the counters they were given at the hello (`earlier`)
/// and report totals: when no counter lies below, `reported` contains them. Others report what they counted. Uptime is
/// not kept.
pub fn counted(earlier: Stats, reported: Stats) -> Stats {
    let is_total = includes(reported.messages_in, earlier.messages_in)
        && includes(reported.messages_out, earlier.messages_out)
        && includes(reported.tool_calls, earlier.tool_calls)
        && includes(reported.errors, earlier.errors);
    if !is_total {
        return Stats { uptime: None, ..reported };
    }
    Stats {
        messages_in: beyond(reported.messages_in, earlier.messages_in),
        messages_out: beyond(reported.messages_out, earlier.messages_out),
        tool_calls: beyond(reported.tool_calls, earlier.tool_calls),
        errors: beyond(reported.errors, earlier.errors),
        uptime: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stats(messages_in: u64, errors: u64) -> Stats {
        Stats { messages_in: Some(messages_in), errors: Some(errors), ..Stats::default() }
    }

    fn accumulated(earlier: Stats, reported: Stats) -> Stats {
        earlier.plus(counted(earlier, reported))
    }

    /// VIS-2.
    #[test]
    fn totals_are_not_doubled_and_parts_are_added() {
        assert_eq!(accumulated(stats(5, 1), stats(7, 1)), stats(7, 1));
        assert_eq!(accumulated(stats(5, 1), stats(2, 3)), stats(7, 4));
        assert_eq!(accumulated(Stats::default(), stats(2, 3)), stats(2, 3));
    }

    proptest! {
        /// The rule of broker spec §2.2 in its own words.
        #[test]
        fn what_is_stored_in_the_end_is_the_report_or_the_sum(
            earlier in (0_u64..9, 0_u64..9), reported in (0_u64..9, 0_u64..9),
        ) {
            let (before, told) = (stats(earlier.0, earlier.1), stats(reported.0, reported.1));
            let expected = if reported.0 >= earlier.0 && reported.1 >= earlier.1 {
                told
            } else {
                stats(earlier.0 + reported.0, earlier.1 + reported.1)
            };
            prop_assert_eq!(accumulated(before, told), expected);
        }
    }
}
