//! Counters, gauges and histograms of broker spec §6.5. Labels take values of bounded sets only, never ids or names.

use std::fmt::Write as _;
use std::time::Duration;

use claudemesh_protocol::wire::ReceiptState;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds of the latency histograms, in seconds.
const LATENCY_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Reasons of refused connections: the handshake codes and the per-address cap.
const REJECT_REASONS: &[&str] = &[
    "malformed",
    "timestamp_skew",
    "bad_signature",
    "unauthorized",
    "revoked",
    "capacity",
    "hello_timeout",
    "member_already_connected",
    "too_many_sockets",
    "draining",
    "other",
];
/// Close codes a broker sends or sees.
const CLOSE_CODES: &[&str] =
    &["1000", "1001", "1006", "1008", "1009", "1011", "1013", "4001", "4002", "other"];
/// Outcomes of a set-up attempt.
const LOGIN_RESULTS: &[&str] = &["ok", "refused"];
/// Results of one run of a periodic job.
const JOB_RESULTS: &[&str] = &["ok", "failed"];

/// Why a receipt had no effect: its form, its member's budget, its signature, no such delivery of this member, a state
/// that is not above the stored one, a delivery that has had its share, a store that does not answer.
const RECEIPT_DROPS: &[&str] = &[
    "malformed",
    "flood",
    "bad_signature",
    "not_yours",
    "unknown",
    "unchanged",
    "full",
    "unavailable",
];

/// A label with one name.
type One = [(&'static str, &'static str); 1];
/// A label with two names.
type Two = [(&'static str, &'static str); 2];

/// Route pattern and status; the router's patterns are a bounded set.
type RouteLabels = [(&'static str, String); 2];

/// A counter per value of one label.
#[derive(Clone)]
pub(crate) struct LabelledCounter {
    label: &'static str,
    family: Family<One, Counter>,
}

impl LabelledCounter {
    fn new(label: &'static str, values: &[&'static str]) -> Self {
        let counter = Self { label, family: Family::default() };
        for value in values {
            counter.touch(value);
        }
        counter
    }

    fn touch(&self, value: &'static str) {
        drop(self.family.get_or_create(&[(self.label, value)]));
    }

    /// Counts one.
    pub(crate) fn inc(&self, value: &'static str) {
        self.inc_by(value, 1);
    }

    /// Counts several.
    pub(crate) fn inc_by(&self, value: &'static str, count: u64) {
        self.family.get_or_create(&[(self.label, value)]).inc_by(count);
    }
}

/// A duration histogram per value of its labels.
#[derive(Clone)]
pub(crate) struct LabelledSeconds<Labels: Clone + std::hash::Hash + Eq>(
    Family<Labels, Histogram, fn() -> Histogram>,
);

impl<Labels: Clone + std::hash::Hash + Eq> LabelledSeconds<Labels> {
    fn new() -> Self {
        Self(Family::new_with_constructor(latency_histogram))
    }

    /// Records one duration.
    pub(crate) fn observe(&self, labels: &Labels, seconds: f64) {
        self.0.get_or_create(labels).observe(seconds);
    }
}

fn route_labels(route: &str, status: u16) -> RouteLabels {
    [("route", route.to_owned()), ("status", status.to_string())]
}

fn latency_histogram() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

/// Every metric, present with zero from the start.
pub(crate) struct Metrics {
    registry: Registry,
    /// Sockets accepted after their hello.
    pub(crate) connections: Counter,
    /// Refused sockets and hellos, by reason.
    pub(crate) connections_rejected: LabelledCounter,
    /// Live authenticated sockets.
    pub(crate) connections_active: Gauge,
    /// Deliveries pushed or held, by priority.
    pub(crate) messages_routed: LabelledCounter,
    /// Refused sends, by error code.
    pub(crate) messages_rejected: LabelledCounter,
    /// Sends stopped for going in circles, by reason.
    pub(crate) loop_stopped: LabelledCounter,
    /// Receipts kept, by state.
    pub(crate) receipts: LabelledCounter,
    /// Receipts without effect, by reason.
    pub(crate) receipts_dropped: LabelledCounter,
    /// Undelivered rows.
    pub(crate) queue_depth: Gauge,
    /// Status decays, by outcome.
    pub(crate) ttl_sweeps: LabelledCounter,
    /// 1 when the last question to the store was answered.
    pub(crate) db_healthy: Gauge,
    /// Sends that were known already.
    pub(crate) dedupe_hits: Counter,
    /// Sends that reused an id for something else.
    pub(crate) dedupe_conflicts: Counter,
    /// Remembered client ids.
    pub(crate) dedupe_rows: Gauge,
    /// Client ids forgotten for age.
    pub(crate) dedupe_expired: Counter,
    /// Remembered client ids whose message is missing.
    pub(crate) dedupe_orphans: Gauge,
    /// Rows claimed for a presence.
    pub(crate) delivery_claims: Counter,
    /// Claims that ran out unacknowledged.
    pub(crate) delivery_claim_expired: Counter,
    /// Acknowledged rows.
    pub(crate) delivery_acks: Counter,
    /// Rows pushed again.
    pub(crate) delivery_redeliveries: Counter,
    /// Rows that passed their end undelivered.
    pub(crate) delivery_expired: Counter,
    /// Age of the oldest undelivered row.
    pub(crate) oldest_undelivered_seconds: Gauge,
    /// Time from acceptance to push.
    pub(crate) delivery_latency: Histogram,
    /// Closed sockets, by close code.
    pub(crate) ws_close: LabelledCounter,
    /// Time to handle a frame, by its type.
    pub(crate) request_seconds: LabelledSeconds<One>,
    /// Time to answer an HTTP request, by route pattern and status.
    pub(crate) http_seconds: LabelledSeconds<RouteLabels>,
    /// Errors answered, by code.
    pub(crate) errors: LabelledCounter,
    /// Frames refused for a missing session capability.
    pub(crate) session_cap_denied: LabelledCounter,
    /// Presences, by role and state.
    pub(crate) presence: Family<Two, Gauge>,
    /// Members connected from two machines at once, by what was done about it.
    pub(crate) concurrent_connections: LabelledCounter,
    /// Reports of hooks.
    pub(crate) hook_requests: Counter,
    /// Reports of hooks that were too many.
    pub(crate) hook_requests_limited: Counter,
    /// Presences whose lease ran out.
    pub(crate) lease_evictions: Counter,
    /// First set-ups, by result.
    pub(crate) logins: LabelledCounter,
    /// Entries that wait for the audit log.
    pub(crate) audit_queue: Gauge,
    /// Writes to the audit log that failed and are repeated.
    pub(crate) audit_failures: Counter,
    /// Runs of periodic jobs, by job name.
    pub(crate) job_runs: Family<Two, Counter>,
    /// Bytes of the store's files.
    pub(crate) store_bytes: Family<One, Gauge>,
}

impl Metrics {
    /// Registers every family. `version` and `git_sha` label the build gauge; `jobs` are the names of all jobs.
    pub(crate) fn new(version: &str, git_sha: &str, jobs: &[&'static str]) -> Self {
        let metrics = Self::unregistered();
        metrics.touch_families(jobs);
        metrics.registered(version, git_sha)
    }

    fn unregistered() -> Self {
        Self {
            registry: Registry::default(),
            connections: Counter::default(),
            connections_rejected: LabelledCounter::new("reason", REJECT_REASONS),
            connections_active: Gauge::default(),
            messages_routed: LabelledCounter::new("priority", &["now", "next", "low"]),
            messages_rejected: LabelledCounter::new(
                "reason",
                &["invalid_request", "forbidden", "rate_limited"],
            ),
            loop_stopped: LabelledCounter::new("reason", &["hops"]),
            receipts: LabelledCounter::new("state", &[]),
            receipts_dropped: LabelledCounter::new("reason", RECEIPT_DROPS),
            queue_depth: Gauge::default(),
            ttl_sweeps: LabelledCounter::new("flipped", &["true", "false"]),
            db_healthy: Gauge::default(),
            dedupe_hits: Counter::default(),
            dedupe_conflicts: Counter::default(),
            dedupe_rows: Gauge::default(),
            dedupe_expired: Counter::default(),
            dedupe_orphans: Gauge::default(),
            delivery_claims: Counter::default(),
            delivery_claim_expired: Counter::default(),
            delivery_acks: Counter::default(),
            delivery_redeliveries: Counter::default(),
            delivery_expired: Counter::default(),
            oldest_undelivered_seconds: Gauge::default(),
            delivery_latency: latency_histogram(),
            ws_close: LabelledCounter::new("code", CLOSE_CODES),
            request_seconds: LabelledSeconds::new(),
            http_seconds: LabelledSeconds::new(),
            errors: LabelledCounter::new("code", &["internal", "unavailable"]),
            session_cap_denied: LabelledCounter::new("cap", &[]),
            presence: Family::default(),
            concurrent_connections: LabelledCounter::new(
                "outcome",
                &["replaced", "refused", "allowed"],
            ),
            hook_requests: Counter::default(),
            hook_requests_limited: Counter::default(),
            lease_evictions: Counter::default(),
            logins: LabelledCounter::new("result", LOGIN_RESULTS),
            audit_queue: Gauge::default(),
            audit_failures: Counter::default(),
            job_runs: Family::default(),
            store_bytes: Family::default(),
        }
    }

    fn touch_families(&self, jobs: &[&'static str]) {
        for capability in claudemesh_protocol::capability::Capability::ALL {
            self.session_cap_denied.touch(capability.as_str());
        }
        for state in ReceiptState::ALL {
            self.receipts.touch(state.as_str());
        }
        for role in ["control-plane", "session", "service"] {
            for state in ["online", "leased"] {
                drop(self.presence.get_or_create(&[("role", role), ("state", state)]));
            }
        }
        for job in jobs {
            for result in JOB_RESULTS {
                drop(self.job_runs.get_or_create(&[("job", *job), ("result", *result)]));
            }
        }
        drop(self.request_seconds.0.get_or_create(&[("type", "send")]));
        drop(self.http_seconds.0.get_or_create(&route_labels("/health", 200)));
        drop(self.store_bytes.get_or_create(&[("kind", "database")]));
    }

    /// Counter names stand without `_total`, which the encoder adds.
    fn registered(mut self, version: &str, git_sha: &str) -> Self {
        let mut registry = Registry::default();
        macro_rules! register {
            ($($name:literal, $help:literal, $metric:expr;)*) => {
                $(registry.register($name, $help, $metric.clone());)*
            };
        }
        register! {
            "broker_connections", "Sockets accepted", self.connections;
            "broker_connections_rejected", "Sockets refused", self.connections_rejected.family;
            "broker_connections_active", "Live sockets", self.connections_active;
            "broker_messages_routed", "Deliveries", self.messages_routed.family;
            "broker_messages_rejected", "Sends refused", self.messages_rejected.family;
            "cm_broker_loop_stopped", "Sends stopped for going in circles", self.loop_stopped.family;
            "cm_broker_receipts", "Receipts kept", self.receipts.family;
            "cm_broker_receipts_dropped", "Receipts without effect", self.receipts_dropped.family;
            "broker_queue_depth", "Undelivered rows", self.queue_depth;
            "broker_ttl_sweeps", "Status decays", self.ttl_sweeps.family;
            "broker_db_healthy", "Store answers", self.db_healthy;
            "cm_broker_dedupe_hits", "Repeated sends", self.dedupe_hits;
            "cm_broker_dedupe_conflicts", "Reused client ids", self.dedupe_conflicts;
            "cm_broker_dedupe_rows", "Remembered client ids", self.dedupe_rows;
            "cm_broker_dedupe_expired", "Forgotten client ids", self.dedupe_expired;
            "cm_broker_dedupe_orphans", "Remembered ids without a message", self.dedupe_orphans;
            "cm_broker_delivery_claims", "Claimed rows", self.delivery_claims;
            "cm_broker_delivery_claim_expired", "Claims run out", self.delivery_claim_expired;
            "cm_broker_delivery_acks", "Acknowledged rows", self.delivery_acks;
            "cm_broker_delivery_redeliveries", "Rows pushed again", self.delivery_redeliveries;
            "cm_broker_delivery_expired", "Rows expired undelivered", self.delivery_expired;
            "cm_broker_oldest_undelivered_seconds", "Age of the oldest undelivered row",
                self.oldest_undelivered_seconds;
            "cm_broker_delivery_latency_seconds", "Acceptance to push", self.delivery_latency;
            "cm_broker_ws_close", "Closed sockets", self.ws_close.family;
            "cm_broker_request_seconds", "Frame handling", self.request_seconds.0;
            "cm_broker_http_seconds", "HTTP handling", self.http_seconds.0;
            "cm_broker_errors", "Errors answered", self.errors.family;
            "broker_session_cap_denied", "Frames refused for a session capability", self.session_cap_denied.family;
            "cm_broker_presence", "Presences", self.presence;
            "cm_broker_concurrent_connections", "Members connected from two machines",
                self.concurrent_connections.family;
            "broker_hook_requests", "Reports of hooks", self.hook_requests;
            "broker_hook_requests_rate_limited", "Reports of hooks that were too many",
                self.hook_requests_limited;
            "cm_broker_lease_evictions", "Leases run out", self.lease_evictions;
            "cm_broker_logins", "Sign-ins", self.logins.family;
            "cm_broker_audit_queue", "Entries that wait for the audit log", self.audit_queue;
            "cm_broker_audit_failures", "Failed writes to the audit log", self.audit_failures;
            "cm_broker_job_runs", "Runs of periodic jobs", self.job_runs;
            "cm_broker_store_bytes", "Bytes of the store's files", self.store_bytes;
        }
        let build = Family::<[(String, String); 2], Gauge>::default();
        build
            .get_or_create(&[
                ("version".into(), version.into()),
                ("git_sha".into(), git_sha.into()),
            ])
            .set(1);
        registry.register("claudemesh_build_info", "This build", build);
        self.registry = registry;
        self
    }

    /// The text of `GET /metrics`, Prometheus text format 0.0.4.
    pub(crate) fn render(&self) -> String {
        let mut open_metrics = String::new();
        if encode(&mut open_metrics, &self.registry).is_err() {
            tracing::error!("metrics could not be written");
        }
        as_prometheus_text(&open_metrics)
    }

    /// Records one answered HTTP request.
    pub(crate) fn http_request(&self, route: &str, status: u16, elapsed: Duration) {
        self.http_seconds.observe(&route_labels(route, status), elapsed.as_secs_f64());
    }

    /// Counts one run of a job.
    pub(crate) fn job_ran(&self, job: &'static str, is_ok: bool) {
        let result = if is_ok { "ok" } else { "failed" };
        self.job_runs.get_or_create(&[("job", job), ("result", result)]).inc();
    }
}

/// `OpenMetrics` names a counter family without the `_total` of its samples and ends with `# EOF`; format 0.0.4 wants
/// the sample name in the family's lines and no end mark.
fn as_prometheus_text(open_metrics: &str) -> String {
    let is_counter = |name: &str| {
        let declaration = format!("# TYPE {name} counter");
        open_metrics.lines().any(|line| line == declaration)
    };
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let declared = line
            .strip_prefix("# ")
            .and_then(|rest| rest.split_once(' '))
            .and_then(|(keyword, rest)| Some((keyword, rest.split_once(' ')?)));
        let written = match declared {
            Some((keyword, (name, rest))) if is_counter(name) => {
                writeln!(text, "# {keyword} {name}_total {rest}")
            }
            _ => writeln!(text, "{line}"),
        };
        if written.is_err() {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MET-1.
    #[test]
    fn every_family_is_there_with_zero_and_counters_end_in_total() {
        let text = Metrics::new("0.1.0", "abc", &["heartbeat"]).render();
        for line in [
            "# TYPE broker_connections_total counter",
            "broker_connections_total 0",
            "broker_connections_rejected_total{reason=\"capacity\"} 0",
            "broker_queue_depth 0",
            "broker_session_cap_denied_total{cap=\"ban\"} 0",
            "cm_broker_presence{role=\"session\",state=\"leased\"} 0",
            "cm_broker_receipts_total{state=\"in_context\"} 0",
            "cm_broker_receipts_dropped_total{reason=\"bad_signature\"} 0",
            "cm_broker_delivery_latency_seconds_count 0",
            "cm_broker_job_runs_total{job=\"heartbeat\",result=\"ok\"} 0",
            "claudemesh_build_info{version=\"0.1.0\",git_sha=\"abc\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing from\n{text}");
        }
        assert!(!text.contains("# EOF"));
    }
}
