//! Figures for monitoring (daemon spec §22): what is counted as it happens here, what is read when somebody asks in
//! [`scrape`]. Labels take values of bounded sets: meshes by membership, routes by their templates, words of ours. Never a
//! peer, an id, or a path that came in.

mod hooks;
mod scrape;
mod text;

use std::time::Duration;

use claudemesh_client::{Close, Role};
use claudemesh_ipc::api::Decrypt;
use claudemesh_protocol::TargetSpec;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds of the time to answer a request, in seconds.
const REQUEST_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];
/// Close codes that are told apart (daemon spec §18.4); 1006 stands for every end without one.
const CLOSE_CODES: [u16; 19] = [
    1000, 1001, 1006, 1008, 1009, 1011, 1012, 1013, 4000, 4001, 4002, 4003, 4004, 4005, 4006, 4008,
    4009, 4010, 4011,
];

/// Labels of one series.
type Labels = Vec<(&'static str, String)>;
/// Series that only grow.
type Counters = Family<Labels, Counter>;

/// What is counted as it happens, since the start. Cloning is cheap, and clones count together.
#[derive(Clone)]
pub struct Figures {
    requests: Counters,
    request_seconds: Family<Labels, Histogram, fn() -> Histogram>,
    reconnects: Counters,
    dedupe: Counters,
    dedupe_history_pruned: Counters,
    given_up_for_age: Counters,
    sent: Counters,
    received: Counters,
    opened_with_former_key: Counters,
    sessions_reaped: Counters,
    token_rotations: Counter,
    clones_suspected: Counter,
}

impl Default for Figures {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(REQUEST_BUCKETS);
        Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            reconnects: Family::default(),
            dedupe: Family::default(),
            dedupe_history_pruned: Family::default(),
            given_up_for_age: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            opened_with_former_key: Family::default(),
            sessions_reaped: Family::default(),
            token_rotations: Counter::default(),
            clones_suspected: Counter::default(),
        }
    }
}

impl Figures {
    /// A request of the local API was answered; `endpoint` is the template of its route.
    pub(crate) fn answered(
        &self,
        endpoint: &'static str,
        status: u16,
        transport: &'static str,
        took: Duration,
    ) {
        add(
            &self.requests,
            &[("endpoint", endpoint), ("status", &status.to_string()), ("transport", transport)],
        );
        let labels = labels(&[("endpoint", endpoint)]);
        self.request_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// An open connection to a broker has ended, and is to be opened again.
    pub(crate) fn connection_lost(&self, mesh: &str, role: Role, close: &Close) {
        let code = CLOSE_CODES.iter().find(|code| **code == close.code);
        let reason = code.map_or_else(|| "other".to_owned(), u16::to_string);
        add(&self.reconnects, &[("mesh", mesh), ("role", role_word(role)), ("reason", &reason)]);
    }

    /// The broker had a message of ours already.
    pub(crate) fn known_to_broker(&self, mesh: &str, is_history_gone: bool) {
        add(&self.dedupe, &[("mesh", mesh), ("direction", "out")]);
        if is_history_gone {
            add(&self.dedupe_history_pruned, &[("mesh", mesh)]);
        }
    }

    /// A message came that the inbox had already.
    pub(crate) fn known_to_inbox(&self, mesh: &str) {
        add(&self.dedupe, &[("mesh", mesh), ("direction", "in")]);
    }

    /// A message waited longer than the broker would have known its id.
    pub(crate) fn gave_up_for_age(&self, mesh: &str, messages: usize) {
        let messages = u64::try_from(messages).unwrap_or(u64::MAX);
        self.given_up_for_age.get_or_create(&labels(&[("mesh", mesh)])).inc_by(messages);
    }

    /// An attempt to send came to an end.
    pub(crate) fn sent(
        &self,
        mesh: &str,
        target: &TargetSpec,
        transport: &str,
        status: &'static str,
    ) {
        let kind = kind_word(target);
        let labels = [("mesh", mesh), ("kind", kind), ("transport", transport), ("status", status)];
        add(&self.sent, &labels);
    }

    /// A message entered the inbox.
    pub(crate) fn received(
        &self,
        mesh: &str,
        channel: &str,
        subtype: Option<&str>,
        transport: &str,
        decrypt: Decrypt,
    ) {
        let kind = ["dm", "topic", "group", "broadcast"].into_iter().find(|kind| *kind == channel);
        let from = ["webhook", "service"].into_iter().find(|from| Some(*from) == subtype);
        let labels = [
            ("mesh", mesh),
            ("kind", kind.unwrap_or("other")),
            ("from_type", from.unwrap_or("peer")),
            ("transport", transport),
        ];
        add(&self.received, &labels);
        if decrypt == Decrypt::ArchivedKey {
            add(&self.opened_with_former_key, &[("mesh", mesh)]);
        }
    }

    /// A session was ended that did not say so itself.
    pub(crate) fn session_reaped(&self, reason: &'static str) {
        add(&self.sessions_reaped, &[("reason", reason)]);
    }

    /// The local token was replaced.
    pub(crate) fn token_rotated(&self) {
        self.token_rotations.inc();
    }

    /// These files, or their key, seem to be in use on another machine.
    pub(crate) fn clone_suspected(&self) {
        self.clones_suspected.inc();
    }

    /// Names stand without `_total`, which the encoder adds.
    fn register(&self, registry: &mut Registry) {
        macro_rules! register {
            ($($name:literal, $help:literal, $metric:ident;)*) => {
                $(registry.register($name, $help, self.$metric.clone());)*
            };
        }
        register! {
            "cm_daemon_ipc_request", "Requests of the local API", requests;
            "cm_daemon_ipc_duration_seconds", "Time to answer a request of the local API", request_seconds;
            "cm_daemon_reconnects", "Broker connections that ended and were to be opened again", reconnects;
            "cm_daemon_dedupe", "Messages that were known already", dedupe;
            "cm_daemon_dedupe_history_pruned", "Repeated sends whose message the broker no longer keeps",
                dedupe_history_pruned;
            "cm_daemon_retry_after_dedupe_expired", "Messages given up because the broker would have forgotten their ids",
                given_up_for_age;
            "cm_daemon_send", "Attempts to send, by how they ended", sent;
            "cm_daemon_recv", "Messages that came in", received;
            "cm_daemon_decrypt_archived", "Messages opened with a former key of ours", opened_with_former_key;
            "cm_daemon_sessions_reaped", "Sessions that ended without saying so", sessions_reaped;
            "cm_daemon_local_token_rotations", "Replacements of the local token", token_rotations;
            "cm_daemon_clone_suspected", "Signs that our files are in use on another machine", clones_suspected;
        }
    }
}

fn labels(pairs: &[(&'static str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

fn add(counters: &Counters, pairs: &[(&'static str, &str)]) {
    counters.get_or_create(&labels(pairs)).inc();
}

const fn role_word(role: Role) -> &'static str {
    match role {
        Role::ControlPlane => "control-plane",
        Role::Session => "session",
    }
}

const fn kind_word(target: &TargetSpec) -> &'static str {
    match target {
        TargetSpec::Key(_) => "dm",
        TargetSpec::Topic(_) => "topic",
        TargetSpec::Everyone => "broadcast",
        TargetSpec::Group(_) => "group",
    }
}
