//! The tables of `config.toml` (daemon spec §3): each key once, with its default and whether a running daemon takes a
//! change of it.

use std::collections::BTreeMap;
use std::time::Duration;

use claudemesh_protocol::limits;
use claudemesh_protocol::ops::Family;
use serde::Deserialize;

use super::duration::duration;

const GIB: u64 = 1024 * 1024 * 1024;

/// One table. `live` keys apply on reload, `fixed` ones from the next start on (column "Live" of the specification).
macro_rules! table {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$fdoc:meta])* $when:ident $field:ident: $type:ty = $default:expr,)+
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl Table for $name {
            fn knows(key: &str) -> bool {
                [$(stringify!($field),)+].contains(&key)
            }

            fn differing(&self, other: &Self) -> Vec<(String, When)> {
                let mut keys = Vec::new();
                $(
                    if self.$field != other.$field {
                        keys.push((stringify!($field).to_owned(), when!($when)));
                    }
                )+
                keys
            }
        }
    };
}

macro_rules! when {
    (live) => {
        When::Live
    };
    (fixed) => {
        When::NextStart
    };
}

/// When a changed key applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// On reload.
    Live,
    /// From the next start on.
    NextStart,
}

/// What every table can say about its keys.
pub(super) trait Table {
    /// Whether a key of this name means something.
    fn knows(key: &str) -> bool;

    /// Keys whose values differ.
    fn differing(&self, other: &Self) -> Vec<(String, When)>;
}

table! {
    /// The process.
    DaemonSettings {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        live log_level: LogLevel = LogLevel::Info,
        /// End with code 6 when every mesh is disabled.
        live exit_when_all_disabled: bool = false,
        /// Used where a mesh is needed and none is derivable.
        live default_mesh: Option<String> = None,
    }
}

table! {
    /// The local API.
    IpcSettings {
        /// Whether SDKs that cannot use the Unix socket are served over loopback TCP.
        fixed tcp_enabled: bool = false,
        /// Its port; 0 takes any free one, and so does a port that is taken.
        fixed http_port: u16 = limits::IPC_HTTP_PORT,
        /// Requests in flight.
        live max_inflight: usize = limits::IPC_IN_FLIGHT,
        /// Event streams.
        live max_sse: usize = limits::IPC_EVENT_STREAMS,
        /// Requests per second and caller.
        live rate_per_sec: u32 = limits::IPC_RATE_PER_SEC,
        /// Burst above it.
        live rate_burst: u32 = limits::IPC_BURST,
    }
}

table! {
    /// The outbox.
    OutboxSettings {
        /// Rows pending and in flight.
        live max_queue_rows: u64 = 10_000,
        /// Size of the database, in bytes.
        live max_bytes: u64 = 5 * GIB,
        /// Fixed age limit of waiting rows, in hours.
        fixed max_age_hours_override: Option<u64> = None,
        /// Age limit where the broker remembers ids for ever, in hours.
        fixed max_age_hours_default: u64 = 168,
        /// Upper bound of it, in hours.
        fixed max_age_hours_cap: u64 = 720,
        /// Page limit of the database, 4 KiB each; for tests of a full disk.
        fixed max_pages: Option<u32> = None,
    }
}

table! {
    /// The inbox.
    InboxSettings {
        /// Days a message is kept.
        live retention_days: u32 = limits::INBOX_RETENTION_DAYS,
        /// Size of the database, in bytes.
        live max_bytes: u64 = 5 * GIB,
        /// Group messages older than this are announced in a digest.
        #[serde(deserialize_with = "duration")]
        live digest_after: Duration = limits::DIGEST_AFTER,
        /// Whether messages can be searched.
        fixed fts: bool = true,
        /// Page limit of the database, 4 KiB each; for tests of a full disk.
        fixed max_pages: Option<u32> = None,
    }
}

table! {
    /// The volume.
    DiskSettings {
        /// Free space that is left alone, in bytes.
        live reserved_bytes: u64 = 256 * 1024 * 1024,
    }
}

table! {
    /// Waits between connection attempts.
    ReconnectSettings {
        /// Upper bounds, in milliseconds; the last one stays.
        live schedule_ms: Vec<u64> = limits::RECONNECT_SCHEDULE_SECS.iter().map(|secs| secs * 1000).collect(),
        /// Least wait.
        #[serde(deserialize_with = "duration")]
        live min_wait: Duration = limits::RECONNECT_FLOOR,
        /// Open time after which the schedule starts over.
        #[serde(deserialize_with = "duration")]
        live stable_after: Duration = limits::RECONNECT_STABLE_AFTER,
    }
}

table! {
    /// Detection of dead connections.
    WatchdogSettings {
        /// Period of pings.
        #[serde(deserialize_with = "duration")]
        live ping_interval: Duration = limits::PING_INTERVAL,
        /// Silence after which a connection is dropped.
        #[serde(deserialize_with = "duration")]
        live stale_after: Duration = limits::SILENCE_LIMIT,
    }
}

table! {
    /// The session registry.
    SessionSettings {
        /// Sessions at once.
        live max: usize = limits::SESSIONS_MAX,
        /// Life of an entry whose process cannot be verified.
        #[serde(deserialize_with = "duration")]
        live unverified_ttl: Duration = Duration::from_hours(24),
    }
}

table! {
    /// Agents that were not launched by us.
    AmbientSettings {
        /// Their MCP server registers a session.
        live register: bool = true,
        /// On this mesh.
        live mesh: Option<String> = None,
    }
}

table! {
    /// User hooks.
    HookSettings {
        /// Whether hooks run; unset, they run everywhere but in CI.
        live enabled: Option<bool> = None,
        /// Hooks that run at once.
        live concurrency: usize = limits::HOOKS_AT_ONCE,
        /// Time of a hook that sets none itself.
        #[serde(deserialize_with = "duration")]
        live default_timeout: Duration = limits::HOOK_TIMEOUT,
        /// What a hook reads on standard input, in bytes.
        live stdin_limit: usize = limits::HOOK_STDIN_MAX_BYTES,
        /// What is kept of a hook's output, in bytes, of either stream.
        live output_limit: usize = limits::HOOK_OUTPUT_MAX_BYTES,
    }
}

table! {
    /// Keys that were rotated out.
    CryptoSettings {
        /// How long mail for a former key can still be read; at most 30 days.
        #[serde(deserialize_with = "duration")]
        live key_grace_period: Duration = limits::KEY_GRACE,
        /// Former keys kept of each mesh.
        live max_archived_keys: usize = limits::ARCHIVED_KEYS_MAX,
    }
}

table! {
    /// What happens when these files turn up on another machine (daemon spec §4.3).
    CloneSettings {
        /// The answer to a mismatch.
        fixed policy: ClonePolicy = ClonePolicy::Refuse,
        /// Stands for the machine where the machine cannot say who it is.
        fixed id_override: Option<String> = None,
    }
}

table! {
    /// What is asked of a broker (daemon spec §18.1).
    FeatureSettings {
        /// Bits without which a mesh is not used; unset, the specification's.
        fixed require: Option<Vec<String>> = None,
        /// Bits that are used where they are offered; unset, the specification's.
        fixed optional: Option<Vec<String>> = None,
        /// Whether a broker that states no features counts as missing all of them.
        fixed strict: bool = false,
    }
}

table! {
    /// Figures for monitoring.
    MetricsSettings {
        /// Whether `/v1/metrics` answers.
        fixed prometheus: bool = true,
    }
}

/// Table `[capabilities]`: families of operations, `false` where the local API refuses one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct CapabilitySettings {
    families: BTreeMap<String, bool>,
}

impl CapabilitySettings {
    /// Whether the operations of this family are served.
    pub fn allows(&self, family: Family) -> bool {
        self.families.get(family.as_str()).copied().unwrap_or(true)
    }
}

impl Table for CapabilitySettings {
    fn knows(key: &str) -> bool {
        Family::ALL.iter().any(|family| family.as_str() == key)
    }

    fn differing(&self, other: &Self) -> Vec<(String, When)> {
        let differs = |family: &&Family| self.allows(**family) != other.allows(**family);
        let key = |family: &Family| (family.as_str().to_owned(), When::Live);
        Family::ALL.iter().filter(differs).map(key).collect()
    }
}

/// What a daemon does that finds itself on another machine than its files were made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClonePolicy {
    /// It does not start.
    Refuse,
    /// It says so and starts.
    Warn,
    /// It starts.
    Allow,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Somebody must act.
    Error,
    /// Degraded and recovering.
    Warn,
    /// Life cycle.
    Info,
    /// Each message.
    Debug,
    /// Bytes and timings.
    Trace,
}

impl LogLevel {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
