//! What a daemon costs while nothing comes of it.

use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_protocol::MemberId;

use super::fake_broker::{FakeBroker, modern_features};
use super::node::entry;
use crate::local::process::DaemonProcess;
use crate::local::world::Home;

/// Dials of the first moments, when the waits between them are short, and the rest of the start.
const SETTLES: Duration = Duration::from_secs(4);
const WATCHED: Duration = Duration::from_secs(12);
/// Unit of the times in `/proc/<pid>/stat` on Linux: 100 in a second.
const TICK: Duration = Duration::from_millis(10);

/// Time that a process has had on any core.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks: u32 = [11, 12].iter().map(|field| fields[*field].parse::<u32>().unwrap()).sum();
    TICK * ticks
}

async fn cost(pid: u32) -> Duration {
    tokio::time::sleep(SETTLES).await;
    let before = cpu(pid);
    tokio::time::sleep(WATCHED).await;
    cpu(pid).saturating_sub(before)
}

/// Daemon spec §6 Accept 5: broker accepting then closing with 1000 immediately: CPU < 1 %.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_up_costs_no_cpu() {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let home = Home::new();
    home.join_as(entry(&broker.mesh, &MemberId::new("me"), me, &broker.url()));
    let mut dials = 0;
    let hanging_up = async {
        loop {
            broker.accept(modern_features()).await.close(1000, "disconnected").await;
            dials += 1;
        }
    };
    let watching = async {
        let daemon = DaemonProcess::start(&home, "").await;
        cost(daemon.client().version().await.unwrap().pid).await
    };
    let spent = tokio::select! {
        () = hanging_up => unreachable!("it hangs up for ever"),
        spent = watching => spent,
    };
    assert!(spent < WATCHED / 100, "{spent:?} of {WATCHED:?}, {dials} dials");
    assert!(dials >= 3, "{dials} dials");
}

/// A daemon whose mesh is quiet costs next to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_daemon_costs_no_cpu() {
    let home = Home::new();
    let daemon = DaemonProcess::start(&home, "").await;
    let spent = cost(daemon.client().version().await.unwrap().pid).await;
    assert!(spent < WATCHED / 100, "{spent:?} of {WATCHED:?}");
}

/// How often the threads of a process went to sleep by themselves, and so woke up.
fn naps(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let naps = |thread: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
        let status = std::fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    threads.filter_map(naps).sum()
}

/// Daemon §1.3: an idle daemon has no periodic wake-up faster than 15 s, and at each it wakes up for everything at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute; make test-all"]
async fn an_idle_daemon_wakes_up_every_fifteen_seconds() {
    const MINUTE: Duration = Duration::from_mins(1);
    let home = Home::new();
    let daemon = DaemonProcess::start(&home, "").await;
    let pid = daemon.client().version().await.unwrap().pid;
    tokio::time::sleep(SETTLES * 4).await;
    let before = naps(pid);
    tokio::time::sleep(MINUTE).await;
    let woke = naps(pid).saturating_sub(before);
    // Four moments, at each of them a handful of threads for a handful of things.
    assert!(woke <= 4 * 30, "{woke} in a minute");
}
