//! Who gets which event, and what those get who come back or fall behind.

use super::*;

const A: PublicKey = PublicKey::from_bytes([0xaa; 32]);
const B: PublicKey = PublicKey::from_bytes([0xbb; 32]);

fn message(audience: Audience, id: usize) -> Event {
    Event {
        kind: EventKind::Message,
        mesh: Some("dev".to_owned()),
        audience,
        sessions: Vec::new(),
        message: Some(MessageKey { sender: "m".to_owned(), client_message_id: id.to_string() }),
        data: Map::from_iter([("n".to_owned(), id.into())]),
    }
}

fn session(key: PublicKey) -> Filter {
    let session_id = key.to_hex();
    let view = View::Session { mesh: "dev".to_owned(), session_id, key: Some(key) };
    Filter { view, kinds: None }
}

fn drain(subscription: &Subscription) -> Vec<String> {
    let take = || subscription.queue.waiting.lock().take();
    std::iter::from_fn(take).map(|text| String::from_utf8(text.into()).unwrap()).collect()
}

fn numbers(texts: &[String]) -> Vec<usize> {
    let number = |text: &String| {
        let data = text.lines().find_map(|line| line.strip_prefix("data: "))?;
        let data: Value = serde_json::from_str(data).ok()?;
        usize::try_from(data.get("n")?.as_u64()?).ok()
    };
    texts.iter().filter_map(number).collect()
}

fn id_of(text: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned()
}

/// Daemon spec §14 Accept 1: sessions A,B on one daemon: each subscriber's stream equals the oracle set, in order, without duplicates.
#[test]
fn each_session_gets_exactly_its_own_messages_once() {
    let bus = EventBus::new();
    let (a, b) = (bus.subscribe(session(A), None), bus.subscribe(session(B), None));
    let member = bus.subscribe(Filter { view: View::Member { mesh: None }, kinds: None }, None);
    let mut oracle = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..900 {
        let audience = match n % 3 {
            0 => Audience::Session(A),
            1 => Audience::Session(B),
            _ => Audience::Member,
        };
        bus.publish(message(audience, n));
        if n % 2 == 0 {
            // A broadcast reaches the member's key too.
            bus.publish(message(Audience::Member, n));
        }
        let to_member = n % 3 == 2 || n % 2 == 0;
        if n % 3 == 0 || to_member {
            oracle.0.push(n);
        }
        if n % 3 == 1 || to_member {
            oracle.1.push(n);
        }
        if to_member {
            oracle.2.push(n);
        }
    }
    assert_eq!(numbers(&drain(&a)), oracle.0);
    assert_eq!(numbers(&drain(&b)), oracle.1);
    let mut at_member = numbers(&drain(&member));
    at_member.dedup();
    assert_eq!(at_member, oracle.2);
}

/// Daemon spec §14 Accept 2: subscriber killed and restarted with `Last-Event-ID` during traffic: no gap, no duplicate.
#[test]
fn coming_back_with_an_id_continues_there() {
    let bus = EventBus::new();
    let first = bus.subscribe(session(A), None);
    for n in 0..10 {
        bus.publish(message(Audience::Member, n));
    }
    let last = id_of(&drain(&first)[4]);
    drop(first);
    for n in 5..15 {
        bus.publish(message(Audience::Session(A), n));
    }
    let second = bus.subscribe(session(A), Some(&last));
    assert_eq!(numbers(&drain(&second)), (5..15).collect::<Vec<_>>());
}

#[test]
fn an_unknown_or_forgotten_id_is_answered_with_lagged() {
    let bus = EventBus::new();
    bus.publish(message(Audience::Member, 0));
    let watcher = bus.subscribe(Filter::everything(), None);
    bus.publish(message(Audience::Member, 1));
    let early = id_of(&drain(&watcher)[0]);
    for n in 0..EVENT_RING + 2 {
        bus.publish(message(Audience::Member, n));
    }
    for id in [early.as_str(), "00000000-1", "nonsense", ""] {
        let back = bus.subscribe(session(A), Some(id));
        assert!(drain(&back)[0].contains("unknown_id"), "{id}");
    }
}

/// Daemon spec §14 Accept 3: subscriber that never reads: it gets `lagged`; memory bounded.
#[test]
fn who_does_not_read_loses_the_oldest_and_is_told() {
    let bus = EventBus::new();
    let (lazy, busy) = (bus.subscribe(session(A), None), bus.subscribe(session(A), None));
    for n in 0..EVENT_QUEUE + 7 {
        bus.publish(message(Audience::Member, n));
        assert_eq!(drain(&busy).len(), 1);
    }
    let texts = drain(&lazy);
    assert!(texts[0].contains("\"dropped\":7"), "{}", texts[0]);
    assert_eq!(numbers(&texts), (7..EVENT_QUEUE + 7).collect::<Vec<_>>());
}

#[test]
fn kinds_and_meshes_are_filtered() {
    let bus = EventBus::new();
    let only_status = Filter {
        view: View::All { mesh: Some("other".to_owned()) },
        kinds: Some(std::iter::once("broker_status".to_owned()).collect()),
    };
    let watcher = bus.subscribe(only_status, None);
    bus.publish(message(Audience::Member, 1));
    bus.publish(Event::of_mesh(EventKind::BrokerStatus, "dev", Map::new()));
    bus.publish(Event::of_mesh(EventKind::BrokerStatus, "other", Map::new()));
    bus.publish(Event::of_mesh(EventKind::PeerJoin, "other", Map::new()));
    assert_eq!(drain(&watcher).len(), 1);
}

/// Daemon §13.2: a session whose gate is closed is left out, and told by itself when the gate opens; nobody else hears of
/// the message twice.
#[test]
fn who_is_told_later_is_told_once_and_alone() {
    let bus = EventBus::new();
    let (a, b) = (bus.subscribe(session(A), None), bus.subscribe(session(B), None));
    let (member, all) = (
        bus.subscribe(Filter { view: View::Member { mesh: None }, kinds: None }, None),
        bus.subscribe(Filter::everything(), None),
    );
    bus.publish(Event { sessions: vec![B.to_hex()], ..message(Audience::Member, 1) });
    assert_eq!(numbers(&drain(&a)), [1]);
    assert!(drain(&b).is_empty());
    bus.publish(Event { sessions: vec![B.to_hex()], ..message(Audience::Listed, 1) });
    bus.publish(Event { sessions: vec![B.to_hex()], ..message(Audience::Listed, 1) });
    assert_eq!(numbers(&drain(&b)), [1]);
    assert!(drain(&a).is_empty());
    assert_eq!((numbers(&drain(&member)), numbers(&drain(&all))), (vec![1], vec![1]));
}
