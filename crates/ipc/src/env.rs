//! Every environment variable that the local side reads (daemon spec §3, CLI spec §2.3), and how they are read.

/// Home of the user; everything below follows it.
pub const HOME: &str = "HOME";
/// Directory of `config.json` for this process (CLI spec §2.3).
pub const CONFIG_DIR: &str = "CLAUDEMESH_CONFIG_DIR";
/// The daemon's own directory (daemon spec §2).
pub const DAEMON_DIR: &str = "CLAUDEMESH_DAEMON_DIR";
/// Directory of the stored session key pairs (daemon spec §2).
pub const SESSIONS_DIR: &str = "CLAUDEMESH_SESSIONS_DIR";
/// The session token itself, 64 hex; for tests (daemon spec §8.2).
pub const IPC_TOKEN: &str = "CLAUDEMESH_IPC_TOKEN";
/// File that holds the session token (daemon spec §8.2).
pub const IPC_TOKEN_FILE: &str = "CLAUDEMESH_IPC_TOKEN_FILE";
/// UUID of the agent session a launch started (MCP spec §4.1).
pub const SESSION_ID: &str = "CLAUDEMESH_SESSION_ID";
/// UUID of the agent session as the agent names it itself (daemon spec §8.8).
pub const CLAUDE_CODE_SESSION_ID: &str = "CLAUDE_CODE_SESSION_ID";
/// Process id of the agent, in the environment of its hooks (agents spec §1.1).
pub const CLAUDE_PID: &str = "CLAUDE_PID";
/// How the agent was started: `cli` in a terminal, something else without one (agents spec §1.1).
pub const CLAUDE_CODE_ENTRYPOINT: &str = "CLAUDE_CODE_ENTRYPOINT";
/// Directory of the agent's project, in the environment of its hooks (MCP spec §10.3).
pub const CLAUDE_PROJECT_DIR: &str = "CLAUDE_PROJECT_DIR";
/// `1`: a hook says on stderr why it says nothing (CLI spec §2.3).
pub const HOOK_DEBUG: &str = "CLAUDEMESH_HOOK_DEBUG";
/// Where Claude Code keeps its files, in place of `~/.claude`.
pub const CLAUDE_CONFIG_DIR: &str = "CLAUDE_CONFIG_DIR";
/// Where Codex keeps its files, in place of `~/.codex`.
pub const CODEX_HOME: &str = "CODEX_HOME";
/// Process id of the launch (MCP spec §4.1).
pub const LAUNCH_PID: &str = "CLAUDEMESH_LAUNCH_PID";
/// `1`: `ws://` and `http://` also to other hosts than loopback.
pub const ALLOW_INSECURE: &str = "CLAUDEMESH_ALLOW_INSECURE";
/// Broker of new joins.
pub const BROKER_URL: &str = "CLAUDEMESH_BROKER_URL";
/// Log filter of daemon and broker.
pub const LOG: &str = "CLAUDEMESH_LOG";
/// Requests per second and caller at the local API.
pub const IPC_RATE_PER_SEC: &str = "CLAUDEMESH_IPC_RATE_PER_SEC";
/// Burst above [`IPC_RATE_PER_SEC`].
pub const IPC_BURST: &str = "CLAUDEMESH_IPC_BURST";
/// Requests in flight at the local API.
pub const IPC_MAX_INFLIGHT: &str = "CLAUDEMESH_IPC_MAX_INFLIGHT";
/// `1`: never use another road than the daemon (CLI spec §1.15).
pub const STRICT_DAEMON: &str = "CLAUDEMESH_STRICT_DAEMON";
/// `1`: never use the daemon (CLI spec §1.15).
pub const NO_DAEMON: &str = "CLAUDEMESH_NO_DAEMON";
/// Directory that an ephemeral daemon makes for its state; whoever starts one in the background chooses it, so as to find it
/// (daemon spec §4.1).
pub const INTERNAL_EPHEMERAL_DIR: &str = "CLAUDEMESH_INTERNAL_EPHEMERAL_DIR";
/// `1` in what the auto-spawn starts, so that it cannot start another (CLI spec §1.15).
pub const INTERNAL_NO_AUTOSPAWN: &str = "CLAUDEMESH_INTERNAL_NO_AUTOSPAWN";
/// Policy file, below `--policy` (CLI spec §1.17).
pub const POLICY: &str = "CLAUDEMESH_POLICY";
/// Approval mode, below `--approval-mode` (CLI spec §1.17).
pub const APPROVAL_MODE: &str = "CLAUDEMESH_APPROVAL_MODE";
/// Proxy for encrypted connections to brokers, also in lower case (daemon spec §6.2).
pub const HTTPS_PROXY: &str = "HTTPS_PROXY";
/// Hosts that are reached without it, also in lower case.
pub const NO_PROXY: &str = "NO_PROXY";
/// Failure points of test builds (daemon spec §26).
pub const FAILPOINTS: &str = "CLAUDEMESH_FAILPOINTS";
/// Per-user runtime directory of the system, for a socket whose usual path is too long (daemon spec §9.1).
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// Configuration directory of the user's other programs; systemd looks for units there (CLI spec §6.2).
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// Where a service manager that started us waits to hear that we serve (daemon spec §21).
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Set on build servers; `0` and `false` say that this is none (daemon spec §4.2).
pub const CI: &str = "CI";
/// Each of them stands for a build server (daemon spec §4.2).
pub const CI_VARIABLES: [&str; 6] =
    [CI, "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL"];
/// Set inside Kubernetes, which counts as a container (daemon spec §4.2).
pub const KUBERNETES_SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// `1`: this is a container (daemon spec §4.2).
pub const CONTAINER: &str = "CONTAINER";
/// Set inside a pod of RunPod, which counts as a container (daemon spec §4.2).
pub const RUNPOD_POD_ID: &str = "RUNPOD_POD_ID";

/// True on a build server (daemon spec §4.2). Some shells set `CI` to say that they are none; a pod that somebody pays for is
/// none either, whatever else it sets.
pub fn is_ci() -> bool {
    text(RUNPOD_POD_ID).is_none()
        && CI_VARIABLES
            .iter()
            .any(|name| if *name == CI { is_on(name) } else { text(name).is_some() })
}

/// The value of `name`, when set, not empty and UTF-8.
pub fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The value of `name`, or of its lower-case form, which some programs set instead.
pub fn text_any_case(name: &str) -> Option<String> {
    text(name).or_else(|| text(&name.to_ascii_lowercase()))
}

/// The value of `name` as a path, when set and not empty.
pub fn path(name: &str) -> Option<std::path::PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(Into::into)
}

/// True when `name` is set to something other than nothing, `0` or `false`.
pub fn is_on(name: &str) -> bool {
    text(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}
