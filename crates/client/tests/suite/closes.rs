//! Close codes and what follows from them: the table of daemon spec §18.4, row by row, seen from outside.

use std::time::Duration;

use claudemesh_client::{DisabledReason, Role, Status};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::fake::Bench;

use Role::{ControlPlane, Session};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

/// When the next dial comes, in milliseconds after the close.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// Within these bounds.
    In(u64, u64),
    /// Not by itself.
    Never,
}

/// By the schedule, first wait.
const SCHEDULE: Next = Next::In(250, SECOND);

async fn closes(role: Role, code: u16, reason: &'static str, expected: Status, next: Next) {
    let mut bench = Bench::new(role);
    bench.open().await.close(code, reason).await;
    expect(&mut bench, code, expected, next).await;
}

/// The next end of a socket is this one, and the dial after it comes when it should.
async fn expect(bench: &mut Bench, code: u16, expected: Status, next: Next) {
    let (seen, status, retry_in) = bench.closed().await;
    assert_eq!((seen, status), (code, expected));
    assert_eq!(bench.connection.state().status, expected);
    let (closed_at, dials) = (Instant::now(), bench.dials().len());
    match next {
        Next::Never => {
            assert_eq!(retry_in, None);
            sleep(Duration::from_hours(24)).await;
            assert_eq!(bench.dials().len(), dials, "nobody dials by itself after {code}");
        }
        Next::In(least, most) => {
            let wait = retry_in.expect("a retry").as_millis();
            let range = u128::from(least)..=u128::from(most);
            assert!(range.contains(&wait), "{code}: {wait} ms");
            sleep(Duration::from_millis(most + 100)).await;
            let dialled = bench.dials();
            assert_eq!(dialled.len(), dials + 1, "one dial after {code}");
            let after = (dialled[dials] - closed_at).as_millis();
            // A goodbye that takes a moment counts as waiting.
            assert!(
                after + 600 >= u128::from(least) && after <= u128::from(most) + 5,
                "{after} ms"
            );
        }
    }
}

/// daemon §18 Accept 1: 1000 `disconnected`: by the schedule.
#[tokio::test(start_paused = true)]
async fn a_soft_disconnect_reconnects() {
    for role in [ControlPlane, Session] {
        closes(role, 1000, "disconnected", Status::Reconnecting, SCHEDULE).await;
    }
}

/// daemon §18 Accept 1: 1000 `session_replaced` by a stranger: 30 s, then doubling to ten minutes.
#[tokio::test(start_paused = true)]
async fn a_session_taken_over_elsewhere_is_contested_ever_slower() {
    let mut bench = Bench::new(Session);
    for seconds in [30, 60, 120, 240, 480, 600, 600] {
        bench.open().await.close(1000, "session_replaced").await;
        let (_, status, retry_in) = bench.closed().await;
        assert_eq!(status, Status::Reconnecting);
        assert_eq!(retry_in, Some(Duration::from_secs(seconds)));
    }
    closes(ControlPlane, 1000, "session_replaced", Status::Reconnecting, SCHEDULE).await;
}

/// daemon §18 Accept 1: 1001 `shutting down`: first wait 0.25–2 s.
#[tokio::test(start_paused = true)]
async fn a_stopping_broker_is_dialled_again_soon() {
    for role in [ControlPlane, Session] {
        let soon = Next::In(250, 2 * SECOND);
        closes(role, 1001, "shutting down", Status::Reconnecting, soon).await;
    }
}

/// daemon §18 Accept 1: 1006, a transport error: by the schedule.
#[tokio::test(start_paused = true)]
async fn a_lost_connection_reconnects() {
    let mut bench = Bench::new(ControlPlane);
    drop(bench.open().await);
    expect(&mut bench, 1006, Status::Reconnecting, SCHEDULE).await;
}

/// daemon §18 Accept 1: 1008 `capacity`: 30 s.
#[tokio::test(start_paused = true)]
async fn a_full_mesh_is_asked_again_after_thirty_seconds() {
    let wait = Next::In(30 * SECOND, 30 * SECOND);
    closes(ControlPlane, 1008, "capacity", Status::Reconnecting, wait).await;
}

/// daemon §18 Accept 1: 1008 `expired`, `ttl_too_long`, `timestamp_skew`, `hello_timeout`: signed again once at once,
/// then by the schedule.
#[tokio::test(start_paused = true)]
async fn times_that_are_refused_are_signed_again_once_at_once() {
    for (role, reason) in [
        (Session, "expired"),
        (Session, "ttl_too_long"),
        (ControlPlane, "timestamp_skew"),
        (Session, "timestamp_skew"),
        (ControlPlane, "hello_timeout"),
    ] {
        let mut bench = Bench::new(role);
        let mut timestamps = Vec::new();
        for attempt in 0..8_usize {
            let (mut socket, hello) = bench.accept_with_hello().await;
            timestamps.push(hello["timestamp"].as_i64().unwrap());
            socket.send(&json!({"type": "error", "code": reason, "message": ""})).await;
            socket.close(1008, reason).await;
            let (code, status, retry_in) = bench.closed().await;
            assert_eq!((code, status), (1008, Status::Reconnecting), "{reason}");
            let bound = [250, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000][attempt];
            let wait = retry_in.unwrap();
            assert!(wait >= Duration::from_millis(250) && wait <= Duration::from_millis(bound));
        }
        assert!(timestamps.is_sorted_by(|left, right| left < right), "fresh timestamps: {reason}");
    }
}

/// daemon §18 Accept 1: 1008 for a hello the broker calls wrong: state error, once after 5 s, then every 10 min.
#[tokio::test(start_paused = true)]
async fn wrong_hellos_are_repeated_once_then_every_ten_minutes() {
    for (role, reason) in [
        (ControlPlane, "bad_signature"),
        (ControlPlane, "malformed"),
        (Session, "attestation_mismatch"),
        (Session, "bad_session_pubkey"),
        (Session, "bad_parent_pubkey"),
    ] {
        let mut bench = Bench::new(role);
        for seconds in [5, 600, 600] {
            bench.accept().await.close(1008, reason).await;
            let wait = Next::In(seconds * SECOND, seconds * SECOND);
            expect(&mut bench, 1008, Status::Disabled(DisabledReason::HelloRefused), wait).await;
        }
    }
}

/// daemon §18 Accept 1: 1008 `invalid_json`, 1011 `slow_consumer`, `internal`: by the schedule.
#[tokio::test(start_paused = true)]
async fn failures_of_the_exchange_reconnect() {
    for (code, reason) in [(1008, "invalid_json"), (1011, "slow_consumer"), (1011, "internal")] {
        closes(ControlPlane, code, reason, Status::Reconnecting, SCHEDULE).await;
    }
}

/// daemon §18 Accept 1: 1008 `unauthorized`, `parent_member_id_mismatch`, and the words of old brokers: disabled, every
/// 10 min.
#[tokio::test(start_paused = true)]
async fn strangers_are_disabled_and_ask_every_ten_minutes() {
    for (role, reason) in [
        (ControlPlane, "unauthorized"),
        (Session, "parent_member_id_mismatch"),
        (ControlPlane, "mesh_not_found"),
        (ControlPlane, "mesh_archived"),
        (ControlPlane, "key_rotated"),
    ] {
        let wait = Next::In(10 * MINUTE, 10 * MINUTE);
        closes(role, 1008, reason, Status::Disabled(DisabledReason::Unauthorized), wait).await;
    }
}

/// daemon §18 Accept 1: 1009: by the schedule.
#[tokio::test(start_paused = true)]
async fn a_frame_that_was_too_big_reconnects() {
    closes(ControlPlane, 1009, "", Status::Reconnecting, SCHEDULE).await;
}

/// daemon §18 Accept 1: 4001 `kicked`: a session stops; a control-plane connection takes it for a soft disconnect.
#[tokio::test(start_paused = true)]
async fn a_kicked_session_stays_away() {
    for reason in ["kicked", "kicked_stale"] {
        let kicked = Status::Disabled(DisabledReason::Kicked);
        closes(Session, 4001, reason, kicked, Next::Never).await;
    }
    closes(ControlPlane, 4001, "kicked", Status::Reconnecting, SCHEDULE).await;
}

/// daemon §18 Accept 1: 4002 `banned`, `revoked`: disabled, one retry every 15 min.
#[tokio::test(start_paused = true)]
async fn a_revoked_member_asks_every_fifteen_minutes() {
    for role in [ControlPlane, Session] {
        for reason in ["banned", "revoked"] {
            let wait = Next::In(15 * MINUTE, 15 * MINUTE);
            closes(role, 4002, reason, Status::Disabled(DisabledReason::Revoked), wait).await;
        }
    }
}

/// daemon §18 Accept 1: 4003 and 4004: the other machine has the mesh; no automatic retry, but one when asked.
#[tokio::test(start_paused = true)]
async fn a_second_machine_with_the_same_key_stands_back() {
    let replaced = Status::Disabled(DisabledReason::Replaced);
    closes(ControlPlane, 4003, "replaced_by_newer_connection", replaced, Next::Never).await;
    let mut bench = Bench::new(ControlPlane);
    bench.accept().await.close(4004, "member_already_connected").await;
    let second = Status::Disabled(DisabledReason::MemberAlreadyConnected);
    expect(&mut bench, 4004, second, Next::Never).await;
    bench.connection.network_changed();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(bench.dials().len(), 1, "another network is no permission");
    bench.connection.retry_now();
    bench.open().await;
}

/// daemon §18 Accept 1: 4010, and its old split 4011, 4012: every 5 min.
#[tokio::test(start_paused = true)]
async fn a_missing_feature_is_looked_for_every_five_minutes() {
    for code in [4010, 4011, 4012] {
        let wait = Next::In(5 * MINUTE, 5 * MINUTE);
        let missing = Status::Disabled(DisabledReason::FeatureMissing);
        closes(ControlPlane, code, "{}", missing, wait).await;
    }
}

/// daemon §18 Accept 1: `error unknown_message_type` to `session_hello`: that broker knows no sessions.
#[tokio::test(start_paused = true)]
async fn an_old_broker_without_sessions_is_left_alone() {
    for code in ["unknown_message_type", "no_hello"] {
        let mut bench = Bench::new(Session);
        let mut socket = bench.accept().await;
        socket.send(&json!({"type": "error", "code": code, "message": ""})).await;
        socket.close(1008, code).await;
        let parked = Status::Disabled(DisabledReason::SessionsUnsupported);
        expect(&mut bench, 1008, parked, Next::Never).await;
    }
}
