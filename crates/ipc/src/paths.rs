//! Where the local files lie (daemon spec §2, CLI spec §2.1 and §2.3). Resolved once per process; nothing here
//! creates, checks or opens anything except [`Paths::socket`], which reads `sock.path`.

use std::io;
use std::path::{Path, PathBuf};

use crate::env;

/// Longest socket path bound in the daemon directory, in bytes; `sun_path` holds 104 on some systems (daemon §9.1).
pub const SOCKET_PATH_MAX_BYTES: usize = 100;

/// How the names of all directories of ephemeral daemons begin.
const EPHEMERAL: &str = "ephemeral-";

/// True for the name of such a directory: two groups of 16 hex digits follow, for the home and for this one daemon.
pub fn is_ephemeral_dir(dir: &Path) -> bool {
    let is_hex16 =
        |part: &str| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = dir.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix(EPHEMERAL))
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(home, own)| is_hex16(home) && is_hex16(own))
}

/// `HOME` is not set, so no path can be derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("HOME is not set: cannot tell where claudemesh keeps its files")]
pub struct NoHome;

/// The resolved directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
    config: PathBuf,
    daemon: PathBuf,
    /// Where the persistent daemon of this home lies, with its settings and hooks.
    usual: PathBuf,
    sessions: PathBuf,
    missing_config_dir: Option<PathBuf>,
}

impl Paths {
    /// Resolves from the environment of this process.
    ///
    /// # Errors
    /// [`NoHome`].
    pub fn from_env() -> Result<Self, NoHome> {
        let home = env::path(env::HOME).ok_or(NoHome)?;
        let mut paths = Self::for_home(&home);
        match env::path(env::CONFIG_DIR) {
            Some(dir) if dir.is_dir() => paths.config = dir,
            Some(dir) => paths.missing_config_dir = Some(dir),
            None => {}
        }
        let named = env::path(env::DAEMON_DIR);
        if let Some(dir) = named.as_ref().filter(|dir| !is_ephemeral_dir(dir)) {
            dir.clone_into(&mut paths.daemon);
            dir.clone_into(&mut paths.usual);
        }
        if let Some(dir) = env::path(env::SESSIONS_DIR) {
            paths.sessions = dir;
        }
        Ok(match named {
            Some(dir) if is_ephemeral_dir(&dir) => paths.ephemeral(dir),
            _ => paths,
        })
    }

    /// The paths of a home directory without any override.
    pub fn for_home(home: &Path) -> Self {
        let root = home.join(".claudemesh");
        Self {
            config: root.clone(),
            daemon: root.join("daemon"),
            usual: root.join("daemon"),
            sessions: root.join("sessions"),
            missing_config_dir: None,
            root,
        }
    }

    /// The same with another daemon directory.
    #[must_use]
    pub fn with_daemon_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.daemon = dir.into();
        self.usual.clone_from(&self.daemon);
        self
    }

    /// The same for an ephemeral daemon with its state in `dir`: memberships, settings and hooks of this home are read where
    /// they lie, everything else is in there, session keys too (daemon spec §4.1).
    #[must_use]
    pub fn ephemeral(mut self, dir: impl Into<PathBuf>) -> Self {
        self.daemon = dir.into();
        self.sessions = self.daemon.join("sessions");
        self
    }

    /// Those of the persistent daemon of this home.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        if self.are_ephemeral() {
            self.daemon.clone_from(&self.usual);
            self.sessions =
                env::path(env::SESSIONS_DIR).unwrap_or_else(|| self.root.join("sessions"));
        }
        self
    }

    /// True when they are those of an ephemeral daemon.
    pub fn are_ephemeral(&self) -> bool {
        self.daemon != self.usual
    }

    /// The private directory in which sockets with a long path and the directories of ephemeral daemons lie: below the
    /// user's runtime directory, else in `/tmp`. Neither made nor checked here, but for whose the runtime directory is: after
    /// `su` it is still named, and another user's.
    pub fn runtime_dir() -> PathBuf {
        use std::os::unix::fs::MetadataExt as _;
        let uid = rustix::process::geteuid().as_raw();
        let is_ours = |dir: &PathBuf| {
            std::fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
        };
        env::path(env::XDG_RUNTIME_DIR).filter(is_ours).map_or_else(
            || PathBuf::from(format!("/tmp/claudemesh-{uid}")),
            |dir| dir.join("claudemesh"),
        )
    }

    /// How the names of all directories of ephemeral daemons of this home begin; 16 hex digits follow.
    pub fn ephemeral_prefix(&self) -> String {
        format!("{EPHEMERAL}{:016x}-", fnv1a(self.usual.as_os_str().as_encoded_bytes()))
    }

    /// `~/.claudemesh`, whatever the overrides say.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this process's `config.json` (`CFG` of the CLI spec).
    pub fn config_dir(&self) -> &Path {
        &self.config
    }

    /// `CLAUDEMESH_CONFIG_DIR` when it names a directory that is gone: the caller may say so once (CLI spec §2.3).
    pub fn missing_config_dir(&self) -> Option<&Path> {
        self.missing_config_dir.as_deref()
    }

    /// The daemon directory.
    pub fn daemon_dir(&self) -> &Path {
        &self.daemon
    }

    /// The directory of stored session key pairs.
    pub fn sessions_dir(&self) -> &Path {
        &self.sessions
    }

    /// `config.json` of this process, possibly the overlay of a launched session.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.json")
    }

    /// `config.json` with the memberships: what the daemon reads, and what verbs that change memberships write.
    pub fn membership_file(&self) -> PathBuf {
        self.root.join("config.json")
    }

    /// `auth.json`: the account token.
    pub fn auth_file(&self) -> PathBuf {
        self.config.join("auth.json")
    }

    /// `join-pending.json`: the key pair of an unfinished claim.
    pub fn join_pending_file(&self) -> PathBuf {
        self.config.join("join-pending.json")
    }

    /// `peer-cache.json`: roster summary for the status line.
    pub fn peer_cache_file(&self) -> PathBuf {
        // What an ephemeral daemon sees is no news for the status line of the home.
        let dir = if self.are_ephemeral() { &self.daemon } else { &self.root };
        dir.join("peer-cache.json")
    }

    /// `policy.yaml`: what is asked about and what is refused. It follows no override.
    pub fn policy_file(&self) -> PathBuf {
        self.root.join("policy.yaml")
    }

    /// `audit.log`: what the policy gate decided. It follows no override.
    pub fn audit_file(&self) -> PathBuf {
        self.root.join("audit.log")
    }

    /// The key pair of one agent session. The caller has checked both parts (daemon spec §8.6).
    pub fn session_key_file(&self, slug: &str, session_id: &str) -> PathBuf {
        self.sessions.join(slug).join(format!("{session_id}.json"))
    }

    /// `config.toml`: the daemon's settings.
    pub fn settings_file(&self) -> PathBuf {
        self.usual.join("config.toml")
    }

    /// The lock that makes the daemon single.
    pub fn lock_file(&self) -> PathBuf {
        self.daemon.join("daemon.lock")
    }

    /// The daemon's process id, for people; the lock is what counts.
    pub fn pid_file(&self) -> PathBuf {
        self.daemon.join("daemon.pid")
    }

    /// The usual place of the socket.
    pub fn default_socket(&self) -> PathBuf {
        self.daemon.join("daemon.sock")
    }

    /// Names the socket when it could not lie in its usual place.
    pub fn socket_path_file(&self) -> PathBuf {
        self.daemon.join("sock.path")
    }

    /// The user's hooks (daemon spec §16.1).
    pub fn hooks_dir(&self) -> PathBuf {
        self.usual.join("hooks")
    }

    /// One line for each run of a hook (daemon spec §16.8).
    pub fn hooks_audit_file(&self) -> PathBuf {
        self.daemon.join("hooks-audit.jsonl")
    }

    /// The daemon's log.
    pub fn log_file(&self) -> PathBuf {
        self.daemon.join("daemon.log")
    }

    /// The outbox database.
    pub fn outbox_file(&self) -> PathBuf {
        self.daemon.join("outbox.db")
    }

    /// The inbox database.
    pub fn inbox_file(&self) -> PathBuf {
        self.daemon.join("inbox.db")
    }

    /// The session registry.
    pub fn sessions_file(&self) -> PathBuf {
        self.daemon.join("sessions.json")
    }

    /// The port of the TCP listener, as text; there only while it listens.
    pub fn http_port_file(&self) -> PathBuf {
        self.daemon.join("http.port")
    }

    /// Bearer of the TCP listener.
    pub fn local_token_file(&self) -> PathBuf {
        self.daemon.join("local-token")
    }

    /// The layout version of the daemon directory.
    pub fn schema_version_file(&self) -> PathBuf {
        self.daemon.join("schema_version")
    }

    /// What is kept about one mesh between runs.
    pub fn mesh_state_file(&self, slug: &str) -> PathBuf {
        self.daemon.join(format!("mesh-state-{slug}.json"))
    }

    /// Lock of the auto-spawn.
    pub fn spawn_lock_file(&self) -> PathBuf {
        self.daemon.join(".spawn.lock")
    }

    /// Mark of a failed auto-spawn.
    pub fn spawn_failure_file(&self) -> PathBuf {
        self.daemon.join(".spawn-failure")
    }

    /// Trace of one MCP server.
    pub fn mcp_log_file(&self, pid: u32) -> PathBuf {
        self.daemon.join(format!("mcp-{pid}.log"))
    }

    /// Where a client connects: the path in `sock.path` when that file exists, else the usual place.
    ///
    /// # Errors
    /// `sock.path` exists and cannot be read.
    pub fn socket(&self) -> io::Result<PathBuf> {
        match std::fs::read_to_string(self.socket_path_file()) {
            Ok(text) if !text.trim().is_empty() => Ok(PathBuf::from(text.trim())),
            Ok(_) => Ok(self.default_socket()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.default_socket()),
            Err(error) => Err(error),
        }
    }

    /// Where the daemon binds when the usual path is too long: below the user's runtime directory, else `/tmp`
    /// (daemon spec §9.1). The name carries a digest of the daemon directory, so that two of them do not meet.
    pub fn fallback_socket(&self) -> PathBuf {
        let name = fnv1a(self.daemon.as_os_str().as_encoded_bytes());
        Self::runtime_dir().join(format!("daemon-{name:016x}.sock"))
    }
}

/// FNV-1a, 64 bit: a short stable name, not a security measure.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_below_home() {
        let paths = Paths::for_home(Path::new("/h"));
        assert_eq!(paths.membership_file(), Path::new("/h/.claudemesh/config.json"));
        assert_eq!(paths.config_file(), paths.membership_file());
        assert_eq!(paths.default_socket(), Path::new("/h/.claudemesh/daemon/daemon.sock"));
        assert_eq!(
            paths.session_key_file("dev", "u"),
            Path::new("/h/.claudemesh/sessions/dev/u.json")
        );
    }

    #[test]
    fn an_ephemeral_daemon_reads_the_settings_of_the_home_and_keeps_everything_else_apart() {
        let usual = Paths::for_home(Path::new("/h"));
        let dir = format!("/run/{}0123456789abcdef", usual.ephemeral_prefix());
        assert!(is_ephemeral_dir(Path::new(&dir)) && !is_ephemeral_dir(usual.daemon_dir()));
        assert!(!is_ephemeral_dir(Path::new("/run/ephemeral-1-2")));
        let own = usual.clone().ephemeral(&dir);
        assert!(own.are_ephemeral() && !usual.are_ephemeral());
        for shared in [Paths::settings_file, Paths::hooks_dir, Paths::membership_file] {
            assert_eq!(shared(&own), shared(&usual));
        }
        for apart in [
            Paths::outbox_file,
            Paths::lock_file,
            Paths::log_file,
            Paths::default_socket,
            Paths::peer_cache_file,
        ] {
            assert!(apart(&own).starts_with(&dir));
        }
        assert!(own.sessions_dir().starts_with(&dir));
        assert_eq!(own.ephemeral_prefix(), usual.ephemeral_prefix());
    }

    #[test]
    fn the_socket_path_file_wins() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::for_home(home.path());
        assert_eq!(paths.socket().unwrap(), paths.default_socket());
        std::fs::create_dir_all(paths.daemon_dir()).unwrap();
        std::fs::write(paths.socket_path_file(), "/tmp/other.sock\n").unwrap();
        assert_eq!(paths.socket().unwrap(), Path::new("/tmp/other.sock"));
    }

    #[test]
    fn the_fallback_socket_is_short_and_differs_by_daemon_directory() {
        let one = Paths::for_home(Path::new("/one")).fallback_socket();
        let two = Paths::for_home(Path::new("/two")).fallback_socket();
        assert_ne!(one, two);
    }
}
