//! Which files a backup may hold, by their path below `~/.claudemesh`, and where each lies on this machine (daemon spec
//! §2, §20.2). Anything else is refused: a backup writes only where a backup reads.

use std::path::PathBuf;

use claudemesh_ipc::Paths;

use crate::home::file;
use crate::sessions::key_store::{is_slug, is_uuid};

/// The memberships.
pub(super) const CONFIG: &str = "config.json";
/// Former keys of members.
pub(super) const ARCHIVE: &str = "daemon/keypair-archive.json";
/// Which machine it was.
pub(super) const FINGERPRINT: &str = "daemon/host_fingerprint.json";
/// Received messages.
pub(super) const INBOX: &str = "daemon/inbox.db";
/// Directory of the hooks.
pub(super) const HOOKS: &str = "daemon/hooks/";
/// Directory of the session keys.
const SESSIONS: &str = "sessions/";
/// First part of the name of an unfinished key rotation.
const ROTATION: &str = "daemon/rotation-pending-";
/// Folders between `hooks/` and a file of a hook, at most.
const HOOK_DEPTH: usize = 8;
/// Longest path, in bytes.
const PATH_MAX_BYTES: usize = 512;

/// What a file of a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `config.json`.
    Config,
    /// `sessions/<slug>/<uuid>.json`.
    SessionKey,
    /// `sessions/<slug>/<uuid>.launch.json`: answers given when it was launched.
    SessionAnswers,
    /// `daemon/config.toml`.
    Settings,
    /// `daemon/host_fingerprint.json`.
    Fingerprint,
    /// `daemon/schema_version`.
    Layout,
    /// Another JSON file of the daemon.
    Json,
    /// A file below `daemon/hooks/`.
    Hook,
    /// `daemon/inbox.db`.
    Inbox,
}

/// What the file of this path is; `None` for a path that no backup of ours has.
pub(super) fn kind_of(path: &str) -> Option<Kind> {
    if path.len() > PATH_MAX_BYTES {
        return None;
    }
    match path {
        CONFIG => return Some(Kind::Config),
        FINGERPRINT => return Some(Kind::Fingerprint),
        INBOX => return Some(Kind::Inbox),
        ARCHIVE | "daemon/topics.json" | "daemon/services.json" => return Some(Kind::Json),
        "daemon/config.toml" => return Some(Kind::Settings),
        "daemon/schema_version" => return Some(Kind::Layout),
        _ => {}
    }
    if let Some(rest) = path.strip_prefix(SESSIONS) {
        let (slug, name) = rest.split_once('/')?;
        let id = name.strip_suffix(".json")?;
        let (id, kind) = match id.strip_suffix(".launch") {
            Some(id) => (id, Kind::SessionAnswers),
            None => (id, Kind::SessionKey),
        };
        return (is_slug(slug) && is_uuid(id)).then_some(kind);
    }
    if let Some(rest) = path.strip_prefix(HOOKS) {
        let is_name =
            |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
        let parts: Vec<&str> = rest.split('/').collect();
        return (parts.len() <= HOOK_DEPTH && parts.iter().copied().all(is_name))
            .then_some(Kind::Hook);
    }
    let slug = path.strip_prefix(ROTATION)?.strip_suffix(".json")?;
    is_slug(slug).then_some(Kind::Json)
}

/// The slug in the name of an unfinished key rotation.
pub(super) fn rotation_slug(path: &str) -> Option<&str> {
    path.strip_prefix(ROTATION)?.strip_suffix(".json")
}

/// The slug of a file below `sessions/`.
pub(super) fn session_slug(path: &str) -> Option<&str> {
    path.strip_prefix(SESSIONS)?.split_once('/').map(|(slug, _)| slug)
}

/// Where the file of this path lies here. The path was checked by [`kind_of`].
pub(super) fn locate(paths: &Paths, path: &str) -> PathBuf {
    if path == CONFIG {
        return paths.membership_file();
    }
    if let Some(rest) = path.strip_prefix(SESSIONS) {
        return paths.sessions_dir().join(rest);
    }
    paths.daemon_dir().join(path.strip_prefix("daemon/").unwrap_or(path))
}

impl Kind {
    /// The mode it gets here: what it had, without what it must not have.
    pub(super) const fn mode(self, had: u32) -> u32 {
        match self {
            Self::Hook => file::SECRET | (had & 0o100),
            Self::Settings => file::SECRET | (had & 0o044),
            Self::Layout => file::PUBLIC,
            _ => file::SECRET,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_a_backup_are_known() {
        let id = "6f1b2c3d-0000-4000-8000-0123456789ab";
        for (path, kind) in [
            ("config.json".to_owned(), Some(Kind::Config)),
            (format!("sessions/dev/{id}.json"), Some(Kind::SessionKey)),
            (format!("sessions/dev/{id}.launch.json"), Some(Kind::SessionAnswers)),
            ("daemon/rotation-pending-dev.json".to_owned(), Some(Kind::Json)),
            ("daemon/hooks/dev/on-message".to_owned(), Some(Kind::Hook)),
            ("daemon/config.toml".to_owned(), Some(Kind::Settings)),
            ("daemon/local-token".to_owned(), None),
            ("daemon/sessions.json".to_owned(), None),
            ("daemon/outbox.db".to_owned(), None),
            ("auth.json".to_owned(), None),
            ("../config.json".to_owned(), None),
            ("/etc/passwd".to_owned(), None),
            (format!("sessions/../{id}.json"), None),
            (format!("sessions/dev/../{id}.json"), None),
            ("sessions/dev/x.json".to_owned(), None),
            ("daemon/hooks/../local-token".to_owned(), None),
            ("daemon/hooks//x".to_owned(), None),
            ("daemon/hooks/a\0b".to_owned(), None),
            ("daemon/rotation-pending-../x.json".to_owned(), None),
            (format!("daemon/hooks/{}", "a/".repeat(9)), None),
            (format!("daemon/hooks/{}", "a".repeat(PATH_MAX_BYTES)), None),
        ] {
            assert_eq!(kind_of(&path), kind, "{path}");
        }
    }

    #[test]
    fn modes_never_widen() {
        for had in [0o600, 0o644, 0o777, 0o4755] {
            assert_eq!(Kind::Config.mode(had), 0o600);
            assert_eq!(Kind::Hook.mode(had) & 0o077, 0);
        }
        assert_eq!(Kind::Hook.mode(0o700), 0o700);
        assert_eq!(Kind::Settings.mode(0o644), 0o644);
    }
}
