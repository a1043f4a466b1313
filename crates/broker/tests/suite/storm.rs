//! Everybody comes back at once after a restart of the broker (LEASE-5 with many).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket};
use crate::world::World;

/// Connections said hello to at once.
const AT_ONCE: usize = 64;

async fn all(world: &World, hellos: Vec<Value>) -> Vec<Socket> {
    futures_util::stream::iter(hellos)
        .map(|hello| world.connect(hello))
        .buffered(AT_ONCE)
        .collect()
        .await
}

struct Crowd {
    people: Vec<Person>,
    sessions: Vec<Session>,
}

impl Crowd {
    /// Daemons of all, and a session of every second.
    async fn of(world: &World, members: usize) -> Self {
        let names: Vec<String> = (0..members).map(|number| format!("peer-{number:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let people = world.mesh_of(&names).await;
        let sessions = (0..members / 2).map(|_| Session::new()).collect();
        Self { people, sessions }
    }

    fn hellos(&self, world: &World) -> Vec<Value> {
        let daemons = self.people.iter().map(|person| world.daemon_hello(person));
        let sessions = self
            .people
            .iter()
            .zip(&self.sessions)
            .map(|(person, session)| world.session_hello(person, session));
        daemons.chain(sessions).collect()
    }
}

fn presences(sockets: &[Socket]) -> Vec<String> {
    sockets.iter().map(Socket::presence_id).collect()
}

/// LEASE-5, OPS-1: 210 connections in three meshes; the broker is killed, and once stopped politely. All come back to
/// their presences, nobody is told anything, held messages arrive once, and who stays away is told once.
#[tokio::test]
async fn two_hundred_connections_return_to_their_presences_in_silence() {
    let mut world = World::start_with(|settings| settings.limits.send_burst = 10_000).await;
    let mut crowds = Vec::new();
    for members in [60, 50, 30] {
        crowds.push(Crowd::of(&world, members).await);
    }
    let hellos = |world: &World| -> Vec<Value> {
        crowds.iter().flat_map(|crowd| crowd.hellos(world)).collect()
    };
    let mut sockets = all(&world, hellos(&world)).await;
    assert_eq!(sockets.len(), 210);
    let before = presences(&sockets);
    for is_killed in [true, false] {
        if is_killed {
            world.kill().await;
        } else {
            world.stop().await;
        }
        drop(sockets);
        let started = Instant::now();
        world.resume().await;
        sockets = all(&world, hellos(&world)).await;
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!(presences(&sockets), before);
    }
    let mut first = sockets.remove(0);
    assert_eq!(first.peers().await.len(), 60 + 30);
    let watched = ["peer_joined", "peer_returned", "peer_left"];
    for event in watched {
        assert_eq!(first.events_so_far(event).await.len(), 0, "{event}");
    }
    // A broadcast reaches everybody once.
    let ack = first.message(json!({"targetSpec": "*"})).await;
    assert_eq!(ack["recipients"], 60 + 30 - 2, "all but the sender's own member: {ack}");
    world.kill().await;
    drop((sockets, first));
    world.resume().await;
    let mut first = world.daemon(&crowds[0].people[0]).await;
    world.pass(91);
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..60 + 30 - 2 {
        let gone = first.event("peer_left").await;
        *left.entry(gone["pubkey"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(left.values().all(|count| *count == 1), "{left:?}");
    assert_eq!(first.until_peers(1).await.len(), 1);
    assert_eq!(first.events_so_far("peer_left").await.len(), 0);
}
