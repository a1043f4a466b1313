//! Dialling, handshake, watchdog, reconnect.

use std::time::Duration;

use claudemesh_client::{Backoff, ConnectionEvent, DisabledReason, Role, Status, Timing};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::fake::{Bench, PATIENCE};

/// Daemon spec §6 Accept 1: broker down at boot, up after 20 s: the same handle opens without restart, of both kinds.
#[tokio::test(start_paused = true)]
async fn the_first_failure_takes_the_reconnect_road() {
    for role in [Role::ControlPlane, Role::Session] {
        let start = Instant::now();
        let mut bench = Bench::refusing(role, 1);
        while start.elapsed() < Duration::from_secs(20) {
            let (code, status, _) = bench.closed().await;
            assert_eq!((code, status), (1006, Status::Reconnecting));
            bench.refuse_more(usize::from(start.elapsed() < Duration::from_secs(20)));
        }
        bench.refuse_more(0);
        let up_at = Instant::now();
        let _socket = bench.open().await;
        assert!(bench.connection.is_open());
        assert!(up_at.elapsed() <= Duration::from_secs(30), "{:?}", up_at.elapsed());
    }
}

/// Daemon spec §6 Accept 2: fake broker that never acks hello: each dial follows the 5 s ack timeout by 0.25–30 s, upper bound
/// growing along the schedule; streams do not grow over 10 min.
#[tokio::test(start_paused = true)]
async fn a_hello_without_answer_is_given_up_after_five_seconds() {
    let mut bench = Bench::new(Role::ControlPlane);
    let start = Instant::now();
    let mut silent = Vec::new();
    while start.elapsed() < Duration::from_mins(10) || silent.len() < 10 {
        silent.push(bench.accept().await);
        assert!(bench.streams() <= 1, "{} streams are held", bench.streams());
        let (code, status, _) = bench.closed().await;
        assert_eq!((code, status), (1006, Status::Reconnecting));
        assert_eq!(bench.streams(), 0, "after attempt {}", silent.len());
    }
    let dials = bench.dials();
    let bounds = [1, 2, 4, 8, 16].into_iter().chain(std::iter::repeat(30));
    for (pair, bound) in dials.windows(2).zip(bounds) {
        let after = pair[1] - (pair[0] + Duration::from_secs(5));
        let least = Duration::from_millis(250);
        // A silent socket may take half a second to say goodbye to, which counts as waiting.
        let most = Duration::from_secs(bound).max(Duration::from_millis(501));
        assert!(after >= least && after <= most, "{after:?} with bound {bound}");
    }
}

/// Daemon spec §6 Accept 5: broker accepting then closing with 1000 immediately: ≤ 20 dials in the first 2 min, then ≤ 8 per
/// min. What it costs is measured in the daemon's suite, `mesh/quiet.rs`.
#[tokio::test(start_paused = true)]
async fn a_broker_that_accepts_and_closes_is_not_hammered() {
    let mut bench = Bench::new(Role::ControlPlane);
    let start = Instant::now();
    while start.elapsed() < Duration::from_mins(12) {
        let socket = bench.open().await;
        socket.close(1000, "disconnected").await;
        bench.closed().await;
    }
    let dials = bench.dials();
    let early = dials.iter().filter(|at| **at - start <= Duration::from_mins(2)).count();
    assert!(early <= 20, "{early} dials in the first two minutes");
    // The waits are uniform from 0.25 to 30 s, so that now and then a single minute has nine: the rate is what they bound.
    let later = dials.len() - early;
    assert!(later <= 10 * 8, "{later} dials in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn thirty_seconds_open_start_the_schedule_over() {
    let mut bench = Bench::new(Role::ControlPlane);
    for _ in 0..20 {
        let mut socket = bench.open().await;
        let pinged = async { while let Some(Ok(_)) = socket.0.next().await {} };
        let _still_open = timeout(Duration::from_secs(31), pinged).await;
        socket.close(1000, "disconnected").await;
        let (_, _, retry_in) = bench.closed().await;
        assert!(retry_in.unwrap() <= Duration::from_secs(1));
    }
}

/// Daemon spec §6.3: whenever a connection is cut, the next dial comes within the schedule's bound, and the first bound
/// counts again after half a minute open.
#[tokio::test(start_paused = true)]
async fn each_of_two_hundred_cuts_is_followed_by_a_dial_in_time() {
    const BOUNDS: [u64; 6] = [1, 2, 4, 8, 16, 30];
    for role in [Role::ControlPlane, Role::Session] {
        let mut bench = Bench::new(role);
        let mut attempt = 0;
        for cut in 0..200 {
            // In the handshake, at once, after a while, when it counts as stable, again and again in another order.
            let open_for = [None, Some(0), Some(7), Some(31), Some(3), None, Some(40)][cut % 7];
            if let Some(seconds) = open_for {
                let mut socket = bench.open().await;
                let _cut_in_the_middle =
                    timeout(Duration::from_secs(seconds), socket.serve()).await;
            } else {
                drop(bench.accept().await);
            }
            if open_for.is_some_and(|seconds| seconds >= 30) {
                attempt = 0;
            }
            let dials = bench.dials().len();
            let (code, status, _) = bench.closed().await;
            assert_eq!((code, status), (1006, Status::Reconnecting), "cut {cut}");
            let bound = Duration::from_secs(BOUNDS[attempt.min(BOUNDS.len() - 1)]);
            let closed_at = Instant::now();
            while bench.dials().len() == dials {
                sleep(Duration::from_millis(5)).await;
                assert!(closed_at.elapsed() <= bound + Duration::from_millis(10), "cut {cut}");
            }
            attempt += 1;
        }
        assert_eq!(bench.connection.counters().dials, 201);
    }
}

/// Daemon spec §6 Accept 3: drop packets silently: terminate between 75 s and 106 s after the last frame; reconnect succeeds when
/// traffic returns.
#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed() {
    let mut bench = Bench::new(Role::ControlPlane);
    let hole = bench.open().await;
    let silent_since = Instant::now();
    let (code, status, _) = bench.closed().await;
    let noticed = silent_since.elapsed();
    assert_eq!((code, status), (1006, Status::Reconnecting));
    assert!(
        noticed >= Duration::from_secs(75) && noticed <= Duration::from_secs(106),
        "{noticed:?}"
    );
    drop(hole);
    bench.open().await;
}

/// Daemon spec §3, column "Live": another watchdog counts for the socket that is open, another schedule for the next waits.
#[tokio::test(start_paused = true)]
async fn other_time_limits_are_followed_by_open_connections() {
    let mut bench = Bench::new(Role::ControlPlane);
    let hole = bench.open().await;
    let changed_at = Instant::now();
    let schedule = vec![Duration::from_millis(40)];
    bench.timing.set(Timing {
        ping_interval: Duration::from_secs(3),
        silence_limit: Duration::from_secs(7),
        backoff: Backoff::new(schedule, Duration::from_millis(20)),
        ..Timing::default()
    });
    bench.closed().await;
    let noticed = changed_at.elapsed();
    assert!(noticed >= Duration::from_secs(7) && noticed <= Duration::from_secs(11), "{noticed:?}");
    drop(hole);
    bench.refuse_more(20);
    for _ in 0..20 {
        let wait = bench.closed().await.2.unwrap();
        assert!(wait <= Duration::from_millis(40), "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_answers_pings_is_kept() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    // Reading makes the fake broker answer the pings.
    let reading = async { while let Some(Ok(_)) = socket.0.next().await {} };
    assert!(
        timeout(Duration::from_mins(10), reading).await.is_err(),
        "still open after ten minutes"
    );
    assert!(bench.connection.is_open());
    assert!(bench.connection.state().lag.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_parked_connection_dials_when_asked() {
    let mut bench = Bench::new(Role::ControlPlane);
    bench.open().await.close(4003, "replaced_by_newer_connection").await;
    bench.closed().await;
    sleep(Duration::from_hours(24)).await;
    assert_eq!(bench.dials().len(), 1);
    bench.connection.retry_now();
    bench.open().await;
}

/// Daemon spec §7.1: a wrong clock is corrected with the broker's, at once and with a fresh timestamp.
#[tokio::test(start_paused = true)]
async fn a_skewed_clock_signs_again_with_the_brokers_time() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.accept().await;
    let server_time = 4_000_000_000_000_i64;
    socket
        .send(&json!({"type": "error", "code": "timestamp_skew", "message": "", "serverTime": server_time}))
        .await;
    socket.close(1008, "timestamp_skew").await;
    let (_, _, retry_in) = bench.closed().await;
    assert_eq!(retry_in, Some(Duration::from_millis(250)));
    let stream_dials = bench.dials().len();
    let mut second = bench.accept_with_hello().await;
    assert_eq!(bench.dials().len(), stream_dials + 1);
    let timestamp = second.1["timestamp"].as_i64().unwrap();
    assert!((timestamp - server_time).abs() < 60_000, "{timestamp}");
    second.0.acknowledge_hello().await;
    assert!(matches!(bench.event().await, ConnectionEvent::Opened(_)));
}

/// Wire spec §1.3: a client error `revoked` counts as 4002 even when the close frame is lost.
#[tokio::test(start_paused = true)]
async fn a_lost_close_frame_is_read_from_the_error_before_it() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.accept().await;
    socket
        .send(&json!({"type": "error", "code": "revoked", "message": "You've been removed"}))
        .await;
    drop(socket);
    let (code, status, _) = bench.closed().await;
    assert_eq!((code, status), (4002, Status::Disabled(DisabledReason::Revoked)));
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_leaves_writes_what_is_queued_and_says_goodbye() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let frame = claudemesh_protocol::wire::ClientFrame::Goodbye(Box::default());
    bench.connection.send(&frame).await.unwrap();
    bench.connection.close();
    assert_eq!(socket.receive().await["type"], "goodbye");
    let close = timeout(PATIENCE, socket.0.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
    while let Some(Ok(_)) = socket.0.next().await {}
    bench.tasks.close();
    timeout(PATIENCE, bench.tasks.wait()).await.unwrap();
    assert_eq!(bench.connection.state().status, Status::Closed);
}

/// The broker may have taken the hello: without a goodbye it would show whoever stopped at once until the lease is over.
#[tokio::test(start_paused = true)]
async fn who_stops_before_the_answer_to_its_hello_says_goodbye() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.accept().await;
    bench.connection.close();
    let close = timeout(PATIENCE, socket.0.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
    while let Some(Ok(_)) = socket.0.next().await {}
    bench.tasks.close();
    timeout(PATIENCE, bench.tasks.wait()).await.unwrap();
    assert_eq!(bench.connection.state().status, Status::Closed);
}

#[tokio::test(start_paused = true)]
async fn stopping_while_dialling_ends_the_task() {
    let bench = Bench::new(Role::ControlPlane);
    bench.connection.close();
    bench.tasks.close();
    timeout(Duration::from_secs(5), bench.tasks.wait()).await.unwrap();
    assert_eq!(bench.connection.state().status, Status::Closed);
}

/// Daemon spec §18.3: the owner refuses a broker, which is retried later.
#[tokio::test(start_paused = true)]
async fn a_refused_broker_sees_4010_and_is_tried_again_in_five_minutes() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let reason = format!(r#"{{"kind":"feature_unavailable","detail":"{}"}}"#, "é".repeat(100));
    bench.connection.refuse(4010, &reason, DisabledReason::FeatureMissing, Duration::from_mins(5));
    let close = timeout(PATIENCE, socket.0.next()).await.unwrap().unwrap().unwrap();
    let Message::Close(Some(frame)) = close else { panic!("{close:?}") };
    assert_eq!(u16::from(frame.code), 4010);
    assert!(frame.reason.len() <= 123 && frame.reason.starts_with(r#"{"kind""#));
    drop(socket);
    let (code, status, retry_in) = bench.closed().await;
    assert_eq!((code, status), (4010, Status::Disabled(DisabledReason::FeatureMissing)));
    assert_eq!(retry_in, Some(Duration::from_mins(5)));
}

/// Daemon spec §6 Accept 4: SIGSTOP 60 s / SIGCONT: reconnect ≤ 3 s after CONT. The clock that jumps is what a process sees
/// that stood still.
#[tokio::test(start_paused = true)]
async fn a_stop_of_a_minute_is_made_up_for_in_three_seconds() {
    for stopped_after in [1, 14, 29] {
        let mut bench = Bench::new(Role::ControlPlane);
        let hole = bench.open().await;
        sleep(Duration::from_secs(stopped_after)).await;
        stand_still(Duration::from_mins(1)).await;
        let woke_at = Instant::now();
        let (code, status, retry_in) = bench.closed().await;
        assert_eq!((code, status), (1006, Status::Reconnecting));
        assert!(retry_in.unwrap() <= Duration::from_millis(250), "{retry_in:?}");
        bench.open().await;
        assert!(woke_at.elapsed() <= Duration::from_secs(3), "{:?}", woke_at.elapsed());
        drop(hole);
    }
}

/// Daemon spec §6 Accept 4: SIGSTOP 120 s: the socket counts as dead at once.
#[tokio::test(start_paused = true)]
async fn a_stop_of_two_minutes_gives_the_socket_up_at_once() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    sleep(Duration::from_secs(10)).await;
    stand_still(Duration::from_mins(2)).await;
    let woke_at = Instant::now();
    let (reading, closed) = tokio::join!(socket.serve(), bench.closed());
    let () = reading;
    assert_eq!((closed.0, closed.1), (1006, Status::Reconnecting));
    assert!(woke_at.elapsed() <= Duration::from_millis(50), "{:?}", woke_at.elapsed());
    bench.open().await;
    assert!(woke_at.elapsed() <= Duration::from_secs(1));
    assert_eq!(bench.dials().len(), 2);
}

/// Daemon spec §6.5: a stop that the broker did not notice either costs nothing.
#[tokio::test(start_paused = true)]
async fn a_short_stop_keeps_a_socket_that_still_works() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let serving = async {
        for _ in 0..5 {
            let _still_open = timeout(Duration::from_secs(40), socket.serve()).await;
            stand_still(Duration::from_secs(40)).await;
        }
        let _still_open = timeout(Duration::from_secs(40), socket.serve()).await;
    };
    serving.await;
    assert!(bench.connection.is_open());
    assert_eq!(bench.dials().len(), 1);
}

/// Daemon spec §6.3: another network: what waits dials at once and does not count it; what is open proves itself.
#[tokio::test(start_paused = true)]
async fn another_network_is_tried_at_once() {
    let mut bench = Bench::refusing(Role::ControlPlane, 8);
    for _ in 0..7 {
        bench.closed().await;
    }
    let (_, _, retry_in) = bench.closed().await;
    assert!(retry_in.unwrap() > Duration::from_millis(250));
    let changed_at = Instant::now();
    bench.connection.network_changed();
    let mut socket = bench.open().await;
    assert_eq!(changed_at.elapsed(), Duration::ZERO);
    bench.connection.network_changed();
    let _still_open = timeout(Duration::from_secs(5), socket.serve()).await;
    assert!(bench.connection.is_open(), "the broker answered");
    let asked_at = Instant::now();
    bench.connection.network_changed();
    let (code, _, retry_in) = bench.closed().await;
    assert_eq!((code, asked_at.elapsed()), (1006, Duration::from_secs(2)));
    assert!(retry_in.unwrap() <= Duration::from_millis(250));
    bench.open().await;
}

/// Daemon spec §7.3: a read whose socket ended is asked again on the next one.
#[tokio::test(start_paused = true)]
async fn a_read_is_asked_again_on_the_next_socket() {
    use claudemesh_protocol::wire::{ClientFrame, ServerFrame};
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let connection = bench.connection.clone();
    let frame = ClientFrame::ListPeers(Box::default());
    let asking = connection.request(&frame, Duration::from_secs(5));
    let answering = async {
        assert_eq!(socket.receive().await["type"], "list_peers");
        drop(socket);
        bench.closed().await;
        let mut next = bench.open().await;
        let again = next.receive().await;
        let answer = json!({"type": "peers_list", "peers": [], "_reqId": again["_reqId"]});
        next.send(&answer).await;
        next
    };
    let (answer, mut socket) = tokio::join!(asking, answering);
    assert!(matches!(answer, Ok(ServerFrame::PeersList(_))), "{answer:?}");
    let asking = connection.request(&frame, Duration::from_millis(100));
    let dying = async {
        socket.receive().await;
        drop(socket);
    };
    let (answer, ()) = tokio::join!(asking, dying);
    assert!(answer.is_err(), "nobody came back in time");
}

/// The process does nothing for this long, as by SIGSTOP: every timer fires at once, late.
async fn stand_still(long: Duration) {
    tokio::time::advance(long).await;
}
