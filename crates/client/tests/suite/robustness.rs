//! What strangers may send.

use claudemesh_client::{ConnectionEvent, Role, Status};
use futures_util::{SinkExt as _, StreamExt as _};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::fake::Bench;

/// Daemon spec §6 Accept 6: fuzz inbound frames (random bytes, invalid JSON, deep nesting 10 000): no panic, the connection
/// stays, the counter rises.
#[tokio::test(start_paused = true)]
async fn rubbish_is_counted_and_survived() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let mut rng = rand::rngs::StdRng::seed_from_u64(11);
    let alphabet: Vec<char> = r#"{}[]",:\ u0019abtruefalsnpshk"#.chars().collect();
    for round in 0..3_000 {
        let length = rng.random_range(0..80);
        let message = if round % 2 == 0 {
            Message::binary((0..length).map(|_| rng.random::<u8>()).collect::<Vec<u8>>())
        } else {
            let text: String =
                (0..length).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect();
            Message::text(text)
        };
        socket.0.feed(message).await.unwrap();
    }
    for text in [
        "[".repeat(10_000),
        format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)),
        r#"{"type":"push","eventData":{"a":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}}"#.into(),
        r#"{"type":7}"#.into(),
        r#"{"type":"ack","id":7}"#.into(),
        r#"{"type":"hello_ack","presenceId":"again"}"#.into(),
        r#"{"type":"from_the_future","x":1}"#.into(),
        "null".into(),
        String::new(),
    ] {
        socket.0.send(Message::text(text)).await.unwrap();
    }
    socket.send(&json!({"type": "push", "messageId": "after"})).await;
    let ConnectionEvent::Push(push) = bench.event().await else { panic!("the push was expected") };
    assert_eq!(push.message_id, "after");
    assert!(bench.connection.is_open());
    assert!(bench.connection.counters().invalid_inbound > 2_000);
}

/// Daemon spec §13.2: a push with wrong types is told with its ids, so that it can be acknowledged.
#[tokio::test(start_paused = true)]
async fn a_push_with_wrong_types_is_told_with_its_ids() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    socket
        .send(&json!({"type": "push", "messageId": "M", "client_message_id": "c", "hops": "many"}))
        .await;
    let ConnectionEvent::UnreadablePush(ack) = bench.event().await else {
        panic!("an unreadable push was expected")
    };
    assert_eq!(ack.broker_message_id.as_deref(), Some("M"));
    assert_eq!(ack.client_message_id.as_deref(), Some("c"));
}

/// Daemon spec §6 Accept 6: fuzz inbound frames (10 MiB frame): the socket ends as 1009, and the broker is told so.
#[tokio::test(start_paused = true)]
async fn an_oversized_frame_ends_the_socket() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.open().await;
    let broker = async {
        // The client stops reading in the middle of it.
        let _broken = socket.0.send(Message::text("x".repeat(10 * 1024 * 1024))).await;
    };
    let ((), (code, status, _)) = tokio::join!(broker, bench.closed());
    assert_eq!((code, status), (1009, Status::Reconnecting));
}

/// Daemon spec §6.2: the limit for inbound frames is what the broker announced.
#[tokio::test(start_paused = true)]
async fn an_announced_limit_holds_for_the_broker_too() {
    let mut bench = Bench::new(Role::ControlPlane);
    let mut socket = bench.accept().await;
    let limits = json!({
        "maxMessageBytes": 1_000, "maxFrameBytes": 2_000, "sendPerMinute": 300, "sendBurst": 60,
    });
    socket.acknowledge_hello_with(&limits).await;
    assert!(matches!(bench.event().await, ConnectionEvent::Opened(_)));
    let push = |bytes: usize| json!({"type": "push", "messageId": "x".repeat(bytes)});
    socket.send(&push(1_900)).await;
    assert!(matches!(bench.event().await, ConnectionEvent::Push(_)));
    socket.send(&push(2_000)).await;
    let told = async {
        loop {
            match socket.0.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("the close frame was expected, not {other:?}"),
            }
        }
    };
    let (told, (code, status, _)) = tokio::join!(told, bench.closed());
    assert_eq!((told, code, status), (1009, 1009, Status::Reconnecting));
}
