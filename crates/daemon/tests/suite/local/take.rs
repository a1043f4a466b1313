//! What the hook of an agent takes along is on record before it has it: once, as much as there is room for, in the session's
//! mode, and when its gate lets it through (daemon spec §8.7, MCP spec §10.3, agents spec §1.6b).

use std::collections::BTreeSet;

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::Running;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::session::HookEvent;
use claudemesh_ipc::api::{
    InboxItem, InboxQuery, MessageMode, RecipientKind, StatusReply, StatusReport,
};
use claudemesh_protocol::limits::AGENT_HOOK_MESSAGES_MAX;
use claudemesh_protocol::{PeerStatus, Priority};

use super::inbox::{item, put};
use super::process::DaemonProcess;
use super::world::{Home, code, register, token};

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
    async fn message(&self, id: &str, priority: Priority) {
        let mut new = item(self.member.public(), RecipientKind::Member, id);
        new.priority = priority;
        put(&self.running, new).await;
    }

    async fn messages(&self, count: usize) {
        for number in 0..count {
            self.message(&format!("m{number:02}"), Priority::Next).await;
        }
    }
}

fn taking(event: HookEvent, event_id: Option<&str>) -> StatusReport {
    StatusReport {
        event: Some(event),
        take: true,
        event_id: event_id.map(str::to_owned),
        ..StatusReport::default()
    }
}

async fn take(client: &Client, event: HookEvent) -> StatusReply {
    client.session_status(&taking(event, None)).await.unwrap()
}

fn ids(items: &[InboxItem]) -> Vec<&str> {
    items.iter().map(|item| item.client_message_id.as_str()).collect()
}

async fn unread(client: &Client) -> usize {
    let query =
        InboxQuery { unread_only: Some(true), mark_seen: Some(false), ..InboxQuery::default() };
    client.inbox(&query).await.unwrap().items.len()
}

/// MCP spec §10 Accept 5: an unread message appears once in the next prompt's context, and not again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_is_marked_and_not_given_again() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    scene.message("one", Priority::Next).await;
    scene.message("low", Priority::Low).await;
    let reply = take(&client, HookEvent::Prompt).await;
    assert_eq!((ids(&reply.messages), reply.unread), (vec!["one"], 2));
    assert_eq!(reply.mode, Some(MessageMode::Push));
    let identity = reply.identity.unwrap();
    assert_eq!((identity.name.as_str(), identity.mesh.as_str()), ("session 1", "dev"));
    assert_eq!(identity.member_pubkey, Some(scene.member.public()));
    let query = InboxQuery { mark_seen: Some(false), ..InboxQuery::default() };
    let items = client.inbox(&query).await.unwrap().items;
    let taken = items.iter().find(|item| item.client_message_id == "one").unwrap();
    assert!(taken.seen_at.is_some() && taken.pushed_at.is_some());
    for event in [HookEvent::Tool, HookEvent::Stop, HookEvent::Prompt] {
        let again = take(&client, event).await;
        assert_eq!((again.messages.len(), again.unread), (0, 0), "{event:?}");
    }
    assert_eq!(unread(&client).await, 1);
    scene.running.shutdown().await;
}

/// Without `take` the reporter only looks.
#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_leaves_everything_as_it_was() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    scene.messages(AGENT_HOOK_MESSAGES_MAX + 2).await;
    let look = StatusReport { event: Some(HookEvent::Prompt), ..StatusReport::default() };
    for _ in 0..2 {
        let reply = client.session_status(&look).await.unwrap();
        assert_eq!(reply.messages.len(), AGENT_HOOK_MESSAGES_MAX + 2);
    }
    assert_eq!(unread(&client).await, AGENT_HOOK_MESSAGES_MAX + 2);
    scene.running.shutdown().await;
}

/// Agents spec §1.6b: one event, two callers, one effect.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_told_twice_has_one_effect() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    scene.messages(1).await;
    let prompt = taking(HookEvent::Prompt, Some("claude:1"));
    let reply = client.session_status(&prompt).await.unwrap();
    assert_eq!(reply.messages.len(), 1);
    assert_eq!(client.session().await.unwrap().status, PeerStatus::Working);
    client.session_status(&taking(HookEvent::Stop, Some("claude:2"))).await.unwrap();
    scene.message("later", Priority::Next).await;
    let again = client.session_status(&prompt).await.unwrap();
    assert_eq!((again.matched, again.messages.len(), again.unread), (1, 0, 0));
    assert_eq!(client.session().await.unwrap().status, PeerStatus::Idle);
    let next = taking(HookEvent::Prompt, Some("claude:3"));
    assert_eq!(ids(&client.session_status(&next).await.unwrap().messages), ["later"]);
    for bad in ["", &"x".repeat(129)] {
        let report = taking(HookEvent::Prompt, Some(bad));
        assert_eq!(code(client.session_status(&report).await), "invalid_field");
    }
    let eventless = StatusReport { take: true, ..StatusReport::default() };
    assert_eq!(code(client.session_status(&eventless).await), "invalid_field");
    scene.running.shutdown().await;
}

/// Tools run side by side, and so do their hooks: each message is one hook's.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_come_at_once_share_what_waits() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    for number in 0..AGENT_HOOK_MESSAGES_MAX {
        scene.message(&format!("now{number}"), Priority::Now).await;
    }
    let takes = (0..8).map(|_| take(&client, HookEvent::Tool));
    let replies = futures_util::future::join_all(takes).await;
    let told: Vec<&str> = replies.iter().flat_map(|reply| ids(&reply.messages)).collect();
    let distinct: BTreeSet<&str> = told.iter().copied().collect();
    assert_eq!(
        (told.len(), distinct.len()),
        (AGENT_HOOK_MESSAGES_MAX, AGENT_HOOK_MESSAGES_MAX),
        "{told:?}"
    );
    scene.running.shutdown().await;
}

/// MCP spec §10.3: at most 5 messages and 4 KiB, oldest first; the rest waits, and is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_takes_no_more_than_it_has_room_for() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    scene.messages(AGENT_HOOK_MESSAGES_MAX + 2).await;
    let first = take(&client, HookEvent::Prompt).await;
    assert_eq!(ids(&first.messages), ["m00", "m01", "m02", "m03", "m04"]);
    assert_eq!(first.unread, 7);
    let second = take(&client, HookEvent::Stop).await;
    assert_eq!((ids(&second.messages), second.unread), (vec!["m05", "m06"], 2));
    for id in ["long", "longer"] {
        let mut new = item(scene.member.public(), RecipientKind::Member, id);
        new.body = Some("word ".repeat(2_000));
        put(&scene.running, new).await;
    }
    assert_eq!(ids(&take(&client, HookEvent::Prompt).await.messages), ["long"]);
    assert_eq!(ids(&take(&client, HookEvent::Stop).await.messages), ["longer"]);
    scene.running.shutdown().await;
}

/// MCP spec §10.3: in mode `inbox` a count at most every 10 minutes, in mode `off` nothing.
#[tokio::test(flavor = "multi_thread")]
async fn modes_say_how_much_is_said() {
    let scene = scene().await;
    let mode = |byte, mode| {
        register(&scene.running, "dev", byte, move |request| request.message_mode = Some(mode))
    };
    let (inbox, _) = mode(1, MessageMode::Inbox).await;
    let (off, _) = mode(2, MessageMode::Off).await;
    assert_eq!(take(&inbox, HookEvent::Prompt).await.unread, 0, "nothing is no news");
    scene.messages(2).await;
    for (event, unread) in
        [(HookEvent::Tool, 0), (HookEvent::Stop, 0), (HookEvent::Prompt, 2), (HookEvent::Prompt, 0)]
    {
        let reply = take(&inbox, event).await;
        assert_eq!((reply.messages.len(), reply.unread), (0, unread), "{event:?}");
        assert_eq!(reply.mode, Some(MessageMode::Inbox));
    }
    for event in [HookEvent::Start, HookEvent::Prompt, HookEvent::Tool, HookEvent::Stop] {
        let reply = take(&off, event).await;
        assert_eq!((reply.messages.len(), reply.unread), (0, 0), "{event:?}");
    }
    assert_eq!(unread(&inbox).await, 2);
    scene.running.shutdown().await;
}

/// Agents spec §1.6b: at its start a session hears who it is and how much is unread; who only looks takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_begins_hears_who_it_is() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    let start = StatusReport { event: Some(HookEvent::Start), ..StatusReport::default() };
    let alone = client.session_status(&start).await.unwrap();
    assert_eq!((alone.identity, alone.unread), (None, 0), "nobody to talk to");
    let (_other, _) = register(&scene.running, "dev", 2, |_| {}).await;
    scene.messages(1).await;
    scene.message("low", Priority::Low).await;
    let reply = client.session_status(&start).await.unwrap();
    assert_eq!(reply.identity.unwrap().name, "session 1");
    assert_eq!((reply.unread, unread(&client).await), (2, 2));
    scene.running.shutdown().await;
}

/// Daemon spec §8.7: a `dnd` holds for hooks, too.
#[tokio::test(flavor = "multi_thread")]
async fn do_not_disturb_lets_only_urgent_messages_through() {
    let scene = scene().await;
    let (client, reply) = register(&scene.running, "dev", 1, |_| {}).await;
    let sessions = &scene.running.daemon().context().sessions;
    let session = sessions.by_key("dev", &reply.session_pubkey.unwrap()).unwrap();
    session.activity.set_by_hand(PeerStatus::Dnd);
    scene.message("quiet", Priority::Next).await;
    scene.message("urgent", Priority::Now).await;
    assert_eq!(ids(&take(&client, HookEvent::Prompt).await.messages), ["urgent"]);
    for event in [HookEvent::Tool, HookEvent::Stop, HookEvent::Prompt] {
        assert!(take(&client, event).await.messages.is_empty(), "{event:?}");
    }
    session.activity.set_by_hand(PeerStatus::Idle);
    assert_eq!(ids(&take(&client, HookEvent::Prompt).await.messages), ["quiet"]);
    scene.running.shutdown().await;
}

/// A turn that gets something at its end goes on, and is not at rest until it ends again.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_goes_on_is_at_work() {
    let scene = scene().await;
    let (client, _) = register(&scene.running, "dev", 1, |_| {}).await;
    take(&client, HookEvent::Prompt).await;
    scene.messages(1).await;
    assert_eq!(take(&client, HookEvent::Stop).await.messages.len(), 1);
    assert_eq!(client.session().await.unwrap().status, PeerStatus::Working);
    take(&client, HookEvent::Stop).await;
    assert_eq!(client.session().await.unwrap().status, PeerStatus::Idle);
    scene.running.shutdown().await;
}

/// Daemon spec §8.7: a directory names a session well enough to say that it works, and not to take its messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_takes_nothing() {
    let scene = scene().await;
    let (client, _) =
        register(&scene.running, "dev", 1, |request| request.cwd = Some("/a".to_owned())).await;
    scene.messages(1).await;
    let somebody = scene.running.client();
    let by_directory =
        StatusReport { cwd: Some("/a".to_owned()), ..taking(HookEvent::Prompt, None) };
    let reply = somebody.session_status(&by_directory).await.unwrap();
    assert_eq!((reply.matched, reply.messages.len(), reply.identity), (1, 0, None));
    let another = StatusReport { session_id: Some("another".to_owned()), ..by_directory.clone() };
    assert_eq!(somebody.session_status(&another).await.unwrap().matched, 0);
    let by_process = StatusReport { pids: vec![std::process::id()], ..by_directory };
    assert_eq!(somebody.session_status(&by_process).await.unwrap().messages.len(), 1);
    assert_eq!(unread(&client).await, 0);
    scene.running.shutdown().await;
}

/// Issue 6: a death before the commit is one before the answer, and what it was about is told again; each message is told
/// once, whatever dies.
#[tokio::test(flavor = "multi_thread")]
async fn death_before_the_commit_tells_again() {
    const MESSAGES: usize = 40;
    let mut deaths = 0;
    // The first commits are those of the start.
    for passes in [9, 11, 13, 15] {
        let scene = scene().await;
        register(&scene.running, "dev", 1, |_| {}).await;
        scene.messages(MESSAGES).await;
        scene.running.shutdown().await;
        let failpoints = format!("commit.before_fsync=kill@{passes}");
        let mut daemon = DaemonProcess::start(&scene.home, &failpoints).await;
        let mut told = Vec::new();
        let is_dead = tell_all(daemon.client(), &mut told).await;
        if is_dead {
            assert!(!daemon.ended().await.success());
            deaths += 1;
        } else {
            daemon.kill();
        }
        let daemon = DaemonProcess::start(&scene.home, "").await;
        assert!(!tell_all(daemon.client(), &mut told).await);
        let distinct: BTreeSet<&String> = told.iter().collect();
        assert_eq!((told.len(), distinct.len()), (MESSAGES, MESSAGES), "{passes}: {told:?}");
    }
    assert!(deaths > 0, "nobody died");
}

/// Takes until nothing is left; true when the daemon died over it.
async fn tell_all(client: &Client, told: &mut Vec<String>) -> bool {
    let client = client.clone().with_token(Some(token(1)));
    loop {
        match client.session_status(&taking(HookEvent::Prompt, None)).await {
            Ok(reply) if reply.messages.is_empty() => return false,
            Ok(reply) => {
                told.extend(reply.messages.into_iter().map(|item| item.client_message_id));
            }
            Err(_) => return true,
        }
    }
}
