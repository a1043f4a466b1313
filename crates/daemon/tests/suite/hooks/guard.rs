//! `pre-send` (daemon spec §16.6).

use claudemesh_ipc::api::{OutboxQuery, RequeueRequest};
use serde_json::{Value, json};

use super::stage::{Hooked, pair};
use crate::local::world::{code, letter, some_key, until};
use crate::mesh::node::World;

async fn rows(running: &claudemesh_daemon::Running) -> usize {
    running.client().outbox(&OutboxQuery::default()).await.unwrap().items.len()
}

/// §16 Accept 8: deny → 422 and no outbox row; timing out with the default → 422; `replace` text is what the peer receives.
#[tokio::test]
async fn a_guard_lets_pass_refuses_or_replaces() {
    let (world, hooked, peer) = pair().await;
    hooked.sections("[pre-send]\nenabled = true\ntimeout = \"1s\"\n");
    let script = "cat > $OUT/asked; case $(cat $OUT/asked) in\n\
                  *secret*) echo '{\"action\":\"deny\",\"reason\":\"no secrets\"}';;\n\
                  *draft*) echo '{\"action\":\"replace\",\"message\":\"final\"}';;\n\
                  *empty*) echo '{\"action\":\"replace\",\"message\":\"\"}';;\n\
                  *slow*) sleep 60;;\n\
                  *crash*) exit 1;;\n\
                  *noise*) echo noise;;\n\
                  esac";
    hooked.hook("pre-send", script);
    let running = hooked.open().await;
    let to = world.key(1).to_hex();
    let send = async |text: &str| running.client().send(&letter(&to, text)).await;
    for text in ["a secret", "too slow", "a crash", "some noise"] {
        assert_eq!(code(send(text).await), "blocked_by_hook", "{text}");
    }
    assert_eq!(code(send("empty").await), "invalid_field");
    assert_eq!(rows(&running).await, 0);
    send("hello").await.unwrap();
    let asked: Value = serde_json::from_str(&hooked.left("asked").unwrap()).unwrap();
    assert_eq!((&asked["kind"], &asked["mesh"]), (&json!("pre_send"), &json!("home")));
    let request =
        json!({"to": to, "target": to, "message": "hello", "priority": "next", "meta": null});
    assert_eq!(asked["request"], request);
    let mut draft = letter(&to, "a draft");
    draft.client_message_id = Some("fixed-1".to_owned());
    running.client().send(&draft).await.unwrap();
    let again = running.client().send(&draft).await.unwrap();
    assert_eq!(again.client_message_id, "fixed-1");
    // The same id with the words that went out is the same request: the fingerprint covers what was sent.
    let mut final_one = draft.clone();
    final_one.message = "final".to_owned();
    running.client().send(&final_one).await.unwrap();
    let bodies: Vec<_> = peer.receives(2).await.into_iter().filter_map(|item| item.body).collect();
    assert_eq!(bodies, ["hello", "final"]);
    running.shutdown().await;
}

/// The refusal names hook and reason; the id is not used up; each way to send asks.
#[tokio::test]
async fn a_refusal_uses_up_no_id() {
    let hooked = Hooked::new();
    hooked.home.join("home");
    hooked.sections("[pre-send]\nenabled = true\n");
    hooked.hook(
        "pre-send",
        "test -e $OUT/open || echo '{\"action\":\"deny\",\"reason\":\"closed\"}'",
    );
    let running = hooked.start().await;
    let mut message = letter(&some_key(), "hi");
    message.client_message_id = Some("mine".to_owned());
    let refused = running.client().send(&message).await.unwrap_err();
    let claudemesh_ipc::IpcError::Api(refused) = refused else { panic!("{refused}") };
    assert_eq!(refused.status, 422);
    assert_eq!(refused.body.extra["hook"], json!("pre-send"));
    assert_eq!(refused.body.extra["reason"], json!("closed"));
    let args = json!({"to": some_key(), "message": "hi"});
    let args = args.as_object().cloned().unwrap();
    let by_op =
        running.client().op(claudemesh_protocol::ops::OperationKind::MessageSend, None, args).await;
    assert_eq!(code(by_op), "blocked_by_hook");
    assert_eq!(rows(&running).await, 0);
    std::fs::write(hooked.out.join("open"), "").unwrap();
    running.client().send(&message).await.unwrap();
    assert_eq!(rows(&running).await, 1);
    // Other words under another id are another message.
    std::fs::remove_file(hooked.out.join("open")).unwrap();
    let row = running.client().outbox(&OutboxQuery::default()).await.unwrap().items.remove(0);
    let mut again = RequeueRequest { id: row.id, keep_target: true, ..RequeueRequest::default() };
    again.payload = Some("other words".to_owned());
    assert_eq!(code(running.client().outbox_requeue(&again).await), "blocked_by_hook");
    again.payload = None;
    running.client().outbox_requeue(&again).await.unwrap();
    running.shutdown().await;
}

#[tokio::test]
async fn on_error_may_let_pass_and_guards_are_asked_in_turn() {
    let hooked = Hooked::new();
    hooked.home.join("home");
    hooked.home.join("work");
    hooked.sections(
        "[pre-send]\nenabled = true\non_error = \"allow\"\ntimeout = \"300ms\"\n[\"work/pre-send\"]\nenabled = true\n",
    );
    hooked.hook("pre-send", "echo general >> $OUT/order; sleep 30");
    hooked.hook("work/pre-send", "echo own >> $OUT/order; echo '{\"action\":\"deny\"}'");
    let running = hooked.start().await;
    let mut message = letter(&some_key(), "hi");
    message.mesh = Some("home".to_owned());
    running.client().send(&message).await.unwrap();
    message.mesh = Some("work".to_owned());
    assert_eq!(code(running.client().send(&message).await), "blocked_by_hook");
    assert_eq!(hooked.left("order").unwrap(), "general\ngeneral\nown\n");
    running.shutdown().await;
}

/// A guard that is switched on and cannot run lets nothing pass, whatever keeps it from running.
#[tokio::test]
async fn a_guard_that_cannot_run_lets_nothing_pass() {
    let hooked = Hooked::new();
    hooked.home.join("home");
    hooked.sections("[pre-send]\nenabled = true\n");
    hooked.hook_with("pre-send", "true", 0o722);
    let running = hooked.start().await;
    let message = letter(&some_key(), "hi");
    assert_eq!(code(running.client().send(&message).await), "blocked_by_hook");
    hooked.hook("pre-send", "true");
    running.client().reload().await.unwrap();
    running.client().send(&message).await.unwrap();
    std::fs::set_permissions(
        hooked.dir().join("pre-send"),
        std::os::unix::fs::PermissionsExt::from_mode(0o602),
    )
    .unwrap();
    assert_eq!(code(running.client().send(&message).await), "blocked_by_hook");
    running.shutdown().await;
    // With settings that cannot be read nobody knows which guards there are.
    hooked.sections("[pre-send]\nenabled = perhaps\n");
    let running = hooked.start().await;
    assert_eq!(code(running.client().send(&message).await), "blocked_by_hook");
    running.shutdown().await;
    hooked.home.settings("[hooks]\nenabled = false\n");
    let running = hooked.start().await;
    running.client().send(&message).await.unwrap();
    running.shutdown().await;
}

/// Who hangs up does not stop the guard, and nothing is sent for him.
#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_process_behind() {
    let hooked = Hooked::new();
    hooked.home.join("home");
    hooked.sections("[pre-send]\nenabled = true\n");
    hooked.hook("pre-send", "echo x > $OUT/begun; sleep 1; echo x > $OUT/ended");
    let running = hooked.start().await;
    let client = running.client();
    let message = letter(&some_key(), "hi");
    tokio::select! {
        answer = client.send(&message) => panic!("{answer:?}"),
        _ = hooked.leaves("begun") => {}
    }
    hooked.leaves("ended").await;
    until("the run is written down", || async { hooked.audit().len() == 1 }).await;
    assert_eq!(rows(&running).await, 0);
    running.shutdown().await;
}

/// Daemon spec §16.6: not run for what hooks send.
#[tokio::test]
async fn what_a_hook_sends_is_not_asked_about() {
    let world = World::new(2).await;
    let hooked = Hooked::of(&world, 0);
    let peer = crate::mesh::node::Node::open(world.entry(1)).await;
    hooked.sections("[pre-send]\nenabled = true\n[on-dm]\nenabled = true\nallow_reply = true\n");
    hooked.hook("pre-send", "echo '{\"action\":\"deny\"}'");
    hooked.hook("on-dm", "echo '{\"reply\":\"auto\"}'");
    let running = hooked.open().await;
    super::stage::write_to(&peer, world.key(0), "hi").await;
    assert_eq!(peer.receives(1).await[0].body.as_deref(), Some("auto"));
    running.shutdown().await;
}
