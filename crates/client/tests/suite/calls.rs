//! Requests, acknowledgements, events and back-pressure.

use std::time::Duration;

use claudemesh_client::{ConnectionEvent, RequestError, Role};
use claudemesh_protocol::wire::{ClientFrame, Send, ServerFrame};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::fake::{Bench, PATIENCE};

fn list_peers() -> ClientFrame {
    ClientFrame::ListPeers(Box::default())
}

fn message(id: &str) -> Send {
    Send { id: Some(id.to_owned()), target_spec: "*".to_owned(), ..Send::default() }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn replies_find_their_call_in_any_order() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let connection = bench.connection.clone();
    let (peers_frame, members_frame) = (list_peers(), ClientFrame::ListMembers(Box::default()));
    let calls = async {
        tokio::join!(
            connection.request(&peers_frame, SECOND),
            connection.request(&members_frame, SECOND)
        )
    };
    let broker = async {
        let (first, second) = (socket.receive().await, socket.receive().await);
        socket
            .send(&json!({"type": "members_list", "members": [], "_reqId": second["_reqId"]}))
            .await;
        socket
            .send(&json!({"type": "error", "code": "forbidden", "message": "no", "_reqId": "r999"}))
            .await;
        socket.send(&json!({"type": "peers_list", "peers": [], "_reqId": first["_reqId"]})).await;
        // Keep the socket until the calls are answered.
        socket
    };
    let ((peers, members), _socket) = tokio::join!(calls, broker);
    assert!(matches!(peers, Ok(ServerFrame::PeersList(_))));
    assert!(matches!(members, Ok(ServerFrame::MembersList(_))));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_fails_only_its_call() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let connection = bench.connection.clone();
    let frame = list_peers();
    let broker = async {
        let request = socket.receive().await;
        // An old broker puts the request id into `id`.
        socket.send(&json!({"type": "error", "code": "forbidden", "message": "no", "id": request["_reqId"]})).await;
        socket
    };
    let (refused, _socket) = tokio::join!(connection.request(&frame, SECOND), broker);
    assert!(matches!(refused, Err(RequestError::Refused(error)) if error.code == "forbidden"));
    assert!(bench.connection.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_answer_times_out_and_its_late_reply_is_dropped() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let start = Instant::now();
    let answer = bench.connection.request(&list_peers(), 5 * SECOND).await;
    assert!(matches!(answer, Err(RequestError::Timeout)));
    assert_eq!(start.elapsed(), 5 * SECOND);
    let request = socket.receive().await;
    socket.send(&json!({"type": "peers_list", "peers": [], "_reqId": request["_reqId"]})).await;
    socket.send(&json!({"type": "push", "messageId": "M"})).await;
    assert!(matches!(bench.event().await, ConnectionEvent::Push(_)));
    assert_eq!(bench.connection.counters().unmatched_replies, 1);
}

#[tokio::test(start_paused = true)]
async fn acks_are_matched_by_the_id_of_the_send() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let connection = bench.connection.clone();
    let calls = async {
        tokio::join!(
            connection.send_message(message("a"), SECOND),
            connection.send_message(message("b"), SECOND)
        )
    };
    let broker = async {
        let (_a, _b) = (socket.receive().await, socket.receive().await);
        socket.send(&json!({"type": "ack", "id": "b", "messageId": "", "queued": false, "error": "internal: x"})).await;
        socket.send(&json!({"type": "ack", "id": "a", "messageId": "M1", "queued": true})).await;
        socket
    };
    let ((a, b), _socket) = tokio::join!(calls, broker);
    assert_eq!(a.unwrap().message_id, "M1");
    assert!(!b.unwrap().queued);
}

#[tokio::test(start_paused = true)]
async fn calls_fail_with_the_socket_and_before_its_end_is_told() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let connection = bench.connection.clone();
    let broker = async {
        socket.receive().await;
        drop(socket);
    };
    let (answer, ()) = tokio::join!(connection.send_message(message("a"), 15 * SECOND), broker);
    assert!(matches!(answer, Err(RequestError::Disconnected)));
    bench.closed().await;
    assert!(matches!(bench.connection.send(&list_peers()).await, Err(RequestError::NotOpen)));
}

#[tokio::test(start_paused = true)]
async fn events_keep_their_order_while_the_owner_is_slow() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let broker = async {
        for n in 0..2_000 {
            socket.send(&json!({"type": "push", "messageId": n.to_string()})).await;
        }
        socket
    };
    let owner = async {
        for n in 0..2_000 {
            if n % 100 == 0 {
                tokio::time::sleep(SECOND).await;
            }
            let ConnectionEvent::Push(push) = bench.event().await else {
                panic!("a push was expected")
            };
            assert_eq!(push.message_id, n.to_string());
        }
    };
    let (_socket, ()) = tokio::join!(broker, owner);
}

/// Daemon spec §6.2: a full outbound queue for 10 s ends the socket.
#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_read_is_given_up() {
    let mut bench = Bench::new(Role::ControlPlane);
    let _never_read = bench.open().await;
    let big = Send { ciphertext: "x".repeat(60_000).into(), ..message("a") };
    let frame = ClientFrame::Send(Box::new(big));
    let mut queued = 0;
    let start = loop {
        let start = Instant::now();
        match bench.connection.send(&frame).await {
            Ok(()) => queued += 1,
            Err(RequestError::Blocked) => break start,
            Err(other) => panic!("{other}"),
        }
    };
    assert!((50..=80).contains(&queued), "about 4 MiB fit, not {queued} frames of 60 kB");
    assert_eq!(start.elapsed(), 10 * SECOND);
    bench.closed().await;
    bench.open().await;
}

#[tokio::test(start_paused = true)]
async fn frames_above_the_announced_limit_are_never_written() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let big = Send { ciphertext: "x".repeat(70_000).into(), ..message("a") };
    let refused = bench.connection.send_message(big, SECOND).await;
    assert!(matches!(refused, Err(RequestError::TooLarge { max: 65_536, .. })));
    assert!(timeout(SECOND, socket.0.next()).await.is_err(), "nothing was written");
    drop(socket);
    assert_eq!(bench.closed().await.0, 1006);
    let mut roomy = bench.accept().await;
    let limits = json!({"maxMessageBytes": 65536, "maxFrameBytes": 2_097_152, "sendPerMinute": 300, "sendBurst": 60});
    roomy.send(&json!({"type": "hello_ack", "presenceId": "P", "limits": limits})).await;
    assert!(matches!(bench.event().await, ConnectionEvent::Opened(_)));
    let big = Send { ciphertext: "x".repeat(70_000).into(), ..message("a") };
    bench.connection.send(&ClientFrame::Send(Box::new(big))).await.unwrap();
    assert_eq!(timeout(PATIENCE, roomy.receive()).await.unwrap()["id"], "a");
}
