//! Values people type: durations, times, lists, limits (CLI spec §1.8).

use std::time::Duration;

use claudemesh_protocol::group::Group;
use claudemesh_protocol::limits;
use claudemesh_protocol::time::Timestamp;

use crate::failure::{Failure, Outcome};

/// Longest wait of `--wait`; more is a mistake in the unit.
const WAIT_MAX: Duration = Duration::from_hours(1);

/// Largest `--limit` (CLI spec §1.8).
const LIMIT_MAX: u32 = 1000;

/// `500ms`, `30s`, `10m`, `2h`, `7d`, `2w`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let expected = || "a duration such as 30s, 10m, 2h or 7d".to_owned();
    let number: u64 = number.parse().map_err(|_| expected())?;
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return Err(expected()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(expected)
}

/// The value of `--wait=…`.
pub(crate) fn wait_duration(text: &str) -> Result<Duration, String> {
    let wait = duration(text)?;
    if wait <= WAIT_MAX { Ok(wait) } else { Err("at most 1h".to_owned()) }
}

/// The life of an ephemeral daemon: 1 s to [`limits::EPHEMERAL_TTL_MAX`].
pub(crate) fn ephemeral_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (Duration::from_secs(1)..=limits::EPHEMERAL_TTL_MAX).contains(&ttl) {
        Ok(ttl)
    } else {
        Err(format!("1s to {}d", limits::EPHEMERAL_TTL_MAX.as_secs() / 86_400))
    }
}

/// 1 to 1000.
pub(crate) fn positive_limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        _ => Err(format!("1 to {LIMIT_MAX}")),
    }
}

/// The parts of `a,b`, trimmed, without empty ones.
pub(crate) fn listed(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// `name` or `name:role`, separated by commas.
pub(crate) fn groups(verb: &str, text: &str) -> Outcome<Vec<Group>> {
    listed(text)
        .iter()
        .map(|part| {
            Group::parse_lenient(part).map_err(|error| {
                Failure::invalid(format!("{verb}: --groups \"{part}\"")).detail(error.to_string())
            })
        })
        .collect()
}

/// A point in time: a duration back from now, RFC 3339, or `YYYY-MM-DD[THH:MM[:SS]]` in local time.
pub(crate) fn time(verb: &str, flag: &str, text: &str, now: Timestamp) -> Outcome<Timestamp> {
    if let Some(time) = Timestamp::parse_iso(text) {
        return Ok(time);
    }
    if let Ok(back) = duration(text) {
        return Ok(now.minus(back));
    }
    local_time(text).ok_or_else(|| {
        Failure::of_word("invalid_args", format!("{verb}: {flag} \"{text}\""))
            .detail("expected: 2h, 2026-01-31, 2026-01-31T10:00 or RFC 3339")
    })
}

/// A date and time without a zone is read in the machine's own.
fn local_time(text: &str) -> Option<Timestamp> {
    use chrono::{Local, NaiveDate, NaiveDateTime, NaiveTime, TimeZone as _};

    let text = text.replacen(' ', "T", 1);
    let naive = NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S")
        .or_else(|_| NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M"))
        .or_else(|_| {
            NaiveDate::parse_from_str(&text, "%Y-%m-%d").map(|date| date.and_time(NaiveTime::MIN))
        })
        .ok()?;
    let local = Local.from_local_datetime(&naive).earliest()?;
    Some(Timestamp::from_millis(local.timestamp_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_every_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("30", 30_000),
            ("30s", 30_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("1w", 604_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "1y", "-1s", "1.5h", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_read_every_form() {
        let now = Timestamp::from_seconds(1_000_000);
        assert_eq!(time("inbox", "--since", "10s", now).unwrap(), Timestamp::from_seconds(999_990));
        let utc = time("inbox", "--since", "2026-01-02T03:04:05Z", now).unwrap();
        assert_eq!(utc.to_iso(), "2026-01-02T03:04:05.000Z");
        assert!(time("inbox", "--since", "2026-01-02", now).is_ok());
        assert!(time("inbox", "--since", "2026-01-02T03:04", now).is_ok());
        assert_eq!(time("inbox", "--since", "yesterday", now).unwrap_err().exit, 3);
    }

    #[test]
    fn groups_with_and_without_role() {
        let read = groups("join", "@eng:lead, qa").unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(groups("join", "a b").unwrap_err().exit, 3);
    }
}
