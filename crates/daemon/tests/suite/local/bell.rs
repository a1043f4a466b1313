//! The bell of a session (agents spec §1.6b): who is woken, when, and how often.

use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::Running;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::inbox::SeenRequest;
use claudemesh_ipc::api::session::{
    BellEnd, BellQuery, BellReply, Heartbeat, HookEvent, ServedClient,
};
use claudemesh_ipc::api::{EventsQuery, InboxQuery, MessageMode, RecipientKind, StatusReport};
use claudemesh_protocol::limits::{BELL_RINGS_MAX, BELL_SETTLE, BELL_WAIT_MAX};
use claudemesh_protocol::{PeerStatus, Priority, Timestamp};
use tokio::time::Instant;

use super::inbox::{item, put};
use super::world::{Home, code, register, until};

/// Longest wait for something that happens at once.
const SOON: Duration = Duration::from_secs(5);

struct Scene {
    home: Home,
    member: KeyPair,
    running: Running,
}

async fn scene(settings: &str) -> Scene {
    let home = Home::new();
    let member = home.join("dev");
    home.settings(settings);
    let running = home.start().await;
    Scene { home, member, running }
}

impl Scene {
    async fn direct(&self, id: &str, priority: Priority) {
        let mut new = item(self.member.public(), RecipientKind::Member, id);
        new.priority = priority;
        put(&self.running, new).await;
    }

    /// Waits until a bell of the session waits, another one than `but`; answers until when it does.
    async fn until_another(&self, client: &Client, but: Option<Timestamp>) -> Timestamp {
        let id = client.session().await.unwrap().session_id;
        let sessions = &self.running.daemon().context().sessions;
        let armed = || {
            let all = sessions.all();
            let session = all.iter().find(|session| session.session_id == id)?;
            session.activity.bell_armed_until().filter(|until| Some(*until) != but)
        };
        until("a bell waits", || async { armed().is_some() }).await;
        armed().unwrap()
    }

    async fn until_armed(&self, client: &Client) {
        self.until_another(client, None).await;
    }
}

fn within(seconds: u64) -> BellQuery {
    BellQuery { wait: Some(seconds), ..BellQuery::default() }
}

/// Asks for at most five seconds.
async fn bell(client: &Client) -> Option<BellReply> {
    client.bell(&within(SOON.as_secs())).await.unwrap()
}

/// Looks, and does not wait.
async fn look(client: &Client) -> Option<u32> {
    let reply = client.bell(&within(0)).await.unwrap()?;
    assert_eq!(reply.bell, BellEnd::Rings);
    Some(reply.waiting)
}

const fn ring(waiting: u32) -> BellReply {
    BellReply { ok: true, bell: BellEnd::Rings, waiting }
}

async fn report(client: &Client, event: HookEvent) -> Vec<String> {
    let report = StatusReport { event: Some(event), ..StatusReport::default() };
    let reply = client.session_status(&report).await.unwrap();
    reply.messages.into_iter().map(|item| item.client_message_id).collect()
}

async fn all_shown(client: &Client) {
    let unread =
        InboxQuery { unread_only: Some(true), mark_seen: Some(false), ..InboxQuery::default() };
    let ids = client.inbox(&unread).await.unwrap().items.into_iter().map(|item| item.id).collect();
    client.inbox_seen(&SeenRequest { ids, pushed: true, path: None }).await.unwrap();
}

/// Agents spec §1.6b: a `now` or `next` message to an idle session rings, once it is there; what has been shown does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_woken_by_what_comes_in() {
    let scene = scene("").await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    for (id, priority) in [("one", Priority::Next), ("two", Priority::Now)] {
        assert_eq!(look(&client).await, None);
        let (rung, took) = tokio::join!(bell(&client), async {
            scene.until_armed(&client).await;
            let sent = Instant::now();
            scene.direct(id, priority).await;
            sent
        });
        assert_eq!(rung, Some(ring(1)), "{id}");
        assert!(took.elapsed() < SOON);
        all_shown(&client).await;
    }
    // One that waits already.
    scene.direct("three", Priority::Next).await;
    scene.direct("four", Priority::Next).await;
    assert_eq!(bell(&client).await, Some(ring(2)));
    scene.running.shutdown().await;
}

/// MCP spec §4.5: `low` wakes nobody; nobody is woken who works, does not want to be disturbed, or reads by himself.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_woken() {
    let scene = scene("").await;
    let (client, reply) = register(&scene.running, "dev", 1, |_| {}).await;
    let (reader, _) = register(&scene.running, "dev", 2, |request| {
        request.message_mode = Some(MessageMode::Inbox);
    })
    .await;
    scene.direct("low", Priority::Low).await;
    assert_eq!(look(&client).await, None);
    let sessions = &scene.running.daemon().context().sessions;
    let session = sessions.by_key("dev", &reply.session_pubkey.unwrap()).unwrap();
    session.activity.set_by_hand(PeerStatus::Dnd);
    scene.direct("quiet", Priority::Next).await;
    scene.direct("urgent", Priority::Now).await;
    assert_eq!((look(&client).await, look(&reader).await), (None, None));
    session.activity.set_by_hand(PeerStatus::Working);
    assert_eq!(look(&client).await, None);
    let (rung, ()) = tokio::join!(bell(&client), async {
        scene.until_armed(&client).await;
        session.activity.set_by_hand(PeerStatus::Idle);
    });
    assert_eq!(rung, Some(ring(2)));
    scene.running.shutdown().await;
}

/// What waits at the end of a turn is the hook's of that end first.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_turn_rings_a_moment_later() {
    let scene = scene("").await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    report(&client, HookEvent::Prompt).await;
    scene.direct("meanwhile", Priority::Next).await;
    let (rung, stopped) = tokio::join!(bell(&client), async {
        scene.until_armed(&client).await;
        assert_eq!(report(&client, HookEvent::Stop).await, ["meanwhile"]);
        Instant::now()
    });
    assert_eq!(rung, Some(ring(1)));
    assert!(stopped.elapsed() + Duration::from_millis(20) >= BELL_SETTLE);
    // Shown by that hook, it rings no more.
    report(&client, HookEvent::Prompt).await;
    let quiet = within(1);
    let (rung, ()) = tokio::join!(client.bell(&quiet), async {
        scene.until_armed(&client).await;
        report(&client, HookEvent::Stop).await;
        all_shown(&client).await;
    });
    assert_eq!(rung.unwrap(), None);
    scene.running.shutdown().await;
}

/// A message that nobody takes must not wake the agent for ever, and does not keep younger ones from it.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_stops_ringing() {
    let scene = scene("").await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    scene.direct("stuck", Priority::Next).await;
    for _ in 0..BELL_RINGS_MAX {
        assert_eq!(look(&client).await, Some(1));
    }
    assert_eq!(look(&client).await, None);
    scene.direct("new", Priority::Next).await;
    assert_eq!(look(&client).await, Some(2));
    scene.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bell_ends_the_first_and_the_end_of_the_session_both() {
    let scene = scene("").await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    // Longer than any bell waits.
    let endless = within(100_000);
    let (first, second) = tokio::join!(client.bell(&endless), async {
        let first = scene.until_another(&client, None).await;
        assert!(first <= claudemesh_daemon::clock::now().plus(BELL_WAIT_MAX));
        let (second, ()) = tokio::join!(bell(&client), async {
            scene.until_another(&client, Some(first)).await;
            client.deregister_session().await.unwrap();
        });
        second
    });
    assert_eq!(first.unwrap().unwrap().bell, BellEnd::Replaced);
    assert_eq!(second.unwrap().bell, BellEnd::Ended);
    let session_id = Some("6f1b2c3d-0000-4000-8000-012345678901".to_owned());
    let query = BellQuery { session_id, ..within(1) };
    let gone = scene.running.client().bell(&query).await.unwrap().unwrap();
    assert_eq!((gone.bell, gone.waiting), (BellEnd::Unknown, 0));
    scene.running.shutdown().await;
}

/// A hook has no token: it is known by what it says of its session, as a report is.
#[tokio::test(flavor = "multi_thread")]
async fn a_bell_without_a_token_finds_its_session() {
    let scene = scene("").await;
    register(&scene.running, "dev", 1, |_| {}).await;
    scene.direct("hello", Priority::Next).await;
    let anybody = scene.running.client();
    let session_id = Some("6f1b2c3d-0000-4000-8000-012345678901".to_owned());
    let named = BellQuery { session_id, ..within(1) };
    assert_eq!(anybody.bell(&named).await.unwrap(), Some(ring(1)));
    let pids = Some(format!("1, {}", std::process::id()));
    let of_process = BellQuery { pids, session_id: Some("another".to_owned()), ..within(1) };
    assert_eq!(anybody.bell(&of_process).await.unwrap(), Some(ring(1)));
    register(&scene.running, "dev", 2, |_| {}).await;
    let several = anybody.bell(&of_process).await.unwrap().unwrap();
    assert_eq!(several.bell, BellEnd::Unknown, "of two, neither");
    scene.running.shutdown().await;
}

/// Waiting takes a place among the streams, none among the requests, and ends with the daemon.
#[tokio::test(flavor = "multi_thread")]
async fn a_bell_takes_the_place_of_a_stream_and_ends_with_the_daemon() {
    let scene = scene("[ipc]\nmax_sse = 1\nmax_inflight = 1\n").await;
    let (one, _) = register(&scene.running, "dev", 1, |_| {}).await;
    let (two, _) = register(&scene.running, "dev", 2, |_| {}).await;
    let (unbounded, one_too) = (BellQuery::default(), one.clone());
    // The home stays until the daemon has ended.
    let (ended, _home) = tokio::join!(one.bell(&unbounded), async move {
        scene.until_armed(&one_too).await;
        assert_eq!(code(two.bell(&within(1)).await), "too_many_streams");
        // The only place for a request is free.
        two.session().await.unwrap();
        let view = one_too.session().await.unwrap();
        assert_eq!(view.status, PeerStatus::Idle);
        let stopped = tokio::time::timeout(SOON, scene.running.shutdown());
        stopped.await.expect("nothing waits for a bell");
        scene.home
    });
    assert!(ended.is_err(), "{ended:?}");
}

/// MCP spec §4.10: what goes into a stream to which nobody listens waits for bell and hooks at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_refuses_its_channel_is_not_waited_for() {
    let scene = scene("").await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    let _stream = client.events(&EventsQuery::default(), None).await.unwrap();
    scene.direct("pushed", Priority::Next).await;
    assert_eq!(look(&client).await, None, "its server has it, and the time to show it");
    assert!(report(&client, HookEvent::Prompt).await.is_empty());
    report(&client, HookEvent::Stop).await;
    let served = ServedClient {
        name: "codex-mcp-client".to_owned(),
        version: "1".to_owned(),
        channel: Some(false),
    };
    let sign = Heartbeat { client: Some(served), ..Heartbeat::default() };
    let (rung, ()) = tokio::join!(bell(&client), async {
        scene.until_armed(&client).await;
        client.heartbeat(&sign).await.unwrap();
    });
    assert_eq!(rung, Some(ring(1)));
    assert_eq!(report(&client, HookEvent::Prompt).await, ["pushed"]);
    scene.running.shutdown().await;
}
