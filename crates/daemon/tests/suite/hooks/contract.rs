//! What a hook is given and what it may say (daemon spec §16.3, §16.8).

use std::collections::BTreeMap;

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::inbox::NewItem;
use claudemesh_ipc::api::{Decrypt, EventKind, RecipientKind};
use claudemesh_protocol::Priority;
use serde_json::{Value, json};

use super::stage::{Hooked, connected, inbox, pair, runner, write_to};
use crate::mesh::node::{SLUG, event};

/// A text to everybody, as it lies in the inbox.
pub fn group_text(body: &str) -> NewItem {
    let key = KeyPair::generate().public();
    NewItem {
        mesh: SLUG.to_owned(),
        client_message_id: hex::encode(claudemesh_crypto::random::bytes::<8>()),
        broker_message_id: None,
        recipient_pubkey: key,
        recipient_kind: RecipientKind::Member,
        channel: "broadcast".to_owned(),
        topic: None,
        topic_id: None,
        sender_pubkey: key,
        sender_member_pubkey: Some(key),
        sender_name: "Ann".to_owned(),
        priority: Priority::Next,
        subtype: None,
        body: Some(body.to_owned()),
        meta: None,
        mentions: Vec::new(),
        body_version: 2,
        decrypt: Decrypt::Ok,
        raw: None,
        reply_to_id: None,
        created_at: None,
        expires_at: None,
        transport: "broker",
        hops: 0,
        sender_verified: true,
        addressed_to: None,
    }
}

/// §16 Accept 6: an `env` dump shows exactly the listed variables; `/proc/self/fd` shows 0, 1, 2 only.
#[tokio::test]
async fn a_hook_begins_with_its_variables_and_three_descriptors() {
    let (world, hooked, peer) = pair().await;
    hooked.sections(
        "[on-dm]\nenabled = true\ncapability_token_scope = [\"reply:event\"]\nenv = { MY_SETTING = \"x y\" }\n\
         [on-message]\nenabled = true\n[on-reconnect]\nenabled = true\n",
    );
    // What the shell was started with, before it adds variables of its own.
    let dump = "tr '\\0' '\\n' < /proc/$$/environ | sort > $OUT/NAME.env\n\
                ulimit -c > $OUT/NAME.core; pwd > $OUT/NAME.cwd; ps -o pid=,pgid=,sid= -p $$ > $OUT/NAME.ids\n\
                echo done > $OUT/NAME";
    hooked.hook("on-dm", &dump.replace("NAME", "dm"));
    hooked.hook("on-message", &dump.replace("NAME", "message"));
    // Without a redirection, for which the shell would open more.
    hooked.hook("on-reconnect", "ls -l /proc/$$/fd");
    // A descriptor that is passed on to every program: the daemon was started with it.
    let leaked = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    hooked.leaves("dm").await;
    hooked.leaves("message").await;
    let variables = |name: &str| -> BTreeMap<String, String> {
        let text = hooked.left(&format!("{name}.env")).unwrap();
        text.lines()
            .map(|line| line.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    let dm = variables("dm");
    let names: Vec<_> = dm.keys().map(String::as_str).collect();
    let mut expected = vec![
        "CLAUDEMESH_CAPABILITY_TOKEN",
        "CLAUDEMESH_DAEMON_SOCK",
        "CLAUDEMESH_EVENT_ID",
        "CLAUDEMESH_HOOK_NAME",
        "CLAUDEMESH_MESH",
        "HOME",
        "LANG",
        "MY_SETTING",
        "PATH",
    ];
    assert_eq!(names, expected);
    assert_eq!((dm["PATH"].as_str(), dm["LANG"].as_str()), ("/usr/bin:/bin", "C.UTF-8"));
    assert_eq!(
        (dm["CLAUDEMESH_MESH"].as_str(), dm["CLAUDEMESH_HOOK_NAME"].as_str()),
        ("home", "on-dm")
    );
    assert_eq!(dm["CLAUDEMESH_DAEMON_SOCK"], running.socket().to_str().unwrap());
    expected.retain(|name| *name != "CLAUDEMESH_CAPABILITY_TOKEN" && *name != "MY_SETTING");
    let message = variables("message");
    assert_eq!(message.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    for name in ["dm", "message"] {
        let left = |what: &str| hooked.left(&format!("{name}.{what}")).unwrap();
        assert_eq!(left("core").trim(), "0");
        assert_eq!(left("cwd").trim(), hooked.dir().canonicalize().unwrap().to_str().unwrap());
        let ids = left("ids");
        let ids: Vec<_> = ids.split_whitespace().collect();
        assert!(ids[0] == ids[1] && ids[1] == ids[2], "a session and a group of its own: {ids:?}");
    }
    let request = claudemesh_ipc::api::hooks::HooksTestRequest {
        hook: "on-reconnect".to_owned(),
        ..Default::default()
    };
    let listing = running.client().hooks_test(&request).await.unwrap().stdout;
    // The shell reads its script from one more.
    let lines = listing.lines().skip(1).filter(|line| !line.ends_with("/on-reconnect"));
    let numbers: Vec<_> = lines.filter_map(|line| line.split_whitespace().nth(8)).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{listing}");
    let token = &dm["CLAUDEMESH_CAPABILITY_TOKEN"];
    running.shutdown().await;
    drop(leaked);
    let audit = std::fs::read_to_string(hooked.home.paths.hooks_audit_file()).unwrap();
    assert!(!audit.contains(token.as_str()) && !audit.contains("hi"), "{audit}");
}

#[tokio::test]
async fn a_hook_reads_its_event_without_what_is_hidden_from_it() {
    let (world, hooked, peer) = pair().await;
    hooked.sections(
        "[on-dm]\nenabled = true\nredact_payload = [\"body.password\", \"sender_name\"]\n",
    );
    hooked.hook("on-dm", "cat > $OUT/event; echo >> $OUT/event");
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "{\"password\":\"hunter2\",\"n\":[1]}").await;
    let text = hooked.leaves("event").await;
    assert!(!text.contains("hunter2"));
    let event: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&event["v"], &event["kind"], &event["mesh"]),
        (&json!(1), &json!("message"), &json!("home"))
    );
    let body: Value = serde_json::from_str(event["data"]["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, json!({"password": "[redacted]", "n": [1]}));
    assert_eq!(event["data"]["sender_name"], "[redacted]");
    assert_eq!(event["data"]["id"], inbox(&running).await[0].id);
    let line = &hooked.audited(1).await[0];
    assert_eq!(line["event_id"], event["event_id"]);
    assert_eq!(line["stdin_bytes"], text.trim_end().len());
    running.shutdown().await;
}

/// Daemon spec §16.1: the most specific first, the mesh's own before the general one; each on its own.
#[tokio::test]
async fn a_message_is_told_in_order_and_once() {
    let (world, hooked, peer) = pair().await;
    let names = ["home/on-dm", "on-dm", "on-mention", "on-message"];
    hooked.home.settings("[hooks]\nconcurrency = 1\n");
    let sections: String = names.map(|name| format!("[\"{name}\"]\nenabled = true\n")).concat();
    hooked.sections(&sections);
    for name in names {
        hooked.hook(name, &format!("echo {name} >> $OUT/order; exit 3"));
    }
    let running = hooked.open().await;
    let own_name = running.daemon().meshes().get(SLUG).unwrap().name_of(world.key(0)).unwrap();
    write_to(&peer, world.key(0), &format!("hello @{own_name}!")).await;
    let audit = hooked.audited(4).await;
    assert_eq!(hooked.left("order").unwrap().lines().collect::<Vec<_>>(), names);
    assert!(audit.iter().all(|line| line["exit"] == 3), "{audit:?}");
    let ids: std::collections::BTreeSet<_> =
        audit.iter().map(|line| line["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 4);
    // The same message once more, for another of our keys.
    let item = inbox(&running).await.remove(0);
    let copy = NewItem {
        recipient_pubkey: KeyPair::generate().public(),
        client_message_id: item.client_message_id.clone(),
        sender_pubkey: item.sender_pubkey.parse().unwrap(),
        channel: "group".to_owned(),
        ..group_text("the same")
    };
    let now = claudemesh_daemon::clock::now();
    running.daemon().context().inbox.insert(copy, now).await.unwrap();
    write_to(&peer, world.key(0), "another").await;
    let audit = hooked.audited(7).await;
    assert_eq!(audit.len(), 7, "{audit:?}");
    running.shutdown().await;
}

/// Daemon spec §16.8: one record in the file, on the bus, and in the figures.
#[tokio::test]
async fn each_run_is_written_down_told_and_counted() {
    let (world, hooked, peer) = pair().await;
    hooked.sections("[on-dm]\nenabled = true\noutput_size_limit = 10\n[on-message]\nenabled = true\naudit = false\n");
    hooked.hook("on-dm", "head -c 5000 /dev/zero | tr '\\0' x; echo secret >&2; kill -9 $$");
    hooked.hook("on-message", "echo this is no JSON");
    let running = hooked.open().await;
    let mut events = running
        .daemon()
        .context()
        .events
        .subscribe(claudemesh_daemon::events::Filter::everything(), None);
    write_to(&peer, world.key(0), "hi").await;
    let mut told = Vec::new();
    while told.len() < 2 {
        told.push(event(&mut events, "hook_executed").await);
    }
    told.sort_by_key(|record| record["hook"].as_str().unwrap().to_owned());
    assert_eq!(told[0]["hook"], "on-dm");
    assert_eq!((&told[0]["signal"], &told[0]["truncated"]), (&json!(9), &json!(true)));
    assert_eq!((&told[0]["stdout_bytes"], &told[0]["stderr_bytes"]), (&json!(5000), &json!(7)));
    assert_eq!((&told[1]["exit"], &told[1]["refused"]), (&json!(0), &json!("output")));
    let audit = hooked.audited(1).await;
    assert_eq!(audit, told[..1]);
    let path = hooked.home.paths.hooks_audit_file();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let figures = running.daemon().hooks().metrics();
    let shown: Vec<_> =
        figures.iter().map(|figure| (figure.hook.as_str(), figure.invocations.clone())).collect();
    assert_eq!(
        shown,
        [("on-dm", BTreeMap::from([("signal", 1)])), ("on-message", BTreeMap::from([("ok", 1)]))]
    );
    assert_eq!(figures[0].duration_count, 1);
    running.shutdown().await;
}

/// Daemon spec §16.1: `on-startup` once for each start; outages that do not last are none.
#[tokio::test]
async fn a_start_and_a_long_outage_are_told() {
    let (world, hooked, _peer) = pair().await;
    let sections: String = ["on-startup", "on-disconnect", "on-reconnect"]
        .map(|name| format!("[{name}]\nenabled = true\n"))
        .concat();
    hooked.sections(&sections);
    for name in ["on-startup", "on-disconnect", "on-reconnect"] {
        hooked.hook(name, "cat >> $OUT/$CLAUDEMESH_HOOK_NAME; echo >> $OUT/$CLAUDEMESH_HOOK_NAME");
    }
    let running = hooked.start_with(runner()).await;
    connected(&running).await;
    let start: Value = serde_json::from_str(&hooked.leaves("on-startup").await).unwrap();
    assert_eq!((&start["kind"], &start["mesh"]), (&json!("startup"), &Value::Null));
    assert_eq!(start["data"]["meshes"], json!(["home"]));
    let publish = |kind| {
        let data = json!({"code": 1006, "reason": "gone"}).as_object().cloned().unwrap();
        let event = claudemesh_daemon::events::Event::of_mesh(kind, SLUG, data);
        running.daemon().context().events.publish(event);
    };
    publish(EventKind::DaemonDisconnect);
    publish(EventKind::DaemonReconnect);
    publish(EventKind::DaemonDisconnect);
    let told: Value = serde_json::from_str(&hooked.leaves("on-disconnect").await).unwrap();
    assert_eq!((&told["mesh"], &told["data"]["code"]), (&json!("home"), &json!(1006)));
    assert_eq!(hooked.left("on-reconnect"), None);
    publish(EventKind::DaemonReconnect);
    hooked.leaves("on-reconnect").await;
    assert_eq!(hooked.left("on-startup").unwrap().lines().count(), 1);
    assert_eq!(hooked.left("on-disconnect").unwrap().lines().count(), 1);
    assert_eq!(world.mesh.members.len(), 2);
    running.shutdown().await;
}

/// Somebody who writes a hook sees what it says.
#[tokio::test]
async fn a_hook_can_be_tried_out() {
    use claudemesh_ipc::api::hooks::HooksTestRequest;
    let hooked = Hooked::new();
    hooked.sections("[on-dm]\nenabled = true\nallow_reply = true\n[pre-send]\nenabled = true\n");
    hooked.hook("on-dm", "cat; echo a word >&2");
    hooked.hook("pre-send", "echo '{\"action\":\"deny\"}'");
    let running = hooked.start().await;
    let client = running.client();
    let asked =
        |hook: &str| HooksTestRequest { hook: hook.to_owned(), ..HooksTestRequest::default() };
    let reply = client.hooks_test(&asked("on-dm")).await.unwrap();
    assert!(reply.ok, "{reply:?}");
    assert_eq!(reply.stderr, "a word\n");
    let event: Value = serde_json::from_str(&reply.stdout).unwrap();
    assert_eq!((&event["kind"], &event["data"]["channel"]), (&json!("message"), &json!("dm")));
    assert_eq!((&reply.run["exit"], &reply.run["replied"]), (&json!(0), &json!(false)));
    assert!(client.hooks_test(&asked("pre-send")).await.unwrap().ok);
    assert_eq!(
        crate::local::world::code(client.hooks_test(&asked("on-message")).await),
        "not_found"
    );
    assert_eq!(crate::local::world::code(client.hooks_test(&asked("../x")).await), "invalid_field");
    running.shutdown().await;
}
