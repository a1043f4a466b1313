//! Measures how many messages a second [`Store::commit`] accepts, by batch size and deliveries per message, on SQLite
//! and on PostgreSQL, with fsync. Every delivery is inserted claimed and acknowledged in the next commit, as on the
//! main road with present receivers; the last lines measure draining held rows.
//!
//! `cargo run --release --example accept_rate -p claudemesh-store [seconds per line] [messages stored before]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measuring program prints and stops at the first failure"
)]

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use claudemesh_protocol::{
    MemberId, MeshId, MessageId, Priority, PublicKey, TargetSpec, Timestamp,
};
use claudemesh_store::{
    Claim, ClaimId, ClientMessage, DeliveryOutcome, DeliverySeq, DeliveryWrite, DestinationKind,
    InitialState, NewDelivery, NewMessage, PostgresLocation, RecipientKind, SenderKind,
    SqliteLocation, Store, StoreLocation,
};
use claudemesh_testkit::postgres::{Durability, Server};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const WEEK: Duration = Duration::from_hours(7 * 24);
const MEMBERS: u8 = 100;
const HELD: usize = 10_000;

static COUNTER: AtomicU64 = AtomicU64::new(1);

/// An id as random as a real one, so that index pages are touched as in production.
fn id() -> String {
    let mut state = COUNTER.fetch_add(1, Ordering::Relaxed);
    claudemesh_protocol::id::random_row_id(|bytes| {
        for byte in bytes {
            // splitmix64: uniform and quick; nothing here is secret.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = (mixed >> 40).to_le_bytes()[0];
        }
    })
}

fn key(member: u8) -> PublicKey {
    PublicKey::from_bytes([member; 32])
}

fn message(mesh: &MeshId, deliveries: u8, state: &InitialState) -> NewMessage {
    let turn = COUNTER.fetch_add(1, Ordering::Relaxed);
    let first = u8::try_from(turn % u64::from(MEMBERS)).unwrap();
    let delivery = |offset: u8| {
        let member = (first + offset) % MEMBERS;
        NewDelivery {
            seq: None,
            recipient_key: key(member),
            recipient_member_id: MemberId::new(format!("{member:032}")),
            recipient_kind: RecipientKind::Session,
            wrapped_key: None,
            rerouted_from: None,
            state: state.clone(),
        }
    };
    NewMessage {
        mesh_id: mesh.clone(),
        message_id: MessageId::new(id()),
        sender_member_id: Some(MemberId::new(format!("{first:032}"))),
        sender_session_key: Some(key(first)),
        sender_kind: SenderKind::Session,
        target_spec: TargetSpec::Key(key(first)),
        priority: Priority::Next,
        nonce: Arc::from("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"),
        ciphertext: Arc::from("A".repeat(400)),
        body_version: 1,
        reply_to: None,
        mentions: None,
        hops: 0,
        key_epoch: None,
        client_message: Some(ClientMessage {
            // Like the ids our daemons give: they grow with time.
            id: Arc::from(format!("01{turn:024}")),
            fingerprint: [9; 32],
            destination_kind: DestinationKind::Dm,
            destination_ref: Arc::from(key(first).to_hex()),
            remember_until: Some(NOW.plus(WEEK)),
        }),
        fingerprint: Some([9; 32]),
        created_at: NOW,
        expires_at: NOW.plus(WEEK),
        deliveries: (0..deliveries).map(delivery).collect(),
    }
}

/// Commits batches for `time`; answers messages per second and milliseconds per commit.
async fn measure(
    store: &Store,
    mesh: &MeshId,
    batch: usize,
    deliveries: u8,
    time: Duration,
) -> (f64, f64) {
    let claimed =
        InitialState::Claimed { by: ClaimId::new(id()), until: NOW.plus(Duration::from_secs(30)) };
    let start = Instant::now();
    let (mut commits, mut acks): (u32, Vec<DeliverySeq>) = (0, Vec::new());
    while start.elapsed() < time {
        let mut writes: Vec<_> = (0..batch)
            .map(|_| DeliveryWrite::Accept(Arc::new(message(mesh, deliveries, &claimed))))
            .collect();
        if !acks.is_empty() {
            writes.push(DeliveryWrite::Ack { deliveries: std::mem::take(&mut acks), at: NOW });
        }
        for outcome in store.commit(writes).await.unwrap() {
            if let DeliveryOutcome::Accepted { deliveries } = outcome {
                acks.extend(deliveries);
            }
        }
        commits += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    store.commit(vec![DeliveryWrite::Ack { deliveries: acks, at: NOW }]).await.unwrap();
    let messages = f64::from(commits) * f64::from(u32::try_from(batch).unwrap());
    (messages / seconds, seconds * 1000.0 / f64::from(commits))
}

/// Milliseconds to claim and acknowledge [`HELD`] rows of one recipient in steps of 100.
async fn drain(store: &Store, mesh: &MeshId) -> f64 {
    for _ in 0..HELD / 500 {
        let writes = (0..500)
            .map(|_| {
                let mut held = message(mesh, 1, &InitialState::Held);
                for delivery in &mut held.deliveries {
                    delivery.recipient_key = key(200);
                }
                DeliveryWrite::Accept(Arc::new(held))
            })
            .collect();
        store.commit(writes).await.unwrap();
    }
    let start = Instant::now();
    let mut drained = 0;
    loop {
        let claim = Claim {
            mesh_id: mesh.clone(),
            recipient_keys: vec![key(200)],
            by: ClaimId::new("drain"),
            least_priority: Priority::Low,
            limit: 100,
            now: NOW,
            lease: Duration::from_secs(30),
            lease_max: Duration::from_mins(10),
        };
        let rows = store.claim(claim).await.unwrap();
        if rows.is_empty() {
            break;
        }
        drained += rows.len();
        let deliveries = rows.iter().map(|row| row.seq).collect();
        store.commit(vec![DeliveryWrite::Ack { deliveries, at: NOW }]).await.unwrap();
    }
    assert_eq!(drained, HELD);
    start.elapsed().as_secs_f64() * 1000.0
}

async fn table(store: &Store, time: Duration, stored_before: usize) {
    let mesh = MeshId::new(id());
    for _ in 0..stored_before / 1_000 {
        let delivered = InitialState::Delivered { at: NOW };
        let writes = (0..1_000)
            .map(|_| DeliveryWrite::Accept(Arc::new(message(&mesh, 1, &delivered))))
            .collect();
        store.commit(writes).await.unwrap();
    }
    for deliveries in [1, 50] {
        for batch in [1, 16, 64, 256] {
            let (rate, millis) = measure(store, &mesh, batch, deliveries, time).await;
            println!(
                "{:<9} batch {batch:>3}  deliveries {deliveries:>2}  {rate:>8.0} messages/s  {millis:>7.2} ms/commit",
                store.engine_name()
            );
        }
    }
    println!(
        "{:<9} drain of {HELD} held rows: {:.0} ms",
        store.engine_name(),
        drain(store, &mesh).await
    );
}

/// Median of 200 appends of 4 KiB with fdatasync, in milliseconds.
fn fdatasync_millis(folder: &std::path::Path) -> f64 {
    let mut file = std::fs::File::create(folder.join("probe")).unwrap();
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[0; 4096]).unwrap();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    times.get(100).unwrap().as_secs_f64() * 1000.0
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |default: u64| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let time = Duration::from_secs(number(3));
    let stored_before = usize::try_from(number(0)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    println!("fdatasync of 4 KiB here: {:.2} ms (median)", fdatasync_millis(directory.path()));
    let sqlite = StoreLocation::Sqlite(SqliteLocation::new(directory.path().join("broker.db")));
    let store = Store::open_migrated(&sqlite).await.unwrap();
    table(&store, time, stored_before).await;
    store.close().await;
    let server = Server::start(Durability::Full).await.unwrap();
    let database = server.database().await.unwrap();
    let location =
        StoreLocation::Postgres(PostgresLocation { url: database.url(), max_connections: 4 });
    let store = Store::open_migrated(&location).await.unwrap();
    table(&store, time, stored_before).await;
    store.close().await;
}
