//! What hooks reply (daemon spec §16.3, §16.5): once for each event, and not without end.

use claudemesh_ipc::api::hooks::HooksTestRequest;
use serde_json::json;

use super::stage::{Hooked, connected, inbox, pair, write_to};
use crate::local::process::DaemonProcess;
use crate::local::world::letter;
use crate::mesh::node::{World, until};

const REPLYING: &str = "[on-dm]\nenabled = true\nallow_reply = true\n";
const REPLY: &str = "echo '{\"reply\":\"auto\",\"priority\":\"low\"}'";

#[tokio::test]
async fn a_reply_goes_to_the_sender_and_says_that_nobody_wrote_it() {
    let (world, hooked, peer) = pair().await;
    hooked.sections(REPLYING);
    hooked.hook("on-dm", REPLY);
    hooked.hook("on-message", REPLY);
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    let items = peer.receives(1).await;
    assert_eq!((items[0].body.as_deref(), items[0].hops), (Some("auto"), 1));
    assert_eq!(items[0].meta.as_ref().unwrap()["cm_auto"], json!(true));
    assert_eq!(items[0].sender_pubkey, world.key(0).to_hex());
    let line = &hooked.audited(1).await[0];
    assert_eq!(line["replied"], json!(true), "{line}");
    let id = format!("hook-{}-on-dm", line["event_id"].as_str().unwrap());
    assert_eq!(items[0].client_message_id, id);
    running.shutdown().await;
}

#[tokio::test]
async fn a_reply_needs_a_section_that_allows_it_and_an_exit_without_error() {
    let (world, hooked, peer) = pair().await;
    hooked.sections("[on-dm]\nenabled = true\n[on-message]\nenabled = true\nallow_reply = true\n");
    hooked.hook("on-dm", REPLY);
    hooked.hook("on-message", &format!("{REPLY}; exit 1"));
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    let audit = hooked.audited(2).await;
    assert!(audit.iter().all(|line| line["replied"] == json!(false)), "{audit:?}");
    assert_eq!(world.count("message").await, 1, "only what the peer wrote");
    running.shutdown().await;
}

/// §16 Accept 4: two daemons with auto-reply hooks to each other: at most one reply each without `allow_auto`.
#[tokio::test]
async fn two_hooks_do_not_talk_to_each_other() {
    let (world, [ann, bob]) = two(REPLYING).await;
    let (ann_runs, bob_runs) = (ann.open().await, bob.open().await);
    ann_runs.client().send(&letter(&world.key(1).to_hex(), "hi")).await.unwrap();
    until("the reply is there", async || !inbox(&ann_runs).await.is_empty()).await;
    // One more message each way comes behind whatever else there was.
    bob_runs.client().send(&letter(&world.key(0).to_hex(), "bye")).await.unwrap();
    until("the last one is answered", async || inbox(&bob_runs).await.len() >= 2).await;
    let bodies = |items: Vec<claudemesh_ipc::api::InboxItem>| {
        items.into_iter().filter_map(|item| item.body).collect::<Vec<_>>()
    };
    assert_eq!(bodies(inbox(&ann_runs).await), ["auto", "bye"]);
    assert_eq!(bodies(inbox(&bob_runs).await), ["hi", "auto"]);
    ann_runs.shutdown().await;
    bob_runs.shutdown().await;
}

/// §16 Accept 4: at most six a minute with `allow_auto`.
#[tokio::test]
async fn two_hooks_that_may_talk_to_each_other_stop() {
    let (world, [ann, bob]) = two(&format!("{REPLYING}allow_auto = true\n")).await;
    let (ann_runs, bob_runs) = (ann.open().await, bob.open().await);
    ann_runs.client().send(&letter(&world.key(1).to_hex(), "hi")).await.unwrap();
    let muted = |running: &claudemesh_daemon::Running| {
        let figures = running.daemon().hooks().metrics();
        figures.iter().map(|figures| figures.muted_replies).sum::<u64>()
    };
    until("one of them is silent", async || muted(&ann_runs) + muted(&bob_runs) > 0).await;
    let replied = |hooked: &Hooked| {
        hooked.audit().iter().filter(|line| line["replied"] == json!(true)).count()
    };
    assert_eq!((replied(&bob), replied(&ann)), (6, 6));
    assert_eq!(world.count("message").await, 13);
    ann_runs.shutdown().await;
    bob_runs.shutdown().await;
}

async fn two(sections: &str) -> (World, [Hooked; 2]) {
    let world = World::new(2).await;
    let hooked = [Hooked::of(&world, 0), Hooked::of(&world, 1)];
    for one in &hooked {
        one.sections(sections);
        one.hook("on-dm", REPLY);
    }
    (world, hooked)
}

/// §16 Accept 5: kill -9 the daemon during a replying hook, redeliver the event: at most one reply message at the broker.
#[tokio::test]
async fn kill_during_a_reply_sends_it_once() {
    let (world, hooked, peer) = pair().await;
    hooked.sections(REPLYING);
    // The second time it says something else.
    hooked.hook(
        "on-dm",
        "echo begun >> $OUT/begun; sleep 0.2; echo \"{\\\"reply\\\":\\\"auto $$\\\"}\"",
    );
    let failpoints = [
        "",
        "accept.before_commit=kill",
        "accept.after_commit_before_reply=kill",
        "drain.after_inflight_before_write=kill",
        "drain.after_write_before_ack=kill",
        "drain.after_ack_before_done=kill",
    ];
    for (round, failpoint) in failpoints.into_iter().enumerate() {
        let mut process = DaemonProcess::start(&hooked.home, failpoint).await;
        let id = write_to(&peer, world.key(0), &format!("round {round}")).await;
        if failpoint.is_empty() {
            until("the hook has begun", async || hooked.left("begun").is_some()).await;
            process.kill();
        } else {
            process.ended().await;
        }
        drop(process);
        let running = hooked.start().await;
        connected(&running).await;
        let message =
            async || inbox(&running).await.into_iter().find(|item| item.client_message_id == id);
        until("the message is in the inbox", async || message().await.is_some()).await;
        let message_id = Some(message().await.unwrap().id);
        let again = HooksTestRequest { hook: "on-dm".to_owned(), message_id, mesh: None };
        for _ in 0..2 {
            let told = running.client().hooks_test(&again).await.unwrap();
            assert_eq!(told.run["exit"], json!(0), "{told:?}");
        }
        peer.receives(round + 1).await;
        running.shutdown().await;
    }
    assert_eq!(world.count("message").await, 2 * failpoints.len() as u64);
    assert_eq!(peer.received().await.len(), failpoints.len());
}
