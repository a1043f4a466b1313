//! Sending to several, reading the inbox, profile, ping.

use claudemesh_protocol::ops::OperationKind as Op;
use serde_json::json;

use super::world::{HOME, Stage, done, op, refused};
use crate::mesh::node::until;

/// MCP §7.1: several targets are de-duplicated after resolution; ids are `<id>/<n>`; a repeat sends nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_targets_reaches_each_peer_once() {
    let stage = Stage::new().await;
    let client = stage.client();
    let key = stage.bob.sessions.live(HOME)[0].key().unwrap().to_hex();
    let asked = json!({
        "to": ["bob", key, "nobody", "bot-2"], "message": "hi", "client_message_id": "the-list",
        "priority": "low",
    });
    let first = done(&client, Op::MessageSend, asked.clone()).await;
    let results = first["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert_eq!(results[0]["client_message_id"], "the-list/1");
    assert_eq!(results[1]["client_message_id"], "the-list/1", "the same peer under its key");
    assert_eq!(results[1]["to"], key);
    assert_eq!(results[2]["ok"], false);
    assert!(results[2]["error"].as_str().unwrap().starts_with("target_not_found: "), "{first}");
    assert_eq!(results[3]["client_message_id"], "the-list/4");
    for index in [0, 1, 3] {
        assert_eq!(results[index]["mesh"], HOME);
        assert_eq!(results[index]["ok"], true);
    }
    assert_eq!(stage.bob.receives(1).await[0].body.as_deref(), Some("hi"));
    let status = json!({ "id": "the-list/1" });
    until("the broker knows it", async || {
        op(&client, Op::MessageStatus, status.clone()).await.unwrap().result["outbox"]["status"]
            == "done"
    })
    .await;
    let again = done(&client, Op::MessageSend, asked).await;
    assert_eq!(again["results"][0]["status"], "done");
    assert!(again["results"][0]["broker_message_id"].is_string(), "{again}");
    stage.bob.receives(1).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_reaches_nobody_is_a_failure() {
    let stage = Stage::new().await;
    let client = stage.client();
    let (status, code, extra) =
        refused(&client, Op::MessageSend, json!({ "to": "mo", "message": "hi" })).await;
    assert_eq!((status, code.as_str()), (404, "target_not_found"));
    assert!(extra["candidates"].as_array().is_some_and(|names| names.contains(&json!("bob"))));
    let (_, code, extra) =
        refused(&client, Op::MessageSend, json!({ "to": ["mo", "my"], "message": "hi" })).await;
    assert_eq!(code, "target_not_found");
    assert_eq!(extra["results"].as_array().unwrap().len(), 2);
    stage.stop().await;
}

/// MCP §7.1: `check_messages` gives what is unread, oldest first, `low` ones included, and says how many are left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_is_read_from_its_oldest_unread_message() {
    let stage = Stage::new().await;
    let client = stage.client();
    for text in ["one", "two", "three"] {
        stage.bob.send(&stage.world.key(0).to_hex(), text).await;
    }
    let unread = json!({ "mark_seen": false });
    until("all are in", async || {
        done(&client, Op::MessageInbox, unread.clone()).await["messages"].as_array().unwrap().len()
            == 3
    })
    .await;
    let read = async |args| {
        let result = done(&client, Op::MessageInbox, args).await;
        let messages = result["messages"].as_array().unwrap().clone();
        let texts = messages.iter().map(|item| item["body"].as_str().unwrap().to_owned());
        (texts.collect::<Vec<_>>(), result["remaining"].as_u64().unwrap())
    };
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(read(json!({ "limit": 2 })).await, (texts(&["one", "two"]), 1));
    assert_eq!(read(json!({ "from": "nobody" })).await, (texts(&[]), 0));
    assert_eq!(read(json!({})).await, (texts(&["three"]), 0));
    assert_eq!(read(json!({})).await, (texts(&[]), 0));
    stage.stop().await;
}

/// MCP §7.14: a ping goes to the broker and back, and nobody is shown it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_comes_back_and_is_never_surfaced() {
    let stage = Stage::new().await;
    let alone = done(&stage.client(), Op::MeshPing, json!({})).await;
    assert_eq!((&alone["results"][0]["ok"], &alone["channel"]), (&json!(false), &json!("off")));
    assert!(alone["results"][0]["note"].is_string());
    let session = stage.session(1).await;
    let all = json!({ "priorities": ["now", "next", "low"] });
    let report = done(&session, Op::MeshPing, all).await;
    assert_eq!((&report["ws_status"], &report["channel"]), (&json!("open"), &json!("enabled")));
    assert_eq!(report["message_mode"], "push");
    assert!(report["peers_online"].as_u64().unwrap() >= 1);
    for result in report["results"].as_array().unwrap() {
        assert_eq!(result["ok"], true, "{report}");
        assert!(result["loopback_ms"].is_u64() && result["send_ack_ms"].is_u64(), "{report}");
    }
    for client in [&session, &stage.client()] {
        let inbox = done(client, Op::MessageInbox, json!({})).await;
        assert_eq!(inbox["messages"], json!([]));
    }
    assert_eq!(stage.bob.received().await, []);
    stage.stop().await;
}

/// MCP §7.2: a session changes its own row; an empty call changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_is_changed_field_by_field() {
    let stage = Stage::new().await;
    let session = stage.session(1).await;
    let nothing = done(&session, Op::ProfileEdit, json!({})).await;
    let expected = json!({ "ok": true, "applied": [], "meshes": [HOME], "target": "session" });
    assert_eq!(nothing, expected);
    let edited = json!({ "title": "Build master", "role": "lead", "capabilities": ["rust"] });
    let applied = done(&session, Op::ProfileEdit, edited).await["applied"].clone();
    assert_eq!(applied, json!(["title", "capabilities", "role"]));
    done(&session, Op::ProfileSummary, json!({ "summary": "parser" })).await;
    done(&session, Op::ProfileStatus, json!({ "status": "dnd" })).await;
    done(&session, Op::GroupJoin, json!({ "name": "@eng/core", "role": "lead" })).await;
    let peers = done(&session, Op::PeerList, json!({})).await["peers"].as_array().unwrap().clone();
    let mine = peers.iter().find(|peer| peer["isThisSession"] == true).unwrap();
    assert_eq!((&mine["summary"], &mine["status"]), (&json!("parser"), &json!("dnd")));
    assert_eq!(
        (&mine["profile"]["title"], &mine["profile"]["role"]),
        (&json!("Build master"), &json!("lead"))
    );
    assert_eq!(mine["groups"], json!([{ "name": "eng/core", "role": "lead" }]));
    let groups = done(&session, Op::GroupList, json!({})).await["groups"].clone();
    let row =
        json!([{ "name": "eng/core", "members": 1, "role": "lead", "joined": true, "mesh": HOME }]);
    assert_eq!(groups, row);
    let left = done(&session, Op::GroupLeave, json!({ "name": "@eng/core" })).await;
    assert_eq!(left, json!({ "ok": true, "mesh": HOME, "name": "eng/core" }));
    stage.stop().await;
}

/// MCP §7.2: the name of a member is the member's; its own key signs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gives_itself_another_name() {
    let stage = Stage::new().await;
    let client = stage.client();
    let applied = done(&client, Op::ProfileEdit, json!({ "display_name": "Ana Maria" })).await;
    assert_eq!(applied["applied"], json!(["display_name"]));
    let members = done(&client, Op::MemberList, json!({})).await["members"].clone();
    let own = members.as_array().unwrap().iter().find(|row| row["isSelf"] == true).unwrap();
    assert_eq!(own["displayName"], "Ana Maria");
    stage.stop().await;
}

/// What is marked read was given whole: a page ends before it grows larger than a tool can show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_the_inbox_is_bounded_in_bytes() {
    let stage = Stage::new().await;
    let client = stage.client();
    let long = "x".repeat(40_000);
    for _ in 0..5 {
        stage.bob.send(&stage.world.key(0).to_hex(), &long).await;
    }
    let unread = json!({ "mark_seen": false });
    until("all are in", async || {
        let page = done(&client, Op::MessageInbox, unread.clone()).await;
        page["messages"].as_array().unwrap().len() == 3 && page["remaining"] == 2
    })
    .await;
    let first = done(&client, Op::MessageInbox, json!({})).await;
    assert_eq!(first["remaining"], 2);
    let rest = done(&client, Op::MessageInbox, json!({})).await;
    assert_eq!((rest["messages"].as_array().unwrap().len(), &rest["remaining"]), (2, &json!(0)));
    stage.stop().await;
}
