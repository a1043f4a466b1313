//! Who may use which frame: the table of broker spec §7.1 and wire spec §2.4, written out once more by hand, so that a
//! wrong line of the declarations shows.

use std::collections::BTreeSet;

use claudemesh_protocol::permission::Permission;
use claudemesh_protocol::wire::FrameKind;
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket};
use crate::world::World;

/// What a member needs beside the capability of its session.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Nothing,
    Flag(&'static str),
    Admin,
    /// The connection of the member itself.
    OwnConnection,
}
use Needs::{Admin, Flag, Nothing, OwnConnection};

/// One way of using a frame. The arguments are harmless: where the use is allowed they are refused for another reason, or
/// change what nobody looks at.
struct Use {
    word: &'static str,
    arguments: Value,
    cap: Option<&'static str>,
    needs: Needs,
}

fn uses(someone: &str) -> Vec<Use> {
    let of = |word, arguments, cap, needs| Use { word, arguments, cap, needs };
    let body =
        |target: &str| json!({"targetSpec": target, "nonce": "bm9uY2U=", "ciphertext": "Y2lwaGVy"});
    let signature = "ab".repeat(64);
    vec![
        of(
            "hello",
            json!({"meshId": "m", "memberId": "x", "pubkey": someone, "sessionId": "s", "timestamp": 1, "signature": signature}),
            None,
            Nothing,
        ),
        of(
            "session_hello",
            json!({"meshId": "m", "parentMemberPubkey": someone, "sessionPubkey": someone, "parentAttestation": {}, "sessionId": "s", "timestamp": 1, "signature": signature}),
            None,
            Nothing,
        ),
        of("send", body(someone), Some("dm"), Flag("canSend")),
        of("send", body("*"), Some("broadcast"), Flag("canSend")),
        of("send", body("@ops"), Some("broadcast"), Flag("canSend")),
        of("pull_messages", json!({}), None, Nothing),
        of("client_ack", json!({"brokerMessageId": "none"}), None, Nothing),
        of(
            "receipt",
            json!({"brokerMessageId": "none", "clientMessageId": "none", "recipient": someone, "state": "seen", "at": 1}),
            None,
            Nothing,
        ),
        of("loop_unblock", json!({"peer": someone}), Some("dm"), Nothing),
        of("message_status", json!({"messageId": "none"}), Some("read"), Nothing),
        of("list_peers", json!({}), Some("read"), Nothing),
        of("list_members", json!({}), Some("read"), Nothing),
        of("set_status", json!({"status": "working"}), Some("profile-write"), Nothing),
        of("set_status", json!({"status": "idle", "source": "hook"}), None, Nothing),
        of("set_summary", json!({"summary": "x"}), Some("profile-write"), Nothing),
        of("set_visible", json!({"visible": true}), Some("profile-write"), Nothing),
        of("set_profile", json!({"title": "x"}), Some("profile-write"), Nothing),
        of("set_stats", json!({"stats": {}}), None, Nothing),
        of("join_group", json!({"name": "ops"}), Some("profile-write"), Nothing),
        of("leave_group", json!({"name": "ops"}), Some("profile-write"), Nothing),
        of(
            "set_state",
            json!({"key": "k", "value": 1}),
            Some("state-write"),
            Flag("canWriteState"),
        ),
        of("get_state", json!({"key": "k"}), Some("state-read"), Nothing),
        of("list_state", json!({}), Some("state-read"), Nothing),
        of("kick", json!({"target": "nobody at all"}), Some("kick"), Admin),
        of("disconnect", json!({"target": "nobody at all"}), Some("kick"), Admin),
        of("ban", json!({"target": "nobody at all"}), Some("ban"), Admin),
        of("unban", json!({"target": "nobody at all"}), Some("ban"), Admin),
        of("list_bans", json!({}), Some("read"), Admin),
        of("set_grants", json!({"grants": {}}), Some("grant"), Nothing),
        of("get_grants", json!({}), Some("grant"), Nothing),
        of(
            "rotate_member_key",
            json!({"newPubkey": "cd".repeat(32), "timestamp": 1, "signature_old": signature, "signature_new": signature}),
            None,
            OwnConnection,
        ),
        of("audit_query", json!({}), Some("read"), Admin),
        of("audit_verify", json!({}), Some("read"), Admin),
        of("mesh_info", json!({}), Some("read"), Nothing),
        // Last: it ends the connection.
        of("goodbye", json!({}), None, Nothing),
    ]
}

/// Who asks.
struct Caller {
    name: String,
    socket: Socket,
    /// What the session was given; `None` everything.
    caps: Option<Vec<&'static str>>,
    is_admin: bool,
    is_own_connection: bool,
    lacks: Vec<&'static str>,
}

impl Caller {
    /// Why it may not, by the table.
    fn refusal(&self, one: &Use) -> Option<String> {
        if let (Some(cap), Some(caps)) = (one.cap, &self.caps)
            && !caps.contains(&cap)
        {
            return Some(format!("missing session capability \"{cap}\""));
        }
        match one.needs {
            Flag(flag) if self.lacks.contains(&flag) => {
                Some(format!("missing permission \"{flag}\""))
            }
            Admin if !self.is_admin => {
                Some(format!("only the owner or an admin can use \"{}\"", one.word))
            }
            OwnConnection if !self.is_own_connection => {
                Some("a key is rotated by the member's own connection".to_owned())
            }
            _ => None,
        }
    }
}

const CAPS: [&str; 10] = [
    "read",
    "dm",
    "broadcast",
    "state-read",
    "state-write",
    "grant",
    "kick",
    "ban",
    "profile-write",
    "service-deploy",
];

async fn callers(world: &World, people: &[Person]) -> Vec<Caller> {
    let [owner, admin, member, muted] = people else { panic!("four people") };
    let mut callers = Vec::new();
    for (person, is_admin, lacks) in [
        (owner, true, vec![]),
        (admin, true, vec![]),
        (member, false, vec![]),
        (muted, false, vec!["canSend", "canWriteState"]),
    ] {
        callers.push(Caller {
            name: person.name.clone(),
            socket: world.daemon(person).await,
            caps: None,
            is_admin,
            is_own_connection: true,
            lacks: lacks.clone(),
        });
        callers.push(Caller {
            name: format!("session of {}", person.name),
            socket: world.session(person, &Session::new()).await,
            caps: None,
            is_admin,
            is_own_connection: false,
            lacks,
        });
    }
    let single = CAPS.iter().map(|cap| vec![*cap]);
    for caps in single.chain([vec![], CAPS.to_vec()]) {
        // Of the owner, so that nothing but the list decides; and of a member, so that the list never adds a right.
        for (person, is_admin) in [(owner, true), (member, false)] {
            let hello = world.limited_hello(person, &Session::new(), &caps);
            callers.push(Caller {
                name: format!("session of {} with {caps:?}", person.name),
                socket: world.connect(hello).await,
                caps: Some(caps.clone()),
                is_admin,
                is_own_connection: false,
                lacks: vec![],
            });
        }
    }
    callers
}

async fn scene() -> (World, Vec<Person>) {
    let world = World::start_with(|settings| {
        settings.limits.send_per_min = 100_000;
        settings.limits.send_burst = 100_000;
    })
    .await;
    let people = world.mesh_of(&["owner", "admin", "member", "muted"]).await;
    world.promote(&people[1]).await;
    let broker = world.broker().broker();
    let taken = [(Permission::Send, Some(false)), (Permission::WriteState, Some(false))];
    let (mesh, by, now) = (&people[0].mesh, &people[0].id, world.clock_now());
    let store = broker.store();
    store.merge_permissions(mesh, &people[3].id, taken.into(), by, now).await.unwrap();
    broker.roster_changed(mesh);
    (world, people)
}

/// The refusal in an answer that is one for want of a right.
fn refusal(answer: &Value) -> Option<String> {
    let text = answer["error"].as_str().or_else(|| answer["message"].as_str())?;
    let is_forbidden = answer["code"] == "forbidden" || text.starts_with("forbidden: missing");
    is_forbidden.then(|| text.trim_start_matches("forbidden: ").to_owned())
}

/// AZ-1 for the frames that exist, CAP-1, CAP-2, CAP-3.
#[tokio::test]
async fn every_frame_is_answered_by_the_table_to_every_caller() {
    let (world, people) = scene().await;
    let target = people[2].key.public().to_hex();
    let uses = uses(&target);
    let words: BTreeSet<&str> = uses.iter().map(|one| one.word).collect();
    let known: BTreeSet<&str> = FrameKind::ALL.iter().map(|kind| kind.spec().word).collect();
    assert_eq!(words, known, "every frame has its line here");
    let mut refused_caps = 0;
    for mut caller in callers(&world, &people).await {
        for one in &uses {
            let what = format!("{}: {} {}", caller.name, one.word, one.arguments);
            let mut frame = one.arguments.clone();
            frame["type"] = json!(one.word);
            if one.word == "goodbye" {
                caller.socket.send(&frame).await;
                assert_eq!(caller.socket.close_reason().await.0, 1000, "{what}");
                continue;
            }
            let answer = caller.socket.ask(frame).await;
            let expected = caller.refusal(one);
            refused_caps += usize::from(
                expected.as_deref().is_some_and(|text| text.starts_with("missing session")),
            );
            assert_eq!(refusal(&answer), expected, "{what}: {answer}");
            if one.word.ends_with("hello") {
                assert_eq!(answer["code"], "already_authenticated", "{what}");
            }
        }
    }
    let metrics = world.get("/metrics").await.ok();
    let counted: usize = metrics
        .as_str()
        .unwrap()
        .lines()
        .filter(|line| line.contains("broker_session_cap_denied_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    assert_eq!(counted, refused_caps, "each refusal is counted under its capability");
}

/// AZ-1: without a hello there is nothing, and after a ban there is no hello.
#[tokio::test]
async fn strangers_and_removed_members_use_nothing() {
    let (world, people) = scene().await;
    let mut socket = world.socket().await;
    for one in uses(&people[2].key.public().to_hex()) {
        if one.word.ends_with("hello") {
            continue;
        }
        let mut frame = one.arguments;
        frame["type"] = json!(one.word);
        let answer = socket.ask(frame).await;
        assert_eq!(answer["code"], "no_hello", "{}: {answer}", one.word);
    }
    let mut owner = world.daemon(&people[0]).await;
    owner.ask(json!({"type": "ban", "target": "member"})).await;
    let (refused, ..) = world.refused(world.daemon_hello(&people[2])).await;
    assert_eq!(refused["code"], "revoked");
}

/// AZ-1, G-3: what stands in another mesh is answered like what does not exist.
#[tokio::test]
async fn another_mesh_is_answered_like_nothing() {
    let (world, people) = scene().await;
    let others = world.mesh_of(&["boss", "hand"]).await;
    let mut boss = world.daemon(&others[0]).await;
    let mut owner = world.daemon(&people[0]).await;
    let _member = world.daemon(&people[2]).await;
    let ack = owner.message(json!({"targetSpec": people[2].key.public()})).await;
    let there = people[2].key.public().to_hex();
    let nowhere = "ef".repeat(32);
    for word in ["kick", "disconnect", "ban", "unban"] {
        let answer = async |socket: &mut Socket, target: &str| {
            let mut answer = socket.ask(json!({"type": word, "target": target})).await;
            answer["_reqId"] = Value::Null;
            answer["id"] = Value::Null;
            answer
        };
        let missing = answer(&mut boss, &nowhere).await;
        assert_eq!(missing["code"], "not_found", "{missing}");
        for target in [there.as_str(), "member"] {
            assert_eq!(answer(&mut boss, target).await, missing, "{word}");
        }
    }
    let send = json!({"targetSpec": there});
    let ack_there = boss.message(send).await;
    assert_eq!(boss.message(json!({"targetSpec": nowhere})).await["error"], ack_there["error"]);
    assert_eq!(ack_there["queued"], false);
    // Another mesh's message, another member's message, and none at all.
    let id = ack["messageId"].as_str().unwrap();
    let mut admin = world.daemon(&people[3]).await;
    let status = async |socket: &mut Socket, id: &str| {
        let mut answer = socket.ask(json!({"type": "message_status", "messageId": id})).await;
        for field in ["_reqId", "id", "messageId"] {
            answer[field] = Value::Null;
        }
        answer
    };
    let missing = status(&mut boss, &"0".repeat(id.len())).await;
    assert_eq!(status(&mut boss, id).await, missing);
    assert_eq!(status(&mut admin, id).await, missing);
    assert_eq!(owner.peers().await.len(), 3, "nothing has happened");
}
