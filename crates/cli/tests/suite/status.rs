//! `message status` in the situations a person asks about: the screen as a snapshot, and the words of the wire in the
//! JSON (CLI spec §3.6, wire spec §3.1 Receipts).

use claudemesh_protocol::PeerStatus;
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;

use crate::home::{Home, kill, two_people, until};
use crate::sessions::{Agent, wait};
use crate::words::snapshot;

/// Sends and gives the sender's id of the message, under which the status is asked.
fn send(home: &Home, to: &str, text: &str) -> String {
    let sent = home.json_ok(&["send", to, text]);
    sent["client_message_id"].as_str().unwrap().to_owned()
}

/// The status once a recipient is in this state.
fn status(home: &Home, id: &str, state: &str) -> Value {
    let mut last = Value::Null;
    until(&format!("{id} is {state}"), || {
        last = home.json_ok(&["message", "status", id]);
        let recipients = last["recipients"].as_array().unwrap();
        recipients.iter().any(|recipient| recipient["state"] == state)
    });
    last
}

/// The words of the wire about the one recipient: state, who says so, why, whether there is a next step.
fn words(status: &Value) -> Value {
    let recipients = status["recipients"].as_array().unwrap();
    assert_eq!(recipients.len(), 1, "{status}");
    let recipient = &recipients[0];
    json!([recipient["state"], recipient["assertedBy"], recipient["reason"], recipient["next"]])
}

fn next(status: &Value) -> &str {
    status["recipients"][0]["next"].as_str().unwrap_or_default()
}

/// The screen, and that nobody has to know a word of the wire to read it.
fn screen(home: &Home, id: &str) -> String {
    let text = home.ok(&["message", "status", id]);
    assert!(!text.contains('_'), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    text
}

fn is_away(ana: &Home, name: &str) {
    until(&format!("Ana sees that {name} is away"), || {
        let members = ana.json_ok(&["members"]);
        members
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["displayName"] == name && row["online"] == false)
            && !ana.ok(&["peers"]).contains(name)
    });
}

/// Ana sees a session of somebody.
fn sees(ana: &Home, name: &str) {
    until(&format!("Ana sees {name}"), || ana.ok(&["peers"]).contains(name));
}

fn kill_broker(home: &Home) {
    let pid = std::fs::read_to_string(home.broker_dir().join("broker.lock")).unwrap();
    kill(pid.trim().parse().unwrap());
}

/// An absent peer.
#[test]
fn for_an_absent_peer_it_is_held_by_the_broker() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    bob.ok(&["daemon", "down"]);
    is_away(&ana, "Bob");
    let id = send(&ana, "Bob", "for later");
    let told = status(&ana, &id, "held");
    assert_eq!(words(&told), json!(["held", "broker", "absent", next(&told)]));
    assert!(next(&told).starts_with("waits until Bob connects, expires 20"), "{told}");
    assert_eq!((&told["delivered"], &told["targetName"]), (&json!(false), &json!("Bob")));
    snapshot("status-absent", &screen(&ana, &id));
}

/// A busy peer: its daemon has the message and waits for the agent.
#[test]
fn for_a_busy_peer_it_lies_on_its_machine() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let builder = Agent::register(&bob, 1, "builder");
    builder.is(PeerStatus::Working);
    sees(&ana, "builder");
    let id = send(&ana, "builder", "when you have a moment");
    let told = status(&ana, &id, "held");
    assert_eq!(
        words(&told),
        json!(["held", "recipient_daemon", "busy", "waits until Bob is idle"])
    );
    assert_eq!(told["delivered"], true);
    snapshot("status-busy", &screen(&ana, &id));
}

/// A dead session: what it was not shown, and what is sent to it afterwards.
#[test]
fn for_a_dead_session_it_goes_to_its_member() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let builder = Agent::register(&bob, 1, "builder");
    builder.is(PeerStatus::Working);
    sees(&ana, "builder");
    let peers = ana.json_ok(&["peers"]);
    let row = peers.as_array().unwrap().iter().find(|row| row["displayName"] == "builder").unwrap();
    let key = row["pubkey"].as_str().unwrap().to_owned();
    let before = send(&ana, "builder", "before the end");
    status(&ana, &before, "held");
    builder.end();
    let moved = status(&ana, &before, "session_gone");
    assert_eq!(
        words(&moved),
        json!([
            "session_gone",
            "recipient_daemon",
            null,
            "waits until another session of Bob takes it"
        ])
    );
    let member = ana.member_key("Bob");
    assert_eq!(moved["recipients"][0]["pubkey"], json!(member), "{moved}");
    bob.ok(&["daemon", "down"]);
    is_away(&ana, "Bob");
    let after = send(&ana, &key, "after the end");
    let told = status(&ana, &after, "rerouted");
    assert_eq!(words(&told), json!(["rerouted", "broker", "session_ended", next(&told)]));
    assert!(next(&told).starts_with("waits until Bob connects"), "{told}");
    assert_eq!(told["recipients"][0]["path"], json!(member), "{told}");
    let screens = [screen(&ana, &before), screen(&ana, &after)];
    snapshot("status-dead-session", &screens.join("\n$\n"));
}

/// A killed broker: what it had accepted, and what it never saw.
#[test]
fn with_a_killed_broker_the_last_word_is_told() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let helper = Agent::register(&ana, 1, "helper");
    sees(&bob, "helper");
    let handed = send(&bob, "helper", "read before");
    until("it arrives", || ana.bodies() == ["read before"]);
    helper.ok(&ana, &["inbox"]);
    status(&bob, &handed, "handed");
    ana.ok(&["daemon", "down"]);
    is_away(&bob, "ana");
    let accepted = send(&bob, "ana", "accepted before");
    status(&bob, &accepted, "held");
    kill_broker(&ana);
    until("Bob's daemon has noticed", || {
        bob.json_ok(&["daemon", "status"])["brokers"]["home"] != "open"
    });
    let queued = send(&bob, "ana", "while it is away");
    let told = status(&bob, &queued, "held");
    assert_eq!(
        words(&told),
        json!([
            "held",
            "sender_daemon",
            "broker_unreachable",
            "sent as soon as the broker is reachable"
        ])
    );
    assert_eq!((&told["live"], &told["messageId"]), (&json!(false), &Value::Null));
    let told = status(&bob, &accepted, "accepted");
    assert_eq!(
        words(&told),
        json!(["accepted", "broker", null, "the broker hands it to ana by itself"])
    );
    assert_eq!((&told["live"], &told["delivered"]), (&json!(false), &json!(false)));
    let told = status(&bob, &handed, "handed");
    assert_eq!(words(&told), json!(["handed", "recipient_daemon", null, null]));
    assert_eq!((&told["live"], &told["delivered"]), (&json!(false), &json!(true)));
    let screens = [queued, accepted, handed].map(|id| screen(&bob, &id));
    snapshot("status-killed-broker", &screens.join("\n$\n"));
}

/// Refused by a grant: the recipient lets the sender do nothing.
#[test]
fn refused_by_a_grant_it_says_so_and_stays() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let member = ana.member_key("Bob");
    let own = bob.json_ok(&["members"]);
    let own = own.as_array().unwrap().iter().find(|row| row["displayName"] == "ana").unwrap();
    let own = own["pubkey"].as_str().unwrap().to_owned();
    ana.ok(&["down", "--broker-only"]);
    wait(async {
        let mut database = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(ana.broker_dir().join("broker.db"))
            .connect()
            .await
            .unwrap();
        let changed = sqlx::query("UPDATE member SET peer_grants = ? WHERE peer_pubkey = ?")
            .bind(json!({ own: [] }).to_string())
            .bind(&member)
            .execute(&mut database)
            .await
            .unwrap();
        assert_eq!(changed.rows_affected(), 1);
    });
    ana.up();
    until("the mesh is open", || ana.json_ok(&["daemon", "status"])["brokers"]["home"] == "open");
    let (code, refused) = ana.json(&["send", &member, "let me in", "--client-id", "grant-test-1"]);
    assert_eq!((code, refused["error"].as_str()), (7, Some("forbidden")), "{refused}");
    let told = status(&ana, "grant-test-1", "refused");
    assert_eq!(words(&told), json!(["refused", "sender_daemon", "forbidden", next(&told)]));
    assert_eq!((&told["delivered"], &told["outbox"]["status"]), (&json!(false), &json!("dead")));
    snapshot("status-refused", &screen(&ana, "grant-test-1"));
}

/// Answered: a reply names it.
#[test]
fn answered_is_the_end_of_the_ladder() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let builder = Agent::register(&bob, 1, "builder");
    sees(&ana, "builder");
    let id = send(&ana, "builder", "is it done?");
    until("it arrives", || bob.bodies() == ["is it done?"]);
    let inbox: Value = serde_json::from_str(&builder.ok(&bob, &["inbox", "--json"])).unwrap();
    let question = inbox[0]["broker_message_id"].as_str().unwrap().to_owned();
    let handed = status(&ana, &id, "handed");
    let before = screen(&ana, &id);
    assert_eq!(words(&handed), json!(["handed", "recipient_daemon", null, next(&handed)]));
    assert_eq!(handed["recipients"][0]["evidence"], "builder", "{handed}");
    builder.ok(&bob, &["send", "ana", "yes", "--reply-to", &question]);
    let told = status(&ana, &id, "answered");
    assert_eq!(words(&told), json!(["answered", "agent_record", null, null]));
    assert_eq!(told["delivered"], true);
    snapshot("status-answered", &[before, screen(&ana, &id)].join("\n$\n"));
}
