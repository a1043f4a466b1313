//! Units of systemd, for a user's own manager and for the system's.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Plan, Unwritable, WORDS, one_line, path_text};

/// Name of the unit of a user's own manager.
pub const UNIT: &str = "claudemesh-daemon.service";
/// Where programs are looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Whose manager it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The user's.
    User,
    /// The system's, which runs the daemon as this user.
    System(&'a str),
}

/// Where the unit of a user's own manager lies.
pub fn user_unit(home: &Path, xdg_config_home: Option<&Path>) -> PathBuf {
    let config = xdg_config_home.filter(|dir| dir.is_absolute());
    config.map_or_else(|| home.join(".config"), Path::to_owned).join("systemd/user").join(UNIT)
}

/// Name of the system's unit for a user.
pub fn system_unit_name(user: &str) -> String {
    format!("claudemesh-daemon@{user}.service")
}

/// Where the system's unit for a user lies.
pub fn system_unit(user: &str) -> PathBuf {
    Path::new("/etc/systemd/system").join(system_unit_name(user))
}

/// The text of a unit. It restarts the daemon when it fails, but not when it refused to start (exit 3, 4 and 5).
///
/// # Errors
/// [`Unwritable`] for a path with a line break, or one that is not UTF-8.
pub fn unit(plan: &Plan, scope: Scope<'_>) -> Result<String, Unwritable> {
    let program = command(path_text(&plan.program)?);
    let words = WORDS.join(" ");
    // The rest of the line, spaces and all, is the path.
    let log = specifiers(path_text(&plan.log)?);
    let mut text = format!(
        "[Unit]\n\
         Description=claudemesh daemon\n\
         After=network-online.target\n\
         Wants=network-online.target\n\
         StartLimitBurst=5\n\
         StartLimitIntervalSec=300\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={program} {words}\n\
         Restart=on-failure\n\
         RestartSec=3\n\
         RestartPreventExitStatus=3 4 5\n\
         MemoryMax=256M\n\
         TasksMax=128\n\
         LimitNOFILE=4096\n\
         NoNewPrivileges=yes\n\
         Environment=PATH={PATH}\n"
    );
    for (name, value) in &plan.variables {
        let assignment = quoted(&format!("{}={}", one_line(name)?, one_line(value)?));
        line(&mut text, &format!("Environment={assignment}"));
    }
    if let Scope::System(user) = scope {
        let home = quoted(&format!("HOME={}", path_text(&plan.home)?));
        line(&mut text, &format!("Environment={home}"));
        line(&mut text, &format!("User={}", specifiers(one_line(user)?)));
        line(&mut text, "ProtectSystem=strict");
        line(&mut text, "ProtectHome=read-only");
        for dir in &plan.writes {
            line(&mut text, &format!("ReadWritePaths={}", quoted(path_text(dir)?)));
        }
        line(&mut text, "PrivateDevices=yes");
    }
    line(&mut text, &format!("StandardOutput=append:{log}"));
    line(&mut text, &format!("StandardError=append:{log}"));
    let target = match scope {
        Scope::User => "default.target",
        Scope::System(_) => "multi-user.target",
    };
    line(&mut text, &format!("\n[Install]\nWantedBy={target}"));
    Ok(text)
}

fn line(text: &mut String, line: &str) {
    // Writing into a text cannot fail.
    let _ = writeln!(text, "{line}");
}

/// The first word of a command, where systemd takes no quotes and backslashes: such a path is run by `env`, whose
/// arguments may hold anything.
fn command(program: &str) -> String {
    if program.contains(['"', '\'', '\\']) {
        // In other words than the first a `$` begins a variable.
        return format!("/usr/bin/env {}", quoted(&program.replace('$', "$$")));
    }
    quoted(program)
}

/// `%` begins a specifier everywhere.
fn specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

/// One word of a line, as systemd.syntax(7) quotes it. A `$` stands for itself in the first word of a command and in an
/// assignment.
fn quoted(text: &str) -> String {
    let text = specifiers(&text.replace('\\', "\\\\").replace('"', "\\\""));
    let is_plain = text.chars().all(|sign| sign.is_ascii_alphanumeric() || "/._-=:".contains(sign));
    if is_plain { text } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests {
    use super::super::odd_plan;
    use super::*;

    fn plan() -> Plan {
        Plan {
            program: "/usr/bin/claudemesh".into(),
            home: "/home/ana".into(),
            writes: vec!["/home/ana/.claudemesh".into()],
            log: "/home/ana/.claudemesh/daemon/daemon.log".into(),
            variables: Vec::new(),
        }
    }

    /// Daemon spec §21, the table.
    #[test]
    fn a_user_unit_says_what_the_specification_says() {
        let text = unit(&plan(), Scope::User).unwrap();
        for line in [
            "ExecStart=/usr/bin/claudemesh daemon up --foreground",
            "Type=notify",
            "Restart=on-failure",
            "RestartSec=3",
            "RestartPreventExitStatus=3 4 5",
            "StartLimitBurst=5",
            "StartLimitIntervalSec=300",
            "MemoryMax=256M",
            "TasksMax=128",
            "LimitNOFILE=4096",
            "NoNewPrivileges=yes",
            "Environment=PATH=/usr/local/bin:/usr/bin:/bin",
            "StandardOutput=append:/home/ana/.claudemesh/daemon/daemon.log",
            "After=network-online.target",
            "WantedBy=default.target",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}\n{text}");
        }
        assert!(!text.contains("User=") && !text.contains("Protect") && !text.contains("always"));
        let system = unit(&plan(), Scope::System("ana")).unwrap();
        for line in [
            "User=ana",
            "Environment=HOME=/home/ana",
            "ProtectSystem=strict",
            "ProtectHome=read-only",
            "ReadWritePaths=/home/ana/.claudemesh",
            "PrivateDevices=yes",
            "WantedBy=multi-user.target",
        ] {
            assert!(system.lines().any(|own| own == line), "{line}\n{system}");
        }
    }

    #[test]
    fn odd_paths_are_quoted() {
        let text = unit(&odd_plan(), Scope::System("ana")).unwrap();
        for line in [
            "ExecStart=/usr/bin/env \"/home/O'Neil & \\\"Söhne\\\" <1>/50%% $$x\\\\bin/claudemesh\" daemon up --foreground",
            "Environment=\"CLAUDEMESH_DAEMON_DIR=/tmp/a b%%c \\\"d\\\"\"",
            "ReadWritePaths=\"/home/O'Neil & \\\"Söhne\\\" <1>/.claudemesh\"",
            "StandardOutput=append:/home/O'Neil & \"Söhne\" <1>/.claudemesh/daemon/daemon.log",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}\n{text}");
        }
        let broken = Plan { program: "/a\nExecStartPre=/bin/false".into(), ..odd_plan() };
        assert!(unit(&broken, Scope::User).is_err());
    }

    #[test]
    fn the_unit_lies_where_systemd_looks() {
        let home = Path::new("/home/ana");
        let usual = Path::new("/home/ana/.config/systemd/user/claudemesh-daemon.service");
        assert_eq!(user_unit(home, None), usual);
        assert_eq!(user_unit(home, Some(Path::new("relative"))), usual);
        let moved = user_unit(home, Some(Path::new("/cfg")));
        assert_eq!(moved, Path::new("/cfg/systemd/user/claudemesh-daemon.service"));
    }

    /// systemd itself reads the units, where it is installed.
    #[test]
    fn systemd_accepts_the_units() {
        use std::os::unix::fs::PermissionsExt as _;
        use std::process::Command;

        let has_tool = |name: &str| Command::new(name).arg("--version").output().is_ok();
        if !has_tool("systemd-analyze") {
            // Without the tool only the texts above are looked at.
            return;
        }
        for name in ["plain", "a b", "O'Neil & Söhne <1>", "50% $x", "quote\"back\\slash"] {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().join(name);
            std::fs::create_dir(&home).unwrap();
            let program = home.join("claudemesh");
            std::fs::write(&program, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let plan = Plan {
                log: home.join("daemon.log"),
                writes: vec![home.clone()],
                variables: vec![("CLAUDEMESH_DAEMON_DIR".into(), home.to_str().unwrap().into())],
                program,
                home,
            };
            for (file, scope) in
                [(UNIT, Scope::User), ("claudemesh-daemon@root.service", Scope::System("root"))]
            {
                let path = dir.path().join(file);
                std::fs::write(&path, unit(&plan, scope).unwrap()).unwrap();
                let ran = Command::new("systemd-analyze")
                    .args(["verify", "--man=no"])
                    .args(matches!(scope, Scope::User).then_some("--user"))
                    .arg(&path)
                    .env("XDG_RUNTIME_DIR", dir.path())
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&ran.stderr);
                let about_ours: Vec<_> =
                    said.lines().filter(|line| line.contains("claudemesh")).collect();
                assert!(about_ours.is_empty(), "{name}: {about_ours:?}");
            }
        }
    }
}
