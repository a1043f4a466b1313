//! The service manager of this system: which unit it has of ours, and how it is told to start, stop and forget it (CLI
//! spec §6.2, daemon spec §21).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use claudemesh_daemon::service::{Plan, Unwritable, launchd, systemd};

use crate::environment::Environment;

/// How long the manager may take for one command; a stop waits for the daemon's own 8 s.
const MANAGER_BUDGET: Duration = Duration::from_secs(30);

/// A service manager, and for whom it runs the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Manager {
    /// systemd of the user.
    User {
        /// Where the unit lies.
        unit: PathBuf,
    },
    /// systemd of the system.
    System {
        /// As whom the daemon runs.
        user: String,
    },
    /// launchd of the user.
    Launchd {
        /// Where the list lies.
        agent: PathBuf,
        /// Number of the user.
        uid: u32,
    },
}

/// What the manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Is it there at all?
    Ask,
    /// Stop the daemon, and forget that it failed.
    Stop,
    /// Read the unit and start the daemon now and at each boot.
    Start,
    /// Stop the daemon and start it no more.
    Disable,
    /// Notice that the unit is gone.
    Forget,
}

impl Manager {
    /// The manager of a user on this system.
    pub(crate) fn of_user(environment: &Environment) -> Option<Self> {
        let home = environment.home.as_deref()?;
        if cfg!(target_os = "macos") {
            let uid = rustix::process::geteuid().as_raw();
            return Some(Self::Launchd { agent: launchd::agent(home), uid });
        }
        let unit = systemd::user_unit(home, environment.xdg_config_home.as_deref());
        cfg!(target_os = "linux").then_some(Self::User { unit })
    }

    /// The one that has a unit of ours for this user.
    pub(crate) fn installed(environment: &Environment) -> Option<Self> {
        let user = environment.user.clone().filter(|_| cfg!(target_os = "linux"));
        let system = user.map(|user| Self::System { user });
        // A masked unit leads to /dev/null: its owner wants no service.
        Self::of_user(environment)
            .into_iter()
            .chain(system)
            .find(|manager| manager.unit().is_file())
    }

    /// The file that makes the manager start the daemon.
    pub(crate) fn unit(&self) -> PathBuf {
        match self {
            Self::User { unit } => unit.clone(),
            Self::System { user } => systemd::system_unit(user),
            Self::Launchd { agent, .. } => agent.clone(),
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// A path that no unit can hold.
    pub(crate) fn text(&self, plan: &Plan) -> Result<String, Unwritable> {
        match self {
            Self::User { .. } => systemd::unit(plan, systemd::Scope::User),
            Self::System { user } => systemd::unit(plan, systemd::Scope::System(user)),
            Self::Launchd { .. } => launchd::plist(plan),
        }
    }

    /// Its name, as the result says it.
    pub(crate) const fn platform(&self) -> &'static str {
        match self {
            Self::User { .. } | Self::System { .. } => "systemd",
            Self::Launchd { .. } => "launchd",
        }
    }

    /// What shows a person why the daemon does not run.
    pub(crate) fn inspect(&self) -> String {
        match self {
            Self::User { .. } => format!("systemctl --user status {}", systemd::UNIT),
            Self::System { user } => {
                format!("systemctl status {}", systemd::system_unit_name(user))
            }
            Self::Launchd { .. } => format!("launchctl print gui/$(id -u)/{}", launchd::LABEL),
        }
    }

    /// What a person types to do the same as [`Order::Start`].
    pub(crate) fn boot_command(&self) -> String {
        match self {
            Self::User { .. } => {
                let unit = systemd::UNIT;
                format!("systemctl --user daemon-reload && systemctl --user enable --now {unit}")
            }
            Self::System { user } => {
                let unit = systemd::system_unit_name(user);
                format!("systemctl daemon-reload && systemctl enable --now {unit}")
            }
            Self::Launchd { agent, uid } => {
                format!("launchctl bootstrap gui/{uid} '{}'", agent.display())
            }
        }
    }

    /// The commands of an order; `true` beside those whose failure is none.
    fn commands(&self, order: Order) -> Vec<(Vec<String>, bool)> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let Self::Launchd { agent, uid } = self else {
            let (scope, unit): (&[&str], String) = match self {
                Self::System { user } => (&["systemctl"], systemd::system_unit_name(user)),
                _ => (&["systemctl", "--user"], systemd::UNIT.to_owned()),
            };
            let systemctl = |more: &[&str]| -> Vec<String> { words(&[scope, more].concat()) };
            let unit = unit.as_str();
            return match order {
                Order::Ask => vec![(systemctl(&["show-environment"]), false)],
                Order::Stop => vec![
                    (systemctl(&["stop", unit]), true),
                    (systemctl(&["reset-failed", unit]), true),
                ],
                Order::Start => vec![
                    (systemctl(&["daemon-reload"]), false),
                    (systemctl(&["enable", "--now", unit]), false),
                ],
                Order::Disable => vec![(systemctl(&["disable", "--now", unit]), true)],
                Order::Forget => vec![
                    (systemctl(&["daemon-reload"]), true),
                    (systemctl(&["reset-failed", unit]), true),
                ],
            };
        };
        let (domain, job) = (format!("gui/{uid}"), format!("gui/{uid}/{}", launchd::LABEL));
        let agent = agent.to_string_lossy();
        match order {
            Order::Ask => vec![(words(&["launchctl", "print", &domain]), false)],
            Order::Stop | Order::Disable => vec![(words(&["launchctl", "bootout", &job]), true)],
            Order::Start => vec![(words(&["launchctl", "bootstrap", &domain, &agent]), false)],
            Order::Forget => Vec::new(),
        }
    }

    /// Tells the manager.
    ///
    /// # Errors
    /// What the manager said about the first command that failed and mattered.
    pub(crate) async fn tell(&self, order: Order) -> Result<(), String> {
        for (command, may_fail) in self.commands(order) {
            if let Err(error) = run(&command).await
                && !may_fail
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// After a start that failed: true when the manager took the unit and the daemon ended under it, false when it
    /// refused the unit itself.
    pub(crate) async fn has_taken_unit(&self) -> bool {
        let unit = match self {
            Self::User { .. } => systemd::UNIT.to_owned(),
            Self::System { user } => systemd::system_unit_name(user),
            // It says nothing about programs that end.
            Self::Launchd { .. } => return false,
        };
        let scope = matches!(self, Self::User { .. }).then_some("--user");
        let words = ["show", "--property=LoadState,ActiveState", &unit];
        let command: Vec<String> =
            ["systemctl"].into_iter().chain(scope).chain(words).map(str::to_owned).collect();
        let said = run(&command).await.unwrap_or_default();
        let is = |state: &str| said.lines().any(|line| line.trim() == state);
        is("LoadState=loaded") && !is("ActiveState=inactive")
    }

    /// What a person types to lift the ban on the unit.
    pub(crate) fn unmask(&self) -> String {
        match self {
            Self::System { user } => {
                format!("systemctl unmask {}", systemd::system_unit_name(user))
            }
            _ => format!("systemctl --user unmask {}", systemd::UNIT),
        }
    }

    /// True when the manager stops the daemon with the user's last login.
    pub(crate) async fn ends_with_the_login(&self, user: Option<&str>) -> bool {
        let (Self::User { .. }, Some(user)) = (self, user) else { return false };
        let command = ["loginctl", "show-user", user, "--property=Linger"].map(str::to_owned);
        run(&command).await.is_ok_and(|said| said.trim() == "Linger=no")
    }
}

/// Runs a program of the system; what it wrote, or the last line of its complaint that is not about where to read more.
async fn run(command: &[String]) -> Result<String, String> {
    let Some((program, words)) = command.split_first() else { return Ok(String::new()) };
    let child = tokio::process::Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let name = command.join(" ");
    match tokio::time::timeout(MANAGER_BUDGET, child).await {
        Ok(Ok(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines = said.lines().map(str::trim);
            let last = lines.rev().find(|line| !line.is_empty() && !line.starts_with("See "));
            Err(format!("{name}: {}", last.unwrap_or("failed")))
        }
        Ok(Err(error)) => Err(format!("{name}: {error}")),
        Err(_) => Err(format!("{name}: no answer within {} s", MANAGER_BUDGET.as_secs())),
    }
}

/// The path of the running program that stays right when a package manager replaces it: a link among the directories of
/// `PATH` that leads to it, otherwise its own.
pub(crate) fn lasting_path(exe: &Path, search_path: Option<&OsStr>) -> PathBuf {
    let name = exe.file_name().unwrap_or(OsStr::new("claudemesh"));
    search_path
        .into_iter()
        .flat_map(std::env::split_paths)
        .filter(|dir| dir.is_absolute() && (is_passing(exe) || !is_passing(dir)))
        .map(|dir| dir.join(name))
        .find(|path| {
            path.is_symlink() && std::fs::canonicalize(path).is_ok_and(|target| target == exe)
        })
        .unwrap_or_else(|| exe.to_owned())
}

/// A place whose files do not stay: builds, and temporary directories.
pub(crate) fn is_passing(path: &Path) -> bool {
    let is_build = path.components().zip(path.components().skip(1)).any(|(one, next)| {
        one.as_os_str() == "target"
            && ["debug", "release"].iter().any(|kind| next.as_os_str() == *kind)
    });
    is_build || path.starts_with(std::env::temp_dir()) || path.starts_with("/var/tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(manager: &Manager, order: Order) -> Vec<String> {
        manager.commands(order).into_iter().map(|(words, _)| words.join(" ")).collect()
    }

    #[test]
    fn each_manager_is_told_in_its_own_words() {
        let user = Manager::User { unit: "/u".into() };
        assert_eq!(
            words(&user, Order::Start),
            [
                "systemctl --user daemon-reload",
                "systemctl --user enable --now claudemesh-daemon.service"
            ]
        );
        let system = Manager::System { user: "ana".into() };
        assert_eq!(
            words(&system, Order::Disable),
            ["systemctl disable --now claudemesh-daemon@ana.service"]
        );
        let launchd = Manager::Launchd { agent: "/h/x.plist".into(), uid: 501 };
        assert_eq!(words(&launchd, Order::Start), ["launchctl bootstrap gui/501 /h/x.plist"]);
        assert_eq!(
            words(&launchd, Order::Stop),
            ["launchctl bootout gui/501/com.claudemesh.daemon"]
        );
        assert!(words(&launchd, Order::Forget).is_empty());
    }

    #[test]
    fn a_link_that_survives_upgrades_is_preferred() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let (exe, bin) = (root.join("1.0/claudemesh"), root.join("bin"));
        std::fs::create_dir_all(exe.parent().unwrap()).unwrap();
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(&exe, "").unwrap();
        std::os::unix::fs::symlink(&exe, bin.join("claudemesh")).unwrap();
        assert_eq!(lasting_path(&exe, Some(bin.as_os_str())), bin.join("claudemesh"));
        assert_eq!(lasting_path(&exe, None), exe);
        assert!(is_passing(&exe) && is_passing(Path::new("/w/target/release/claudemesh")));
        assert!(!is_passing(Path::new("/usr/bin/claudemesh")));
    }
}
