//! Dialling, handshake, watchdog, reconnect.

use std::time::Duration;

use claudemesh_client::{ConnectionEvent, DisabledReason, Role, Status};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::fake::{Bench, PATIENCE};

/// Daemon spec §6 Accept: a broker that is down at first is found by the same handle.
#[tokio::test(start_paused = true)]
async fn the_first_failure_takes_the_reconnect_road() {
    let mut bench = Bench::refusing(Role::ControlPlane, 3);
    for _ in 0..3 {
        let (code, status, _) = bench.closed().await;
        assert_eq!((code, status), (1006, Status::Reconnecting));
    }
    let _socket = bench.open().await;
    assert!(bench.connection.is_open());
    assert_eq!(bench.connection.counters().dials, 4);
}

/// Daemon spec §6 Accept: hello never acked, each dial follows the 5 s time-out by 0.25–30 s, growing.
#[tokio::test(start_paused = true)]
async fn a_hello_without_answer_is_given_up_after_five_seconds() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(bench.accept().await);
        let (code, status, _) = bench.closed().await;
        assert_eq!((code, status), (1006, Status::Reconnecting));
    }
    let dials = bench.dials();
    let bounds = [1, 2, 4, 8, 16, 30, 30, 30, 30];
    for (pair, bound) in dials.windows(2).zip(bounds) {
        let gap = pair[1] - pair[0];
        let least = Duration::from_millis(5_250);
        // A silent socket may take half a second more to say goodbye to.
        let most = Duration::from_millis(5_600) + Duration::from_secs(bound);
        assert!(gap >= least && gap <= most, "{gap:?} with bound {bound}");
    }
}

/// Daemon spec §6 Accept: accept-then-close makes no hot loop.
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
    assert!(dials.len() - early <= 80, "{} dials in the next ten minutes", dials.len() - early);
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

/// Daemon spec §6 Accept: packets dropped silently: terminated 75 to 106 s after the last frame, then reconnected.
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

/// Daemon spec §18.4: what each end of a connection leads to, seen from outside.
#[tokio::test(start_paused = true)]
async fn close_codes_lead_to_their_state_and_next_dial() {
    let cases = [
        (Role::ControlPlane, 1001, "shutting down", Status::Reconnecting, Some((250, 2_000))),
        (Role::ControlPlane, 1008, "capacity", Status::Reconnecting, Some((30_000, 30_000))),
        (Role::Session, 1000, "session_replaced", Status::Reconnecting, Some((30_000, 30_000))),
        (
            Role::ControlPlane,
            4002,
            "banned",
            Status::Disabled(DisabledReason::Revoked),
            Some((900_000, 900_000)),
        ),
        (
            Role::ControlPlane,
            1008,
            "unauthorized",
            Status::Disabled(DisabledReason::Unauthorized),
            Some((600_000, 600_000)),
        ),
        (
            Role::ControlPlane,
            1008,
            "bad_signature",
            Status::Disabled(DisabledReason::HelloRefused),
            Some((5_000, 5_000)),
        ),
        (
            Role::ControlPlane,
            4003,
            "replaced_by_newer_connection",
            Status::Disabled(DisabledReason::Replaced),
            None,
        ),
        (Role::Session, 4001, "kicked", Status::Disabled(DisabledReason::Kicked), None),
    ];
    for (role, code, reason, expected, range) in cases {
        let mut bench = Bench::new(role);
        bench.open().await.close(code, reason).await;
        let (seen, status, retry_in) = bench.closed().await;
        assert_eq!((seen, status), (code, expected), "{reason}");
        let is_expected = match (range, retry_in) {
            (None, None) => true,
            (Some((least, most)), Some(wait)) => (least..=most).contains(&wait.as_millis()),
            _ => false,
        };
        assert!(is_expected, "{reason}: {retry_in:?}");
    }
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

#[tokio::test(start_paused = true)]
async fn an_old_broker_without_sessions_is_left_alone() {
    let mut bench = Bench::new(Role::Session);
    let mut socket = bench.accept().await;
    socket.send(&json!({"type": "error", "code": "unknown_message_type", "message": ""})).await;
    drop(socket);
    let (_, status, retry_in) = bench.closed().await;
    assert_eq!((status, retry_in), (Status::Disabled(DisabledReason::SessionsUnsupported), None));
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
