//! The one place where the command line reads its environment (CLI spec §1.5).

use std::env;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;

/// Variables of an enclosing session; never handed to the broker or daemon this program starts.
pub(crate) const SESSION_VARIABLES: [&str; 6] = [
    "CLAUDEMESH_IPC_TOKEN",
    "CLAUDEMESH_IPC_TOKEN_FILE",
    "CLAUDEMESH_SESSION_ID",
    "CLAUDEMESH_DISPLAY_NAME",
    "CLAUDEMESH_ROLE",
    "CLAUDEMESH_TOKEN",
];

/// Where a session keeps its own copy of the configuration; taken away only from children started inside a session.
pub(crate) const CONFIG_DIR: &str = "CLAUDEMESH_CONFIG_DIR";

/// Set on the daemon we start, so that nothing it runs starts another one.
pub(crate) const NO_AUTOSPAWN: &str = "CLAUDEMESH_INTERNAL_NO_AUTOSPAWN";

/// Variables whose presence means an automated build.
const CI_VARIABLES: [&str; 6] =
    ["CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL"];

/// What the environment says, read once.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one switch for each variable, as the specification lists them"
)]
pub(crate) struct Environment {
    pub(crate) stdin_is_terminal: bool,
    pub(crate) stdout_is_terminal: bool,
    pub(crate) stderr_is_terminal: bool,
    pub(crate) is_ci: bool,
    pub(crate) no_color: bool,
    pub(crate) dumb_terminal: bool,
    pub(crate) unicode: bool,
    pub(crate) debug: bool,
    pub(crate) json_envelope: bool,
    pub(crate) strict_daemon: bool,
    pub(crate) no_daemon: bool,
    pub(crate) no_autospawn: bool,
    pub(crate) allow_insecure: bool,
    pub(crate) over_ssh: bool,
    pub(crate) wayland: bool,
    /// True inside a launched session.
    pub(crate) in_session: bool,
    /// `CLAUDEMESH_BROKER_URL`.
    pub(crate) broker_url: Option<String>,
    /// `CLAUDEMESH_BROKER_HTTP`.
    pub(crate) broker_http: Option<String>,
    /// `CLAUDEMESH_API_URL`.
    pub(crate) api_url: Option<String>,
    /// `CLAUDEMESH_CLAIM_URL`, with `{code}`.
    pub(crate) claim_url: Option<String>,
    /// `BROKER_PUBLIC_URL`.
    pub(crate) broker_public_url: Option<String>,
    /// `CLAUDEMESH_TOKEN`: an account token that stands above `auth.json`.
    pub(crate) account_token: Option<String>,
    /// `CLAUDEMESH_POLICY`.
    pub(crate) policy: Option<PathBuf>,
    /// `CLAUDEMESH_APPROVAL_MODE`.
    pub(crate) approval_mode: Option<String>,
    /// `CLAUDEMESH_BROKER_DATA_DIR`.
    pub(crate) broker_data_dir: Option<PathBuf>,
    /// `CLAUDEMESH_BACKUP_PASSPHRASE_FILE`.
    pub(crate) backup_passphrase_file: Option<PathBuf>,
    /// `CLAUDE_CONFIG_DIR`: where Claude Code keeps its files.
    pub(crate) claude_config_dir: Option<PathBuf>,
    /// `CODEX_HOME`: where Codex keeps its files.
    pub(crate) codex_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub(crate) xdg_config_home: Option<PathBuf>,
    /// `PATH`.
    pub(crate) search_path: Option<OsString>,
    /// `SUDO_USER`: who became root for this command.
    pub(crate) sudo_user: Option<String>,
    /// `XDG_DATA_HOME`.
    pub(crate) xdg_data_home: Option<PathBuf>,
    /// `HOME`.
    pub(crate) home: Option<PathBuf>,
    /// `USER`.
    pub(crate) user: Option<String>,
}

impl Environment {
    /// Reads the process environment.
    pub(crate) fn read() -> Self {
        Self {
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            is_ci: CI_VARIABLES.iter().any(|name| text(name).is_some()),
            no_color: text("NO_COLOR").is_some(),
            dumb_terminal: text("TERM").as_deref() == Some("dumb"),
            unicode: !is_set("CLAUDEMESH_NO_UNICODE") && locale_is_utf8(),
            debug: is_set("CLAUDEMESH_DEBUG"),
            json_envelope: is_set("CLAUDEMESH_JSON_ENVELOPE"),
            strict_daemon: is_set("CLAUDEMESH_STRICT_DAEMON"),
            no_daemon: is_set("CLAUDEMESH_NO_DAEMON"),
            no_autospawn: is_set(NO_AUTOSPAWN),
            allow_insecure: is_set("CLAUDEMESH_ALLOW_INSECURE"),
            over_ssh: text("SSH_CONNECTION").is_some(),
            wayland: text("WAYLAND_DISPLAY").is_some(),
            in_session: ["CLAUDEMESH_IPC_TOKEN_FILE", "CLAUDEMESH_IPC_TOKEN"]
                .into_iter()
                .any(|name| value(name).is_some()),
            broker_url: text("CLAUDEMESH_BROKER_URL"),
            broker_http: text("CLAUDEMESH_BROKER_HTTP"),
            api_url: text("CLAUDEMESH_API_URL"),
            claim_url: text("CLAUDEMESH_CLAIM_URL"),
            broker_public_url: text("BROKER_PUBLIC_URL"),
            account_token: text("CLAUDEMESH_TOKEN"),
            policy: path(claudemesh_ipc::env::POLICY),
            approval_mode: text(claudemesh_ipc::env::APPROVAL_MODE),
            broker_data_dir: path("CLAUDEMESH_BROKER_DATA_DIR"),
            backup_passphrase_file: path("CLAUDEMESH_BACKUP_PASSPHRASE_FILE"),
            claude_config_dir: path("CLAUDE_CONFIG_DIR"),
            codex_home: path("CODEX_HOME"),
            xdg_config_home: path(claudemesh_ipc::env::XDG_CONFIG_HOME),
            search_path: value("PATH"),
            sudo_user: text("SUDO_USER"),
            xdg_data_home: path("XDG_DATA_HOME"),
            home: path("HOME"),
            user: text("USER").or_else(|| text("LOGNAME")),
        }
    }

    /// Data directory of the broker that `up` starts.
    pub(crate) fn broker_dir(&self) -> Option<PathBuf> {
        if let Some(dir) = &self.broker_data_dir {
            return Some(dir.clone());
        }
        if let Some(dir) = self.xdg_data_home.as_ref().filter(|dir| dir.is_absolute()) {
            return Some(dir.join("claudemesh-broker"));
        }
        let home = self.home.as_ref()?;
        let below =
            if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
        Some(home.join(below).join("claudemesh-broker"))
    }
}

fn value(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Option<String> {
    value(name)?.into_string().ok()
}

fn path(name: &str) -> Option<PathBuf> {
    value(name).map(PathBuf::from)
}

fn is_set(name: &str) -> bool {
    text(name).is_some_and(|value| value != "0" && value != "false")
}

/// True when the locale writes UTF-8. A system that names no locale at all still has terminals that do.
fn locale_is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(text);
    locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}
