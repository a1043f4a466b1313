//! No session is told a message twice, whatever becomes of its stream, its key, or the record that it was there (daemon
//! spec §8, §13.2).

use std::time::Duration;

use claudemesh_crypto::{KeyPair, attestation};
use claudemesh_daemon::Running;
use claudemesh_daemon::clock::now;
use claudemesh_ipc::api::session::{HookEvent, PresenceOffer, SecretHex};
use claudemesh_ipc::api::{
    EventKind, EventsQuery, InboxItem, InboxQuery, RecipientKind, RegisterReply, RegisterRequest,
    StatusReport,
};
use claudemesh_ipc::{Client, EventStream};
use claudemesh_protocol::Priority;

use super::inbox::{item, put};
use super::process::DaemonProcess;
use super::world::{Home, UUID, register, token, until};

const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a message of which a few fill every buffer between the daemon and somebody who does not read.
const LARGE: usize = 60_000;

async fn stream(client: &Client) -> EventStream {
    client.events(&EventsQuery::default(), None).await.unwrap()
}

/// The ids of the messages that come over a stream until one with the id `last`, or until it ends.
async fn told_until(events: &mut EventStream, last: &str) -> Vec<String> {
    let mut told = Vec::new();
    let reading = async {
        while let Some(event) = events.next().await.unwrap() {
            if event.kind != EventKind::Message {
                continue;
            }
            let id = event.data["client_message_id"].as_str().unwrap().to_owned();
            if id == last {
                break;
            }
            told.push(id);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("neither the message nor the end comes");
    told
}

async fn unread(client: &Client) -> Vec<InboxItem> {
    let query =
        InboxQuery { unread_only: Some(true), mark_seen: Some(false), ..InboxQuery::default() };
    let mut items = client.inbox(&query).await.unwrap().items;
    items.retain(|item| item.client_message_id != "mark");
    items
}

async fn report(client: &Client, event: HookEvent) {
    let report = StatusReport { event: Some(event), ..StatusReport::default() };
    assert_eq!(client.session_status(&report).await.unwrap().matched, 1);
}

/// The session that [`register`] makes of this number, under a key that nobody keeps.
async fn register_with_new_key(
    running: &Running,
    member: &KeyPair,
    byte: u8,
) -> (Client, RegisterReply) {
    let keys = KeyPair::generate();
    let expires_at = now().plus(Duration::from_hours(1));
    let offer = PresenceOffer {
        session_pubkey: keys.public(),
        session_secret_key: SecretHex::new(keys.to_hex()),
        parent_attestation: attestation::mint(member, keys.public(), expires_at, None),
    };
    let (client, reply) = register(running, "dev", byte, |request| {
        request.use_stored_key = false;
        request.presence = Some(offer);
    })
    .await;
    assert_eq!(reply.session_pubkey, Some(keys.public()));
    (client, reply)
}

/// A message to the member, by which streams know that what came before has been told.
async fn mark(running: &Running, member: &KeyPair) {
    let mut mark = item(member.public(), RecipientKind::Member, "mark");
    mark.priority = Priority::Now;
    put(running, mark).await;
}

/// daemon §8.4: what an ended session leaves to its member is not told over the stream that it still reads, though the
/// stream is of a later run of the daemon than the message.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_hears_nothing_of_what_it_leaves() {
    let home = Home::new();
    let member = home.join("dev");
    let running = home.start().await;
    let (client, reply) = register(&running, "dev", 1, |_| {}).await;
    register(&running, "dev", 2, |_| {}).await;
    let key = reply.session_pubkey.unwrap();
    let mut events = stream(&client).await;
    put(&running, item(key, RecipientKind::Session, "letter")).await;
    mark(&running, &member).await;
    assert_eq!(told_until(&mut events, "mark").await, ["letter"]);
    running.shutdown().await;

    let running = home.start().await;
    let (one, two) = (1, 2);
    let [client, other] = [one, two].map(|byte| running.client().with_token(Some(token(byte))));
    let mut events = stream(&client).await;
    let mut at_other = stream(&other).await;
    // It reads slowly: its end has to wait behind what was told before.
    for number in 0..20 {
        let mut large = item(member.public(), RecipientKind::Member, &format!("large-{number}"));
        large.body = Some("~".repeat(LARGE));
        put(&running, large).await;
    }
    client.deregister_session().await.unwrap();
    let told = told_until(&mut at_other, "letter").await;
    assert_eq!(told.len(), 20, "its sibling is told: {told:?}");
    let told = told_until(&mut events, "").await;
    assert!(!told.contains(&"letter".to_owned()), "told again: {told:?}");
    // Nor when it comes back, and goes on where it stopped reading.
    let last_id = events.last_event_id().unwrap().to_owned();
    let (client, _) = register(&running, "dev", 1, |_| {}).await;
    let mut events = client.events(&EventsQuery::default(), Some(&last_id)).await.unwrap();
    put(&running, item(member.public(), RecipientKind::Member, "after")).await;
    assert_eq!(told_until(&mut events, "after").await, [""; 0]);
    running.shutdown().await;
}

/// daemon §8.3: the same agent session under another key hears nothing twice; what still waited for its gate, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_back_under_another_key_is_told_nothing_twice() {
    let home = Home::new();
    let member = home.join("dev");
    let running = home.start().await;
    let (client, reply) = register(&running, "dev", 1, |_| {}).await;
    let (other, _) = register(&running, "dev", 2, |_| {}).await;
    let key = reply.session_pubkey.unwrap();
    let mut events = stream(&client).await;
    let mut at_other = stream(&other).await;
    put(&running, item(key, RecipientKind::Session, "told")).await;
    report(&client, HookEvent::Prompt).await;
    put(&running, item(key, RecipientKind::Session, "waits")).await;
    mark(&running, &member).await;
    assert_eq!(told_until(&mut events, "mark").await, ["told"]);

    let (client, _) = register_with_new_key(&running, &member, 1).await;
    let mut events = stream(&client).await;
    assert_eq!(told_until(&mut at_other, "waits").await, ["mark", "told"], "once to its sibling");
    report(&client, HookEvent::Stop).await;
    assert_eq!(told_until(&mut events, "waits").await, [""; 0]);
    put(&running, item(member.public(), RecipientKind::Member, "after")).await;
    assert_eq!(told_until(&mut events, "after").await, [""; 0]);
    // Nobody took them: they are there for whoever looks.
    let waiting: Vec<_> =
        unread(&client).await.into_iter().map(|item| item.client_message_id).collect();
    assert_eq!(waiting, ["after", "waits", "told"]);
    running.shutdown().await;
}

/// daemon §8.5: the record of a session could not be written, the disk was full, and the process was killed. What the
/// session was told stands with the messages, and is told to nobody twice, though they are its member's now.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_record_is_lost_is_told_nothing_twice() {
    let home = Home::new();
    let member = home.join("dev");
    let running = home.start().await;
    register(&running, "dev", 2, |_| {}).await;
    let before = std::fs::read(home.paths.sessions_file()).unwrap();
    let (client, reply) = register(&running, "dev", 1, |_| {}).await;
    let mut events = stream(&client).await;
    let key = reply.session_pubkey.unwrap();
    put(&running, item(key, RecipientKind::Session, "told")).await;
    mark(&running, &member).await;
    assert_eq!(told_until(&mut events, "mark").await, ["told"]);
    running.shutdown().await;
    std::fs::write(home.paths.sessions_file(), before).unwrap();

    let running = home.start().await;
    let other = running.client().with_token(Some(token(2)));
    let mut at_other = stream(&other).await;
    let (client, _) = register_with_new_key(&running, &member, 1).await;
    let mut events = stream(&client).await;
    assert_eq!(told_until(&mut at_other, "told").await, [""; 0]);
    put(&running, item(member.public(), RecipientKind::Member, "after")).await;
    assert_eq!(told_until(&mut events, "after").await, [""; 0]);
    assert_eq!(unread(&client).await.len(), 2);
    running.shutdown().await;
}

/// daemon §8.4: a session that lives and whose record was lost registers again in time; its messages stay its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_record_is_lost_keeps_its_messages() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let (_, reply) = register(&running, "dev", 1, |_| {}).await;
    let key = reply.session_pubkey.unwrap();
    put(&running, item(key, RecipientKind::Session, "letter")).await;
    put(&running, item(KeyPair::generate().public(), RecipientKind::Session, "left")).await;
    running.shutdown().await;
    std::fs::remove_file(home.paths.sessions_file()).unwrap();

    let running = home.start().await;
    let (client, reply) = register(&running, "dev", 1, |_| {}).await;
    assert_eq!(reply.session_pubkey, Some(key));
    until("what another one left is the member's", || async {
        unread(&client).await.iter().any(|item| item.client_message_id == "left")
    })
    .await;
    let letter =
        unread(&client).await.into_iter().find(|item| item.client_message_id == "letter").unwrap();
    assert_eq!(letter.recipient_kind, Some(RecipientKind::Session));
    running.shutdown().await;
}

fn request(byte: u8) -> RegisterRequest {
    RegisterRequest::stored(
        token(byte),
        UUID.to_owned(),
        "dev".to_owned(),
        "one".to_owned(),
        std::process::id(),
    )
}

/// daemon §8.3: a registration, and its end, are on disk before they are answered.
#[tokio::test(flavor = "multi_thread")]
async fn death_right_after_the_answer_forgets_no_session() {
    let home = Home::new();
    home.join("dev");
    let mut daemon = DaemonProcess::start(&home, "").await;
    daemon.client().register_session(&request(1)).await.unwrap();
    daemon.kill();
    let mut daemon = DaemonProcess::start(&home, "").await;
    let client = daemon.client().clone().with_token(Some(token(1)));
    assert_eq!(client.session().await.unwrap().session_id, UUID);
    client.deregister_session().await.unwrap();
    daemon.kill();
    let daemon = DaemonProcess::start(&home, "").await;
    assert!(daemon.client().sessions().await.unwrap().is_empty());
}

/// daemon §8.5: a full disk keeps nobody from registering, and the record is written as soon as there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_found_no_room_is_written_when_there_is_some() {
    let home = Home::new();
    home.join("dev");
    let mut daemon = DaemonProcess::start(&home, "sessions.full_disk=4*return->off").await;
    daemon.client().register_session(&request(1)).await.unwrap();
    until("the file is there", || async { home.paths.sessions_file().exists() }).await;
    daemon.kill();
    let daemon = DaemonProcess::start(&home, "").await;
    let client = daemon.client().clone().with_token(Some(token(1)));
    assert_eq!(client.session().await.unwrap().session_id, UUID);
}
