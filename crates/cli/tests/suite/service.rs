//! `daemon install-service` and `uninstall-service` with a service manager that records what it is told (CLI spec §6.2,
//! daemon spec §21). It starts what the unit names, starts it again as the unit says, and answers once the daemon does.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use crate::home::{Home, two_people, until};

const MANAGER: &str = r#"#!/bin/sh
echo "$*" >> "$HOME/calls"
unit="${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/claudemesh-daemon.service"
socket="$HOME/.claudemesh/daemon/daemon.sock"
case "$*" in
*show-environment*) [ ! -e "$HOME/no-bus" ] || { echo "Failed to connect to bus" >&2; exit 1; } ;;
*" show "*)
    if [ -e "$HOME/refused" ]; then echo LoadState=bad-setting; echo ActiveState=inactive
    else echo LoadState=loaded; echo ActiveState=failed; fi ;;
*"enable --now"*)
    rm -f "$HOME/refused"
    # It takes nothing but what was there before.
    if [ -e "$HOME/refuses" ] && ! grep -q "^# from before" "$unit"; then
        touch "$HOME/refused"
        echo "Created symlink somewhere." >&2
        echo "Failed to start claudemesh-daemon.service: it has a bad unit file setting." >&2
        echo "See user logs and 'systemctl --user status' for details." >&2
        exit 1
    fi
    start=$(sed -n 's/^ExecStart=//p' "$unit")
    never=$(sed -n 's/^RestartPreventExitStatus=//p' "$unit")
    rm -f "$HOME/ended" "$socket"
    touch "$HOME/started"
    ( again=yes
      while [ $again ]; do
          eval "$start" </dev/null >/dev/null 2>&1
          code=$?
          echo "ended $code" >> "$HOME/calls"
          again=yes
          for known in 0 137 143 $never; do [ $code -ne $known ] || again=; done
      done
      touch "$HOME/ended" ) </dev/null >/dev/null 2>&1 &
    while [ ! -S "$socket" ]; do
        [ ! -e "$HOME/ended" ] || { echo "Job for claudemesh-daemon.service failed." >&2; exit 1; }
        sleep 0.02
    done ;;
*" stop "*|*disable*)
    # As the real one: whoever it has started is gone when it returns.
    if kill "$(cat "$HOME/.claudemesh/daemon/daemon.pid")" && [ -e "$HOME/started" ]; then
        while [ ! -e "$HOME/ended" ]; do sleep 0.02; done
        rm "$HOME/started"
    fi ;;
esac
"#;

/// A manager in front of every other program.
pub fn managed(home: Home) -> Home {
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for (name, text) in [("systemctl", MANAGER), ("loginctl", "#!/bin/sh\necho Linger=no\n")] {
        std::fs::write(bin.join(name), text).unwrap();
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", bin.display());
    home.with("PATH", &path)
}

fn unit(home: &Home) -> PathBuf {
    home.path().join(".config/systemd/user/claudemesh-daemon.service")
}

fn calls(home: &Home) -> Vec<String> {
    let text = std::fs::read_to_string(home.path().join("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn pid(home: &Home) -> u64 {
    home.json_ok(&["daemon", "status"])["pid"].as_u64().unwrap()
}

/// Daemon spec §21 Accept 1: install twice, upgrade the binary, install again: one unit, one process, the new program.
/// CLI spec §6.2: the unit names the absolute path.
#[test]
#[cfg(target_os = "linux")]
fn installing_again_replaces_unit_and_process() {
    let (_ana, bob) = two_people();
    let bob = managed(bob);
    // A package manager: versions in directories of their own, and a link to the one in force.
    let link = bob.path().join("bin/claudemesh");
    let programs = ["1.0", "2.0"].map(|version| {
        let dir = bob.path().join(version);
        std::fs::create_dir(&dir).unwrap();
        let program = dir.join("claudemesh");
        std::fs::hard_link(env!("CARGO_BIN_EXE_claudemesh"), &program)
            .or_else(|_| std::fs::copy(env!("CARGO_BIN_EXE_claudemesh"), &program).map(drop))
            .unwrap();
        program
    });
    let install = || {
        let command = bob.command(&[]);
        let mut as_linked = std::process::Command::new(&link);
        as_linked
            .env_clear()
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        as_linked.args(["daemon", "install-service", "--json"]).current_dir(bob.path());
        let output = as_linked.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    symlink(&programs[0], &link).unwrap();
    let first = install();
    assert_eq!(first["platform"], "systemd");
    assert_eq!(first["unitPath"], unit(&bob).to_str().unwrap());
    assert_eq!(first["connected"], "home");
    let text = std::fs::read_to_string(unit(&bob)).unwrap();
    assert!(
        text.contains(&format!("ExecStart={} daemon up --foreground\n", link.display())),
        "{text}"
    );
    let mode = std::fs::metadata(unit(&bob)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o644);
    let status = bob.json_ok(&["daemon", "status"]);
    assert_eq!(status["service"]["managed"], true);
    let before = pid(&bob);
    install();
    assert_eq!(std::fs::read_to_string(unit(&bob)).unwrap(), text);
    let again = pid(&bob);
    assert_ne!(again, before);
    std::fs::remove_file(&link).unwrap();
    symlink(&programs[1], &link).unwrap();
    install();
    assert_eq!(std::fs::read_to_string(unit(&bob)).unwrap(), text);
    let program = std::fs::read_link(format!("/proc/{}/exe", pid(&bob))).unwrap();
    assert_eq!(program, std::fs::canonicalize(&programs[1]).unwrap());
    for gone in [before, again] {
        let program = std::fs::read_link(format!("/proc/{gone}/exe"));
        assert!(program.is_err(), "{gone} still runs");
    }
    let started = calls(&bob).iter().filter(|call| call.contains("enable --now")).count();
    assert_eq!(started, 3);
    let removed = bob.json_ok(&["daemon", "uninstall-service"]);
    assert_eq!(removed["removed"][0], unit(&bob).to_str().unwrap());
    assert!(!unit(&bob).exists());
    until("the daemon has stopped", || bob.json(&["daemon", "status"]).0 == 1);
    assert!(
        bob.json_ok(&["daemon", "uninstall-service"])["removed"].as_array().unwrap().is_empty()
    );
    // From now on it starts on demand again.
    bob.ok(&["peers"]);
}

/// CLI spec §6.2, daemon spec §21: none in an automated build, and none without a manager.
#[test]
fn where_no_service_belongs_none_is_installed() {
    let home = managed(Home::new()).with("CI", "1");
    let ran = home.run(&["daemon", "install-service"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains("--allow-ci-persistent"), "{ran:?}");
    assert!(!unit(&home).exists() && calls(&home).is_empty());
    let home = managed(Home::new());
    std::fs::write(home.path().join("no-bus"), "").unwrap();
    let ran = home.run(&["daemon", "install-service"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("starts on demand"), "{ran:?}");
    assert!(!unit(&home).exists());
    assert_eq!(calls(&home), ["--user show-environment"]);
}

/// Daemon spec §21 Accept 2: fingerprint mismatch under a manager that follows the unit: it fails once and stays failed;
/// after `accept-host` a start works.
#[test]
#[cfg(target_os = "linux")]
fn a_refused_host_is_not_started_again_and_again() {
    let home = managed(Home::new());
    home.ok(&["daemon", "up"]);
    home.ok(&["daemon", "down"]);
    std::fs::write(home.file("daemon/config.toml"), "[clone]\nid_override = \"elsewhere\"\n")
        .unwrap();
    let ran = home.run(&["daemon", "install-service"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("systemctl --user status claudemesh-daemon.service"), "{ran:?}");
    let ended =
        || calls(&home).into_iter().filter(|call| call.starts_with("ended")).collect::<Vec<_>>();
    assert_eq!(ended(), ["ended 4"]);
    assert!(unit(&home).exists(), "it can be started once the host is accepted");
    home.ok(&["daemon", "accept-host"]);
    home.ok(&["daemon", "install-service"]);
    assert_eq!(home.json_ok(&["daemon", "status"])["running"], true);
    home.ok(&["daemon", "down"]);
    assert!(calls(&home).contains(&"--user stop claudemesh-daemon.service".to_owned()));
}

/// Daemon spec §21: a unit that the manager itself refuses does not stay, since nobody else starts a daemon beside one;
/// the one before comes back, and runs as it did.
#[test]
#[cfg(target_os = "linux")]
fn a_refused_unit_makes_way_for_the_one_before() {
    let home = managed(Home::new());
    std::fs::write(home.path().join("refuses"), "").unwrap();
    let refused = || {
        let ran = home.run(&["daemon", "install-service"]);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.stderr.contains("bad unit file setting"), "{ran:?}");
        ran.stderr
    };
    assert!(refused().contains("taken away"));
    assert!(!unit(&home).exists());
    home.ok(&["daemon", "up"]);
    assert_eq!(home.json_ok(&["daemon", "status"])["service"]["managed"], false);
    std::fs::remove_file(home.path().join("refuses")).unwrap();
    home.ok(&["daemon", "install-service"]);
    let text = std::fs::read_to_string(unit(&home)).unwrap();
    let text = format!("# from before\n{text}");
    std::fs::write(unit(&home), &text).unwrap();
    std::fs::write(home.path().join("refuses"), "").unwrap();
    let before = pid(&home);
    assert!(refused().contains("from before is back"));
    assert_eq!(std::fs::read_to_string(unit(&home)).unwrap(), text);
    until("it runs again", || home.json(&["daemon", "status"]).0 == 0);
    assert_ne!(pid(&home), before);
}

/// A unit that leads to no file is masked: it is left alone, and hinders nobody.
#[test]
#[cfg(target_os = "linux")]
fn a_masked_unit_is_left_alone() {
    let home = managed(Home::new());
    let nowhere = home.path().join("nowhere");
    std::fs::create_dir(&nowhere).unwrap();
    std::fs::create_dir_all(unit(&home).parent().unwrap()).unwrap();
    symlink(&nowhere, unit(&home)).unwrap();
    let ran = home.run(&["daemon", "install-service"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("systemctl --user unmask claudemesh-daemon.service"), "{ran:?}");
    assert!(unit(&home).is_symlink() && nowhere.is_dir());
    home.ok(&["daemon", "up"]);
}

/// CLI spec §6.2: the unit is looked for where `XDG_CONFIG_HOME` says.
#[test]
#[cfg(target_os = "linux")]
fn the_unit_lies_where_the_user_keeps_settings() {
    let home = managed(Home::new());
    let settings = home.path().join("settings");
    let home = home.with("XDG_CONFIG_HOME", settings.to_str().unwrap());
    let installed = home.json_ok(&["daemon", "install-service"]);
    let unit = settings.join("systemd/user/claudemesh-daemon.service");
    assert_eq!(installed["unitPath"], unit.to_str().unwrap());
    let status = home.json_ok(&["daemon", "status"]);
    assert_eq!(status["service"]["path"], unit.to_str().unwrap());
    home.ok(&["daemon", "uninstall-service"]);
    assert!(!unit.exists());
}
