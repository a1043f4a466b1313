//! The status engine: which report of a peer's status counts (broker spec §2.3).

use std::time::Duration;

use claudemesh_protocol::{PeerStatus, StatusSource, Timestamp};

/// What is recorded about a peer's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRecord {
    /// The status.
    pub status: PeerStatus,
    /// Who reported it.
    pub source: StatusSource,
    /// When.
    pub updated_at: Timestamp,
}

/// What a report or a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusChange {
    /// Nothing: the report does not count.
    Ignored,
    /// Source or time moved, the status did not.
    Refreshed,
    /// The status moved; held messages may be due now.
    Changed,
}

impl StatusRecord {
    /// The record of a new presence.
    pub const fn initial(now: Timestamp) -> Self {
        Self { status: PeerStatus::Idle, source: StatusSource::Jsonl, updated_at: now }
    }

    fn is_fresh(&self, now: Timestamp, window: Duration) -> bool {
        now >= self.updated_at && now.since(self.updated_at) <= window
    }

    /// Takes a report of `status` by `source`.
    ///
    /// A person's own word (`manual`) always counts; `dnd` ends only by it; an inferred status (`jsonl`) does not
    /// override a fresh report. Fresh means not older than `window` and not from the future.
    pub fn report(
        &mut self,
        status: PeerStatus,
        source: StatusSource,
        now: Timestamp,
        window: Duration,
    ) -> StatusChange {
        if self.status == PeerStatus::Dnd && source != StatusSource::Manual {
            return StatusChange::Ignored;
        }
        let is_fresh = self.is_fresh(now, window);
        if status != self.status {
            let was_reported = self.source != StatusSource::Jsonl;
            if source == StatusSource::Jsonl && was_reported && is_fresh {
                return StatusChange::Ignored;
            }
            *self = Self { status, source, updated_at: now };
            return StatusChange::Changed;
        }
        if source >= self.source || !is_fresh {
            self.source = source;
        }
        self.updated_at = now;
        StatusChange::Refreshed
    }

    /// Lets `working` end when it was not refreshed for `ttl`.
    pub fn decay(&mut self, now: Timestamp, ttl: Duration) -> StatusChange {
        if self.status == PeerStatus::Working && now.since(self.updated_at) > ttl {
            *self = Self::initial(now);
            return StatusChange::Changed;
        }
        StatusChange::Ignored
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);
    const TTL: Duration = Duration::from_mins(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_000 + seconds)
    }

    /// STAT-1.
    #[test]
    fn manual_beats_a_fresh_hook_and_jsonl_waits_until_it_is_stale() {
        let mut record = StatusRecord::initial(at(-5));
        let mut report =
            |status, source, seconds| record.report(status, source, at(seconds), WINDOW);
        assert_eq!(report(PeerStatus::Working, StatusSource::Hook, 0), StatusChange::Changed);
        assert_eq!(report(PeerStatus::Idle, StatusSource::Manual, 10), StatusChange::Changed);
        assert_eq!(report(PeerStatus::Working, StatusSource::Jsonl, 12), StatusChange::Ignored);
        assert_eq!(report(PeerStatus::Working, StatusSource::Jsonl, 45), StatusChange::Changed);
    }

    /// STAT-2.
    #[test]
    fn only_a_person_ends_dnd() {
        let mut record = StatusRecord::initial(at(0));
        record.report(PeerStatus::Dnd, StatusSource::Manual, at(0), WINDOW);
        for source in [StatusSource::Hook, StatusSource::Jsonl] {
            for status in [PeerStatus::Idle, PeerStatus::Working, PeerStatus::Dnd] {
                assert_eq!(record.report(status, source, at(500), WINDOW), StatusChange::Ignored);
            }
        }
        assert_eq!(record.decay(at(9_999), TTL), StatusChange::Ignored);
        let change = record.report(PeerStatus::Idle, StatusSource::Manual, at(501), WINDOW);
        assert_eq!(change, StatusChange::Changed);
    }

    /// STAT-3.
    #[test]
    fn working_without_refresh_decays_after_the_limit_and_not_at_it() {
        let mut record = StatusRecord::initial(at(0));
        record.report(PeerStatus::Working, StatusSource::Hook, at(0), WINDOW);
        assert_eq!(record.decay(at(60), TTL), StatusChange::Ignored);
        assert_eq!(record.decay(at(61), TTL), StatusChange::Changed);
        assert_eq!((record.status, record.source), (PeerStatus::Idle, StatusSource::Jsonl));
    }

    #[test]
    fn an_equal_status_moves_the_source_by_rank_and_freshness() {
        let mut record = StatusRecord {
            status: PeerStatus::Idle,
            source: StatusSource::Manual,
            updated_at: at(0),
        };
        record.report(PeerStatus::Idle, StatusSource::Jsonl, at(10), WINDOW);
        assert_eq!((record.source, record.updated_at), (StatusSource::Manual, at(10)));
        record.report(PeerStatus::Idle, StatusSource::Hook, at(11), WINDOW);
        assert_eq!(record.source, StatusSource::Hook);
        record.report(PeerStatus::Idle, StatusSource::Jsonl, at(100), WINDOW);
        assert_eq!(record.source, StatusSource::Jsonl);
    }

    #[test]
    fn a_report_from_the_future_is_stale() {
        let mut record = StatusRecord {
            status: PeerStatus::Working,
            source: StatusSource::Hook,
            updated_at: at(100),
        };
        let change = record.report(PeerStatus::Idle, StatusSource::Jsonl, at(50), WINDOW);
        assert_eq!(change, StatusChange::Changed);
    }

    /// The tables of broker spec §2.3, line by line.
    fn by_the_book(
        recorded: StatusRecord,
        (status, source): (PeerStatus, StatusSource),
        now: Timestamp,
    ) -> StatusRecord {
        let age = now.as_millis() - recorded.updated_at.as_millis();
        let is_fresh = (0..=30_000).contains(&age);
        let rank = |source| match source {
            StatusSource::Hook => 3,
            StatusSource::Manual => 2,
            StatusSource::Jsonl => 1,
        };
        let taken = StatusRecord { status, source, updated_at: now };
        let touched = StatusRecord { updated_at: now, ..recorded };
        let is_dnd = recorded.status == PeerStatus::Dnd;
        match (status == recorded.status, source) {
            (_, StatusSource::Hook | StatusSource::Jsonl) if is_dnd => recorded,
            (false, StatusSource::Jsonl) if recorded.source != StatusSource::Jsonl && is_fresh => {
                recorded
            }
            (true, _) if rank(source) < rank(recorded.source) && is_fresh => touched,
            (_, StatusSource::Hook | StatusSource::Manual | StatusSource::Jsonl) => taken,
        }
    }

    proptest! {
        /// STAT-1, STAT-2, STAT-3 over random schedules, clocks that go back included.
        #[test]
        fn every_report_and_sweep_goes_by_the_book(
            steps in prop::collection::vec((prop::option::of((0_usize..3, 0_usize..3)), -20_i64..80), 1..60),
        ) {
            let mut record = StatusRecord::initial(at(0));
            let mut now = 0;
            for (report, step) in steps {
                now += step;
                let before = record;
                let (change, expected) = if let Some((status, source)) = report {
                    let (status, source) = (PeerStatus::ALL[status], StatusSource::ALL[source]);
                    let change = record.report(status, source, at(now), WINDOW);
                    (change, by_the_book(before, (status, source), at(now)))
                } else {
                    let age = at(now).as_millis() - before.updated_at.as_millis();
                    let is_over = before.status == PeerStatus::Working && age > 60_000;
                    let expected = if is_over { StatusRecord::initial(at(now)) } else { before };
                    (record.decay(at(now), TTL), expected)
                };
                prop_assert_eq!(record, expected);
                prop_assert_eq!(change == StatusChange::Changed, before.status != record.status);
            }
        }

        #[test]
        fn whatever_is_reported_dnd_is_left_only_by_manual(
            reports in prop::collection::vec((0_usize..3, 0_usize..3, 0_i64..100), 1..40),
        ) {
            let mut record = StatusRecord::initial(at(0));
            let mut now = 0;
            for (status, source, step) in reports {
                now += step;
                let (status, source) = (PeerStatus::ALL[status], StatusSource::ALL[source]);
                let before = record;
                let change = record.report(status, source, at(now), WINDOW);
                if before.status == PeerStatus::Dnd && record.status != PeerStatus::Dnd {
                    prop_assert_eq!(source, StatusSource::Manual);
                }
                if source == StatusSource::Manual {
                    prop_assert_eq!(record.status, status);
                }
                prop_assert_eq!(change == StatusChange::Changed, before.status != record.status);
                prop_assert_eq!(change == StatusChange::Ignored, before == record && change != StatusChange::Refreshed);
            }
        }
    }
}
