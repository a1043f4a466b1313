//! Verbs of the operation table against a real daemon and broker: what people and programs see (CLI spec §3.4, §3.5,
//! §3.7, §3.10, §12.1).

use claudemesh_ipc::Client;
use claudemesh_protocol::ops::{OperationKind, Shape};
use serde_json::{Value, json};

use crate::home::{Home, two_people, until};
use crate::sessions::{Agent, wait};
use crate::words::snapshot;

/// A successful run whose words ask for JSON themselves.
fn projected(home: &Home, words: &[&str]) -> Value {
    serde_json::from_str(&home.ok(words)).unwrap()
}

/// CLI spec §3.10.
#[test]
fn state_is_set_read_and_listed() {
    let home = Home::new();
    home.up();
    let number = home.json_ok(&["state", "set", "n", "5"]);
    assert_eq!(
        (&number["ok"], &number["key"], &number["value"], &number["mesh"]),
        (&true.into(), &"n".into(), &5.into(), &"home".into())
    );
    assert_eq!(number.as_object().unwrap().keys().next().unwrap(), "schema_version");
    assert_eq!(home.json_ok(&["state", "get", "n"])["value"], 5);
    home.ok(&["state", "set", "n", "5", "--string"]);
    assert_eq!(home.json_ok(&["state", "get", "n"])["value"], "5");
    assert_eq!(home.feed(&["state", "set", "board", "-"], b"{\"url\":\"x\"}\n").code, 0);
    assert_eq!(home.json_ok(&["state", "get", "board"])["value"], json!({ "url": "x" }));
    let ran = home.feed(&["state", "set", "big", "-"], &vec![b'x'; 300 * 1024]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let ran = home.run(&["state", "get", "nope"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (5, ""), "{ran:?}");
    assert!(ran.stderr.contains("not set"), "{ran:?}");
    let (code, unset) = home.json(&["state", "get", "nope"]);
    assert_eq!((code, unset["error"].as_str()), (5, Some("not_found")), "{unset}");
    let (code, stale) = home.json(&["state", "set", "n", "6", "--if-version", "1"]);
    assert_eq!((code, stale["error"].as_str()), (6, Some("version_conflict")), "{stale}");
    let entries = projected(&home, &["state", "list", "--json=key,value"]);
    assert_eq!(
        entries,
        json!([{ "key": "board", "value": { "url": "x" } }, { "key": "n", "value": "5" }])
    );
    let spaced = home.ok(&["state", "list", "--json", "key,value"]);
    assert_eq!(spaced, home.ok(&["state", "list", "--fields", "key,value"]));
    let envelope = home.json_ok(&["state", "list", "--json-envelope"]);
    assert_eq!(
        (&envelope["mesh"], envelope["items"].as_array().unwrap().len()),
        (&"home".into(), 2)
    );
    let lines = home.ok(&["state", "list", "--output-format", "stream-json"]);
    assert_eq!(lines.lines().count(), 2);
    assert_eq!(home.run(&["state", "list", "--json=nope"]).code, 3);
    assert_eq!(home.run(&["state", "list", "--mesh", "hom"]).code, 5);
    snapshot(
        "state",
        &[
            home.ok(&["state", "set", "sprint", "14"]),
            home.ok(&["state", "get", "sprint"]),
            home.ok(&["state", "list"]),
            home.ok(&["state", "list", "--prefix", "nothing/"]),
        ]
        .join("\n$\n"),
    );
}

/// CLI spec §3.10: `--mesh` picks; without it and without a terminal a write asks for it.
#[test]
fn a_mesh_is_chosen_as_for_every_verb() {
    let home = Home::new();
    home.up();
    home.ok(&["create", "Second"]);
    let ran = home.run(&["state", "set", "k", "v"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("missing --mesh (2 meshes joined: home, second)"), "{ran:?}");
    home.ok(&["state", "set", "k", "v", "--mesh", "second"]);
    assert_eq!(home.json_ok(&["state", "get", "k", "--mesh", "second"])["mesh"], "second");
    assert_eq!(home.run(&["state", "get", "k", "--mesh", "home"]).code, 5);
}

/// CLI spec §1.3: an alias prints the same bytes; §3.7: groups and profile.
#[test]
fn groups_and_profile_are_changed_and_shown() {
    let (ana, bob) = two_people();
    let joined = bob.json_ok(&["group", "join", "@eng/core", "--role", "lead"]);
    assert_eq!((&joined["name"], &joined["role"]), (&"eng/core".into(), &"lead".into()));
    let set = bob.json_ok(&["summary", "reviewing", "the", "parser"]);
    assert_eq!(set["ok"], true, "{set}");
    bob.ok(&["status", "set", "dnd"]);
    until("Ana sees all of it", || {
        let rows = projected(&ana, &["peers", "--json=displayName,summary,status,groups"]);
        rows.as_array().unwrap().iter().any(|row| {
            row["displayName"] == "Bob"
                && row["summary"] == "reviewing the parser"
                && row["status"] == "dnd"
                && row["groups"][0]["name"] == "eng/core"
        })
    });
    assert_eq!(
        bob.ok(&["group", "list", "--json"]),
        bob.ok(&["group", "list", "--json=name,members,role,joined,mesh"])
    );
    bob.ok(&["summary", "--clear"]);
    until("the summary is gone", || {
        let rows = projected(&ana, &["peers", "--json=displayName,summary"]);
        let bob = rows.as_array().unwrap().iter().find(|row| row["displayName"] == "Bob").cloned();
        bob.is_some_and(|row| row["summary"].as_str().unwrap_or_default().is_empty())
    });
    let ran = bob.run(&["group", "leave", "@eng/core", "--no-daemon"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("group leave needs the daemon"), "{ran:?}");
    assert_eq!(bob.ok(&["grants", "--json"]), bob.ok(&["grant", "list", "--json"]));
}

/// CLI spec §3.4: by whom, whom, and what it says; C41.
#[test]
fn kicks_and_bans_say_what_they_did() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    let (code, refused) = bob.json(&["kick", "ana", "-y"]);
    assert_eq!((code, refused["error"].as_str()), (7, Some("forbidden")), "{refused}");
    let ran = ana.run(&["kick", "Nobody", "-y"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    until("only Bob's daemon matches", || {
        ana.run(&["kick", "Bob", "-y"]).stderr.contains("daemon")
    });
    let ran = ana.run(&["kick", "Bob", "-y"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.contains("left alone") && ran.stderr.contains("ban"), "{ran:?}");
    let banned = ana.json_ok(&["ban", "Bob", "--reason", "lost laptop", "-y"]);
    assert_eq!(banned["banned"], "Bob");
    let bans = ana.json_ok(&["bans"]);
    assert_eq!((&bans[0]["name"], &bans[0]["reason"]), (&"Bob".into(), &"lost laptop".into()));
    let text = ana.ok(&["peer", "bans"]);
    let unbanned = ana.ok(&["unban", "Bob"]);
    let none = ana.ok(&["bans"]);
    snapshot("bans", &[text, unbanned, none].join("\n$\n"));
}

/// CLI spec §3.5, §5.17: grants and the audit log.
#[test]
fn grants_and_the_audit_log_are_shown() {
    let (ana, _bob) = two_people();
    ana.member_key("Bob");
    let blocked = ana.json_ok(&["block", "Bob"]);
    assert_eq!((&blocked["peer"], &blocked["now"]), (&"Bob".into(), &json!([])));
    let text = ana.ok(&["grants"]);
    let granted = ana.ok(&["grant", "Bob", "dm", "read"]);
    let back = ana.ok(&["grant", "Bob", "--reset"]);
    let none = ana.ok(&["grants"]);
    snapshot("grants", &[text, granted, back, none].join("\n$\n"));
    let entries = ana.json_ok(&["audit", "query", "--limit", "2"]);
    assert_eq!(entries.as_array().unwrap().len(), 2, "{entries}");
    let verified = ana.json_ok(&["audit", "verify"]);
    assert_eq!(verified["valid"], true, "{verified}");
    let types = ana.ok(&["audit", "query", "--limit", "2", "--json=eventType"]);
    snapshot("audit", &types);
    assert_eq!(ana.run(&["audit", "query", "--limit", "501"]).code, 3);
}

/// Appendix C: two pages of the table, as people see them.
#[test]
fn help_pages_of_the_table() {
    let home = Home::new();
    snapshot("help-state-set", &home.ok(&["help", "state", "set"]));
    snapshot("help-peer-kick", &home.ok(&["kick", "--help"]));
}

/// X4: with stdin closed and stdout a pipe nothing asks and everything ends.
#[test]
fn no_operation_asks_without_a_terminal() {
    let home = Home::new().with("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1");
    for kind in claudemesh_protocol::ops::OperationKind::ALL {
        let Some(verb) = kind.spec().verb.filter(|verb| !verb.is_drawn_by_hand) else { continue };
        let words: Vec<&str> = verb.words.split(' ').chain(["a", "b"]).collect();
        let (code, document) = home.json(&words);
        assert!(matches!(code, 3 | 5), "{words:?}: {document}");
        assert_eq!(document["ok"], false, "{words:?}");
    }
}

/// CLI spec §1.13, §3.10: a list without `--mesh` reads every mesh, each row under its own.
#[test]
fn a_list_reads_every_mesh() {
    let home = Home::new();
    home.up();
    home.ok(&["create", "Second"]);
    for mesh in ["home", "second"] {
        home.ok(&["state", "set", "k", mesh, "--mesh", mesh]);
    }
    assert_eq!(
        projected(&home, &["state", "list", "--json=mesh,key,value"]),
        json!([
            { "mesh": "home", "key": "k", "value": "home" },
            { "mesh": "second", "key": "k", "value": "second" }
        ])
    );
    assert!(home.ok(&["state", "list"]).trim_start().starts_with("mesh"));
}

/// Names of the fields of a value, and of the records inside it.
fn names(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), names(value))).collect()
        }
        Value::Array(items) => items.iter().map(names).collect(),
        _ => Value::Null,
    }
}

/// MCP spec §2 Accept 3, CLI spec §1.9: `--json` prints the result of the operation, its fields under the same names.
/// Left out are the objects of the daemon, which that section names (sends and the inbox), and what needs a person.
#[test]
fn json_has_the_fields_of_the_operation_under_their_names() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    let invite = ana.invite(2);
    for name in ["Cleo", "Dan"] {
        Home::new().ok(&["join", &invite, "--name", name]);
    }
    let names_of_agents = ["builder", "planner", "tester", "writer"];
    let _agents: Vec<Agent> = (1..)
        .zip(names_of_agents)
        .map(|(number, name)| Agent::register(&bob, number, name))
        .collect();
    until("Ana sees the sessions", || {
        let peers = ana.ok(&["peers"]);
        names_of_agents.iter().all(|name| peers.contains(name))
    });
    let sent = ana.json_ok(&["send", "Bob", "hello"]);
    let id = sent["client_message_id"].as_str().unwrap().to_owned();
    ana.ok(&["state", "set", "sprint", "14"]);
    let client = Client::new(ana.file("daemon/daemon.sock"));
    for kind in OperationKind::ALL {
        let spec = kind.spec();
        let (line, arguments) = match kind {
            // Left out as said above; a log is verified once in a minute, and its JSON stands in its page.
            OperationKind::MessageSend
            | OperationKind::MessageInbox
            | OperationKind::PeerUnblockLoop
            | OperationKind::AuditVerify => continue,
            // Each can be done once: to one by the verb, to another by the operation.
            OperationKind::PeerKick => ("kick builder", json!({ "target": "planner" })),
            OperationKind::PeerDisconnect => ("disconnect tester", json!({ "target": "writer" })),
            OperationKind::PeerBan => ("ban Cleo", json!({ "target": "Dan" })),
            OperationKind::PeerUnban => ("unban Cleo", json!({ "target": "Dan" })),
            OperationKind::MessageStatus => ("message status ID", json!({ "messageId": id })),
            OperationKind::StateSet => ("state set k 5", json!({ "key": "k", "value": 5 })),
            OperationKind::StateGet => ("state get sprint", json!({ "key": "sprint" })),
            OperationKind::GroupJoin => ("group join eng", json!({ "name": "eng" })),
            OperationKind::GroupLeave => ("group leave eng", json!({ "name": "eng" })),
            OperationKind::ProfileSummary => ("summary at work", json!({ "summary": "at work" })),
            OperationKind::ProfileStatus => ("status set idle", json!({ "status": "idle" })),
            OperationKind::ProfileVisible => ("visible yes", json!({ "visible": true })),
            OperationKind::ProfileEdit => ("profile edit --title x", json!({ "title": "x" })),
            OperationKind::PeerVerify => ("verify Bob", json!({ "peer": "Bob" })),
            OperationKind::GrantAdd => {
                ("grant Bob file-read", json!({ "peer": "Bob", "capabilities": ["file-read"] }))
            }
            OperationKind::GrantRemove => {
                ("revoke Bob file-read", json!({ "peer": "Bob", "capabilities": ["file-read"] }))
            }
            OperationKind::GrantBlock => ("block Bob", json!({ "peer": "Bob" })),
            OperationKind::MemberAllow => (
                "member allow Bob canInvite",
                json!({ "peer": "Bob", "permissions": ["canInvite"] }),
            ),
            OperationKind::MemberDeny => (
                "member deny Bob canInvite",
                json!({ "peer": "Bob", "permissions": ["canInvite"] }),
            ),
            OperationKind::MemberRole => {
                ("member role Bob member", json!({ "peer": "Bob", "role": "member" }))
            }
            OperationKind::StateList
            | OperationKind::MeshInfo
            | OperationKind::PeerBans
            | OperationKind::AuditQuery
            | OperationKind::PeerList
            | OperationKind::GroupList
            | OperationKind::MeshStats
            | OperationKind::MeshPing
            | OperationKind::MemberList
            | OperationKind::MemberPermissions
            | OperationKind::GrantList => (spec.verb.unwrap().words, json!({})),
        };
        let line = line.replace("ID", &id);
        let mut words: Vec<&str> = line.split(' ').collect();
        words.extend(["--mesh", "home", "-y"]);
        let printed = ana.json_ok(&words);
        let Value::Object(arguments) = arguments else { unreachable!() };
        let reply = wait(client.op(*kind, Some("home"), arguments));
        let mut result = reply.unwrap_or_else(|error| panic!("{}: {error}", spec.name)).result;
        if let Shape::List(list) = spec.shape {
            result = result[list].take();
        } else {
            result["schema_version"] = "1.0".into();
            // Every record says its mesh, also one that may be about several.
            result["mesh"] = "home".into();
        }
        assert_eq!(names(&printed), names(&result), "{}", spec.name);
    }
}
