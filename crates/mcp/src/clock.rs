//! Times as a person reads them in a line of text.

use chrono::{DateTime, Local};
use claudemesh_protocol::time::Timestamp;

/// `HH:MM` in this computer's time zone; `--:--` when the text is no RFC 3339 time.
pub(crate) fn hour_and_minute(rfc3339: &str) -> String {
    DateTime::parse_from_rfc3339(rfc3339).map_or_else(
        |_| "--:--".to_owned(),
        |time| time.with_timezone(&Local).format("%H:%M").to_string(),
    )
}

/// How long ago that was, in one unit: `40s`, `12m`, `3h`, `2d`.
pub(crate) fn age(rfc3339: &str, now: Timestamp) -> String {
    let Some(then) = Timestamp::parse_iso(rfc3339) else { return "?".to_owned() };
    match now.since(then).as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The present.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(Local::now().timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_use_one_unit() {
        let now = Timestamp::parse_iso("2026-01-03T00:00:00Z").unwrap();
        for (then, text) in [
            ("2026-01-02T23:59:20Z", "40s"),
            ("2026-01-02T23:00:01Z", "59m"),
            ("2026-01-02T21:00:00Z", "3h"),
            ("2026-01-01T00:00:00Z", "2d"),
            ("2026-01-04T00:00:00Z", "0s"),
            ("yesterday", "?"),
        ] {
            assert_eq!(age(then, now), text);
        }
    }
}
