//! `config.toml` (daemon spec §3): every key optional, unknown keys are warnings, wrong values are errors with their
//! place. Environment variables override the file.

mod duration;
mod tables;

use std::io;
use std::path::{Path, PathBuf};

use claudemesh_ipc::env;
use claudemesh_protocol::limits;
use serde::Deserialize;

use crate::home::file::{self, Symlinks};
use tables::{Table, When};

pub use duration::parse_duration;
pub use tables::{
    AmbientSettings, CapabilitySettings, ClonePolicy, CloneSettings, CryptoSettings,
    DaemonSettings, DiskSettings, FeatureSettings, HookSettings, InboxSettings, IpcSettings,
    LogLevel, MetricsSettings, OutboxSettings, ReconnectSettings, SessionSettings,
    WatchdogSettings,
};

macro_rules! settings {
    ($($(#[$doc:meta])* $table:ident: $type:ident,)+) => {
        /// The effective settings.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
        #[serde(default)]
        pub struct Settings {
            $($(#[$doc])* pub $table: $type,)+
            /// Keys of the file that mean nothing here.
            #[serde(skip)]
            unknown: Vec<String>,
        }

        impl Settings {
            fn differing(&self, next: &Self) -> Vec<(String, When)> {
                let mut keys = Vec::new();
                $(
                    let table = self.$table.differing(&next.$table).into_iter();
                    keys.extend(table.map(|(key, when)| {
                        (format!(concat!(stringify!($table), ".{}"), key), when)
                    }));
                )+
                keys
            }
        }

        /// Whether `key` of `table` means something; `None` where the table itself means nothing.
        fn knows(table: &str, key: &str) -> Option<bool> {
            match table {
                $(stringify!($table) => Some(<$type as Table>::knows(key)),)+
                _ => None,
            }
        }
    };
}

settings! {
    /// Table `[daemon]`.
    daemon: DaemonSettings,
    /// Table `[ipc]`.
    ipc: IpcSettings,
    /// Table `[outbox]`.
    outbox: OutboxSettings,
    /// Table `[inbox]`.
    inbox: InboxSettings,
    /// Table `[disk]`.
    disk: DiskSettings,
    /// Table `[reconnect]`.
    reconnect: ReconnectSettings,
    /// Table `[watchdog]`.
    watchdog: WatchdogSettings,
    /// Table `[sessions]`.
    sessions: SessionSettings,
    /// Table `[ambient]`.
    ambient: AmbientSettings,
    /// Table `[hooks]`.
    hooks: HookSettings,
    /// Table `[crypto]`.
    crypto: CryptoSettings,
    /// Table `[clone]`.
    clone: CloneSettings,
    /// Table `[features]`.
    features: FeatureSettings,
    /// Table `[capabilities]`.
    capabilities: CapabilitySettings,
    /// Table `[metrics]`.
    metrics: MetricsSettings,
}

/// What a newly read file changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Keys that a running daemon applies.
    pub applied: Vec<String>,
    /// Keys that are fixed until the next start.
    pub needs_restart: Vec<String>,
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
            (settings.hooks.concurrency == 0, "hooks.concurrency must not be 0"),
            (
                settings.hooks.default_timeout > limits::HOOK_TIMEOUT_MAX,
                "hooks.default_timeout must be at most 10m",
            ),
            (
                settings.crypto.key_grace_period > limits::KEY_GRACE_MAX,
                "crypto.key_grace_period must be at most 30d",
            ),
            (settings.crypto.max_archived_keys == 0, "crypto.max_archived_keys must not be 0"),
            (
                settings.clone.id_override.as_deref().is_some_and(str::is_empty),
                "clone.id_override must not be empty",
            ),
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

    /// The keys whose values differ in `next`, by when they apply (daemon spec §3, column "Live").
    pub fn changes(&self, next: &Self) -> Changes {
        let mut changes = Changes::default();
        for (key, when) in self.differing(next) {
            match when {
                When::Live => changes.applied.push(key),
                When::NextStart => changes.needs_restart.push(key),
            }
        }
        changes
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
    let mut unknown = Vec::new();
    for (table, value) in document {
        match value {
            toml::Value::Table(fields) if knows(table, "").is_some() => {
                let strangers = fields.keys().filter(|key| knows(table, key) == Some(false));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use claudemesh_protocol::ops::Family;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(Path::new("config.toml"), text.as_bytes())
    }

    #[test]
    fn everything_is_optional_and_unknown_keys_are_named() {
        assert_eq!(parse("").unwrap(), Settings::default());
        let settings = parse(
            "x = 1\n[daemon]\nlog_level = \"debug\"\nnew = 2\n[inbox]\ndigest_after = \"2m\"\n[webs]\nenabled = true\n[capabilities]\nstate = false\nweather = false",
        )
        .unwrap();
        assert_eq!(settings.daemon.log_level, LogLevel::Debug);
        assert_eq!(settings.inbox.digest_after, Duration::from_mins(2));
        assert!(!settings.capabilities.allows(Family::State));
        assert!(settings.capabilities.allows(Family::Messaging));
        assert_eq!(settings.unknown_keys(), ["capabilities.weather", "daemon.new", "webs", "x"]);
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
            ("[hooks]\nconcurrency = 0", 1),
            ("[hooks]\n\ndefault_timeout = 30", 3),
            ("[crypto]\nkey_grace_period = \"31d\"", 1),
            ("[clone]\npolicy = \"shrug\"", 2),
            ("[capabilities]\nstate = \"no\"", 2),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.toml:{line}: ")), "{text}: {error}");
        }
        assert!(Settings::parse(Path::new("c"), b"\n\xff").is_err());
    }
    #[test]
    fn a_change_is_named_with_when_it_applies() {
        let old = parse("").unwrap();
        let new = parse(
            "[daemon]\nlog_level = \"warn\"\n[ipc]\ntcp_enabled = true\n[capabilities]\nstate = false\ngroups = true\n\
             [reconnect]\nmin_wait = \"1s\"\n[outbox]\nmax_pages = 9",
        )
        .unwrap();
        let changes = old.changes(&new);
        assert_eq!(
            changes.applied,
            ["daemon.log_level", "reconnect.min_wait", "capabilities.state"]
        );
        assert_eq!(changes.needs_restart, ["ipc.tcp_enabled", "outbox.max_pages"]);
        assert_eq!(new.changes(&new), Changes::default());
    }
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| number.to_string()),
            any::<bool>().prop_map(|is_on| is_on.to_string()),
            "[0-9]{0,20}(ms|s|m|h|d|y)".prop_map(|text| format!("{text:?}")),
            "\\PC{0,12}".prop_map(|text| toml::Value::String(text).to_string()),
            Just("[]".to_owned()),
            Just("[1000, \"x\", {}]".to_owned()),
        ]
    }

    fn document() -> impl Strategy<Value = String> {
        let tables = [
            "daemon",
            "ipc",
            "outbox",
            "inbox",
            "disk",
            "reconnect",
            "watchdog",
            "sessions",
            "ambient",
            "hooks",
            "crypto",
            "clone",
            "features",
            "capabilities",
            "metrics",
            "weather",
        ];
        let keys = [
            "log_level",
            "http_port",
            "max_inflight",
            "max_bytes",
            "retention_days",
            "digest_after",
            "reserved_bytes",
            "schedule_ms",
            "min_wait",
            "ping_interval",
            "max",
            "unverified_ttl",
            "register",
            "enabled",
            "concurrency",
            "default_timeout",
            "key_grace_period",
            "max_archived_keys",
            "policy",
            "id_override",
            "require",
            "strict",
            "state",
            "prometheus",
        ];
        let line =
            (select(keys.to_vec()), value()).prop_map(|(key, value)| format!("{key} = {value}"));
        let table = (select(tables.to_vec()), vec(line, 0..4))
            .prop_map(|(name, lines)| format!("[{name}]\n{}\n", lines.join("\n")));
        vec(table, 0..5).prop_map(|tables| tables.concat())
    }

    proptest! {
        /// Daemon spec §3 Accept 1: any TOML document either loads or is refused with file:line; no panic.
        #[test]
        fn any_document_loads_or_is_refused_with_its_line(text in prop_oneof![document(), "\\PC{0,80}"]) {
            if let Err(error) = parse(&text) {
                let error = error.to_string();
                let place = error.strip_prefix("config.toml:").and_then(|rest| rest.split_once(':'));
                let line: usize = place.unwrap().0.parse().unwrap();
                prop_assert!(line >= 1 && line <= text.lines().count().max(1), "{error}\n{text}");
            }
        }
    }
}
