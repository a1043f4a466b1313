//! What becomes of an outbox row after an attempt: the table of daemon spec §11.4, decided by codes alone.

use std::time::Duration;

use claudemesh_client::RequestError;
use claudemesh_protocol::error::{ErrorCode, Retry};
use claudemesh_protocol::wire::Ack;
use rand::{Rng, RngExt as _};

use crate::outbox::RETRY_HORIZON;

/// Attempts an unknown code is tried before it counts as final (daemon spec §11.4).
const UNKNOWN_CODE_ATTEMPTS: u32 = 10;
/// First wait between two attempts (daemon spec §11.4).
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait between two attempts (daemon spec §11.4).
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Body version of a text that the broker can read.
const PLAIN_BODY: u8 = 1;

/// What to do with the row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// The broker has it.
    Done,
    /// The broker had it already; `is_history_gone` when it does not keep the message any more.
    Duplicate {
        /// The message itself was pruned.
        is_history_gone: bool,
    },
    /// Never again.
    Dead(Reason),
    /// Again after this time; the attempt counts.
    Retry(Reason, Option<Duration>),
    /// Back as it was: nothing was written.
    Release,
    /// Encrypt it, then again.
    Reseal(Reason),
}

impl Outcome {
    /// The word for figures; `None` when nothing was written.
    pub(super) const fn word(&self) -> Option<&'static str> {
        match self {
            Self::Done => Some("done"),
            Self::Duplicate { .. } => Some("duplicate"),
            Self::Dead(_) => Some("dead"),
            Self::Retry(..) => Some("retry"),
            Self::Reseal(_) => Some("reseal"),
            Self::Release => None,
        }
    }
}

/// Why a row failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// Stable code.
    pub code: String,
    /// For people.
    pub text: String,
}

impl Reason {
    /// A reason of our own making.
    pub(super) fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into() }
    }
}

/// What the decision needs to know of the row.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowFacts {
    /// Finished attempts before this one.
    pub attempts: u32,
    /// Body version that was sent.
    pub body_version: u8,
    /// Sent to a group or to everybody.
    pub is_group: bool,
}

/// Reads the broker's answer.
pub(super) fn of_ack(ack: &Ack, row: RowFacts) -> Outcome {
    if ack.queued {
        return match (ack.duplicate, ack.status) {
            (Some(true), _) | (_, Some(200)) => {
                Outcome::Duplicate { is_history_gone: ack.history_available == Some(false) }
            }
            _ => Outcome::Done,
        };
    }
    let text = ack.error.clone().unwrap_or_else(|| "the broker gave no reason".to_owned());
    let after = ack.retry_after_ms.map(Duration::from_millis);
    if ack.status == Some(409) && ErrorCode::of_ack_error(&text).is_none() {
        return Outcome::Dead(Reason::new(ErrorCode::IdempotencyConflict.as_str(), text));
    }
    let code = match ErrorCode::of_ack_error(&text) {
        Some(code) => code,
        None => match legacy_meaning(&text) {
            Some(code) => code,
            None => return of_unknown_code(text, after, row),
        },
    };
    let reason = Reason::new(code.as_str(), text);
    match code {
        ErrorCode::EncryptionRequired if row.is_group && row.body_version == PLAIN_BODY => {
            Outcome::Reseal(reason)
        }
        _ if code.retry() == Retry::Permanent => Outcome::Dead(reason),
        _ => Outcome::Retry(reason, after),
    }
}

/// Reads the failure of the call itself.
pub(super) fn of_error(error: &RequestError) -> Outcome {
    let text = error.to_string();
    match error {
        RequestError::NotOpen => Outcome::Release,
        RequestError::TooLarge { .. } => {
            Outcome::Dead(Reason::new(ErrorCode::PayloadTooLarge.as_str(), text))
        }
        RequestError::Timeout => Outcome::Retry(Reason::new("ack_timeout", text), None),
        RequestError::Refused(frame) => {
            let after = frame.retry_after_ms.map(Duration::from_millis);
            let reason = Reason::new(frame.code.clone(), frame.message.clone());
            match frame.known_code().map(ErrorCode::retry) {
                Some(Retry::Permanent) => Outcome::Dead(reason),
                _ => Outcome::Retry(reason, after),
            }
        }
        _ => Outcome::Retry(Reason::new("broker_disconnected", text), None),
    }
}

/// Time before the next attempt of a row with `attempts` finished ones: doubling from half a second to half a minute,
/// a quarter more or less; never sooner than the broker asked, and never later than [`RETRY_HORIZON`].
pub(super) fn retry_wait(attempts: u32, asked: Option<Duration>, rng: &mut impl Rng) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << attempts.min(12)).min(RETRY_MAX);
    let jittered = doubled.mul_f64(rng.random_range(0.75..=1.25));
    asked.map_or(jittered, |asked| jittered.max(asked)).min(RETRY_HORIZON)
}

fn of_unknown_code(text: String, after: Option<Duration>, row: RowFacts) -> Outcome {
    let code = text.split(':').next().unwrap_or_default().trim().to_owned();
    let reason = Reason::new(code, text);
    if row.attempts >= UNKNOWN_CODE_ATTEMPTS {
        Outcome::Dead(reason)
    } else {
        Outcome::Retry(reason, after)
    }
}

/// The plain texts of old brokers (daemon spec §11.4).
fn legacy_meaning(text: &str) -> Option<ErrorCode> {
    const TABLE: [(&str, ErrorCode); 3] = [
        ("payload too large", ErrorCode::PayloadTooLarge),
        ("blocked by recipient grants", ErrorCode::Forbidden),
        ("no connected peer for target", ErrorCode::RecipientOffline),
    ];
    TABLE.iter().find(|(start, _)| text.starts_with(start)).map(|(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const ROW: RowFacts = RowFacts { attempts: 0, body_version: 2, is_group: false };

    fn failed(error: &str) -> Ack {
        Ack { error: Some(error.to_owned()), ..Ack::default() }
    }

    /// Daemon spec §11.4: the outcome table.
    #[test]
    fn answers_are_read_by_code() {
        let accepted = Ack { queued: true, status: Some(201), ..Ack::default() };
        assert_eq!(of_ack(&accepted, ROW), Outcome::Done);
        let legacy = Ack { queued: true, ..Ack::default() };
        assert_eq!(of_ack(&legacy, ROW), Outcome::Done);
        for gone in [true, false] {
            let duplicate = Ack {
                queued: true,
                duplicate: Some(true),
                history_available: Some(!gone),
                ..Ack::default()
            };
            assert_eq!(of_ack(&duplicate, ROW), Outcome::Duplicate { is_history_gone: gone });
        }
        for permanent in [
            "invalid_request: x",
            "invalid_args: x",
            "invalid_target: x",
            "invalid_channel: x",
            "payload_too_large: x",
            "forbidden: x",
            "loop_stopped: forbidden x",
            "target_not_found: x",
            "topic_not_found: x",
            "revoked: x",
            "idempotency_conflict: invalid reuse",
            "idempotency_key_reused",
            "unknown_target: x",
            "blocked: x",
            "payload too large: 70000 bytes > MAX_MESSAGE_BYTES=65536",
            "blocked by recipient grants (sender lacks dm capability)",
            "encryption_required: forbidden plaintext",
        ] {
            assert!(matches!(of_ack(&failed(permanent), ROW), Outcome::Dead(_)), "{permanent}");
        }
        for transient in [
            "rate_limited: max",
            "rate_limit: slow",
            "queue_full: x",
            "unavailable: x",
            "internal: x",
            "no connected peer for target (not online)",
            "a_code_of_tomorrow: forbidden, invalid and not_found",
        ] {
            assert!(matches!(of_ack(&failed(transient), ROW), Outcome::Retry(..)), "{transient}");
        }
    }

    #[test]
    fn a_conflict_without_words_is_read_by_its_status() {
        let conflict = Ack { status: Some(409), ..Ack::default() };
        assert!(
            matches!(of_ack(&conflict, ROW), Outcome::Dead(reason) if reason.code == "idempotency_conflict")
        );
    }

    #[test]
    fn an_unknown_code_dies_after_ten_attempts() {
        let tired = RowFacts { attempts: 10, ..ROW };
        assert!(matches!(of_ack(&failed("a_code_of_tomorrow: x"), tired), Outcome::Dead(_)));
        assert!(
            matches!(of_ack(&failed("internal: x"), tired), Outcome::Retry(..)),
            "known ones never die by count"
        );
    }

    #[test]
    fn a_plain_group_body_is_sealed_once_when_the_mesh_requires_it() {
        let plain = RowFacts { body_version: 1, is_group: true, ..ROW };
        assert!(matches!(
            of_ack(&failed("encryption_required: forbidden"), plain),
            Outcome::Reseal(_)
        ));
        let sealed = RowFacts { body_version: 2, ..plain };
        assert!(matches!(
            of_ack(&failed("encryption_required: forbidden"), sealed),
            Outcome::Dead(_)
        ));
    }

    #[test]
    fn a_broker_that_asks_for_time_gets_it() {
        let limited = Ack { retry_after_ms: Some(45_000), ..failed("rate_limited: x") };
        let Outcome::Retry(_, after) = of_ack(&limited, ROW) else { panic!() };
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        assert_eq!(retry_wait(0, after, &mut rng), Duration::from_secs(45));
        for attempts in 0..40 {
            let base = RETRY_FIRST.saturating_mul(1 << attempts.min(12)).min(RETRY_MAX);
            let wait = retry_wait(attempts, None, &mut rng);
            assert!(
                wait >= base.mul_f64(0.75) && wait <= base.mul_f64(1.25),
                "{attempts}: {wait:?}"
            );
        }
    }

    #[test]
    fn calls_that_wrote_nothing_do_not_count() {
        assert_eq!(of_error(&RequestError::NotOpen), Outcome::Release);
        assert!(
            matches!(of_error(&RequestError::Timeout), Outcome::Retry(reason, _) if reason.code == "ack_timeout")
        );
        assert!(matches!(of_error(&RequestError::Disconnected), Outcome::Retry(..)));
        assert!(matches!(of_error(&RequestError::TooLarge { bytes: 2, max: 1 }), Outcome::Dead(_)));
    }
}
