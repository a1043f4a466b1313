//! How full the outbox and its disk are, and what follows from it (daemon spec §11.7).

use std::path::PathBuf;
use std::time::Duration;

use claudemesh_ipc::api::EventKind;
use parking_lot::Mutex;
use serde_json::{Map, json};
use tokio::time::Instant;

use crate::events::{Audience, Event, EventBus};
use crate::outbox::Outbox;
use crate::settings::Settings;
use crate::storage;

/// Age of a measurement of disk and database that is still used.
const MEASURED_FOR: Duration = Duration::from_secs(1);
const HIGH: f64 = 0.80;
const FULL: f64 = 0.95;
const DEGRADED: f64 = 1.00;
const RECOVERED: f64 = 0.90;

/// What a send may expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It is taken.
    Open,
    /// It is refused with 507.
    Full,
}

/// The measurement, kept for a moment.
pub struct Pressure {
    dir: PathBuf,
    events: EventBus,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    disk: Option<(Instant, f64)>,
    is_high: bool,
    is_degraded: bool,
    /// A write failed for lack of space; after a second one more is tried.
    refused_at: Option<Instant>,
}

impl Pressure {
    /// Nothing measured yet. `dir` lies on the volume of the databases.
    pub fn new(dir: PathBuf, events: EventBus) -> Self {
        Self { dir, events, state: Mutex::default() }
    }

    /// Measures, at most once a second what costs, and answers whether a send is taken.
    pub async fn measure(&self, outbox: &Outbox, settings: &Settings) -> Level {
        let now = Instant::now();
        let known = self.state.lock().disk.filter(|(at, _)| now.duration_since(*at) < MEASURED_FOR);
        let of_disk = if let Some((_, pressure)) = known {
            pressure
        } else {
            let pressure = self.of_disk(outbox, settings).await;
            self.state.lock().disk = Some((now, pressure));
            pressure
        };
        let rows = ratio(outbox.open_rows(), settings.outbox.max_queue_rows);
        if outbox.has_no_space() && !self.is_degraded() {
            // Whoever wrote: what could not be stored for one cannot be stored for another.
            self.write_was_refused();
        } else if !outbox.has_no_space() {
            self.write_went_through();
        }
        self.judge(rows.max(of_disk), now)
    }

    /// The database took a write.
    pub fn write_went_through(&self) {
        let mut state = self.state.lock();
        if state.refused_at.take().is_some() && state.is_degraded {
            state.is_degraded = false;
            tracing::info!("outbox_recovered_space");
        }
    }

    /// The database refused a write for lack of space.
    pub fn write_was_refused(&self) {
        let mut state = self.state.lock();
        state.refused_at = Some(Instant::now());
        state.is_degraded = true;
    }

    /// Nothing can be stored at the moment.
    pub fn is_degraded(&self) -> bool {
        self.state.lock().is_degraded
    }

    /// Why, for health.
    pub fn reasons(&self) -> Vec<String> {
        if self.is_degraded() { vec!["insufficient_storage".to_owned()] } else { Vec::new() }
    }

    fn judge(&self, pressure: f64, now: Instant) -> Level {
        let mut state = self.state.lock();
        let was_high = std::mem::replace(&mut state.is_high, pressure >= HIGH);
        if pressure >= DEGRADED {
            state.is_degraded = true;
        } else if pressure < RECOVERED && state.refused_at.is_none() {
            state.is_degraded = false;
        }
        let waits = state.refused_at.is_some_and(|at| now.duration_since(at) < MEASURED_FOR);
        let is_full =
            pressure >= FULL || waits || (state.is_degraded && state.refused_at.is_none());
        drop(state);
        if pressure >= HIGH && !was_high {
            tracing::warn!(pressure, "outbox_pressure_high");
            self.events.publish(Event {
                kind: EventKind::OutboxPressureHigh,
                mesh: None,
                audience: Audience::Everyone,
                sessions: Vec::new(),
                message: None,
                data: Map::from_iter([("p".to_owned(), json!(pressure))]),
            });
        }
        if is_full { Level::Full } else { Level::Open }
    }

    async fn of_disk(&self, outbox: &Outbox, settings: &Settings) -> f64 {
        // What cannot be measured does not hinder: the write itself will tell.
        let used = storage::used_bytes(outbox.database()).await.unwrap_or(0);
        let of_database = ratio(used, settings.outbox.max_bytes);
        let reserved = settings.disk.reserved_bytes;
        let free = rustix::fs::statvfs(&self.dir)
            .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        let of_volume = if reserved == 0 {
            0.0
        } else {
            (1.0 - ratio(free.saturating_sub(reserved), reserved)).clamp(0.0, 1.0)
        };
        of_database.max(of_volume)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a ratio of sizes needs no last digit")]
    let ratio = part as f64 / whole.max(1) as f64;
    ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_change_at_their_limits() {
        let pressure = Pressure::new(PathBuf::from("/"), EventBus::new());
        let now = Instant::now();
        assert_eq!(pressure.judge(0.94, now), Level::Open);
        assert_eq!(pressure.judge(0.95, now), Level::Full);
        assert!(!pressure.is_degraded());
        assert_eq!(pressure.judge(1.0, now), Level::Full);
        assert!(pressure.is_degraded());
        // Leaves degraded below 0.90 only.
        assert_eq!(pressure.judge(0.90, now), Level::Full);
        assert_eq!(pressure.judge(0.89, now), Level::Open);
        assert!(!pressure.is_degraded());
    }

    #[test]
    fn after_a_refused_write_one_a_second_is_tried() {
        let pressure = Pressure::new(PathBuf::from("/"), EventBus::new());
        pressure.write_was_refused();
        let now = Instant::now();
        assert_eq!(pressure.judge(0.1, now), Level::Full);
        assert_eq!(pressure.judge(0.1, now + MEASURED_FOR), Level::Open);
        assert!(pressure.is_degraded());
        pressure.write_went_through();
        assert!(!pressure.is_degraded());
    }
}
