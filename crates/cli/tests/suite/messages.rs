//! Sending, reading, listing peers between two people (CLI spec §1.13, §1.14, §3.4, §3.6).

use serde_json::Value;

use crate::home::{Home, kill, two_people, until};
use crate::words::snapshot;

fn reaches(home: &Home, text: &str) {
    until(&format!("\"{text}\" arrives"), || home.bodies().iter().any(|body| body == text));
}

/// CLI spec §3.6.
#[test]
fn a_message_by_name_arrives_and_is_answered() {
    let (ana, bob) = two_people();
    bob.ok(&["peers"]);
    until("Ana sees Bob", || ana.ok(&["peers"]).contains("Bob"));
    let sent = ana.json_ok(&["send", "Bob", "hello", "there"]);
    assert_eq!((sent["ok"].as_bool(), sent["via"].as_str()), (Some(true), Some("daemon")));
    assert_eq!(sent["outcome"], "sent", "{sent}");
    assert_eq!(sent["recipient_online"], true, "{sent}");
    reaches(&bob, "hello there");
    let me = ana.json_ok(&["whoami"])["user"]["display_name"].as_str().unwrap().to_owned();
    bob.ok(&["send", &me, "hi back", "--priority", "now"]);
    reaches(&ana, "hi back");
    let delivered = ana.json_ok(&["send", "bob", "third", "--wait=10s"]);
    assert_eq!(delivered["outcome"], "delivered", "{delivered}");
    let id = delivered["broker_message_id"].as_str().unwrap();
    let status = ana.json_ok(&["message", "status", id]);
    assert_eq!(status["delivered"], true, "{status}");
    let by_own_id = ana.json_ok(&["msg-status", delivered["client_message_id"].as_str().unwrap()]);
    assert_eq!(by_own_id["messageId"], status["messageId"]);
}

/// CLI spec §1.14: a prefix of 16 characters; case; name@mesh; ambiguous and unknown names.
#[test]
fn targets_by_key_prefix_and_mesh() {
    let (ana, bob) = two_people();
    let key = ana.member_key("Bob");
    for (target, text) in
        [(&key[..16], "by prefix"), (&*key, "by key"), ("Bob@home", "by name and mesh")]
    {
        let sent = ana.json_ok(&["send", target, text]);
        assert_eq!(sent["target"].as_str(), Some(&*key), "{sent}");
        reaches(&bob, text);
    }
    let ran = ana.run(&["send", "Nobody", "hi"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.contains("no peer \"Nobody\" on home"), "{ran:?}");
    assert_eq!(ana.run(&["send", "@bad name", "hi"]).code, 3);
    assert_eq!(ana.run(&["send", "#general", "hi"]).code, 3);
}

/// CLI spec §3.6: away, `--require-online`, and what comes later.
#[test]
fn a_message_to_somebody_away_waits() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    bob.ok(&["daemon", "down"]);
    let key = ana.member_key("Bob");
    until("Ana sees that Bob is away", || {
        ana.json_ok(&["members"])
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["displayName"] == "Bob" && row["online"] == false)
            && !ana.ok(&["peers"]).contains("Bob")
    });
    let (code, refused) = ana.json(&["send", "Bob", "only now", "--require-online"]);
    assert_eq!((code, refused["error"].as_str()), (5, Some("recipient_offline")), "{refused}");
    let text = ana.ok(&["send", &key, "for later"]);
    assert!(text.contains("queued"), "{text}");
    let sent = ana.json_ok(&["send", "Bob", "for later too"]);
    assert_eq!(
        (sent["outcome"].as_str(), &sent["recipient_online"]),
        (Some("queued"), &false.into()),
        "{sent}"
    );
    bob.ok(&["daemon", "up"]);
    reaches(&bob, "for later");
    reaches(&bob, "for later too");
    assert!(!bob.bodies().contains(&"only now".to_owned()));
}

/// CLI spec §3.6: idempotency.
#[test]
fn the_same_client_id_is_sent_once() {
    let (ana, bob) = two_people();
    let first = ana.json_ok(&["send", "Bob", "once", "--client-id", "my-id-1"]);
    assert_eq!(first["client_message_id"], "my-id-1");
    until("it is sent", || {
        ana.json_ok(&["send", "Bob", "once", "--client-id", "my-id-1"])["duplicate"] == true
    });
    let (code, refused) = ana.json(&["send", "Bob", "twice", "--client-id", "my-id-1"]);
    assert_eq!((code, refused["error"].as_str()), (6, Some("idempotency_conflict")), "{refused}");
    assert!(refused["row_status"].is_string(), "{refused}");
    reaches(&bob, "once");
    assert_eq!(bob.bodies().len(), 1);
}

/// CLI spec §1.14, §3.6: the self guard.
#[test]
fn sending_to_oneself_needs_a_word() {
    let (ana, _bob) = two_people();
    let me = ana.json_ok(&["whoami"])["user"]["display_name"].as_str().unwrap().to_owned();
    let ran = ana.run(&["send", &me, "hi"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("--self"), "{ran:?}");
}

/// CLI spec §1.2, §3.6: text from stdin, and no text.
#[test]
fn text_comes_from_words_or_stdin() {
    let (ana, bob) = two_people();
    let ran = ana.run(&["send", "Bob"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("missing <text>"), "{ran:?}");
    assert_eq!(ana.feed(&["send", "Bob", "-"], b"from stdin\n").code, 0);
    reaches(&bob, "from stdin");
    assert_eq!(
        ana.feed(&["send", "Bob", "--from-stdin"], "Zeile 1\nZeile 2 ✓\n".as_bytes()).code,
        0
    );
    reaches(&bob, "Zeile 1\nZeile 2 ✓");
    assert_eq!(ana.feed(&["send", "Bob", "-"], &[0xff, 0xfe]).code, 3);
    assert_eq!(ana.feed(&["send", "Bob", "-"], &vec![b'x'; 300 * 1024]).code, 3);
    let ran = ana.feed(&["send", "Bob", "-"], &vec![b'x'; 100 * 1024]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("too large"), "{ran:?}");
}

/// CLI spec §3.6: group and broadcast wording, groups end to end.
#[test]
fn groups_reach_their_members() {
    let (ana, bob) = two_people();
    let joined = bob.json_ok(&["group", "join", "@eng/core", "--role", "lead"]);
    assert_eq!(
        (joined["ok"].as_bool(), joined["mesh"].as_str(), joined["name"].as_str()),
        (Some(true), Some("home"), Some("eng/core"))
    );
    until("Ana sees the group", || ana.ok(&["peers"]).contains("@eng/core"));
    let text = ana.ok(&["send", "@eng", "to the group"]);
    assert!(text.contains("sent to @eng"), "{text}");
    reaches(&bob, "to the group");
    ana.ok(&["send", "@all", "to everybody"]);
    reaches(&bob, "to everybody");
    bob.ok(&["group", "leave", "eng/core"]);
    until("Ana sees it is gone", || !ana.ok(&["peers"]).contains("@eng/core"));
}

/// CLI spec §3.6: inbox marks, `--peek`, flush and delete.
#[test]
fn the_inbox_is_read_peeked_and_emptied() {
    let (ana, bob) = two_people();
    for text in ["one", "two", "three"] {
        ana.ok(&["send", "Bob", text]);
    }
    reaches(&bob, "three");
    until("all three are there", || bob.bodies().len() == 3);
    let peek = ["inbox", "--unread", "--peek"];
    assert_eq!(bob.json_ok(&peek), bob.json_ok(&peek));
    let envelope = bob.json_ok(&["inbox", "--peek", "--json-envelope"]);
    assert_eq!((&envelope["unread"], envelope["items"].as_array().unwrap().len()), (&3.into(), 3));
    assert_eq!(bob.json_ok(&["inbox", "--unread"]).as_array().unwrap().len(), 3);
    assert_eq!(bob.json_ok(&["inbox", "--unread"]), Value::Array(vec![]));
    let rows = bob.json_ok(&["inbox", "--json=id,body"]);
    let id = rows[0]["id"].as_str().unwrap();
    assert_eq!(bob.json_ok(&["inbox", "delete", id])["removed"], 1);
    assert_eq!(bob.json(&["inbox", "delete", id]).0, 5);
    assert_eq!(bob.json(&["inbox", "flush"]).0, 3);
    assert_eq!(bob.json(&["inbox", "flush", "--before", "whenever"]).0, 3);
    assert_eq!(bob.json_ok(&["inbox", "flush", "--all", "-y"])["removed"], 2);
    assert!(bob.bodies().is_empty());
}

/// CLI spec §3.6: `--wait`.
#[test]
fn waiting_for_a_message_prints_only_the_new_one() {
    let (ana, bob) = two_people();
    ana.ok(&["send", "Bob", "old"]);
    reaches(&bob, "old");
    let child = bob
        .command(&["inbox", "--wait=20s", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Sent again and again: the waiting side may not listen yet when the first one is sent.
    let mut child = Some(child);
    let mut sent = 0;
    let output = loop {
        ana.ok(&["send", "Bob", &format!("new {sent}")]);
        sent += 1;
        if child.as_mut().unwrap().try_wait().unwrap().is_some() {
            break child.take().unwrap().wait_with_output().unwrap();
        }
        assert!(sent < 100);
    };
    let items: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bodies: Vec<&str> =
        items.as_array().unwrap().iter().map(|item| item["body"].as_str().unwrap()).collect();
    assert!(!bodies.is_empty() && bodies.iter().all(|body| body.starts_with("new")), "{bodies:?}");
    let began = std::time::Instant::now();
    assert_eq!(bob.json_ok(&["inbox", "--wait=1s"]), Value::Array(vec![]));
    assert!(began.elapsed().as_millis() >= 900);
}

/// CLI spec §3.6: broker away, and a daemon killed right after exit 0.
#[test]
fn what_was_accepted_survives_broker_and_daemon() {
    let (ana, bob) = two_people();
    ana.ok(&["peers"]);
    let bob_daemon =
        || u32::try_from(bob.json_ok(&["daemon", "status"])["pid"].as_u64().unwrap()).unwrap();
    let me = ana.json_ok(&["whoami"])["user"]["display_name"].as_str().unwrap().to_owned();
    let key = bob.member_key(&me);
    bob.ok(&["send", &me, "before the kill"]);
    kill(bob_daemon());
    ana.ok(&["down", "--broker-only"]);
    bob.ok(&["daemon", "up"]);
    // A daemon that starts without a broker has no roster: only a whole key can be addressed.
    let sent = bob.json_ok(&["send", &key, "while the broker is away"]);
    assert_eq!(sent["outcome"], "queued_local", "{sent}");
    kill(bob_daemon());
    ana.json_ok(&["up"]);
    bob.ok(&["daemon", "up"]);
    reaches(&ana, "before the kill");
    reaches(&ana, "while the broker is away");
    let inbox = ana.json_ok(&["inbox", "--peek"]);
    let mut bodies: Vec<&str> =
        inbox.as_array().unwrap().iter().map(|item| item["body"].as_str().unwrap()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["before the kill", "while the broker is away"], "each once: {inbox}");
}

/// CLI spec §1.9: projection, and the spaced form; §1.13: which mesh.
#[test]
fn peer_rows_are_projected_and_meshes_are_chosen() {
    let (ana, bob) = two_people();
    bob.ok(&["peers"]);
    until("Ana sees Bob", || ana.ok(&["peers"]).contains("Bob"));
    let equals = ana.ok(&["peer", "list", "--json=name,status", "--mesh", "home"]);
    let spaced = ana.ok(&["peers", "--json", "name,status", "--mesh", "home"]);
    assert_eq!(equals, spaced);
    let rows: Value = serde_json::from_str(&equals).unwrap();
    for row in rows.as_array().unwrap() {
        assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), ["name", "status"]);
    }
    let ran = ana.run(&["peers", "--mesh", "hom"]);
    assert_eq!(ran.code, 5);
    assert!(
        ran.stderr.contains("mesh \"hom\" not joined") && ran.stderr.contains("did you mean: home"),
        "{ran:?}"
    );
    ana.json_ok(&["create", "Second"]);
    let ran = ana.run(&["members"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("missing --mesh (2 meshes joined: home, second)"), "{ran:?}");
    let both = ana.json_ok(&["peers"]);
    assert_eq!(both.as_array().unwrap().len(), 2);
    assert_eq!(both[0]["mesh"], "home");
    assert!(both[0]["peers"].is_array());
}

/// CLI spec §1.14: one name in two meshes; a prefix that fits two members.
#[test]
fn ambiguous_targets_send_nothing() {
    let (ana, bob) = two_people();
    ana.json_ok(&["create", "Second"]);
    let link = ana.json_ok(&["share", "--mesh", "second"])["url"].as_str().unwrap().to_owned();
    bob.ok(&["join", &link, "--name", "Bob"]);
    until("both rosters have Bob", || {
        ["home", "second"].iter().all(|mesh| {
            let members = ana.json_ok(&["members", "--mesh", mesh]);
            members.as_array().unwrap().iter().any(|row| row["displayName"] == "Bob")
        })
    });
    let ran = ana.run(&["send", "Bob", "which one"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.stderr.contains("--mesh")
            && ran.stderr.contains("@home")
            && ran.stderr.contains("@second"),
        "{ran:?}"
    );
    assert_eq!(ana.json_ok(&["daemon", "status"])["outbox"]["pending"], 0);
    let sent = ana.json_ok(&["send", "Bob@second", "this one"]);
    assert_eq!(sent["mesh"], "second");
    let sent = ana.json_ok(&["send", "home:Bob", "that one"]);
    assert_eq!(sent["mesh"], "home");
    reaches(&bob, "this one");
    reaches(&bob, "that one");
    let ran = ana.run(&["send", "@eng", "nobody", "--quiet"]);
    assert_eq!(ran.code, 3, "a group needs a mesh: {ran:?}");
}

#[test]
fn words_for_people() {
    let (ana, bob) = two_people();
    bob.ok(&["group", "join", "eng"]);
    until("Ana sees the group", || ana.ok(&["peers"]).contains("@eng"));
    let peers = ana.ok(&["peers"]);
    let members = ana.ok(&["members"]);
    let sent = ana.ok(&["send", "Bob", "two\nlines"]);
    reaches(&bob, "two\nlines");
    let inbox = bob.ok(&["inbox"]);
    let empty = ana.ok(&["inbox"]);
    snapshot("messages", &[peers, members, sent, inbox, empty].join("\n$\n"));
}
