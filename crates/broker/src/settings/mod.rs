//! Every setting of the broker, resolved once at start (broker spec §6.1): environment over TOML file over default.

mod cidr;
mod links;
mod source;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::at_rest::AtRestKey;
use claudemesh_crypto::tokens::SecretText;
use claudemesh_protocol::limits::BrokerLimits;

pub use cidr::{Cidr, CidrError};
pub use links::Links;
pub(crate) use links::loopback_of;
use source::Reader;
pub use source::{Effective, Origin, Problem, SettingsError, Sources};

/// Port taken when none is set (broker spec §6.1).
pub const DEFAULT_PORT: u16 = 7900;
/// The environment variable that names the TOML file.
pub const CONFIG_VARIABLE: &str = "BROKER_CONFIG";
/// Shortest `METRICS_TOKEN`: it is compared with whatever strangers send.
const METRICS_TOKEN_MIN_CHARS: usize = 16;
/// Longest `NODE_ID`.
const NODE_ID_MAX_CHARS: usize = 64;
/// Name of the TOML file looked for in the data directory when [`CONFIG_VARIABLE`] is not set.
const CONFIG_FILE: &str = "broker.toml";

/// Which engines hold the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageProfile {
    /// SQLite and files, one process.
    Embedded,
    /// PostgreSQL.
    Server,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Who may use `POST /join` with an old-style invite token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InviteV1 {
    /// Accepted while valid.
    Accepted,
    /// Answered 410 `invite_v1_retired`.
    Retired,
}

/// What a start does with migrations that were not applied yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrate {
    /// Applies them.
    AtStart,
    /// Refuses to serve until `migrate` was run.
    ByHand,
}

/// The effective settings. No `Debug`: some fields are secret.
#[derive(Clone)]
pub struct Settings {
    /// `STORAGE_PROFILE`, default `embedded`.
    pub profile: StorageProfile,
    /// `BROKER_BIND`, default 127.0.0.1 in `embedded`, 0.0.0.0 in `server`.
    pub bind: IpAddr,
    /// `BROKER_PORT`, default 7900; 0 takes any free port.
    pub port: u16,
    /// `DATA_DIR`, default the platform's data directory and `claudemesh-broker`.
    pub data_dir: PathBuf,
    /// `DATABASE_URL`, PostgreSQL; required in `server`, ignored in `embedded`.
    pub database_url: Option<Arc<SecretText>>,
    /// `BROKER_ENCRYPTION_KEY`, 64 hexadecimal characters; required in `server`.
    pub encryption_key: Option<Arc<AtRestKey>>,
    /// `BROKER_SIGNING_KEY`, 128 hexadecimal characters; generated and stored encrypted when unset.
    pub signing_key: Option<Arc<KeyPair>>,
    /// `BROKER_PUBLIC_URL`, `http(s)://host[:port]`, default derived from the listener.
    pub public_url: Option<String>,
    /// `BROKER_WS_URL`, `ws(s)://host[:port]/ws`, default derived from the public address.
    pub ws_url: Option<String>,
    /// `APP_URL`, where invite links point, default the public address.
    pub app_url: Option<String>,
    /// `TRUSTED_PROXIES`: peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// `METRICS_TOKEN`: bearer that opens `/metrics` to other machines.
    pub metrics_token: Option<Arc<SecretText>>,
    /// `LOG_LEVEL`, default `info`: `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// `LOG_FORMAT`, default `json`.
    pub log_format: LogFormat,
    /// `INVITE_V1_ENABLED`, default on.
    pub invite_v1: InviteV1,
    /// `ENABLE_HOOK_ENDPOINT`, default off: agents' hooks of old clients may report statuses over HTTP.
    pub hook_endpoint: bool,
    /// `BROKER_SKIP_MIGRATE`, default off.
    pub migrate: Migrate,
    /// `GIT_SHA`, shown in `/health`; default `unknown`.
    pub git_sha: String,
    /// `NODE_ID`, default drawn at each start.
    pub node_id: Option<String>,
    /// The limits, each under its own variable.
    pub limits: BrokerLimits,
}

/// [`Settings`] and what was found out while reading them.
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    /// Each variable with its value, secrets hidden, and where it came from; in reading order.
    pub effective: Vec<Effective>,
    /// Unknown keys and settings without effect.
    pub warnings: Vec<String>,
}

impl Settings {
    /// The defaults of the embedded profile over a given data directory, listening on any free loopback port.
    pub fn embedded(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            profile: StorageProfile::Embedded,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            data_dir: data_dir.into(),
            database_url: None,
            encryption_key: None,
            signing_key: None,
            public_url: None,
            ws_url: None,
            app_url: None,
            trusted_proxies: Vec::new(),
            metrics_token: None,
            log_level: "info".to_owned(),
            log_format: LogFormat::Json,
            invite_v1: InviteV1::Accepted,
            hook_endpoint: false,
            migrate: Migrate::AtStart,
            git_sha: "unknown".to_owned(),
            node_id: None,
            limits: BrokerLimits::default(),
        }
    }

    /// Path of the SQLite file.
    pub fn database_path(&self) -> PathBuf {
        self.data_dir.join("broker.db")
    }

    /// Path of `broker.json`, which exists while a broker serves this directory.
    pub fn record_path(&self) -> PathBuf {
        self.data_dir.join("broker.json")
    }

    /// Path of the one-time code of the first account.
    pub fn setup_code_path(&self) -> PathBuf {
        self.data_dir.join("setup-code")
    }

    /// Reads and checks all settings.
    ///
    /// # Errors
    /// [`SettingsError`] with every wrong variable, each with what was expected; the process exits 78.
    pub fn resolve(sources: &Sources) -> Result<Resolved, SettingsError> {
        let data_dir_hint = sources.variable("DATA_DIR").map(PathBuf::from);
        let default_data_dir = platform_data_dir(sources);
        let file = sources.variable(CONFIG_VARIABLE).map(PathBuf::from).or_else(|| {
            let implied = data_dir_hint.as_ref().unwrap_or(&default_data_dir).join(CONFIG_FILE);
            implied.exists().then_some(implied)
        });
        let mut reader = Reader::open(sources, file.as_deref())?;
        let settings = read(&mut reader, default_data_dir);
        reader.finish().map(|(effective, warnings)| Resolved { settings, effective, warnings })
    }
}

fn read(reader: &mut Reader, default_data_dir: PathBuf) -> Settings {
    let expected = "embedded or server";
    let default = (StorageProfile::Embedded, "embedded");
    let profile = reader.parsed("STORAGE_PROFILE", default, expected, |text| match text {
        "embedded" => Some(StorageProfile::Embedded),
        "server" => Some(StorageProfile::Server),
        _ => None,
    });
    let default_bind = match profile {
        StorageProfile::Embedded => (IpAddr::V4(Ipv4Addr::LOCALHOST), "127.0.0.1"),
        StorageProfile::Server => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), "0.0.0.0"),
    };
    let expected = "a port from 0 to 65535";
    let port =
        reader.parsed("BROKER_PORT", (DEFAULT_PORT, "7900"), expected, |text| text.parse().ok());
    let bind =
        reader.parsed("BROKER_BIND", default_bind, "an IP address", |text| text.parse().ok());
    let shown_data_dir = default_data_dir.to_string_lossy().into_owned();
    let default = (default_data_dir, shown_data_dir.as_str());
    let data_dir = reader.parsed("DATA_DIR", default, "an absolute path", |text| {
        Some(PathBuf::from(text)).filter(|path| path.is_absolute())
    });
    let mut settings = Settings { profile, bind, port, ..Settings::embedded(data_dir) };
    read_secrets(reader, &mut settings);
    read_addresses(reader, &mut settings);
    read_operation(reader, &mut settings);
    settings.limits = read_limits(reader);
    settings
}

/// What opens the state, and what only some may see.
fn read_secrets(reader: &mut Reader, settings: &mut Settings) {
    let url = reader.secret("DATABASE_URL", "postgres://user@host/database", |text| {
        let known = text.starts_with("postgres://") || text.starts_with("postgresql://");
        known.then(|| Arc::new(SecretText::new(text.to_owned())))
    });
    let expected = "64 hexadecimal characters";
    let key = reader.secret("BROKER_ENCRYPTION_KEY", expected, |text| {
        AtRestKey::from_hex(text).ok().map(Arc::new)
    });
    match settings.profile {
        StorageProfile::Server => {
            let expected = "a PostgreSQL address, because STORAGE_PROFILE is server";
            reader.require("DATABASE_URL", url.is_some(), expected);
            let expected = "64 hexadecimal characters, because STORAGE_PROFILE is server";
            reader.require("BROKER_ENCRYPTION_KEY", key.is_some(), expected);
            settings.database_url = url;
        }
        // Many programs use a variable of this name: it must not move the state of a broker that was not told so.
        StorageProfile::Embedded if url.is_some() => {
            reader.warn("DATABASE_URL has no effect: STORAGE_PROFILE is embedded");
        }
        StorageProfile::Embedded => {}
    }
    settings.encryption_key = key;
    let expected = "128 hexadecimal characters";
    settings.signing_key = reader
        .secret("BROKER_SIGNING_KEY", expected, |text| KeyPair::from_hex(text).ok().map(Arc::new));
    settings.metrics_token = reader.secret("METRICS_TOKEN", "at least 16 characters", |text| {
        (text.len() >= METRICS_TOKEN_MIN_CHARS).then(|| Arc::new(SecretText::new(text.to_owned())))
    });
}

/// How others reach this broker, and who may speak for them.
fn read_addresses(reader: &mut Reader, settings: &mut Settings) {
    let expected = "http:// or https:// and a host, without a path";
    settings.public_url = reader.optional("BROKER_PUBLIC_URL", expected, web_base);
    settings.app_url = reader.optional("APP_URL", expected, web_base);
    settings.ws_url = reader.optional("BROKER_WS_URL", "ws:// or wss:// and a host", |text| {
        let known = text.starts_with("ws://") || text.starts_with("wss://");
        (known && !text.contains('|')).then(|| text.trim_end_matches('/').to_owned())
    });
    let expected = "address ranges like 10.0.0.0/8, separated by commas";
    settings.trusted_proxies =
        reader.parsed("TRUSTED_PROXIES", (Vec::new(), ""), expected, Cidr::parse_list);
}

/// Logs, names and switches.
fn read_operation(reader: &mut Reader, settings: &mut Settings) {
    let default = ("info".to_owned(), "info");
    let expected = "error, warn, info, debug or trace";
    settings.log_level = reader.parsed("LOG_LEVEL", default, expected, |text| {
        ["error", "warn", "info", "debug", "trace"].contains(&text).then(|| text.to_owned())
    });
    let default = (LogFormat::Json, "json");
    settings.log_format = reader.parsed("LOG_FORMAT", default, "json or text", |text| match text {
        "json" => Some(LogFormat::Json),
        "text" => Some(LogFormat::Text),
        _ => None,
    });
    settings.invite_v1 = if reader.switch("INVITE_V1_ENABLED", true) {
        InviteV1::Accepted
    } else {
        InviteV1::Retired
    };
    settings.hook_endpoint = reader.switch("ENABLE_HOOK_ENDPOINT", false);
    settings.migrate = if reader.switch("BROKER_SKIP_MIGRATE", false) {
        Migrate::ByHand
    } else {
        Migrate::AtStart
    };
    let default = ("unknown".to_owned(), "unknown");
    settings.git_sha =
        reader.parsed("GIT_SHA", default, "a commit id", |text| Some(text.to_owned()));
    settings.node_id = reader.optional("NODE_ID", "1 to 64 characters", |text| {
        (1..=NODE_ID_MAX_CHARS).contains(&text.len()).then(|| text.to_owned())
    });
}

/// Reads each limit under the upper-case form of its field.
fn read_limits(reader: &mut Reader) -> BrokerLimits {
    let mut limits = BrokerLimits::default();
    macro_rules! read_each {
        ($($field:ident)*) => {$(
            let name = stringify!($field).to_ascii_uppercase();
            let shown = limits.$field.to_string();
            limits.$field = reader.parsed(
                &name,
                (limits.$field, &shown),
                "a whole number of at least 1",
                |text| text.parse().ok().filter(|value| *value >= 1),
            );
        )*};
    }
    read_each! {
        max_connections_per_mesh max_message_bytes max_frame_bytes max_wrapped_keys_bytes group_audience_max
        send_burst send_per_min backlog_per_member backlog_per_mesh loop_max_hops
        loop_pair_messages loop_pair_window_seconds loop_stop_seconds lease_ttl_ms status_ttl_seconds hook_fresh_window_seconds message_retention_days max_sockets_per_ip
        http_rate_per_ip http_burst_per_ip invite_claims_per_ip_hour invite_claims_per_code_hour
        invite_previews_per_ip_min hook_rate_limit_per_min hello_timeout_ms ping_interval_ms silence_limit_ms slow_consumer_ms
        claim_lease_ms due_interval_ms
    }
    limits
}

/// `http(s)://host[:port]` without a trailing slash; nothing behind the host.
fn web_base(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let host = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme))?;
    let valid = !host.is_empty() && !host.contains(['/', '?', '#', '@', '|', ' ']);
    valid.then(|| text.to_owned())
}

fn platform_data_dir(sources: &Sources) -> PathBuf {
    let home = sources.variable("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let base = if cfg!(target_os = "macos") {
        home.join("Library/Application Support")
    } else {
        sources
            .variable("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .unwrap_or_else(|| home.join(".local/share"))
    };
    base.join("claudemesh-broker")
}

/// The wildcard addresses, which nobody can dial.
pub(crate) fn is_wildcard(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6 == Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests;
