//! Counters of a member over its connections (broker spec §2.2, §2.4).

use claudemesh_protocol::wire::Stats;

fn sum(left: Option<u64>, right: Option<u64>) -> Option<u64> {
    match (left, right) {
        (None, None) => None,
        (left, right) => Some(left.unwrap_or(0).saturating_add(right.unwrap_or(0))),
    }
}

fn includes(reported: Option<u64>, stored: Option<u64>) -> bool {
    reported.unwrap_or(0) >= stored.unwrap_or(0)
}

/// The counters to keep at the end of a connection: `reported` when it already contains what was `stored` (old clients
/// report totals), else both together. Uptime is per connection and is not kept.
pub fn accumulate(stored: Stats, reported: Stats) -> Stats {
    let is_total = includes(reported.messages_in, stored.messages_in)
        && includes(reported.messages_out, stored.messages_out)
        && includes(reported.tool_calls, stored.tool_calls)
        && includes(reported.errors, stored.errors);
    if is_total {
        return Stats { uptime: None, ..reported };
    }
    Stats {
        messages_in: sum(stored.messages_in, reported.messages_in),
        messages_out: sum(stored.messages_out, reported.messages_out),
        tool_calls: sum(stored.tool_calls, reported.tool_calls),
        errors: sum(stored.errors, reported.errors),
        uptime: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(messages_in: u64, errors: u64) -> Stats {
        Stats { messages_in: Some(messages_in), errors: Some(errors), ..Stats::default() }
    }

    #[test]
    fn totals_are_not_doubled_and_parts_are_added() {
        assert_eq!(accumulate(stats(5, 1), stats(7, 1)), stats(7, 1));
        assert_eq!(accumulate(stats(5, 1), stats(2, 3)), stats(7, 4));
        assert_eq!(accumulate(Stats::default(), stats(2, 3)), stats(2, 3));
    }
}
