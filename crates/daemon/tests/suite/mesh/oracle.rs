//! Twenty sessions of two members on two daemons and a thousand messages at random, against what each of them must see.

use std::collections::{BTreeMap, BTreeSet};

use claudemesh_crypto::random;
use claudemesh_daemon::Running;
use claudemesh_ipc::api::session::GroupSpec;
use claudemesh_ipc::api::{EventKind, EventsQuery, InboxQuery, MeshStatus, SendRequest};
use claudemesh_ipc::client::PeerFilter;
use claudemesh_ipc::{Client, EventStream};
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::limits::BrokerLimits;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::node::{SLUG, World, until};
use crate::local::world::{Home, register};

const MESSAGES: usize = 1_000;
const SESSIONS: u8 = 10;
/// Messages of one listing.
const PAGE: u32 = 1_000;

/// A client id and the conversation it belongs to: who says it, and to what address. Within one, the order is kept.
type Said = (String, (String, String));

struct Voice {
    client: Client,
    key: PublicKey,
    member: usize,
    is_red: bool,
    expected: Mutex<Vec<Said>>,
    /// Client ids.
    told: Mutex<Vec<String>>,
}

impl Voice {
    async fn open(running: &Running, member: usize, number: u8) -> (Self, EventStream) {
        let is_red = number.is_multiple_of(3);
        let byte = u8::try_from(member).unwrap() * 16 + number;
        let (client, reply) = register(running, SLUG, byte, |request| {
            if is_red {
                request.groups = vec![GroupSpec::Text("@red".to_owned())];
            }
        })
        .await;
        let stream = client.events(&EventsQuery::default(), None).await.unwrap();
        let key = reply.session_pubkey.unwrap();
        let (expected, told) = (Mutex::default(), Mutex::default());
        (Self { client, key, member, is_red, expected, told }, stream)
    }

    /// Takes down what its stream tells, for as long as it is polled.
    async fn listen(&self, mut stream: EventStream) {
        while let Some(event) = stream.next().await.unwrap() {
            assert_ne!(event.kind, EventKind::Lagged, "{}", event.data);
            if event.kind == EventKind::Message {
                let id = event.data["client_message_id"].as_str().unwrap();
                self.told.lock().push(id.to_owned());
            }
        }
        panic!("the stream of {} ended", self.key);
    }

    /// Ids of its inbox.
    async fn listed(&self) -> BTreeSet<String> {
        let mut query = InboxQuery { limit: Some(PAGE), ..InboxQuery::default() };
        let mut ids = BTreeSet::new();
        loop {
            let page = self.client.inbox(&query).await.unwrap();
            for item in page.items {
                let id = item.client_message_id;
                assert!(ids.insert(id.clone()), "{id} is listed twice");
            }
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                return ids;
            }
        }
    }
}

/// The ids of each conversation, in their order.
fn by_conversation(said: &[Said]) -> BTreeMap<&(String, String), Vec<&str>> {
    let mut conversations = BTreeMap::<_, Vec<_>>::new();
    for (id, conversation) in said {
        conversations.entry(conversation).or_default().push(id.as_str());
    }
    conversations
}

/// Those that hear a message. What goes to everybody or to a group does not reach the sender's siblings (wire spec §4.3).
fn hearing(voices: &[Voice], hears: impl Fn(&Voice) -> bool) -> Vec<&Voice> {
    voices.iter().filter(|voice| hears(voice)).collect()
}

/// Sends at random, and notes who must hear what.
async fn talk(world: &World, voices: &[Voice], mut rng: StdRng) {
    for number in 0..MESSAGES {
        let from = rng.random_range(0..voices.len());
        let sender = &voices[from];
        let is_other = |voice: &Voice| voice.member != sender.member;
        let (to, hearing) = match rng.random_range(0..10) {
            0 => ("*".to_owned(), hearing(voices, is_other)),
            1 => ("@red".to_owned(), hearing(voices, |voice| voice.is_red && is_other(voice))),
            2 | 3 => (world.key(1 - sender.member).to_hex(), hearing(voices, is_other)),
            _ => {
                let one = &voices[(from + rng.random_range(1..voices.len())) % voices.len()];
                (one.key.to_hex(), vec![one])
            }
        };
        let message = format!("number {number}");
        let conversation = (sender.key.to_hex(), to.clone());
        let request = SendRequest { to, message, ..SendRequest::default() };
        let id = sender.client.send(&request).await.unwrap().client_message_id;
        for voice in hearing {
            voice.expected.lock().push((id.clone(), conversation.clone()));
        }
    }
}

/// Daemon spec §14 Accept 1: sessions A,B on one daemon: 1000 random DMs/broadcasts: each subscriber's stream equals the
/// oracle set, in order, without duplicates. And with ten sessions of one member and ten of another on two daemons, the
/// same of each session's inbox.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_twenty_sessions_sees_exactly_its_own_messages() {
    let seed = u64::from_le_bytes(random::bytes());
    println!("seed {seed}");
    let talkative = |limits: &mut BrokerLimits| {
        limits.send_burst = 100_000;
        limits.send_per_min = 100_000;
        // Nobody here answers anybody, though to the loop guard it looks so.
        limits.loop_max_hops = u32::MAX;
    };
    let world = World::limited(2, talkative).await;
    let homes = [Home::new(), Home::new()];
    let (mut daemons, mut voices, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for (member, home) in homes.iter().enumerate() {
        home.join_as(world.entry(member));
        let running = home.start().await;
        for number in 0..SESSIONS {
            let (voice, stream) = Voice::open(&running, member, number).await;
            voices.push(voice);
            streams.push(stream);
        }
        daemons.push(running);
    }
    for running in &daemons {
        until("every session is open and listed everywhere", async || {
            let sessions = running.client().sessions().await.unwrap();
            let is_open = sessions.iter().all(|one| one.broker_status == Some(MeshStatus::Open));
            let peers = running.client().peers(Some(SLUG), PeerFilter::Reachable).await.unwrap();
            let is_listed =
                |voice: &Voice| peers.peers.iter().any(|peer| peer.row.pubkey == voice.key);
            is_open && voices.iter().all(is_listed)
        })
        .await;
    }
    let story = async {
        talk(&world, &voices, StdRng::seed_from_u64(seed)).await;
        until("every stream has told as much as it must", async || {
            voices.iter().all(|voice| voice.told.lock().len() >= voice.expected.lock().len())
        })
        .await;
        for voice in &voices {
            let expected = voice.expected.lock().clone();
            let conversations: BTreeMap<_, _> = expected.iter().cloned().collect();
            let told = voice.told.lock().clone().into_iter();
            let told: Vec<Said> = told
                .map(|id| (id.clone(), conversations.get(&id).cloned().unwrap_or_default()))
                .collect();
            let (told, expected) = (by_conversation(&told), by_conversation(&expected));
            assert_eq!(told, expected, "the stream of {}", voice.key);
            let ids: BTreeSet<String> = conversations.keys().cloned().collect();
            assert_eq!(voice.listed().await, ids, "the inbox of {}", voice.key);
        }
    };
    let listening = voices.iter().zip(streams).map(|(voice, stream)| voice.listen(stream));
    tokio::select! {
        () = story => {}
        _ = join_all(listening) => unreachable!("listening never ends"),
    }
    for running in daemons {
        running.shutdown().await;
    }
}
