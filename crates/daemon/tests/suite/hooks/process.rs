//! The processes of hooks (daemon spec §16.5): their time, their group, their end with the daemon.

use std::time::{Duration, Instant};

use serde_json::json;

use super::stage::{Hooked, SOON, pair, processes, write_to};
use crate::mesh::node::until;

/// A number of seconds that nobody else sleeps.
fn mark() -> String {
    let [a, b, c, d] = claudemesh_crypto::random::bytes::<4>();
    format!("7{:03}.{:03}", u16::from(a) + u16::from(b), u16::from(c) + u16::from(d))
}

/// §16 Accept 1: a hook that forks `sleep 600 &` and hangs: after timeout + 5 s no process of the group is alive.
#[tokio::test]
async fn a_hook_that_hangs_is_ended_with_all_that_it_started() {
    let (world, hooked, peer) = pair().await;
    hooked.sections("[on-dm]\nenabled = true\ntimeout = \"500ms\"\n");
    let seconds = mark();
    let script = format!(
        "trap '' TERM\nsleep {seconds} &\n(trap '' TERM; sleep {seconds}) &\necho begun > $OUT/begun\nwhile true; do sleep {seconds}; done"
    );
    hooked.hook("on-dm", &script);
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    hooked.leaves("begun").await;
    let began = Instant::now();
    assert!(processes(&seconds) > 0);
    until("nothing of it is left", async || processes(&seconds) == 0).await;
    assert!(began.elapsed() < Duration::from_millis(500) + Duration::from_secs(5) + SOON);
    let line = &hooked.audited(1).await[0];
    assert_eq!((&line["timed_out"], &line["signal"]), (&json!(true), &json!(9)), "{line}");
    running.shutdown().await;
}

#[tokio::test]
async fn a_hook_that_is_asked_to_end_may_do_so_in_its_own_way() {
    let (world, hooked, peer) = pair().await;
    hooked.sections("[on-dm]\nenabled = true\ntimeout = \"300ms\"\n");
    hooked
        .hook("on-dm", "trap 'echo bye > $OUT/bye; exit 0' TERM\nwhile true; do sleep 0.05; done");
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    hooked.leaves("bye").await;
    let line = &hooked.audited(1).await[0];
    assert_eq!((&line["timed_out"], &line["exit"]), (&json!(true), &json!(0)), "{line}");
    assert!(line["duration_ms"].as_u64().unwrap() < 3_000, "{line}");
    running.shutdown().await;
}

/// What a script leaves behind holds its streams, and neither the queue nor the answer.
#[tokio::test]
async fn what_a_hook_leaves_behind_ends_with_it() {
    let (world, hooked, peer) = pair().await;
    hooked.sections(
        "[on-dm]\nenabled = true\n[on-message]\nenabled = true\nkillpg_on_timeout = false\n",
    );
    let (ended, kept) = (mark(), mark());
    hooked.hook("on-dm", &format!("sleep {ended} &\nsleep {ended} > /dev/null 2>&1 &\nexit 0"));
    hooked.hook(
        "on-message",
        &format!("sleep {kept} > /dev/null 2>&1 &\necho $! > $OUT/kept\nexit 0"),
    );
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    let audit = hooked.audited(2).await;
    assert!(audit.iter().all(|line| line["exit"] == 0), "{audit:?}");
    assert_eq!(processes(&ended), 0);
    assert_eq!(processes(&kept), 1, "that section says that it stays");
    let pid: i32 = hooked.leaves("kept").await.trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    running.shutdown().await;
}

/// Daemon spec §16.5: output beyond the limit is discarded and flagged, and does not hold the script up.
#[tokio::test]
async fn output_without_end_is_cut_off() {
    let (world, hooked, peer) = pair().await;
    hooked.sections("[on-dm]\nenabled = true\nallow_reply = true\n");
    // It reads nothing of its input either.
    hooked.hook("on-dm", "head -c 3000000 /dev/zero | tr '\\0' ' '; head -c 2000000 /dev/zero >&2; echo '{\"reply\":\"no\"}'");
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    let line = &hooked.audited(1).await[0];
    assert_eq!((&line["stderr_bytes"], &line["truncated"]), (&json!(2_000_000), &json!(true)));
    assert!(line["stdout_bytes"].as_u64().unwrap() > 3_000_000);
    assert_eq!((&line["exit"], &line["replied"]), (&json!(0), &json!(false)));
    running.shutdown().await;
}

/// Daemon spec §16.5: shutdown: SIGTERM to the groups, 2 s, SIGKILL.
#[tokio::test]
async fn hooks_end_with_their_daemon() {
    let (world, hooked, peer) = pair().await;
    hooked.sections("[on-dm]\nenabled = true\n[on-message]\nenabled = true\n");
    let seconds = mark();
    hooked.hook(
        "on-dm",
        &format!(
            "trap 'echo bye > $OUT/bye; exit 0' TERM\necho x > $OUT/polite\nsleep {seconds} & wait"
        ),
    );
    hooked.hook(
        "on-message",
        &format!("trap '' TERM\necho x > $OUT/deaf\nwhile true; do sleep {seconds}; done"),
    );
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    hooked.leaves("polite").await;
    hooked.leaves("deaf").await;
    let began = Instant::now();
    running.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(2) + SOON, "{:?}", began.elapsed());
    assert_eq!(processes(&seconds), 0);
    assert_eq!(hooked.left("bye").as_deref(), Some("bye\n"));
}

#[tokio::test]
async fn a_file_that_is_no_program_is_a_failed_run() {
    let hooked = Hooked::new();
    hooked.sections("[on-startup]\nenabled = true\n");
    let path = hooked.hook("on-startup", "true");
    std::fs::write(&path, "#!/nowhere/interpreter\n").unwrap();
    let running = hooked.start().await;
    let line = &hooked.audited(1).await[0];
    assert_eq!(line["exit"], json!(i64::from(claudemesh_daemon::hooks::NOT_BEGUN)), "{line}");
    running.shutdown().await;
}
