//! Two daemons write to each other while both change their keys, and are killed, at random; the broker is real and lives on.
//! Nothing that was accepted is lost, nothing is shown twice, everything opens and is its sender's.

use std::collections::BTreeMap;
use std::time::Duration;

use claudemesh_ipc::Client;
use claudemesh_ipc::api::{InboxItem, InboxQuery, OutboxQuery, RowStatus, SendRequest};

use super::rotation::{EVERYTHING, has_record, home_of_member, opened, own_key};
use crate::local::process::DaemonProcess;
use crate::local::world::{Home, letter};
use crate::mesh::node::{World, until};

/// Messages of each side while one key changes.
const LETTERS: usize = 3;
/// Longest wait before somebody dies; a change of keys takes a few of these steps.
const LONGEST_LIFE_MS: u64 = 120;

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

struct Side {
    home: Home,
    daemon: DaemonProcess,
}

impl Side {
    async fn of(world: &World, member: usize) -> Self {
        let home = home_of_member(world, member);
        let daemon = DaemonProcess::start(&home, "").await;
        opened(daemon.client()).await;
        Self { home, daemon }
    }

    async fn kill(&mut self) {
        self.daemon.kill();
        self.daemon = DaemonProcess::start(&self.home, "").await;
    }

    /// Changes the key, and goes on with a change that was broken off.
    async fn rotate(&self) {
        let client = self.daemon.client();
        until("the key is changed", async || {
            opened(client).await;
            client.rotate_keypair(&EVERYTHING).await.is_ok_and(|reply| reply.errors.is_empty())
        })
        .await;
    }
}

/// Has these letters accepted, whoever dies meanwhile: what is not known to be accepted is said again under its id.
async fn write(client: &Client, to: &str, ids: Vec<String>) {
    for id in ids {
        let request = SendRequest { client_message_id: Some(id.clone()), ..letter(to, &id) };
        until(&format!("{id} is accepted"), async || client.send(&request).await.is_ok()).await;
    }
}

async fn inbox(client: &Client) -> Vec<InboxItem> {
    let query = InboxQuery { mark_seen: Some(false), limit: Some(500), ..InboxQuery::default() };
    client.inbox(&query).await.map(|page| page.items).unwrap_or_default()
}

async fn storm(seed: u64, rotations: usize) {
    let world = World::limited(2, |limits| {
        limits.send_burst = 100_000;
        limits.send_per_min = 100_000;
        limits.max_connections_per_mesh = 10_000;
    })
    .await;
    let mut dice = Dice(seed);
    let mut sides = [Side::of(&world, 0).await, Side::of(&world, 1).await];
    let mut earlier = [own_key(&sides[0].home), own_key(&sides[1].home)];
    let mut said: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    for round in 0..rotations {
        let clients = [0, 1].map(|side| sides[side].daemon.client().clone());
        // To the key of the moment, or to one that has just been changed: eight of them open mail.
        let now = [own_key(&sides[0].home), own_key(&sides[1].home)];
        let to = [1, 0].map(|other: usize| match dice.below(3) {
            0 => earlier[other].to_hex(),
            _ => now[other].to_hex(),
        });
        earlier = now;
        let ids = [0, 1].map(|side| -> Vec<String> {
            (0..LETTERS).map(|n| format!("seed-{seed}-{side}-{round}-{n}")).collect()
        });
        for side in 0..2 {
            said[side].extend(ids[side].clone());
        }
        let who = usize::try_from(dice.below(2)).unwrap();
        let (fate, life) = (dice.below(4), Duration::from_millis(dice.below(LONGEST_LIFE_MS)));
        let trouble = async {
            match fate {
                0 => sides[who].rotate().await,
                // Whoever changes its key dies on the way.
                1 | 2 => {
                    tokio::select! {
                        _ = sides[who].daemon.client().rotate_keypair(&EVERYTHING) => {}
                        () = tokio::time::sleep(life) => {}
                    }
                    sides[who].kill().await;
                    sides[who].rotate().await;
                }
                // Whoever writes to it does.
                _ => {
                    let [left, right] = &mut sides;
                    let (rotating, dying) =
                        if who == 0 { (&*left, right) } else { (&*right, left) };
                    tokio::join!(rotating.rotate(), async {
                        tokio::time::sleep(life).await;
                        dying.kill().await;
                    });
                }
            }
        };
        let [left, right] = ids;
        tokio::join!(write(&clients[0], &to[0], left), write(&clients[1], &to[1], right), trouble);
    }
    for (side, other) in [(0, 1), (1, 0)] {
        let client = sides[side].daemon.client();
        opened(client).await;
        until("everything is out", async || {
            let query = OutboxQuery { limit: Some(500), ..OutboxQuery::default() };
            let rows = client.outbox(&query).await.unwrap().items;
            rows.len() == said[side].len() && rows.iter().all(|row| row.status == RowStatus::Done)
        })
        .await;
        let reader = sides[other].daemon.client();
        until("everything is in, and proved", async || {
            let items = inbox(reader).await;
            items.len() >= said[side].len() && items.iter().all(|item| item.sender_verified)
        })
        .await;
    }
    for (reader, writer) in [(0, 1), (1, 0)] {
        let own = own_key(&sides[reader].home);
        let items = inbox(sides[reader].daemon.client()).await;
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        for item in &items {
            assert!(item.decrypt.is_readable(), "seed {seed}: {:?}", item.client_message_id);
            assert_eq!(item.recipient_pubkey, Some(own), "seed {seed}");
            assert!(item.sender_verified, "seed {seed}: {:?}", item.client_message_id);
            *shown.entry(item.body.as_deref().unwrap()).or_default() += 1;
        }
        let lost: Vec<_> =
            said[writer].iter().filter(|id| !shown.contains_key(id.as_str())).collect();
        let twice: Vec<_> = shown.iter().filter(|(_, times)| **times > 1).collect();
        assert!(lost.is_empty() && twice.is_empty(), "seed {seed}: {lost:?} {twice:?}");
        assert_eq!(items.len(), said[writer].len(), "seed {seed}");
        assert!(!has_record(&sides[reader].home), "seed {seed}: a rotation is left");
    }
    let all = u64::try_from(said[0].len() + said[1].len()).unwrap();
    assert_eq!(world.count("message").await, all, "seed {seed}: one message for each letter");
}

/// Daemon spec §19 Accept 1 and 2, at random: some of it on every run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_under_traffic_and_deaths() {
    storm(19, 4).await;
}

/// The same with twenty changes of keys, several times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn twenty_keys_change_under_traffic_and_deaths() {
    for seed in [1, 2, 3] {
        storm(seed, 20).await;
    }
}
