//! What came in: once, in scope, with a read state for each session (daemon spec §13).

use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::Running;
use claudemesh_daemon::clock::now;
use claudemesh_daemon::inbox::{Inserted, Line, NewItem, Retention};
use claudemesh_daemon::storage::StorageError;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::inbox::{FlushQuery, SearchQuery, SeenRequest};
use claudemesh_ipc::api::{Decrypt, EventKind, EventsQuery, InboxQuery, RecipientKind};
use claudemesh_protocol::{Priority, PublicKey, Timestamp};

use super::world::{Home, raw, register};

pub fn item(recipient: PublicKey, kind: RecipientKind, id: &str) -> NewItem {
    let sender = PublicKey::from_bytes([7; 32]);
    NewItem {
        mesh: "dev".to_owned(),
        client_message_id: id.to_owned(),
        broker_message_id: Some(format!("b-{id}")),
        recipient_pubkey: recipient,
        recipient_kind: kind,
        channel: "dm".to_owned(),
        topic: None,
        topic_id: None,
        sender_pubkey: sender,
        sender_member_pubkey: Some(sender),
        sender_name: "Ann".to_owned(),
        priority: Priority::Next,
        subtype: None,
        body: Some(format!("text of {id}")),
        meta: None,
        mentions: Vec::new(),
        body_version: 1,
        decrypt: Decrypt::Ok,
        raw: None,
        reply_to_id: None,
        created_at: Some(now()),
        expires_at: None,
        transport: "broker",
        hops: 0,
        sender_verified: true,
        addressed_to: None,
    }
}

pub async fn put(running: &Running, item: NewItem) -> Inserted {
    running.daemon().context().inbox.insert(item, now()).await.unwrap()
}

fn peek() -> InboxQuery {
    InboxQuery { mark_seen: Some(false), ..InboxQuery::default() }
}

fn unread() -> InboxQuery {
    InboxQuery { unread_only: Some(true), mark_seen: Some(false), ..InboxQuery::default() }
}

async fn ids(client: &Client, query: &InboxQuery) -> Vec<String> {
    let page = client.inbox(query).await.unwrap();
    page.items.into_iter().map(|item| item.client_message_id).collect()
}

async fn scene() -> (Home, KeyPair, Running) {
    let home = Home::new();
    let member = home.join("dev");
    let running = home.start().await;
    (home, member, running)
}

/// Daemon spec §13 Accept 5: attacker peer resends another peer's cmid first: both messages are stored. Repeats are not.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_is_stored_once_and_a_stolen_id_suppresses_nothing() {
    let (_home, member, running) = scene().await;
    let first = item(member.public(), RecipientKind::Member, "m1");
    let thief = PublicKey::from_bytes([8; 32]);
    let mut stolen = first.clone();
    (stolen.sender_pubkey, stolen.sender_member_pubkey) = (thief, Some(thief));
    assert!(matches!(put(&running, stolen).await, Inserted::New(_)));
    assert!(matches!(put(&running, first.clone()).await, Inserted::New(_)));
    assert_eq!(put(&running, first).await, Inserted::Duplicate);
    assert_eq!(ids(&running.client(), &peek()).await.len(), 2);
    running.shutdown().await;
}

/// Daemon §13.2: the first copy may come before the roster knows its sender; the second is the same message and only
/// adds the proof. DLV.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_is_verified_adds_the_proof_and_no_second_message() {
    let (_home, member, running) = scene().await;
    let proved = item(member.public(), RecipientKind::Member, "m1");
    let mut early = proved.clone();
    (early.sender_member_pubkey, early.sender_verified) = (None, false);
    early.sender_name = "0707070707070707".to_owned();
    assert!(matches!(put(&running, early.clone()).await, Inserted::New(_)));
    assert_eq!(put(&running, proved.clone()).await, Inserted::Duplicate);
    // A proof is not taken back by a copy without one.
    assert_eq!(put(&running, early).await, Inserted::Duplicate);
    let items = running.client().inbox(&peek()).await.unwrap().items;
    let shown: Vec<_> = items
        .iter()
        .map(|item| (item.sender_verified, item.sender_name.as_str(), &item.sender_member_pubkey))
        .collect();
    assert_eq!(shown, [(true, "Ann", &proved.sender_pubkey.to_hex())]);
    running.shutdown().await;
}

/// The broker's id, too, names a sender's message; it suppresses no other sender's and proves nothing about it.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_broker_id_of_the_same_sender_is_the_same_message() {
    let (_home, member, running) = scene().await;
    let mut first = item(member.public(), RecipientKind::Member, "m1");
    (first.sender_member_pubkey, first.sender_verified) = (None, false);
    let mut other = item(member.public(), RecipientKind::Member, "m2");
    other.broker_message_id.clone_from(&first.broker_message_id);
    let again = other.clone();
    other.sender_pubkey = PublicKey::from_bytes([8; 32]);
    assert!(matches!(put(&running, first).await, Inserted::New(_)));
    assert!(matches!(put(&running, other).await, Inserted::New(_)));
    let verified = async || {
        let items = running.client().inbox(&peek()).await.unwrap().items;
        items.into_iter().rev().map(|item| item.sender_verified).collect::<Vec<_>>()
    };
    assert_eq!(verified().await, [false, true]);
    assert_eq!(put(&running, again).await, Inserted::Duplicate);
    assert_eq!(verified().await, [true, true]);
    running.shutdown().await;
}

/// CLI §3.6: `inbox --unread --json` twice → second `[]`; with `--peek` both equal.
#[tokio::test(flavor = "multi_thread")]
async fn listing_marks_seen_and_peeking_does_not() {
    let (_home, member, running) = scene().await;
    let client = running.client();
    put(&running, item(member.public(), RecipientKind::Member, "m1")).await;
    assert_eq!(ids(&client, &unread()).await, ids(&client, &unread()).await);
    let query = InboxQuery { unread_only: Some(true), ..InboxQuery::default() };
    let page = client.inbox(&query).await.unwrap();
    assert_eq!((page.marked_seen, page.items[0].seen_at.as_ref()), (1, None));
    assert!(client.inbox(&query).await.unwrap().items.is_empty());
    assert!(client.inbox(&peek()).await.unwrap().items[0].seen_at.is_some());
    running.shutdown().await;
}

/// Ruling 53: handed and seen per (row, session); the row itself is one message.
#[tokio::test(flavor = "multi_thread")]
async fn each_session_has_its_own_read_state_of_member_messages() {
    let (_home, member, running) = scene().await;
    let (a, a_reply) = register(&running, "dev", 1, |_| {}).await;
    let (b, b_reply) = register(&running, "dev", 2, |_| {}).await;
    let new = put(&running, item(member.public(), RecipientKind::Member, "both")).await;
    put(&running, item(a_reply.session_pubkey.unwrap(), RecipientKind::Session, "only-a")).await;
    put(&running, item(b_reply.session_pubkey.unwrap(), RecipientKind::Session, "only-b")).await;
    let Inserted::New(row) = new else { panic!("new") };
    assert_eq!(ids(&a, &unread()).await, ["only-a", "both"]);
    let seen = SeenRequest { ids: vec![row.id.clone()], pushed: true, path: None };
    assert_eq!(a.inbox_seen(&seen).await.unwrap().marked_seen, 1);
    assert_eq!(a.inbox_seen(&seen).await.unwrap().marked_seen, 0);
    assert_eq!(ids(&a, &unread()).await, ["only-a"]);
    assert_eq!(ids(&b, &unread()).await, ["only-b", "both"]);
    let at_b = b.inbox(&peek()).await.unwrap().items;
    assert!(at_b.iter().all(|item| item.pushed_at.is_none() && item.seen_at.is_none()));
    // The row's own state is the first of them.
    let all = running.client().inbox(&peek()).await.unwrap().items;
    let both = all.iter().find(|item| item.client_message_id == "both").unwrap();
    assert!(both.seen_at.is_some() && both.pushed_at.is_some());
    assert_eq!(b.inbox_seen(&seen).await.unwrap().marked_seen, 1);
    // One who comes later finds read what was read before it came.
    let (late, _) = register(&running, "dev", 3, |_| {}).await;
    assert!(ids(&late, &unread()).await.is_empty());
    assert_eq!(ids(&late, &peek()).await, ["both"]);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_to_both_keys_is_shown_once() {
    let (_home, member, running) = scene().await;
    let (a, reply) = register(&running, "dev", 1, |_| {}).await;
    put(&running, item(member.public(), RecipientKind::Member, "m")).await;
    put(&running, item(reply.session_pubkey.unwrap(), RecipientKind::Session, "m")).await;
    let page = a.inbox(&peek()).await.unwrap();
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].recipient_kind, Some(RecipientKind::Session));
    assert_eq!(running.client().inbox(&peek()).await.unwrap().items.len(), 2);
    running.shutdown().await;
}

/// Daemon spec §13 Accept 7: session A's `DELETE /v1/inbox?all=true` leaves B's session rows intact.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_stays_in_scope() {
    let (_home, member, running) = scene().await;
    let (a, a_reply) = register(&running, "dev", 1, |_| {}).await;
    let (b, b_reply) = register(&running, "dev", 2, |_| {}).await;
    put(&running, item(member.public(), RecipientKind::Member, "both")).await;
    put(&running, item(a_reply.session_pubkey.unwrap(), RecipientKind::Session, "a")).await;
    put(&running, item(b_reply.session_pubkey.unwrap(), RecipientKind::Session, "b")).await;
    let b_row = b.inbox(&peek()).await.unwrap().items[0].id.clone();
    assert_eq!(super::world::code(a.inbox_delete(&b_row).await), "not_found");
    let seen = SeenRequest { ids: vec![b_row.clone()], pushed: false, path: None };
    assert_eq!(a.inbox_seen(&seen).await.unwrap().marked_seen, 0);
    let all = FlushQuery { all: Some(true), ..FlushQuery::default() };
    assert_eq!(a.inbox_flush(&all).await.unwrap().removed, 2);
    assert_eq!(ids(&b, &peek()).await, ["b"]);
    assert_eq!(b.inbox_delete(&b_row).await.unwrap().removed, 1);
    assert!(ids(&b, &peek()).await.is_empty());
    running.shutdown().await;
}

/// Daemon §13.7: order newest first; the cursor is stable under inserts.
#[tokio::test(flavor = "multi_thread")]
async fn pages_do_not_shift_under_arrivals() {
    let (_home, member, running) = scene().await;
    let client = running.client();
    for n in 0..25 {
        put(&running, item(member.public(), RecipientKind::Member, &format!("m{n:02}"))).await;
    }
    let mut query = InboxQuery { limit: Some(10), ..peek() };
    let mut found = Vec::new();
    for arrival in 0.. {
        let page = client.inbox(&query).await.unwrap();
        found.extend(page.items.into_iter().map(|item| item.client_message_id));
        put(&running, item(member.public(), RecipientKind::Member, &format!("late-{arrival}")))
            .await;
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    let expected: Vec<_> = (0..25).rev().map(|n| format!("m{n:02}")).collect();
    assert_eq!(found, expected);
    let by_name = InboxQuery { from: Some("ann".to_owned()), limit: Some(1), ..peek() };
    assert_eq!(ids(&client, &by_name).await.len(), 1);
    let nobody = InboxQuery { from: Some("bob".to_owned()), ..peek() };
    assert!(ids(&client, &nobody).await.is_empty());
    running.shutdown().await;
}

/// Daemon spec §13 Accept 6: daemon away 2 h, 40 broadcasts and one DM held: 41 inbox rows, one `inbox_digest` event with count 40,
/// one `message` event for the DM; a broadcast 5 min old is a normal `message` event.
#[tokio::test(flavor = "multi_thread")]
async fn late_broadcasts_are_announced_together() {
    let (_home, member, running) = scene().await;
    let client = running.client();
    let mut events = client.events(&EventsQuery::default(), None).await.unwrap();
    let aged = |id: &str, minutes: u64| {
        let mut item = item(member.public(), RecipientKind::Member, id);
        item.channel = "broadcast".to_owned();
        item.created_at = Some(now().minus(Duration::from_secs(minutes * 60)));
        item
    };
    for n in 0..40 {
        put(&running, aged(&format!("late-{n}"), 120)).await;
    }
    put(&running, aged("fresh", 5)).await;
    let mut direct = item(member.public(), RecipientKind::Member, "dm");
    direct.created_at = Some(now().minus(Duration::from_hours(2)));
    put(&running, direct).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&EventKind::InboxDigest) {
        let event = events.next().await.unwrap().unwrap();
        if event.kind == EventKind::InboxDigest {
            assert_eq!(event.data["count"], 40);
        }
        if matches!(event.kind, EventKind::Message | EventKind::InboxDigest) {
            seen.push(event.kind);
        }
    }
    assert_eq!(seen, [EventKind::Message, EventKind::Message, EventKind::InboxDigest]);
    assert_eq!(client.inbox(&peek()).await.unwrap().items.len(), 42);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_goes_and_nothing_else() {
    let (_home, member, running) = scene().await;
    let inbox = &running.daemon().context().inbox;
    let day = Duration::from_hours(24);
    let old = item(member.public(), RecipientKind::Member, "old");
    inbox.insert(old, now().minus(31 * day)).await.unwrap();
    let mut expired = item(member.public(), RecipientKind::Member, "expired");
    expired.expires_at = Some(Timestamp::from_millis(1));
    put(&running, expired).await;
    put(&running, item(member.public(), RecipientKind::Member, "kept")).await;
    let retention = Retention { age: 30 * day, max_bytes: u64::MAX };
    // The daemon's own first pruning may have been quicker; what counts is what is left.
    inbox.prune(retention, now()).await.unwrap();
    assert_eq!(ids(&running.client(), &peek()).await, ["kept"]);
    running.shutdown().await;
}

/// A direct message to a session whose acknowledgement was lost comes again to the member when the session has ended at
/// the broker: it is the message that is here, in whichever order the two arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_direct_message_that_moved_to_the_member_is_known() {
    let (home, member, running) = scene().await;
    let (client, reply) = register(&running, "dev", 1, |_| {}).await;
    let key = reply.session_pubkey.unwrap();
    let copies = |id: &str| {
        let mut moved = item(member.public(), RecipientKind::Member, id);
        moved.addressed_to = Some(key);
        (item(key, RecipientKind::Session, id), moved)
    };
    for (id, is_moved_first) in [("once", false), ("again", true)] {
        let (at_session, moved) = copies(id);
        let (first, second) =
            if is_moved_first { (moved, at_session) } else { (at_session, moved) };
        assert!(matches!(put(&running, first).await, Inserted::New(_)));
        assert_eq!(put(&running, second).await, Inserted::Duplicate);
    }
    assert_eq!(ids(&client, &peek()).await.len(), 2);
    // Another message to the member, and one of another sender under the same id, are others.
    let mut stranger = copies("once").1;
    stranger.sender_pubkey = PublicKey::from_bytes([8; 32]);
    assert!(matches!(put(&running, stranger).await, Inserted::New(_)));
    assert!(matches!(put(&running, copies("third").1).await, Inserted::New(_)));
    running.shutdown().await;
    drop(home);
}

/// Daemon spec §11 Accept 6: fill the disk: what could not be stored is not passed by what came behind it on the same socket.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_message_that_found_no_room_nothing_of_its_socket_is_stored() {
    let home = Home::new();
    let member = home.join("dev");
    home.settings("[inbox]\nmax_pages = 120\n");
    let running = home.start().await;
    let inbox = running.daemon().context().inbox.clone();
    let sized = |id: &str, bytes: usize| {
        let mut new = item(member.public(), RecipientKind::Member, id);
        new.body = Some("x".repeat(bytes));
        new
    };
    let (line, other) = (Line::default(), Line::default());
    let (large, small) = tokio::join!(
        inbox.insert_in(&line, sized("large", 2_000_000), now()),
        inbox.insert_in(&line, sized("small", 10), now()),
    );
    assert!(matches!(large, Err(StorageError::Full)), "{large:?}");
    assert!(small.is_err(), "{small:?}");
    assert!(line.is_broken());
    assert!(inbox.insert_in(&line, sized("later", 10), now()).await.is_err());
    let stored = inbox.insert_in(&other, sized("elsewhere", 10), now()).await;
    assert!(matches!(stored, Ok(Inserted::New(_))), "{stored:?}");
    assert!(!other.is_broken());
    running.shutdown().await;
}

/// Daemon §9.5, §13.7: however large the messages are, a page stays below what a client takes as one answer, and the pages
/// together are everything; a link in the head leads to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_bounded_in_bytes_and_leads_to_the_next() {
    const ROWS: usize = 300;
    let (_home, member, running) = scene().await;
    let client = running.client();
    for number in 0..ROWS {
        let mut large = item(member.public(), RecipientKind::Member, &format!("large-{number:03}"));
        large.body = Some(format!("needle {}", "x".repeat(48_000)));
        put(&running, large).await;
    }
    let mut query = InboxQuery { limit: Some(1_000), ..peek() };
    let (mut ids, mut pages) = (Vec::new(), 0);
    loop {
        let page = client.inbox(&query).await.unwrap();
        let bytes = serde_json::to_vec(&page).unwrap().len();
        assert!(bytes < claudemesh_ipc::client::ANSWER_MAX_BYTES, "{bytes}");
        ids.extend(page.items.into_iter().map(|item| item.client_message_id));
        pages += 1;
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert!(pages > 2, "{pages}");
    let newest_first: Vec<_> = (0..ROWS).rev().map(|number| format!("large-{number:03}")).collect();
    assert_eq!(ids, newest_first);
    let mut search = SearchQuery { q: "needle".to_owned(), ..SearchQuery::default() };
    search.limit = Some(200);
    let mut found = 0;
    loop {
        let page = client.inbox_search(&search).await.unwrap();
        found += page.items.len();
        search.cursor = page.next_cursor;
        if search.cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, ROWS);
    let link = async |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nhost: localhost");
        let (status, answer) = raw(running.socket(), &head, "").await;
        assert_eq!(status, 200, "{}", &answer[..200]);
        let head = answer.split("\r\n\r\n").next().unwrap().to_owned();
        let link = head.lines().find_map(|line| line.strip_prefix("link: <"));
        link.map(|link| link.strip_suffix(">; rel=\"next\"").unwrap().to_owned())
    };
    let next = link("/v1/inbox?mark_seen=false&limit=299").await.unwrap();
    let next = link(&next).await.unwrap();
    assert!(next.starts_with("/v1/inbox?mark_seen=false&limit=299&cursor="), "{next}");
    assert_eq!(link("/v1/inbox?mark_seen=false&limit=1&before=1").await, None);
    assert!(link("/v1/inbox/search?q=needle&limit=5").await.is_some());
    running.shutdown().await;
}
