//! Local files the command line owns: memberships, account token, unfinished joins (CLI spec §2).

use std::path::{Path, PathBuf};

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::tokens::SecretText;
use claudemesh_daemon::home::config::{Config, ConfigError, MeshEntry, UpdateError};
use claudemesh_daemon::home::file::{self, FileLock, Symlinks};
use claudemesh_protocol::account::AccountUser;
use claudemesh_protocol::error::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// A secret text in one of our files. No `Debug`; wiped on drop.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// `auth.json`: the account token and whose it is. No `Debug`: it carries the token.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    session_token: Secret,
    /// The account.
    pub(crate) user: AccountUser,
    /// How it was signed in: `setup`, `device-code`, `manual`, …
    pub(crate) token_source: String,
    /// ISO.
    pub(crate) stored_at: String,
    /// HTTP address of the server that issued the token; it is sent nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
}

impl Account {
    /// An account as it is stored.
    pub(crate) fn new(token: &SecretText, user: AccountUser, source: &str, server: &str) -> Self {
        Self {
            session_token: Secret::new(token.expose()),
            user,
            token_source: source.to_owned(),
            stored_at: Context::now().to_iso(),
            server: Some(server.to_owned()),
        }
    }

    /// The token, for an `Authorization` header.
    pub(crate) fn token(&self) -> SecretText {
        SecretText::new(self.session_token.reveal().to_owned())
    }
}

impl Context {
    /// The config of this process: joined meshes and defaults.
    ///
    /// # Errors
    /// Exit 10 when it is damaged or written by a newer version; it is never taken for empty.
    pub(crate) fn config(&self) -> Outcome<Config> {
        let config = Config::read(&self.paths.config_file()).map_err(config_failure)?;
        if config.is_open_to_others() {
            let path = config.path().display().to_string();
            self.out.warning(&format!("{path} can be read by others: chmod 600 {path}"));
        }
        Ok(config)
    }

    /// The file that verbs on memberships change: inside a launched session the home's own, never its copy.
    pub(crate) fn membership_file(&self) -> PathBuf {
        if self.environment.in_session {
            self.paths.membership_file()
        } else {
            self.paths.config_file()
        }
    }

    /// Changes the membership file under its lock.
    ///
    /// # Errors
    /// Exit 10 when it cannot be changed; whatever `change` refuses with.
    pub(crate) fn update_config<T>(
        &self,
        change: impl FnOnce(&mut Config) -> Outcome<T>,
    ) -> Outcome<T> {
        let file = self.membership_file();
        let result = Config::update(&file, change).map_err(|error| match error {
            UpdateError::Config(error) => config_failure(error),
            UpdateError::Refused(failure) => failure,
        });
        if result.is_ok() && self.environment.in_session {
            self.out.notice(&format!("changed {}", file.display()));
        }
        result
    }

    /// The stored account, if there is one.
    ///
    /// # Errors
    /// Exit 10 when `auth.json` is damaged.
    pub(crate) fn account(&self) -> Outcome<Option<Account>> {
        let path = self.paths.auth_file();
        let content =
            file::read(&path, Symlinks::Follow).map_err(|error| unreadable(&path, &error))?;
        let Some(content) = content else { return Ok(None) };
        if content.is_open_to_others() {
            let path = path.display();
            self.out.warning(&format!("{path} can be read by others: chmod 600 {path}"));
        }
        serde_json::from_slice(&content.bytes).map(Some).map_err(|error| damaged(&path, &error))
    }

    /// Stores the account, mode 0600.
    ///
    /// # Errors
    /// Exit 10.
    pub(crate) fn store_account(&self, account: &Account) -> Outcome<()> {
        let path = self.paths.auth_file();
        let fail =
            |error: &std::io::Error| Failure::io(format!("cannot write {}", path.display()), error);
        let bytes = serde_json::to_vec_pretty(account).map(Zeroizing::new);
        let mut bytes = bytes.map_err(|error| Failure::internal(&error))?;
        bytes.push(b'\n');
        file::create_private_dir(self.paths.config_dir()).map_err(|error| fail(&error))?;
        let _lock = FileLock::wait(&claudemesh_daemon::home::config::lock_file_of(&path))
            .map_err(|error| fail(&error))?;
        file::replace(&path, &bytes, file::SECRET, Symlinks::Follow).map_err(|error| fail(&error))
    }

    /// Forgets what is kept beside the config about a mesh that was left: last-used note and session keys.
    pub(crate) fn forget_mesh(&self, slug: &str) {
        let last_used = self.paths.root().join("last-used.json");
        let names_it = std::fs::read(&last_used)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .is_some_and(|value| value.get("meshSlug").and_then(Value::as_str) == Some(slug));
        if names_it {
            // The note only speeds up a later choice; a leftover is replaced by the next launch.
            let _ = std::fs::remove_file(&last_used);
        }
        // A directory that stays holds keys of a membership that no longer works.
        let _ = std::fs::remove_dir_all(self.paths.sessions_dir().join(slug));
    }
}

/// A failure to use `config.json`, in the words of the catalogue.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err, which gives the value")]
pub(crate) fn config_failure(error: ConfigError) -> Failure {
    match &error {
        ConfigError::Syntax { path, line, column, .. } => Failure::new(
            ErrorCode::Io,
            format!("config.json is not valid JSON (line {line}, column {column})"),
        )
        .detail(path.display().to_string())
        .action("repair the file, or move it away and join again"),
        ConfigError::Newer { path, .. } => {
            Failure::new(ErrorCode::Io, "config written by a newer version")
                .detail(path.display().to_string())
                .action("install that version")
        }
        ConfigError::AlreadyJoined { slug, .. } => {
            Failure::of_word("already_joined", format!("mesh \"{slug}\" is joined already"))
                .exit(claudemesh_protocol::error::ExitCode::AlreadyExists)
        }
        ConfigError::Shape { path, reason } => {
            Failure::new(ErrorCode::Io, format!("config.json is damaged: {reason}"))
                .detail(path.display().to_string())
                .action("repair the file, or move it away and join again")
        }
        _ => Failure::new(ErrorCode::Io, error.to_string()).caused_by(&error),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("cannot read {}", path.display()), error)
}

fn damaged(path: &Path, error: &serde_json::Error) -> Failure {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let place = format!("(line {}, column {})", error.line(), error.column());
    Failure::new(ErrorCode::Io, format!("{name} is not valid JSON {place}"))
        .detail(path.display().to_string())
}

/// Keys of claims that were begun and not finished: a repeated join uses the same ones, so that a crash costs no use
/// of the invite (CLI spec §5.3). Keyed by the hash of the code; the code itself is never stored.
pub(crate) struct PendingJoins {
    path: PathBuf,
    _lock: FileLock,
    entries: Map<String, Value>,
}

/// The keys of one unfinished claim. No `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct PendingKeys {
    /// Member key pair, 128 hex.
    pub(crate) member: Secret,
    /// X25519 secret of a claim, base64url; empty where nothing is sealed.
    pub(crate) exchange: Secret,
}

impl PendingJoins {
    /// Opens the file under its lock.
    ///
    /// # Errors
    /// Exit 10.
    pub(crate) fn open(context: &Context) -> Outcome<Self> {
        let path = context.membership_file().with_file_name("join-pending.json");
        let fail = |error: &std::io::Error| unreadable(&path, error);
        if let Some(dir) = path.parent() {
            file::create_private_dir(dir).map_err(|error| fail(&error))?;
        }
        let lock = FileLock::wait(&claudemesh_daemon::home::config::lock_file_of(&path))
            .map_err(|error| fail(&error))?;
        let entries = match file::read(&path, Symlinks::Follow).map_err(|error| fail(&error))? {
            None => Map::new(),
            Some(written) => {
                serde_json::from_slice(&written.bytes).map_err(|error| damaged(&path, &error))?
            }
        };
        Ok(Self { path, _lock: lock, entries })
    }

    /// The keys kept under `id`.
    pub(crate) fn keys(&self, id: &str) -> Option<PendingKeys> {
        serde_json::from_value(self.entries.get(id)?.clone()).ok()
    }

    /// Drops keys that stand in the config by now: a crash between the two left them here.
    ///
    /// # Errors
    /// Exit 10.
    pub(crate) fn forget_finished(&mut self, config: &Config) -> Outcome<()> {
        let is_joined = |keys: &PendingKeys| {
            KeyPair::from_hex(keys.member.reveal())
                .is_ok_and(|keys| config.meshes().any(|mesh| mesh.keys.public() == keys.public()))
        };
        let finished: Vec<String> = self
            .entries
            .keys()
            .filter(|id| self.keys(id).as_ref().is_some_and(is_joined))
            .cloned()
            .collect();
        finished.iter().try_for_each(|id| self.remove(id))
    }

    /// Keeps keys, on disk before this returns.
    ///
    /// # Errors
    /// Exit 10.
    pub(crate) fn keep(&mut self, id: &str, keys: &PendingKeys) -> Outcome<()> {
        let value = serde_json::to_value(keys).map_err(|error| Failure::internal(&error))?;
        self.entries.insert(id.to_owned(), value);
        self.write()
    }

    /// Removes keys whose claim is finished; the file goes with the last of them.
    ///
    /// # Errors
    /// Exit 10.
    pub(crate) fn remove(&mut self, id: &str) -> Outcome<()> {
        if self.entries.shift_remove(id).is_none() {
            return Ok(());
        }
        self.write()
    }

    fn write(&self) -> Outcome<()> {
        let fail = |error: &std::io::Error| {
            Failure::io(format!("cannot write {}", self.path.display()), error)
        };
        if self.entries.is_empty() {
            return std::fs::remove_file(&self.path).map_err(|error| fail(&error));
        }
        let bytes = serde_json::to_vec_pretty(&self.entries).map(Zeroizing::new);
        let bytes = bytes.map_err(|error| Failure::internal(&error))?;
        file::replace(&self.path, &bytes, file::SECRET, Symlinks::Follow)
            .map_err(|error| fail(&error))
    }
}

/// True when the entry's broker is the one at `address`, whatever the scheme.
pub(crate) fn is_at(entry: &MeshEntry, address: &str) -> bool {
    authority(&entry.broker_url) == authority(address)
}

/// Host and port of an address, in one spelling.
pub(crate) fn authority(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest).to_ascii_lowercase();
    let host =
        host.strip_prefix("localhost").map_or(host.clone(), |port| format!("127.0.0.1{port}"));
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    match (has_port, scheme) {
        (true, _) => host,
        (false, "http" | "ws") => format!("{host}:80"),
        (false, _) => format!("{host}:443"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_broker_compare_equal() {
        assert_eq!(authority("ws://127.0.0.1:7900/ws"), authority("http://localhost:7900"));
        assert_eq!(authority("wss://Mesh.example.org/ws"), authority("https://mesh.example.org"));
        assert_ne!(authority("http://mesh.example.org"), authority("https://mesh.example.org"));
        assert_ne!(authority("http://127.0.0.1:7900"), authority("http://127.0.0.1:7901"));
    }
}
