//! Settings that a running daemon takes over (daemon spec §1.3, §3): by the route, and by SIGHUP.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use claudemesh_daemon::clock::now;
use claudemesh_ipc::api::{EventKind, EventsQuery, RecipientKind};
use claudemesh_protocol::Timestamp;
use tokio::net::TcpListener;

use super::inbox::{item, put};
use super::process::DaemonProcess;
use super::world::{Home, code, until};

/// Each changed key is named once, with when it applies; what did not change is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_names_every_key_that_changed() {
    let home = Home::new();
    home.settings("[ipc]\nmax_sse = 3\n[outbox]\nmax_age_hours_default = 100\n");
    let running = home.start().await;
    let client = running.client();
    let same = client.reload().await.unwrap();
    assert!(same.applied.is_empty() && same.needs_restart.is_empty(), "{same:?}");
    home.settings(
        "[ipc]\nmax_sse = 4\nhttp_port = 1\n[reconnect]\nmin_wait = \"1s\"\n[watchdog]\nstale_after = \"80s\"\n\
         [inbox]\nfts = false\ndigest_after = \"1m\"\n[capabilities]\nstate = false\n[metrics]\nprometheus = false\n",
    );
    let mut reply = client.reload().await.unwrap();
    reply.applied.sort();
    reply.needs_restart.sort();
    assert_eq!(
        reply.applied,
        [
            "capabilities.state",
            "inbox.digest_after",
            "ipc.max_sse",
            "reconnect.min_wait",
            "watchdog.stale_after"
        ]
    );
    let fixed =
        ["inbox.fts", "ipc.http_port", "metrics.prometheus", "outbox.max_age_hours_default"];
    assert_eq!(reply.needs_restart, fixed);
    home.settings("[ipc]\nmax_sse = \"many\"\n");
    assert_eq!(code(client.reload().await), "io_error");
    assert_eq!(running.daemon().context().settings.get().ipc.max_sse, 4, "the old ones stay");
    running.shutdown().await;
}

/// The rate of the local API follows SIGHUP as it follows the route.
#[tokio::test(flavor = "multi_thread")]
async fn the_rate_follows_a_signal() {
    let home = Home::new();
    let daemon = DaemonProcess::start(&home, "").await;
    let client = daemon.client();
    for _ in 0..20 {
        client.version().await.unwrap();
    }
    home.settings("[ipc]\nrate_per_sec = 1\nrate_burst = 2\n");
    daemon.signal(rustix::process::Signal::HUP);
    until("the new rate", || async {
        client
            .version()
            .await
            .is_err_and(|error| error.api().is_some_and(|error| error.body.error == "rate_limited"))
    })
    .await;
    home.settings("");
    daemon.signal(rustix::process::Signal::HUP);
    until("the old rate", || async {
        for _ in 0..20 {
            if client.version().await.is_err() {
                return false;
            }
        }
        true
    })
    .await;
}

/// A broker that hangs up at once is dialled as the new schedule says, without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_of_dials_is_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let dials = AtomicUsize::new(0);
    let hanging_up = async {
        loop {
            drop(listener.accept().await.unwrap());
            dials.fetch_add(1, Ordering::SeqCst);
        }
    };
    let home = Home::new();
    home.join_at("dev", &url);
    home.settings("[reconnect]\nschedule_ms = [600000]\nmin_wait = \"10m\"\n");
    let following = async {
        let running = home.start().await;
        until("the first dial", || async { dials.load(Ordering::SeqCst) == 1 }).await;
        home.settings("[reconnect]\nschedule_ms = [20]\nmin_wait = \"5ms\"\n");
        running.client().reload().await.unwrap();
        until("many dials", || async { dials.load(Ordering::SeqCst) >= 10 }).await;
        running.shutdown().await;
    };
    tokio::select! {
        () = hanging_up => unreachable!("it hangs up for ever"),
        () = following => {}
    }
}

/// Daemon spec §13.2: from which age group messages are only counted.
#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_digests_is_followed() {
    let home = Home::new();
    let member = home.join("dev").public();
    let running = home.start().await;
    let client = running.client();
    let kinds = Some("message,inbox_digest".to_owned());
    let query = EventsQuery { kinds, ..EventsQuery::default() };
    let mut events = client.events(&query, None).await.unwrap();
    let two_minutes_old = |id: &str| {
        let mut item = item(member, RecipientKind::Member, id);
        item.channel = "broadcast".to_owned();
        let created = now().as_millis() - 120_000;
        item.created_at = Some(Timestamp::from_millis(created));
        item
    };
    put(&running, two_minutes_old("before")).await;
    assert_eq!(events.next().await.unwrap().unwrap().kind, EventKind::Message);
    home.settings("[inbox]\ndigest_after = \"1m\"\n");
    assert_eq!(client.reload().await.unwrap().applied, ["inbox.digest_after"]);
    put(&running, two_minutes_old("after")).await;
    let limit = Duration::from_secs(10);
    let event = tokio::time::timeout(limit, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.kind, EventKind::InboxDigest);
    running.shutdown().await;
}
