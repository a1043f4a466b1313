//! Which files run, and which never do (daemon spec §16.1).

use std::os::unix::fs::symlink;

use serde_json::json;

use super::stage::{Hooked, pair, write_to};
use crate::local::process::DaemonProcess;
use crate::local::world::until;
use crate::mesh::node::{SLUG, World};

/// §16 Accept 2: hook without `hooks.toml` entry, world-writable, symlinked and other-owner hook: none executes.
#[tokio::test]
async fn only_files_of_ours_with_a_section_run() {
    let (world, hooked, peer) = pair().await;
    let mark = |name: &str| format!("echo ran > $OUT/{name}");
    hooked.sections(
        "[on-message]\nenabled = true\n[on-dm]\nenabled = true\n[on-startup]\nenabled = true\n",
    );
    hooked.hook_with("home/on-dm", &mark("writable"), 0o702);
    hooked.hook("on-mention", &mark("no-section"));
    let outside = hooked.out.join("elsewhere.sh");
    std::fs::write(&outside, "#!/bin/sh\necho ran > $0.ran\n").unwrap();
    std::fs::set_permissions(&outside, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    symlink(&outside, hooked.dir().join("on-startup")).unwrap();
    let other_owner = hooked.hook("on-dm", &mark("other-owner"));
    let can_change_owners = std::os::unix::fs::chown(&other_owner, Some(65_534), None).is_ok();
    if !can_change_owners {
        std::fs::remove_file(&other_owner).unwrap();
    }
    hooked.hook("on-message", &mark("good"));
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hello @somebody").await;
    hooked.leaves("good").await;
    let audit = hooked.audited(1).await;
    assert_eq!((audit.len(), &audit[0]["hook"]), (1, &json!("on-message")), "{audit:?}");
    for name in ["writable", "no-section", "elsewhere.sh.ran", "other-owner"] {
        assert_eq!(hooked.left(name), None, "{name}");
    }
    running.shutdown().await;
}

/// §16 Accept 2: each is logged once.
#[tokio::test]
async fn what_does_not_run_is_said_once() {
    let hooked = Hooked::new();
    hooked.hook_with("on-dm", "true", 0o707);
    hooked.hook("on-message", "true");
    symlink("/bin/true", hooked.dir().join("on-startup.sh")).unwrap();
    hooked.sections("[on-dm]\nenabled = true\n[on-startup]\nenabled = true\n");
    let mut process = DaemonProcess::start(&hooked.home, "").await;
    for _ in 0..2 {
        process.client().reload().await.unwrap();
    }
    let log = || std::fs::read_to_string(hooked.home.paths.log_file()).unwrap();
    until("the log has its lines", || async { log().matches("hook_refused").count() >= 3 }).await;
    process.terminate();
    process.ended().await;
    let log = log();
    for file in ["on-dm\"", "on-message\"", "on-startup.sh\""] {
        let lines = log.lines().filter(|line| line.contains("hook_refused") && line.contains(file));
        assert_eq!(lines.count(), 1, "{file}: {log}");
    }
}

#[tokio::test]
async fn a_file_that_changes_after_it_was_loaded_is_looked_at_again() {
    let (world, hooked, peer) = pair().await;
    hooked.sections("[on-dm]\nenabled = true\n[on-message]\nenabled = true\n");
    let path = hooked.hook("on-dm", "echo ran > $OUT/dm");
    hooked.hook("on-message", "echo ran > $OUT/message");
    let running = hooked.open().await;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o722)).unwrap();
    write_to(&peer, world.key(0), "hi").await;
    hooked.leaves("message").await;
    let audit = hooked.audited(2).await;
    let refused = audit.iter().find(|line| line["hook"] == "on-dm").unwrap();
    assert!(refused["refused"].as_str().unwrap().contains("others may write it"), "{refused}");
    assert_eq!(hooked.left("dm"), None);
    running.shutdown().await;
}

#[tokio::test]
async fn a_reload_puts_other_hooks_in_force_and_a_broken_file_none() {
    let (world, hooked, peer) = pair().await;
    hooked.hook("on-dm", "echo one >> $OUT/ran");
    let running = hooked.open().await;
    hooked.sections("[on-dm]\nenabled = true\n");
    running.client().reload().await.unwrap();
    write_to(&peer, world.key(0), "1").await;
    hooked.leaves("ran").await;
    hooked.sections("[on-dm]\nenabled = maybe\n");
    let refused = running.client().reload().await.unwrap_err().to_string();
    assert!(refused.contains("hooks.toml:2"), "{refused}");
    write_to(&peer, world.key(0), "2").await;
    until("the hook in force ran again", || async {
        hooked.left("ran").is_some_and(|text| text == "one\none\n")
    })
    .await;
    hooked.home.settings("[hooks]\nenabled = false\n");
    hooked.sections("[on-dm]\nenabled = true\n");
    running.client().reload().await.unwrap();
    write_to(&peer, world.key(0), "3").await;
    until("the message is there", || async { super::stage::inbox(&running).await.len() == 3 })
        .await;
    assert_eq!(hooked.audit().len(), 2);
    running.shutdown().await;
}

/// Decision: what only the broker vouches for is for hooks that ask for it.
#[tokio::test]
async fn a_text_that_the_broker_could_have_written_is_not_heard() {
    let world = World::new(2).await;
    let hooked = Hooked::of(&world, 0);
    hooked.sections("[on-message]\nenabled = true\n[\"home/on-message\"]\nenabled = true\nallow_unverified = true\n");
    hooked.hook("on-message", "echo ran > $OUT/plain");
    hooked.hook("home/on-message", "cat > $OUT/trusting; echo >> $OUT/trusting");
    let running = hooked.open().await;
    let item = claudemesh_daemon::inbox::NewItem {
        sender_verified: false,
        ..super::contract::group_text("forged")
    };
    let now = claudemesh_daemon::clock::now();
    running.daemon().context().inbox.insert(item, now).await.unwrap();
    let heard = hooked.leaves("trusting").await;
    assert!(heard.contains("\"sender_verified\":false"), "{heard}");
    assert_eq!(hooked.audited(1).await.len(), 1);
    assert_eq!((hooked.left("plain"), SLUG), (None, "home"));
    running.shutdown().await;
}
