//! Many messages and slow hooks (daemon spec §16.5): who receives never waits.

use std::time::{Duration, Instant};

use claudemesh_protocol::limits::{HOOK_QUEUE, HOOKS_AT_ONCE};

use super::contract::group_text;
use super::stage::Hooked;
use crate::local::world::until;

/// Stores so many messages, one every `pause`, and answers how long each took, shortest first.
async fn store(
    running: &claudemesh_daemon::Running,
    count: usize,
    pause: Duration,
) -> Vec<Duration> {
    let inbox = running.daemon().context().inbox.clone();
    let mut storing = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(pause);
    for number in 0..count {
        ticks.tick().await;
        let inbox = inbox.clone();
        storing.spawn(async move {
            let began = Instant::now();
            let item = group_text(&format!("message {number}"));
            inbox.insert(item, claudemesh_daemon::clock::now()).await.unwrap();
            began.elapsed()
        });
    }
    let mut times = storing.join_all().await;
    times.sort_unstable();
    times
}

/// The time within which 99 of 100 messages were stored: without hooks, and with one that takes a second.
async fn crowd(count: usize, pause: Duration) -> (Duration, Duration) {
    let hooked = Hooked::new();
    hooked.home.join("home");
    let running = hooked.start().await;
    let alone = store(&running, count, pause).await;
    running.shutdown().await;
    hooked
        .sections("[on-message]\nenabled = true\nnetwork_policy = \"allow\"\nfs_policy = \"rw\"\n");
    hooked.hook("on-message", "sleep 1");
    let running = hooked.start().await;
    let times = store(&running, count, pause).await;
    let figures = || running.daemon().hooks().metrics().remove(0);
    let ran =
        |figures: &claudemesh_daemon::hooks::HookMetrics| figures.invocations.values().sum::<u64>();
    let count = count as u64;
    // What neither ran nor was dropped waits or runs, and that is bounded.
    let open = {
        let figures = figures();
        count - ran(&figures) - figures.dropped
    };
    assert!(open <= (HOOK_QUEUE + HOOKS_AT_ONCE) as u64, "{open} are open: {:?}", figures());
    assert!(figures().dropped >= count / 2, "{:?}", figures());
    until("eight at a time go on", || async { ran(&figures()) > 8 }).await;
    running.shutdown().await;
    let of = |times: Vec<Duration>| times[times.len() * 99 / 100];
    (of(alone), of(times))
}

/// Whatever else this machine does.
fn bound_beside(alone: Duration) -> Duration {
    alone * 4 + Duration::from_millis(250)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_messages_does_not_wait_for_hooks() {
    let (alone, slowest) = crowd(2_000, Duration::from_millis(1)).await;
    assert!(slowest < bound_beside(alone), "{alone:?} {slowest:?}");
}

/// §16 Accept 9: 10,000 inbound messages in 10 s with a 1-s hook: queue bounded, drops counted, and nobody waits for hooks.
/// Its 20 ms are no test's business, least of all in a debug build: what is measured is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn ten_thousand_messages_in_ten_seconds_do_not_wait_for_hooks() {
    let (alone, slowest) = crowd(10_000, Duration::from_millis(1)).await;
    println!("p99 without hooks {alone:?}, with them {slowest:?}");
    assert!(slowest < bound_beside(alone), "{alone:?} {slowest:?}");
}
