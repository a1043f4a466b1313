//! Measures a full inbox (daemon spec §13 Accept 8: 1e6 rows): `cargo run --release -p claudemesh-daemon --example inbox_load [rows]`.
//! Prints p99 of listing and searching, and the longest wait of an insert while 100,000 rows are pruned; ends with 1 when one
//! of them is above its bound.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a measurement, run by hand"
)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claudemesh_daemon::clock::now;
use claudemesh_daemon::events::EventBus;
use claudemesh_daemon::inbox::{
    Inbox, InboxFilter, InboxSettings, NewItem, Retention, Scope, SearchFilter, SessionScope,
};
use claudemesh_daemon::sessions::{SessionLimits, Sessions, SessionsSettings, SystemProcesses};
use claudemesh_ipc::api::{Decrypt, RecipientKind};
use claudemesh_protocol::{Priority, PublicKey, Timestamp};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bounds of daemon spec §13.
const LIST_MAX: Duration = Duration::from_millis(20);
const SEARCH_MAX: Duration = Duration::from_millis(150);
const INSERT_MAX: Duration = Duration::from_millis(100);
const KEYS: u8 = 20;
const ROUNDS: usize = 300;
/// Rows stored by one statement.
const FILL_ROWS: usize = 20_000;
const WORDS: [&str; 8] =
    ["build", "review", "deploy", "index", "broker", "question", "answer", "needle"];

fn item(n: usize) -> NewItem {
    let recipient = PublicKey::from_bytes([1 + u8::try_from(n % usize::from(KEYS)).unwrap(); 32]);
    let sender = PublicKey::from_bytes([200; 32]);
    let rare = if n.is_multiple_of(10_000) { " rareword" } else { "" };
    NewItem {
        mesh: "dev".to_owned(),
        client_message_id: format!("m{n}"),
        broker_message_id: Some(format!("b{n}")),
        recipient_pubkey: recipient,
        recipient_kind: RecipientKind::Session,
        channel: "dm".to_owned(),
        topic: None,
        topic_id: None,
        sender_pubkey: sender,
        sender_member_pubkey: Some(sender),
        sender_name: "Ann".to_owned(),
        priority: Priority::Next,
        subtype: None,
        body: Some(format!("{} number {n}{rare}", WORDS[n % WORDS.len()])),
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

/// Prints p99; true when it is within its bound.
fn is_quick(what: &str, mut times: Vec<Duration>, most: Duration) -> bool {
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    println!("{what}: p99 {p99:?}, bound {most:?}");
    p99 < most
}

#[tokio::main]
async fn main() -> ExitCode {
    let rows: usize = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (events, tasks, stop) = (EventBus::new(), TaskTracker::new(), CancellationToken::new());
    let (sessions, _ended) = Sessions::new(SessionsSettings {
        file: dir.path().join("sessions.json"),
        key_dir: dir.path().join("sessions"),
        processes: Arc::new(SystemProcesses::new()),
        limits: SessionLimits { max: 16, unverified_ttl: Duration::from_hours(1) },
        events: events.clone(),
        tasks: tasks.clone(),
        shutdown: stop.clone(),
    });
    let settings = InboxSettings {
        events,
        sessions,
        tasks: tasks.clone(),
        shutdown: stop.clone(),
        digest_after: Duration::from_mins(10),
        is_searchable: true,
        now: now(),
    };
    let inbox = Inbox::open(&dir.path().join("inbox.db"), None, settings).await.unwrap();
    let old = now().minus(Duration::from_hours(24 * 40));
    let filled = Instant::now();
    for first in (0..rows).step_by(FILL_ROWS) {
        fill(&inbox, first, rows.min(first + FILL_ROWS), rows / 10, old).await;
    }
    println!("{rows} rows in {:?}", filled.elapsed());
    let is_good = [lists(&inbox).await, searches(&inbox).await, prune(&inbox, rows).await];
    inbox.close().await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    if is_good == [true; 3] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Stores rows `first` up to `end` by one statement, as the insert of a message would; those below `old_rows` came in at
/// `old`. A million calls of [`Inbox::insert`] would take longer than everything that is measured here.
async fn fill(inbox: &Inbox, first: usize, end: usize, old_rows: usize, old: Timestamp) {
    let words = serde_json::to_string(&WORDS).unwrap();
    let sql = format!(
        "WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n+1 FROM numbers WHERE n+1<{end}) \
         INSERT INTO inbox (id, client_message_id, broker_message_id, mesh, recipient_pubkey, recipient_kind, \
         channel, sender_pubkey, sender_member_pubkey, sender_name, priority, body, body_version, decrypt, \
         created_at, received_at, sender_verified) \
         SELECT printf('00%024d', n), 'm'||n, 'b'||n, 'dev', replace(printf('%032d', 0), '0', \
         printf('%02x', 1+n%{KEYS})), 'session', 'dm', '{SENDER}', '{SENDER}', 'Ann', 'next', \
         json_extract('{words}', '$['||(n%{count})||']')||' number '||n||iif(n%10000=0, ' rareword', ''), 1, 'ok', \
         {now}, iif(n<{old_rows}, {old}, {now})+n/1000, 1 FROM numbers",
        SENDER = "c8".repeat(32),
        count = WORDS.len(),
        now = now().as_millis(),
        old = old.as_millis(),
    );
    let filled: Result<(), claudemesh_daemon::storage::StorageError> = inbox
        .database()
        .write(move |conn| {
            Box::pin(async move {
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(conn).await?;
                Ok(())
            })
        })
        .await;
    filled.unwrap();
}

async fn lists(inbox: &Inbox) -> bool {
    let mut is_good = true;
    let session = Scope::Session(SessionScope {
        mesh: "dev".to_owned(),
        session_id: "s".to_owned(),
        key: Some(PublicKey::from_bytes([3; 32])),
        member_key: PublicKey::from_bytes([4; 32]),
        registered_at: Timestamp::from_millis(0),
    });
    for (name, scope, unread_only) in [
        ("list", &Scope::Everything, false),
        ("list, session", &session, false),
        ("list, session, unread", &session, true),
    ] {
        let filter = InboxFilter { limit: 100, unread_only, ..InboxFilter::default() };
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            inbox.list(scope, &filter).await.unwrap();
            times.push(began.elapsed());
        }
        is_good &= is_quick(name, times, LIST_MAX);
    }
    is_good
}

async fn searches(inbox: &Inbox) -> bool {
    let mut is_good = true;
    for text in ["rareword", "needle", "number", "build OR deploy", "\"number 77777\""] {
        let filter = SearchFilter { text: text.to_owned(), limit: 50, ..SearchFilter::default() };
        let mut times = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            inbox.search(&Scope::Everything, &filter).await.unwrap();
            times.push(began.elapsed());
        }
        is_good &= is_quick(&format!("search {text}"), times, SEARCH_MAX);
    }
    is_good
}

async fn prune(inbox: &Inbox, rows: usize) -> bool {
    let retention = Retention { age: Duration::from_hours(24 * 30), max_bytes: u64::MAX };
    let pruning = inbox.clone();
    let (mut longest, mut n) = (Duration::ZERO, rows);
    let mut pruned = std::pin::pin!(pruning.prune(retention, now()));
    let removed = loop {
        let began = Instant::now();
        let insert = inbox.insert(item(n), now());
        let mut insert = std::pin::pin!(insert);
        let done = tokio::select! {
            removed = &mut pruned => Some(removed.unwrap()),
            stored = &mut insert => {
                drop(stored.unwrap());
                None
            }
        };
        if let Some(removed) = done {
            break removed;
        }
        longest = longest.max(began.elapsed());
        n += 1;
    };
    println!("pruned {removed} rows; longest insert meanwhile {longest:?}, bound {INSERT_MAX:?}");
    longest < INSERT_MAX
}
