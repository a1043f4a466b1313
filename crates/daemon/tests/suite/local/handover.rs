//! Which session is given a message, and when: gates, modes, the member's sessions together, what an ended session leaves
//! (daemon spec §8.7, §10.6, §13.2).

use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::Running;
use claudemesh_ipc::api::inbox::{ANSWERED_ELSEWHERE, SeenRequest};
use claudemesh_ipc::api::session::{HookEvent, PromptOrigin};
use claudemesh_ipc::api::{
    Event, EventKind, EventsQuery, InboxItem, InboxQuery, MessageMode, OutboxQuery, ProfileRequest,
    RecipientKind, SendRequest, StatusReport,
};
use claudemesh_ipc::{Client, EventStream};
use claudemesh_protocol::{PeerStatus, Priority};

use super::inbox::{item, put};
use super::world::{Home, letter, register, some_key, token, until};

const PATIENCE: Duration = Duration::from_secs(10);

struct Scene {
    home: Home,
    member: KeyPair,
    running: Running,
}

async fn scene() -> Scene {
    let home = Home::new();
    let member = home.join("dev");
    let running = home.start().await;
    Scene { home, member, running }
}

impl Scene {
    async fn direct(&self, id: &str, priority: Priority) {
        let mut new = item(self.member.public(), RecipientKind::Member, id);
        new.priority = priority;
        put(&self.running, new).await;
    }
}

fn peek() -> InboxQuery {
    InboxQuery { mark_seen: Some(false), ..InboxQuery::default() }
}

fn unread() -> InboxQuery {
    InboxQuery { unread_only: Some(true), ..peek() }
}

async fn stream(client: &Client) -> EventStream {
    client.events(&EventsQuery::default(), None).await.unwrap()
}

/// The next event of this kind.
async fn next(events: &mut EventStream, kind: &EventKind) -> Event {
    let found = async {
        loop {
            let event = events.next().await.unwrap().expect("the stream goes on");
            if event.kind == *kind {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {kind:?} event"))
}

/// Id and `push` of the next message.
async fn message(events: &mut EventStream) -> (String, bool) {
    let event = next(events, &EventKind::Message).await;
    let id = event.data["client_message_id"].as_str().unwrap().to_owned();
    (id, event.data["push"].as_bool().unwrap())
}

async fn report(client: &Client, event: HookEvent) -> Vec<String> {
    let report = StatusReport { event: Some(event), ..StatusReport::default() };
    let reply = client.session_status(&report).await.unwrap();
    assert_eq!(reply.matched, 1);
    reply.messages.into_iter().map(|item| item.client_message_id).collect()
}

async fn listed(client: &Client, query: &InboxQuery) -> Vec<InboxItem> {
    client.inbox(query).await.unwrap().items
}

/// Daemon spec §13 Accept 2: `next` DM to a `working` session: in the inbox at once, handed over at Stop or the next prompt;
/// `now` at the next tool boundary, or at once where a live path exists.
#[tokio::test(flavor = "multi_thread")]
async fn a_working_session_is_told_when_its_gate_opens() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    let mut events = stream(&client).await;
    assert!(report(&client, HookEvent::Prompt).await.is_empty());
    let changed = next(&mut events, &EventKind::SessionUpdated).await;
    assert_eq!(
        (&changed.data["status"], &changed.data["changed"][0]),
        (&"working".into(), &"status".into())
    );
    scene.direct("first", Priority::Next).await;
    scene.direct("second", Priority::Next).await;
    scene.direct("urgent", Priority::Now).await;
    scene.direct("whenever", Priority::Low).await;
    // In the inbox at once, marked as waiting; only what may interrupt is told.
    let items = listed(&client, &peek()).await;
    let held: Vec<_> =
        items.iter().rev().map(|item| (item.client_message_id.as_str(), item.held)).collect();
    assert_eq!(held, [("first", true), ("second", true), ("urgent", false), ("whenever", false)]);
    assert_eq!(message(&mut events).await, ("urgent".to_owned(), true));
    assert_eq!(message(&mut events).await, ("whenever".to_owned(), false));
    assert!(report(&client, HookEvent::Tool).await.is_empty(), "the stream has it");
    // At the end of the turn, in order, on the live path alone.
    assert!(report(&client, HookEvent::Stop).await.is_empty());
    assert_eq!(message(&mut events).await, ("first".to_owned(), true));
    assert_eq!(message(&mut events).await, ("second".to_owned(), true));
    scene.direct("idle", Priority::Next).await;
    assert_eq!(message(&mut events).await, ("idle".to_owned(), true));
    assert!(listed(&client, &peek()).await.iter().all(|item| !item.held));
    scene.running.shutdown().await;
}

/// daemon §8.7: the answer carries what the gate lets through now, for agents whose server does not listen.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_is_answered_with_what_may_be_handed_over() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    report(&client, HookEvent::Prompt).await;
    scene.direct("next", Priority::Next).await;
    scene.direct("now", Priority::Now).await;
    scene.direct("low", Priority::Low).await;
    assert_eq!(report(&client, HookEvent::Tool).await, ["now"]);
    assert!(report(&client, HookEvent::Edit).await.is_empty());
    // Until the hook says that it has shown them they are offered again.
    assert_eq!(report(&client, HookEvent::Prompt).await, ["next", "now"]);
    let ids = listed(&client, &unread()).await.into_iter().map(|item| item.id).collect();
    let seen = SeenRequest { ids, pushed: true, path: Some("hook".to_owned()) };
    assert_eq!(client.inbox_seen(&seen).await.unwrap().marked_seen, 3);
    assert!(report(&client, HookEvent::Stop).await.is_empty());
    let bad = SeenRequest { path: Some("A path".to_owned()), ..seen };
    assert_eq!(super::world::code(client.inbox_seen(&bad).await), "invalid_field");
    scene.running.shutdown().await;
}

/// daemon §8.7: a manual `dnd` is never overridden by a hook, and holds `next` back until the person ends it.
#[tokio::test(flavor = "multi_thread")]
async fn do_not_disturb_is_the_persons() {
    let scene = scene().await;
    let (client, reply) = register(&scene.running, "dev", 1, |_| {}).await;
    let mut events = stream(&client).await;
    let sessions = &scene.running.daemon().context().sessions;
    let session = sessions.by_key("dev", &reply.session_pubkey.unwrap()).unwrap();
    session.activity.set_by_hand(PeerStatus::Dnd);
    scene.direct("quiet", Priority::Next).await;
    for event in [HookEvent::Prompt, HookEvent::Stop, HookEvent::Start] {
        assert!(report(&client, event).await.is_empty(), "{event:?}");
    }
    assert_eq!(client.session().await.unwrap().status, PeerStatus::Dnd);
    scene.direct("urgent", Priority::Now).await;
    assert_eq!(message(&mut events).await.0, "urgent");
    // A profile that cannot reach the broker changes nothing.
    let idle = ProfileRequest { status: Some(PeerStatus::Idle), ..ProfileRequest::default() };
    assert!(client.profile(&idle).await.is_err());
    session.activity.set_by_hand(PeerStatus::Idle);
    report(&client, HookEvent::Stop).await;
    assert_eq!(message(&mut events).await.0, "quiet");
    scene.running.shutdown().await;
}

/// Daemon spec §13 Accept 1: member-key DM with 3 live sessions, one in mode `off`, one `inbox`: one row, pushed to the third
/// only, stored for the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_the_member_respects_the_modes_of_its_sessions() {
    let scene = scene().await;
    let mode = |byte, mode| {
        register(&scene.running, "dev", byte, move |request| request.message_mode = Some(mode))
    };
    let (push, _) = mode(1, MessageMode::Push).await;
    let (inbox, _) = mode(2, MessageMode::Inbox).await;
    let (off, _) = mode(3, MessageMode::Off).await;
    let (mut at_push, mut at_inbox, mut at_off) =
        (stream(&push).await, stream(&inbox).await, stream(&off).await);
    scene.direct("dm", Priority::Next).await;
    assert_eq!(message(&mut at_push).await, ("dm".to_owned(), true));
    assert_eq!(message(&mut at_inbox).await, ("dm".to_owned(), false));
    // The next thing that the third hears of is something else.
    report(&push, HookEvent::Prompt).await;
    let heard = next(&mut at_off, &EventKind::SessionUpdated).await;
    assert_eq!(heard.kind, EventKind::SessionUpdated);
    assert_eq!(listed(&scene.running.client(), &peek()).await.len(), 1);
    assert_eq!(listed(&inbox, &unread()).await.len(), 1);
    scene.running.shutdown().await;
}

/// Daemon spec §13 Accept 1: with three in `push` all three see it once; after the first `--reply-to` the other two show
/// `answered elsewhere`.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_reply_settles_a_message_to_the_member() {
    let scene = scene().await;
    let mut clients = Vec::new();
    for byte in 1..=3 {
        let (client, _) = register(&scene.running, "dev", byte, |_| {}).await;
        let events = stream(&client).await;
        clients.push((client, events));
    }
    // The third is busy: it would be told later.
    report(&clients[2].0, HookEvent::Prompt).await;
    scene.direct("who-will-do-it", Priority::Next).await;
    let mut row = String::new();
    for (client, events) in clients.iter_mut().take(2) {
        let event = next(events, &EventKind::Message).await;
        assert_eq!(event.data["also_given"], 2, "marked as the same message");
        row = event.data["id"].as_str().unwrap().to_owned();
        let seen = SeenRequest { ids: vec![row.clone()], pushed: true, path: None };
        assert_eq!(client.inbox_seen(&seen).await.unwrap().marked_seen, 1);
    }
    let reply = SendRequest {
        reply_to_id: Some("b-who-will-do-it".to_owned()),
        ..letter(&some_key(), "I do")
    };
    clients[0].0.send(&reply).await.unwrap();
    let of = async |client: &Client| {
        let item = listed(client, &peek()).await.remove(0);
        assert_eq!(item.id, row);
        (item.state, item.answered_by)
    };
    let name = Some("session 1".to_owned());
    assert_eq!(of(&clients[0].0).await, (None, name.clone()));
    for (client, _) in &clients[1..] {
        assert_eq!(of(client).await, (Some(ANSWERED_ELSEWHERE.to_owned()), name.clone()));
        assert!(listed(client, &unread()).await.is_empty());
    }
    // A second reply changes nothing, and the busy one is not told any more.
    clients[1].0.send(&SendRequest { message: "me too".to_owned(), ..reply }).await.unwrap();
    assert_eq!(of(&clients[0].0).await, (None, name));
    assert!(report(&clients[2].0, HookEvent::Stop).await.is_empty());
    scene.direct("something-else", Priority::Next).await;
    assert_eq!(message(&mut clients[2].1).await.0, "something-else");
    scene.running.shutdown().await;
}

/// Daemon spec §13 Accept 3: broadcast with 3 local sessions: one row per recipient key that the broker addressed, exactly one
/// `message` event per session.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_to_three_sessions_is_three_rows_and_one_event_each() {
    let scene = scene().await;
    let mut all = Vec::new();
    for byte in 1..=3 {
        let (client, reply) = register(&scene.running, "dev", byte, |_| {}).await;
        let events = stream(&client).await;
        all.push((events, reply.session_pubkey.unwrap()));
    }
    for (_, key) in &all {
        let mut copy = item(*key, RecipientKind::Session, "hands");
        copy.channel = "broadcast".to_owned();
        put(&scene.running, copy).await;
    }
    scene.direct("after", Priority::Next).await;
    for (events, _) in &mut all {
        assert_eq!(message(events).await.0, "hands");
        assert_eq!(message(events).await.0, "after");
    }
    assert_eq!(listed(&scene.running.client(), &peek()).await.len(), 4);
    scene.running.shutdown().await;
}

/// daemon §8.4, `session_gone`: what a session was never handed is its member's when it ends, and is told to the others
/// once; also when it ended while no daemon ran.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_leaves_its_messages_to_the_member() {
    let scene = scene().await;
    let (gone, gone_reply) = register(&scene.running, "dev", 1, |_| {}).await;
    let (other, _) = register(&scene.running, "dev", 2, |_| {}).await;
    let key = gone_reply.session_pubkey.unwrap();
    report(&gone, HookEvent::Prompt).await;
    for id in ["read", "waiting"] {
        put(&scene.running, item(key, RecipientKind::Session, id)).await;
    }
    let mut copy = item(key, RecipientKind::Session, "broadcast");
    copy.channel = "broadcast".to_owned();
    put(&scene.running, copy).await;
    let read =
        listed(&gone, &peek()).await.into_iter().find(|item| item.client_message_id == "read");
    let seen = SeenRequest { ids: vec![read.unwrap().id], pushed: true, path: None };
    gone.inbox_seen(&seen).await.unwrap();
    let mut events = stream(&other).await;
    gone.deregister_session().await.unwrap();
    assert_eq!(message(&mut events).await.0, "waiting");
    let items = listed(&other, &unread()).await;
    assert_eq!(items.len(), 1, "what was read, and copies of broadcasts, stay where they were");
    assert_eq!(items[0].addressed_to, Some(key.to_hex()));
    assert_eq!(items[0].recipient_kind, Some(RecipientKind::Member));
    // Resumed, it finds what waits for it.
    let (back, back_reply) = register(&scene.running, "dev", 1, |_| {}).await;
    assert_eq!(back_reply.session_pubkey, Some(key));
    let waiting: Vec<_> =
        listed(&back, &unread()).await.into_iter().map(|item| item.client_message_id).collect();
    assert_eq!(waiting, ["broadcast", "waiting"]);
    let nobody = KeyPair::generate().public();
    put(&scene.running, item(nobody, RecipientKind::Session, "left")).await;
    scene.running.shutdown().await;
    let running = scene.home.start().await;
    let other = running.client().with_token(Some(token(2)));
    until("the message is the member's", || async {
        listed(&other, &unread()).await.iter().any(|item| item.client_message_id == "left")
    })
    .await;
    running.shutdown().await;
}

/// daemon §10.6: the hops of what was shown go on, until a person types.
#[tokio::test(flavor = "multi_thread")]
async fn hops_follow_what_was_shown_until_a_person_speaks() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    let prompt =
        |origin| StatusReport { event: Some(HookEvent::Prompt), origin, ..StatusReport::default() };
    let hops_of = async |message: &str| {
        let reply = client.send(&letter(&some_key(), message)).await.unwrap();
        let rows = client.outbox(&OutboxQuery::default()).await.unwrap().items;
        let row = rows.into_iter().find(|row| row.client_message_id == reply.client_message_id);
        row.unwrap().hops
    };
    assert_eq!(hops_of("nothing was shown").await, 0);
    let mut shown = item(scene.member.public(), RecipientKind::Member, "chain");
    shown.hops = 5;
    put(&scene.running, shown).await;
    assert_eq!(hops_of("not shown yet").await, 0);
    client.inbox(&InboxQuery::default()).await.unwrap();
    assert_eq!(hops_of("an answer").await, 6);
    client.session_status(&prompt(Some(PromptOrigin::Push))).await.unwrap();
    client.session_status(&prompt(None)).await.unwrap();
    assert_eq!(hops_of("still").await, 6);
    client.session_status(&prompt(Some(PromptOrigin::Human))).await.unwrap();
    assert_eq!(hops_of("by hand").await, 0);
    scene.running.shutdown().await;
}

/// daemon §8.5, §13.2: a restart in the middle of a turn does not open the gate.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_gate_closed() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    report(&client, HookEvent::Prompt).await;
    scene.direct("before", Priority::Next).await;
    scene.running.shutdown().await;
    let running = scene.home.start().await;
    let client = running.client().with_token(Some(token(1)));
    assert_eq!(client.session().await.unwrap().status, PeerStatus::Working);
    assert!(listed(&client, &peek()).await[0].held);
    assert_eq!(report(&client, HookEvent::Stop).await, ["before"]);
    running.shutdown().await;
}

/// daemon §13.4: the same message to a session's key and to its member's is told to the session once, in either order,
/// also to a subscriber who has just come; its read state is one.
#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_a_message_are_told_once() {
    let scene = scene().await;
    let (client, reply) = register(&scene.running, "dev", 1, |_| {}).await;
    let key = reply.session_pubkey.unwrap();
    let copies = |id: &str| {
        let mut at_session = item(key, RecipientKind::Session, id);
        at_session.broker_message_id = Some(format!("s-{id}"));
        (item(scene.member.public(), RecipientKind::Member, id), at_session)
    };
    let (first, second) = (copies("member-first"), copies("session-first"));
    let mut events = stream(&client).await;
    put(&scene.running, first.0).await;
    put(&scene.running, second.1).await;
    assert_eq!(message(&mut events).await.0, "member-first");
    let shown = message(&mut events).await.0;
    assert_eq!(shown, "session-first");
    let ids = listed(&client, &unread()).await.into_iter().map(|item| item.id).collect();
    let seen = SeenRequest { ids, pushed: true, path: None };
    assert_eq!(client.inbox_seen(&seen).await.unwrap().marked_seen, 2);
    let mut late = stream(&client).await;
    put(&scene.running, first.1).await;
    put(&scene.running, second.0).await;
    scene.direct("after", Priority::Next).await;
    assert_eq!(message(&mut late).await.0, "after");
    assert_eq!(message(&mut events).await.0, "after");
    let waiting: Vec<_> =
        listed(&client, &unread()).await.into_iter().map(|item| item.client_message_id).collect();
    assert_eq!(waiting, ["after"]);
    scene.running.shutdown().await;
}

/// daemon §13.4: a message that a session was told as its member's is not told again when its gate opens, though the copy
/// to the session came behind others that waited.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_opens_tells_no_second_copy() {
    let scene = scene().await;
    let (client, reply) = register(&scene.running, "dev", 1, |_| {}).await;
    let key = reply.session_pubkey.unwrap();
    let mut events = stream(&client).await;
    scene.direct("both", Priority::Next).await;
    assert_eq!(message(&mut events).await.0, "both");
    report(&client, HookEvent::Prompt).await;
    let mut late = stream(&client).await;
    scene.direct("waits", Priority::Next).await;
    let mut copy = item(key, RecipientKind::Session, "both");
    copy.broker_message_id = Some("s-both".to_owned());
    put(&scene.running, copy).await;
    report(&client, HookEvent::Stop).await;
    scene.direct("after", Priority::Next).await;
    for events in [&mut events, &mut late] {
        assert_eq!(message(events).await.0, "waits");
        assert_eq!(message(events).await.0, "after");
    }
    scene.running.shutdown().await;
}
