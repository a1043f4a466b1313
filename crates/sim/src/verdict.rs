//! The judgement of a run: what must hold once every fault has ended and everybody had time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use claudemesh_ipc::api::{InboxItem, InboxQuery, MeshStatus, OutboxItem, OutboxQuery, RowStatus};
use claudemesh_ipc::client::PeerFilter;
use claudemesh_protocol::{PublicKey, receipt};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};
use tokio::time::{Instant, sleep};

use crate::attack::Attacker;
use crate::daemon_node::DaemonNode;
use crate::ledger::{Address, Letter, LetterNumber, Outcome, number_of};
use crate::order::{self, Queues};
use crate::rows;
use crate::tap::{SECRET_MARK, find};
use crate::world::World;

/// Two heartbeats: the time presence has to tell the truth once everybody is connected (broker spec §2).
const TWO_HEARTBEATS: Duration = Duration::from_mins(1);
/// Longest time until the watchdogs have given up every connection that went silent: before that it looks open.
const SILENCE_MAX: Duration = Duration::from_secs(75 + 30 + 5);
/// Longest time until everybody is connected again: the watchdogs notice a silent connection, then the longest wait
/// between two attempts, each step with its jitter and a dial that hangs.
const RECONNECT_MAX: Duration = Duration::from_mins(6);
/// Longest time until nobody is listed who is gone: the broker notices a silent socket, then the lease ends.
const GONE_MAX: Duration = Duration::from_secs(75 + 30 + 90 + 60);
/// Longest time until everything that was accepted has arrived; claims run out after at most ten minutes.
const ARRIVE_MAX: Duration = Duration::from_mins(40);
/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// Refusals of the broker that nobody can repair: a session that never was there, agents that answer each other without
/// end.
const TOLD: &[&str] = &["target_not_found", "loop_stopped"];
/// Items of one page of an inbox.
const INBOX_PAGE: u32 = 1_000;
/// Rows of one page of an outbox.
const OUTBOX_PAGE: u32 = 500;

/// Watches receipts while the storm lasts.
pub(crate) async fn watch_receipts(world: &World) {
    for daemon in &world.daemons {
        note_receipts(world, daemon).await;
    }
}

/// Waits until everybody is well, then judges.
pub(crate) async fn judge(world: &World) -> anyhow::Result<()> {
    let calm = Instant::now();
    sleep(SILENCE_MAX).await;
    await_connections(world, calm).await;
    let connected = Instant::now();
    world.be_idle().await;
    sleep(TWO_HEARTBEATS).await;
    check_presence(world, Presence::NobodyMissing).await;
    await_arrival(world, connected).await;
    watch_receipts(world).await;
    let left = GONE_MAX.saturating_sub(calm.elapsed());
    sleep(left).await;
    rows::watch(world)?;
    check_presence(world, Presence::NobodyTooMany).await;
    for leak in world.network.leaks() {
        world.ledger.violated(format!("plaintext on the wire: {leak}"));
    }
    for daemon in &world.daemons {
        daemon.stop().await;
    }
    world.broker.stop().await;
    check_files(world)
}

async fn await_connections(world: &World, since: Instant) {
    loop {
        let mut closed = Vec::new();
        for daemon in &world.daemons {
            let client = daemon.client();
            let status = match client.health().await {
                Ok(health) => health.brokers.values().next().copied(),
                Err(_) => None,
            };
            if status != Some(MeshStatus::Open) {
                closed.push(format!("daemon {} is {status:?}", daemon.index));
            }
            let sessions = client.sessions().await.unwrap_or_default();
            for agent in world
                .agents
                .iter()
                .filter(|agent| agent.daemon.index == daemon.index && agent.is_alive())
            {
                let session = sessions.iter().find(|row| row.session_pubkey == agent.key());
                let status = session.and_then(|session| session.broker_status);
                if status != Some(MeshStatus::Open) {
                    closed.push(format!("agent {} is {status:?}", agent.index));
                }
            }
        }
        if closed.is_empty() {
            world.trace.note("everybody is connected");
            return;
        }
        if since.elapsed() > RECONNECT_MAX {
            world.ledger.violated(format!("not connected again: {}", closed.join(", ")));
            return;
        }
        sleep(LOOK).await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    NobodyMissing,
    NobodyTooMany,
}

async fn check_presence(world: &World, which: Presence) {
    let truth: BTreeSet<PublicKey> = world
        .agents
        .iter()
        .filter(|agent| agent.is_alive())
        .filter_map(|agent| agent.key())
        .collect();
    let attacker = world.attacker.iter().map(Attacker::member);
    let members: BTreeSet<PublicKey> =
        world.daemons.iter().map(|daemon| daemon.member).chain(attacker).collect();
    for daemon in &world.daemons {
        let reply = match daemon.client().peers(None, PeerFilter::WithControlPlane).await {
            Ok(reply) => reply,
            Err(error) => {
                world.ledger.violated(format!("daemon {}: no peers: {error}", daemon.index));
                continue;
            }
        };
        let listed: BTreeSet<PublicKey> = reply
            .peers
            .iter()
            .map(|peer| peer.row.pubkey)
            .filter(|key| !members.contains(key))
            .collect();
        let wrong: Vec<_> = match which {
            Presence::NobodyMissing => truth.difference(&listed).collect(),
            Presence::NobodyTooMany => listed.difference(&truth).collect(),
        };
        for key in wrong {
            let agent = world.agents.iter().find(|agent| agent.key() == Some(*key));
            let name = agent.map_or("somebody unknown", |agent| agent.name.as_str());
            world.ledger.violated(format!("daemon {}: {which:?}, but {name}", daemon.index));
        }
    }
}

async fn await_arrival(world: &World, since: Instant) {
    loop {
        let (inboxes, given_up) = (inboxes(world).await, given_up(world).await);
        let letters = world.ledger.letters();
        let is_quiet = world.is_quiet();
        let missing: Vec<_> = letters
            .iter()
            .enumerate()
            .filter_map(|(number, letter)| {
                let what = what_is_missing(world, number, letter, &inboxes)?;
                let reason = given_up.get(&letter.client_message_id);
                // Its sender was told, and could not have expected otherwise.
                if reason.is_some_and(|code| TOLD.contains(&code.as_str())) {
                    return None;
                }
                let reason = reason.map(|code| format!(", given up: {code}")).unwrap_or_default();
                Some(format!("letter {number} ({}): {what}{reason}", letter.client_message_id))
            })
            .collect();
        if missing.is_empty() && is_quiet {
            world.trace.note("everything has arrived");
            return;
        }
        if since.elapsed() > ARRIVE_MAX {
            for what in missing {
                world.ledger.violated(format!("accepted and lost: {what}"));
            }
            return;
        }
        sleep(LOOK).await;
    }
}

/// Why messages of each client id will not be sent.
async fn given_up(world: &World) -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    for daemon in &world.daemons {
        for row in outbox(daemon).await {
            if row.status == RowStatus::Dead {
                reasons.insert(row.client_message_id, row.last_error_code.unwrap_or_default());
            }
        }
    }
    reasons
}

async fn outbox(daemon: &DaemonNode) -> Vec<OutboxItem> {
    let mut query = OutboxQuery { limit: Some(OUTBOX_PAGE), ..OutboxQuery::default() };
    let mut rows = Vec::new();
    while let Some(Ok(page)) = daemon.while_alive(daemon.client().outbox(&query)).await {
        rows.extend(page.items);
        if page.next_cursor.is_none() {
            break;
        }
        query.cursor = page.next_cursor;
    }
    rows
}

type Inboxes = BTreeMap<usize, Vec<InboxItem>>;

async fn inboxes(world: &World) -> Inboxes {
    let mut inboxes = Inboxes::new();
    for daemon in &world.daemons {
        let mut query =
            InboxQuery { mark_seen: Some(false), limit: Some(INBOX_PAGE), ..InboxQuery::default() };
        let mut items = Vec::new();
        while let Ok(page) = daemon.client().inbox(&query).await {
            items.extend(page.items);
            if page.next_cursor.is_none() {
                break;
            }
            query.cursor = page.next_cursor;
        }
        inboxes.insert(daemon.index, items);
    }
    inboxes
}

/// Where an accepted letter has not arrived.
fn what_is_missing(
    world: &World,
    number: LetterNumber,
    letter: &Letter,
    inboxes: &Inboxes,
) -> Option<String> {
    if !matches!(letter.outcome, Outcome::Accepted(_)) || letter.may_expire {
        return None;
    }
    let has = |daemon: usize| {
        inboxes.get(&daemon).is_some_and(|items| {
            items.iter().any(|item| item.body.as_deref().and_then(number_of) == Some(number))
        })
    };
    let wanted: Vec<usize> = match letter.to {
        Address::Member(daemon) => vec![daemon],
        Address::Agent(agent) => {
            world.agents.get(agent).map(|agent| agent.daemon.index).into_iter().collect()
        }
        Address::Everyone => world
            .daemons
            .iter()
            .map(|daemon| daemon.index)
            .filter(|daemon| *daemon != letter.daemon)
            .collect(),
        // Who is in the group changes as sessions come and go.
        Address::Group => Vec::new(),
    };
    let missing: Vec<_> =
        wanted.into_iter().filter(|daemon| !has(*daemon)).map(|d| format!("daemon {d}")).collect();
    (!missing.is_empty()).then(|| format!("{:?} not at {}", letter.to, missing.join(", ")))
}

async fn note_receipts(world: &World, daemon: &DaemonNode) {
    for row in outbox(daemon).await {
        for progress in row.receipts {
            world.ledger.receipt(&row.client_message_id, progress.recipient, progress.state);
        }
    }
}

/// What the files say once everything has stopped.
fn check_files(world: &World) -> anyhow::Result<()> {
    let letters = world.ledger.letters();
    let queues = Queues::read(&world.broker.database())?;
    let mut stored = BTreeSet::new();
    for daemon in &world.daemons {
        let paths = daemon.paths();
        check_integrity(world, &paths.outbox_file())?;
        check_integrity(world, &paths.inbox_file())?;
        let rows = read_inbox(&paths.inbox_file())?;
        for row in &rows {
            stored.insert((row.number, row.recipient));
        }
        check_once(world, daemon.index, &rows);
        for fault in order::faults(&rows, &letters, daemon.member, &queues) {
            world.ledger.violated(format!("daemon {} {fault}", daemon.index));
        }
    }
    check_receipts(world, &letters, &stored);
    check_integrity(world, &world.broker.database())?;
    rows::look(world, &world.broker.database())?;
    check_ciphertext(world)
}

/// A letter in an inbox.
pub(crate) struct Stored {
    pub(crate) number: LetterNumber,
    /// The own key it is stored under.
    pub(crate) recipient: PublicKey,
    pub(crate) sender: String,
}

/// The inbox rows in the order in which they were stored.
fn read_inbox(file: &Path) -> anyhow::Result<Vec<Stored>> {
    let rows = ask(
        file,
        "SELECT body, recipient_pubkey, sender_pubkey FROM inbox WHERE body IS NOT NULL ORDER BY seq",
    )?;
    let mut stored = Vec::new();
    for row in rows {
        let body: String = row.try_get("body")?;
        let Some(number) = number_of(&body) else { continue };
        stored.push(Stored {
            number,
            recipient: row.try_get::<String, _>("recipient_pubkey")?.parse()?,
            sender: row.try_get("sender_pubkey")?,
        });
    }
    Ok(stored)
}

/// Asks a database on this thread.
pub(crate) fn ask(file: &Path, sql: &'static str) -> anyhow::Result<Vec<sqlx::sqlite::SqliteRow>> {
    let options = SqliteConnectOptions::new().filename(file);
    let rows = crate::on_this_thread(async {
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(rows)
    })?;
    Ok(rows)
}

fn check_integrity(world: &World, file: &Path) -> anyhow::Result<()> {
    for row in ask(file, "PRAGMA integrity_check")? {
        let said: String = row.try_get(0)?;
        if said != "ok" {
            world.ledger.violated(format!("{} is damaged: {said}", file.display()));
        }
    }
    Ok(())
}

/// One row per own key and letter.
fn check_once(world: &World, daemon: usize, rows: &[Stored]) {
    let mut seen = BTreeSet::new();
    for row in rows {
        if !seen.insert((row.number, row.recipient)) {
            world.ledger.violated(format!("daemon {daemon} stored letter {} twice", row.number));
        }
    }
}

/// A receipt never claims more than is true.
fn check_receipts(world: &World, letters: &[Letter], stored: &BTreeSet<(LetterNumber, PublicKey)>) {
    let on_device = receipt::rank(claudemesh_protocol::wire::ReceiptState::OnDevice);
    for ((id, recipient), state) in world.ledger.receipts() {
        let Some(number) = letters.iter().position(|letter| letter.client_message_id == id) else {
            continue;
        };
        // What a session that has ended left behind is kept under its member's key.
        let is_left =
            letters.get(number).is_some_and(|letter| matches!(letter.to, Address::Agent(_)))
                && stored.iter().any(|(kept, _)| *kept == number);
        let is_there = is_left || stored.contains(&(number, recipient));
        if receipt::rank(state) >= on_device && !is_there {
            world.ledger.violated(format!(
                "the receipt of letter {number} says {state:?}, but {} does not have it",
                recipient.short(8)
            ));
        }
    }
}

/// The broker's files hold no text of a letter.
fn check_ciphertext(world: &World) -> anyhow::Result<()> {
    let file = world.broker.database();
    if find(&std::fs::read(&file)?, SECRET_MARK.as_bytes()).is_some() {
        world.ledger.violated(format!("plaintext in {}", file.display()));
    }
    Ok(())
}
