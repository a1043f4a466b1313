//! From the text form of `OpenMetrics`, which the library writes, to version 0.0.4 of the Prometheus form, which the
//! specification asks for: there a counter's `HELP` and `TYPE` carry the name of its samples, and nothing marks the end.

use std::collections::HashSet;

const END_MARK: &str = "# EOF";

pub(super) fn prometheus(open_metrics: &str) -> String {
    let counters: HashSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != END_MARK) {
        let mut words = line.splitn(4, ' ');
        let comment = (words.next(), words.next(), words.next(), words.next());
        if let (Some("#"), Some(keyword), Some(name), rest) = comment
            && counters.contains(name)
        {
            text.extend(["# ", keyword, " ", name, "_total ", rest.unwrap_or_default(), "\n"]);
        } else {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_declared_under_the_name_of_their_samples() {
        let written = prometheus(
            "# HELP a Things.\n# TYPE a counter\na_total{x=\"# TYPE a counter\"} 1\n# HELP b Others.\n# TYPE b gauge\nb 2\n# EOF\n",
        );
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"# TYPE a counter\"} 1\n# HELP b Others.\n# TYPE b gauge\nb 2\n";
        assert_eq!(written, expected);
    }
}
