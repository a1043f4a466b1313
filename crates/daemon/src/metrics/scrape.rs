//! The answer to one question for figures: gauges are read now, and counters that live elsewhere are taken over.

use std::sync::atomic::AtomicU64;

use claudemesh_client::Role;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use super::{Figures, Labels, hooks, labels, role_word, text};
use crate::daemon::{Daemon, VERSION};
use crate::hooks::HookMetrics;
use crate::mesh::MeshHandle;
use crate::outbox::Counts;
use crate::storage::{self, StorageError};

type Gauges = Family<Labels, Gauge>;
type Ratios = Family<Labels, Gauge<f64, AtomicU64>>;
type Totals = Family<Labels, Counter>;

/// What stands in the meshes, the queues and on the disk at this moment.
#[derive(Default)]
struct Now {
    connected: Gauges,
    lag_ms: Gauges,
    outbox_depth: Gauges,
    outbox_age: Ratios,
    disk: Ratios,
    sessions: Gauges,
    invalid_inbound: Totals,
    stale: Totals,
    forgotten_keys: Totals,
    hooks: Vec<HookMetrics>,
    streams: Gauge,
    dropped_events: Counter,
}

impl Figures {
    /// The text of `GET /v1/metrics`, Prometheus form 0.0.4. `streams` are the event streams that are open.
    ///
    /// # Errors
    /// [`StorageError`] when the queues cannot be counted.
    pub(crate) async fn scrape(
        &self,
        daemon: &Daemon,
        streams: usize,
    ) -> Result<String, StorageError> {
        let now = Now::read(daemon, streams).await?;
        let mut registry = Registry::default();
        self.register(&mut registry);
        now.register(&mut registry);
        let mut written = String::new();
        if encode(&mut written, &registry).is_err() {
            tracing::error!("metrics_not_written");
        }
        Ok(text::prometheus(&written))
    }
}

impl Now {
    async fn read(daemon: &Daemon, streams: usize) -> Result<Self, StorageError> {
        let context = daemon.context();
        let now = Self { hooks: daemon.hooks().metrics(), ..Self::default() };
        for key_id in context.identity.force_expired() {
            now.forgotten_keys.get_or_create(&labels(&[("key_id", &key_id)])).inc();
        }
        for mesh in daemon.meshes().all() {
            let counts = context.outbox.counts(mesh.slug()).await?;
            let oldest = context.outbox.oldest_pending(mesh.slug()).await?;
            let age = oldest.map_or(0.0, |at| crate::clock::now().since(at).as_secs_f64());
            now.outbox_age.get_or_create(&labels(&[("mesh", mesh.slug())])).set(age);
            now.note_outbox(mesh.slug(), &counts);
            now.note_link(&mesh);
            let live = context.sessions.live(mesh.slug()).len();
            now.sessions.get_or_create(&labels(&[("mesh", mesh.slug())])).set(signed(live));
        }
        let settings = context.settings.get();
        let used = [
            ("outbox", context.outbox.database(), settings.outbox.max_bytes),
            ("inbox", context.inbox.database(), settings.inbox.max_bytes),
        ];
        for (kind, database, max) in used {
            // What cannot be measured is not told; the write itself will fail.
            if let Ok(bytes) = storage::used_bytes(database).await {
                now.note_disk(kind, bytes, max);
            }
        }
        if let Ok(volume) = rustix::fs::statvfs(context.paths.daemon_dir()) {
            now.note_disk(
                "volume",
                volume.f_blocks.saturating_sub(volume.f_bavail),
                volume.f_blocks,
            );
        }
        now.streams.set(signed(streams));
        now.dropped_events.inc_by(context.events.dropped());
        Ok(now)
    }

    fn note_outbox(&self, mesh: &str, counts: &Counts) {
        let rows =
            [("pending", counts.pending), ("inflight", counts.inflight), ("dead", counts.dead)];
        for (status, rows) in rows {
            let labels = labels(&[("mesh", mesh), ("status", status)]);
            self.outbox_depth.get_or_create(&labels).set(i64::try_from(rows).unwrap_or(i64::MAX));
        }
    }

    fn note_link(&self, mesh: &MeshHandle) {
        let (slug, counts) = (mesh.slug(), mesh.connections());
        for (role, open) in [(Role::ControlPlane, counts.member), (Role::Session, counts.sessions)]
        {
            let labels = labels(&[("mesh", slug), ("role", role_word(role))]);
            self.connected.get_or_create(&labels).set(signed(open));
        }
        if let Some(lag) = mesh.health().lag_ms {
            let lag = i64::try_from(lag).unwrap_or(i64::MAX);
            self.lag_ms.get_or_create(&labels(&[("mesh", slug)])).set(lag);
        }
        let dropped = mesh.dropped();
        let inbound = [
            ("unreadable", dropped.invalid),
            ("echo", dropped.echoes),
            ("removed_member", dropped.removed),
            ("frame", counts.unreadable_frames),
        ];
        for (reason, count) in inbound {
            let labels = labels(&[("mesh", slug), ("reason", reason)]);
            self.invalid_inbound.get_or_create(&labels).inc_by(count);
        }
        self.stale.get_or_create(&labels(&[("mesh", slug)])).inc_by(dropped.stale);
    }

    fn note_disk(&self, kind: &'static str, used: u64, whole: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a share needs no last digit")]
        let share = used as f64 / whole.max(1) as f64 * 100.0;
        self.disk.get_or_create(&labels(&[("kind", kind)])).set(share);
    }

    fn register(self, registry: &mut Registry) {
        fn put(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
            registry.register(name, help, metric);
        }
        put(registry, "cm_daemon_connected", "Open broker connections", self.connected);
        put(
            registry,
            "cm_daemon_lag_ms",
            "Round trip of the last ping, in milliseconds",
            self.lag_ms,
        );
        put(registry, "cm_daemon_outbox_depth", "Messages on their way out", self.outbox_depth);
        put(
            registry,
            "cm_daemon_outbox_age_seconds",
            "Age of the oldest message that waits to be sent",
            self.outbox_age,
        );
        put(
            registry,
            "cm_daemon_disk_pct",
            "Use of the databases and their volume, in percent",
            self.disk,
        );
        put(registry, "cm_daemon_sessions", "Registered agent sessions", self.sessions);
        put(
            registry,
            "cm_daemon_invalid_inbound",
            "What came in and was not taken",
            self.invalid_inbound,
        );
        put(
            registry,
            "cm_daemon_decrypt_stale",
            "Messages for a former key of ours whose time has passed",
            self.stale,
        );
        put(
            registry,
            "cm_daemon_archive_force_expired",
            "Former keys that had to go before their time",
            self.forgotten_keys,
        );
        hooks::register(&self.hooks, registry);
        put(registry, "cm_daemon_sse_streams", "Open event streams", self.streams);
        put(
            registry,
            "cm_daemon_sse_dropped",
            "Events that readers were too slow for",
            self.dropped_events,
        );
        let build = Gauges::default();
        build.get_or_create(&labels(&[("version", VERSION)])).set(1);
        put(registry, "cm_daemon_build_info", "This program", build);
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
