//! Death at every step of a restore leaves the old memberships or the new ones, and restoring again finishes.

use std::process::{Command, Stdio};

use claudemesh_daemon::care::backup::Extras;
use claudemesh_daemon::care::restore;
use claudemesh_daemon::clock;
use claudemesh_daemon::home::config::Config;
use claudemesh_ipc::Paths;

use super::home::{EVERYTHING, furnished, restorable, tree, write};
use crate::local::world::Home;

/// Set in the child: the home whose files are restored.
const SOURCE: &str = "CLAUDEMESH_TEST_RESTORE_FROM";

/// The child's main; skipped in an ordinary run.
#[test]
fn restoring_process() {
    let Some(source) = std::env::var_os(SOURCE) else { return };
    claudemesh_sqlite::arm_crash_points();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let source = Paths::for_home(source.as_ref());
        let bundle = claudemesh_daemon::care::backup::collect(&source, EVERYTHING, clock::now());
        let verified = bundle.await.unwrap().verify().unwrap();
        restore::replace(&verified, &Paths::from_env().unwrap(), clock::now()).await.unwrap();
    });
}

/// True when the child came to its end.
fn restore_in_a_process(source: &Home, target: &Home, failpoints: &str) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "care::crash::restoring_process"])
        .env_clear()
        .env("HOME", target.path())
        .env(SOURCE, source.path())
        .env("CLAUDEMESH_FAILPOINTS", failpoints)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    child.status().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn death_at_any_step_of_a_restore_leaves_old_or_new() {
    let source = furnished();
    std::fs::write(source.paths.daemon_dir().join("hooks/dev/on-message"), "#!/bin/sh\nexit 7\n")
        .unwrap();
    let key = |home: &Home| {
        let config = Config::read(&home.paths.membership_file()).unwrap();
        config.mesh("dev").unwrap().keys.public()
    };
    let (new, mut deaths) = (key(&source), 0);
    for step in 1.. {
        let target = furnished();
        write(&target, "daemon/outbox.db", 0o600, "queue");
        write(&target, "daemon/config.toml", 0o600, "");
        let old = key(&target);
        let is_done =
            restore_in_a_process(&source, &target, &format!("restore.mid_exchange=kill@{step}"));
        let now = key(&target);
        assert!(now == old || now == new, "step {step}");
        // Every file a daemon reads at its start is whole: a backup checks each of them.
        let left = super::home::backup_of(&target, Extras { inbox: false, hooks: true }).await;
        assert!(left.left_out().is_empty(), "step {step}: {:?}", left.left_out());
        if is_done {
            assert!(now == new);
            break;
        }
        deaths += 1;
        let verified = restorable(&source, EVERYTHING).await;
        restore::replace(&verified, &target.paths, clock::now()).await.unwrap();
        assert!(key(&target) == new, "step {step}");
        let (theirs, ours) = (tree(&source), tree(&target));
        for path in theirs.keys().filter(|path| path.starts_with("sessions/")) {
            assert_eq!(ours[path], theirs[path], "step {step}: {path}");
        }
    }
    assert!(deaths >= 6, "{deaths}");
}
