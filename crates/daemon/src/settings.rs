//! `config.toml` (daemon spec §3): every key optional, unknown keys are warnings, wrong values are errors with their
//! place. Environment variables override the file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_ipc::env;
use claudemesh_protocol::limits;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::home::file::{self, Symlinks};

const GIB: u64 = 1024 * 1024 * 1024;

/// The effective settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Table `[daemon]`.
    pub daemon: DaemonSettings,
    /// Table `[ipc]`.
    pub ipc: IpcSettings,
    /// Table `[outbox]`.
    pub outbox: OutboxSettings,
    /// Table `[inbox]`.
    pub inbox: InboxSettings,
    /// Table `[disk]`.
    pub disk: DiskSettings,
    /// Table `[reconnect]`.
    pub reconnect: ReconnectSettings,
    /// Table `[watchdog]`.
    pub watchdog: WatchdogSettings,
    /// Table `[sessions]`.
    pub sessions: SessionSettings,
    /// Table `[ambient]`.
    pub ambient: AmbientSettings,
    /// Keys of the file that mean nothing here.
    #[serde(skip)]
    unknown: Vec<String>,
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty = $default:expr,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $type,)+
        }

        impl $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($field),)+];
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }
    };
}

table! {
    /// The process.
    DaemonSettings {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        log_level: LogLevel = LogLevel::Info,
        /// End with code 6 when every mesh is disabled.
        exit_when_all_disabled: bool = false,
        /// Used where a mesh is needed and none is derivable.
        default_mesh: Option<String> = None,
    }
}

table! {
    /// The local API.
    IpcSettings {
        /// Requests in flight.
        max_inflight: usize = limits::IPC_IN_FLIGHT,
        /// Event streams.
        max_sse: usize = limits::IPC_EVENT_STREAMS,
        /// Requests per second and caller.
        rate_per_sec: u32 = limits::IPC_RATE_PER_SEC,
        /// Burst above it.
        rate_burst: u32 = limits::IPC_BURST,
    }
}

table! {
    /// The outbox.
    OutboxSettings {
        /// Rows pending and in flight.
        max_queue_rows: u64 = 10_000,
        /// Size of the database, in bytes.
        max_bytes: u64 = 5 * GIB,
        /// Fixed age limit of waiting rows, in hours.
        max_age_hours_override: Option<u64> = None,
        /// Age limit where the broker remembers ids for ever, in hours.
        max_age_hours_default: u64 = 168,
        /// Upper bound of it, in hours.
        max_age_hours_cap: u64 = 720,
        /// Page limit of the database, 4 KiB each; for tests of a full disk.
        max_pages: Option<u32> = None,
    }
}

table! {
    /// The inbox.
    InboxSettings {
        /// Days a message is kept.
        retention_days: u32 = limits::INBOX_RETENTION_DAYS,
        /// Size of the database, in bytes.
        max_bytes: u64 = 5 * GIB,
        /// Group messages older than this are announced in a digest.
        #[serde(deserialize_with = "duration")]
        digest_after: Duration = limits::DIGEST_AFTER,
        /// Whether messages can be searched.
        fts: bool = true,
        /// Page limit of the database, 4 KiB each; for tests of a full disk.
        max_pages: Option<u32> = None,
    }
}

table! {
    /// The volume.
    DiskSettings {
        /// Free space that is left alone, in bytes.
        reserved_bytes: u64 = 256 * 1024 * 1024,
    }
}

table! {
    /// Waits between connection attempts.
    ReconnectSettings {
        /// Upper bounds, in milliseconds; the last one stays.
        schedule_ms: Vec<u64> = limits::RECONNECT_SCHEDULE_SECS.iter().map(|secs| secs * 1000).collect(),
        /// Least wait.
        #[serde(deserialize_with = "duration")]
        min_wait: Duration = limits::RECONNECT_FLOOR,
        /// Open time after which the schedule starts over.
        #[serde(deserialize_with = "duration")]
        stable_after: Duration = limits::RECONNECT_STABLE_AFTER,
    }
}

table! {
    /// Detection of dead connections.
    WatchdogSettings {
        /// Period of pings.
        #[serde(deserialize_with = "duration")]
        ping_interval: Duration = limits::PING_INTERVAL,
        /// Silence after which a connection is dropped.
        #[serde(deserialize_with = "duration")]
        stale_after: Duration = limits::SILENCE_LIMIT,
    }
}

table! {
    /// The session registry.
    SessionSettings {
        /// Sessions at once.
        max: usize = limits::SESSIONS_MAX,
        /// Life of an entry whose process cannot be verified.
        #[serde(deserialize_with = "duration")]
        unverified_ttl: Duration = Duration::from_hours(24),
    }
}

table! {
    /// Agents that were not launched by us.
    AmbientSettings {
        /// Their MCP server registers a session.
        register: bool = true,
        /// On this mesh.
        mesh: Option<String> = None,
    }
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

/// `config.toml` cannot be used; names file and place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has a wrong form or value.
    #[error("{}:{line}: {reason}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// An environment variable has a wrong value.
    #[error("{name} must be a number")]
    Environment {
        /// The variable.
        name: &'static str,
    },
}

impl Settings {
    /// Reads the file, then the environment; a missing file is all defaults.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let content = file::read(path, Symlinks::Follow)
            .map_err(|source| SettingsError::Io { path: path.to_owned(), source })?;
        let mut settings = match content {
            None => Self::default(),
            Some(content) => Self::parse(path, &content.bytes)?,
        };
        settings.apply_environment()?;
        Ok(settings)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`SettingsError::Value`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, SettingsError> {
        let wrong =
            |line, reason: String| SettingsError::Value { path: path.to_owned(), line, reason };
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            wrong(line_of(before), "not UTF-8".to_owned())
        })?;
        let misplaced = |error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(line_of(bytes.get(..at).unwrap_or_default()), error.message().to_owned())
        };
        let mut settings: Self = toml::from_str(text).map_err(misplaced)?;
        settings.unknown = unknown_keys(&toml::from_str(text).map_err(misplaced)?);
        let checks = [
            (settings.ipc.max_inflight == 0, "ipc.max_inflight must not be 0"),
            (settings.ipc.rate_per_sec == 0, "ipc.rate_per_sec must not be 0"),
            (settings.ipc.rate_burst == 0, "ipc.rate_burst must not be 0"),
            (settings.outbox.max_queue_rows == 0, "outbox.max_queue_rows must not be 0"),
            (settings.reconnect.schedule_ms.is_empty(), "reconnect.schedule_ms must not be empty"),
        ];
        match checks.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, reason)) => Err(wrong(1, reason.to_owned())),
            None => Ok(settings),
        }
    }

    /// Keys of the file that mean nothing here, for one warning each.
    pub fn unknown_keys(&self) -> &[String] {
        &self.unknown
    }

    /// Settings that differ and are fixed until the next start (daemon spec §3, column "Live").
    pub fn restart_needed_for(&self, next: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut compare = |name: &str, is_same: bool| {
            if !is_same {
                keys.push(name.to_owned());
            }
        };
        let (old, new) = (&self.outbox, &next.outbox);
        compare(
            "outbox.max_age_hours_override",
            old.max_age_hours_override == new.max_age_hours_override,
        );
        compare(
            "outbox.max_age_hours_default",
            old.max_age_hours_default == new.max_age_hours_default,
        );
        compare("outbox.max_age_hours_cap", old.max_age_hours_cap == new.max_age_hours_cap);
        compare("outbox.max_pages", old.max_pages == new.max_pages);
        compare("inbox.fts", self.inbox.fts == next.inbox.fts);
        compare("inbox.max_pages", self.inbox.max_pages == next.inbox.max_pages);
        keys
    }

    fn apply_environment(&mut self) -> Result<(), SettingsError> {
        fn number<T: std::str::FromStr>(name: &'static str) -> Result<Option<T>, SettingsError> {
            let parse =
                |text: String| text.parse().map_err(|_| SettingsError::Environment { name });
            env::text(name).map(parse).transpose()
        }
        if let Some(rate) = number(env::IPC_RATE_PER_SEC)? {
            self.ipc.rate_per_sec = std::cmp::max(rate, 1);
        }
        if let Some(burst) = number(env::IPC_BURST)? {
            self.ipc.rate_burst = std::cmp::max(burst, 1);
        }
        if let Some(in_flight) = number(env::IPC_MAX_INFLIGHT)? {
            self.ipc.max_inflight = std::cmp::max(in_flight, 1);
        }
        Ok(())
    }
}

fn unknown_keys(document: &toml::Table) -> Vec<String> {
    let known: [(&str, &[&str]); 9] = [
        ("daemon", DaemonSettings::KEYS),
        ("ipc", IpcSettings::KEYS),
        ("outbox", OutboxSettings::KEYS),
        ("inbox", InboxSettings::KEYS),
        ("disk", DiskSettings::KEYS),
        ("reconnect", ReconnectSettings::KEYS),
        ("watchdog", WatchdogSettings::KEYS),
        ("sessions", SessionSettings::KEYS),
        ("ambient", AmbientSettings::KEYS),
    ];
    let mut unknown = Vec::new();
    for (table, value) in document {
        match (known.iter().find(|(name, _)| name == table), value) {
            (Some((_, keys)), toml::Value::Table(fields)) => {
                let strangers = fields.keys().filter(|key| !keys.contains(&key.as_str()));
                unknown.extend(strangers.map(|key| format!("{table}.{key}")));
            }
            _ => unknown.push(table.clone()),
        }
    }
    unknown.sort();
    unknown
}

/// Number of the line that follows `before`.
fn line_of(before: &[u8]) -> usize {
    before.split(|byte| *byte == b'\n').count()
}

/// `250ms`, `30s`, `10m`, `12h`, `7d`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| D::Error::custom("a duration looks like 250ms, 30s, 10m, 12h or 7d"))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(Path::new("config.toml"), text.as_bytes())
    }

    #[test]
    fn everything_is_optional_and_unknown_keys_are_named() {
        assert_eq!(parse("").unwrap(), Settings::default());
        let settings = parse(
            "x = 1\n[daemon]\nlog_level = \"debug\"\nnew = 2\n[inbox]\ndigest_after = \"2m\"\n[hooks]\nenabled = true",
        )
        .unwrap();
        assert_eq!(settings.daemon.log_level, LogLevel::Debug);
        assert_eq!(settings.inbox.digest_after, Duration::from_mins(2));
        assert_eq!(settings.unknown_keys(), ["daemon.new", "hooks", "x"]);
    }

    /// Daemon §3: any TOML document either loads or is refused with file:line.
    #[test]
    fn wrong_values_are_refused_with_their_line() {
        for (text, line) in [
            ("[daemon]\nlog_level = \"loud\"", 2),
            ("\n\n[ipc]\nmax_inflight = \"many\"", 4),
            ("[ipc]\nmax_inflight = 0", 1),
            ("[sessions]\nunverified_ttl = \"1y\"", 2),
            ("[reconnect]\nschedule_ms = []", 1),
            ("[daemon", 1),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.toml:{line}: ")), "{text}: {error}");
        }
        assert!(Settings::parse(Path::new("c"), b"\n\xff").is_err());
    }

    #[test]
    fn durations_have_five_units() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)));
        }
        for text in ["", "s", "10", "1y", "-1s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
