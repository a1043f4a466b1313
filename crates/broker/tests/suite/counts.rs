//! The broker's counts of open rows stay what the store says, whatever happened: they decide who may still be sent to.

use std::collections::BTreeMap;

use claudemesh_protocol::MemberId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::peers::{Person, Session, Socket};
use crate::world::{PATIENCE, World};

/// Rows one member may have open in this test.
const LIMIT: u64 = 40;

async fn open_by_member(world: &World, person: &Person) -> BTreeMap<MemberId, u64> {
    let rows = world.broker().broker().store().backlog(&person.mesh).await.unwrap();
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.recipient_member_id).or_default() += row.held + row.claimed;
    }
    counts
}

/// Everybody's sockets: a daemon and a session that come and go.
struct Crowd<'w> {
    world: &'w World,
    people: &'w [Person],
    sessions: Vec<Session>,
    daemons: Vec<Option<Socket>>,
    attached: Vec<Option<Socket>>,
}

impl Crowd<'_> {
    async fn act(&mut self, rng: &mut StdRng) {
        let who = rng.random_range(1..self.people.len());
        match rng.random_range(0..12) {
            0 => {
                if let Some(socket) = self.attached[who].take() {
                    socket.cut();
                }
            }
            1 => {
                if let Some(socket) = self.attached[who].take() {
                    // Its rows move to its member.
                    socket.leave().await;
                    self.sessions[who] = Session::new();
                }
            }
            2 => {
                if let Some(socket) = self.daemons[who].take() {
                    socket.cut();
                }
            }
            3 if self.daemons[who].is_none() => {
                self.daemons[who] = Some(self.world.daemon(&self.people[who]).await);
            }
            4 | 5 if self.attached[who].is_none() => {
                let socket = self.world.session(&self.people[who], &self.sessions[who]).await;
                self.attached[who] = Some(socket);
            }
            6..9 => {
                let sockets = self.daemons[who].iter_mut().chain(self.attached[who].iter_mut());
                for socket in sockets {
                    let pushes = socket.pushes_so_far().await;
                    for push in pushes.iter().step_by(2) {
                        socket.confirm(push).await;
                    }
                }
            }
            9 => self.world.pass(rng.random_range(1..40)),
            _ => {}
        }
    }

    /// Waits until nothing of what was said is under way any more.
    async fn rest(&mut self) {
        for socket in self.daemons.iter_mut().chain(&mut self.attached).flatten() {
            socket.pushes_so_far().await;
        }
    }
}

async fn counts_are_exact(world: &World, seed: u64) {
    let people = world.mesh_of(&["alice", "bob", "carol", "dave"]).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut alice = world.daemon(&people[0]).await;
    let none = || people.iter().map(|_| None).collect();
    let mut crowd = Crowd {
        world,
        people: &people,
        sessions: people.iter().map(|_| Session::new()).collect(),
        daemons: none(),
        attached: none(),
    };
    for step in 0..150 {
        let who = rng.random_range(1..people.len());
        let target = match rng.random_range(0..6) {
            0 => json!("*"),
            1 if crowd.attached[who].is_some() => json!(crowd.sessions[who].pubkey()),
            2 => json!(people[who].key.public()),
            _ => {
                crowd.act(&mut rng).await;
                continue;
            }
        };
        // Some ids come twice, some of them for something else.
        let id = format!("{seed}-{}", rng.random_range(0..=step));
        let mut message = json!({"targetSpec": target, "client_message_id": id});
        if rng.random_range(0..8) == 0 {
            message["expiresAt"] = json!(world.clock_now().as_millis() + 20_000);
        }
        alice.message(message).await;
    }
    crowd.rest().await;
    until_counts_agree(world, &people, &mut alice, seed).await;
}

/// Fills everybody's queue: exactly as many messages are accepted as the store has room for.
async fn until_counts_agree(world: &World, people: &[Person], alice: &mut Socket, seed: u64) {
    // What was confirmed last may still be on its way to the store.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut before = open_by_member(world, &people[0]).await;
    loop {
        alice.ask(json!({"type": "list_members"})).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let now = open_by_member(world, &people[0]).await;
        if now == before {
            break;
        }
        before = now;
        assert!(tokio::time::Instant::now() < deadline);
    }
    for person in &people[1..] {
        let open = before.get(&person.id).copied().unwrap_or(0);
        let mut accepted = 0;
        loop {
            let id = format!("{seed}-fill-{}-{accepted}", person.id);
            let message = json!({"targetSpec": person.key.public(), "client_message_id": id});
            let ack = alice.message(message).await;
            if ack["queued"] != true {
                let error = ack["error"].as_str().unwrap();
                assert!(error.starts_with("queue_full: "), "{error}");
                break;
            }
            accepted += 1;
            assert!(open + accepted <= LIMIT, "{}: {open} were open, seed {seed}", person.name);
        }
        assert_eq!(open + accepted, LIMIT, "{}, seed {seed}", person.name);
    }
}

fn limited(settings: &mut claudemesh_broker::Settings) {
    settings.limits.send_burst = 100_000;
    settings.limits.backlog_per_member = LIMIT;
}

#[tokio::test]
async fn the_counts_of_open_rows_are_the_stores_after_a_random_history() {
    for seed in 0..6 {
        let world = World::start_with(limited).await;
        counts_are_exact(&world, seed).await;
    }
}

#[tokio::test]
async fn the_counts_of_open_rows_are_the_stores_on_postgres_too() {
    let Some(world) = World::on_postgres_with(limited).await else { return };
    for seed in 10..12 {
        counts_are_exact(&world, seed).await;
    }
}
