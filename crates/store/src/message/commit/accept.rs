//! Accepting messages: dedupe rows first, then messages, then deliveries; three statements for any number of them, a
//! fourth when a client message id was known. Where row numbers are known beforehand, none of them answers a row.

use std::collections::HashMap;

use claudemesh_protocol::{MemberId, PublicKey};
use tokio::sync::oneshot;

use super::super::{
    ClientMessage, Dedupe, DeliveryOutcome, DeliverySeq, DeliveryState, DeliveryWrite,
    InitialState, NewDelivery, NewMessage, Numbers, stored_priority,
};
use crate::engine::{Bulk, Cell, Conn, Sql, Value, postgres, sqlite};
use crate::{Result, StoreError};

const INSERT_DEDUPE: Sql = Sql::per_engine(sqlite::INSERT_DEDUPE, postgres::INSERT_DEDUPE);
const FIND_DEDUPE: Sql = Sql::per_engine(sqlite::FIND_DEDUPE, postgres::FIND_DEDUPE);
const INSERT_MESSAGES: Sql = Sql::per_engine(sqlite::INSERT_MESSAGES, postgres::INSERT_MESSAGES);
const INSERT_DELIVERIES: Sql =
    Sql::per_engine(sqlite::INSERT_DELIVERIES, postgres::INSERT_DELIVERIES);

const INSERT_NUMBERED_MESSAGES: Sql =
    Sql::per_engine(sqlite::INSERT_NUMBERED_MESSAGES, postgres::INSERT_MESSAGES);
const INSERT_NUMBERED_DELIVERIES: Sql =
    Sql::per_engine(sqlite::INSERT_NUMBERED_DELIVERIES, postgres::INSERT_DELIVERIES);

/// A message to be inserted, with its place in the batch.
type Entry<'b> = (usize, &'b NewMessage);

/// How a batch is accepted.
pub(super) struct Accepting<'n> {
    /// Where row numbers come from; `None`: from the database.
    pub(super) numbers: Option<&'n Numbers>,
    /// Is told the places of new messages as soon as they are known.
    pub(super) announce: Option<oneshot::Sender<Vec<usize>>>,
}

/// Answers every `Accept` of the batch.
pub(super) async fn run(
    conn: &mut Conn<'_>,
    batch: &[DeliveryWrite],
    accepting: Accepting<'_>,
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<()> {
    let entries: Vec<Entry<'_>> = batch
        .iter()
        .enumerate()
        .filter_map(|(entry, write)| match write {
            DeliveryWrite::Accept(message) => Some((entry, message.as_ref())),
            _ => None,
        })
        .collect();
    if entries.is_empty() {
        return Ok(());
    }
    let Accepting { numbers, announce } = accepting;
    let fresh = remember(conn, &entries, answers).await?;
    claudemesh_sqlite::crash_point("store.after_dedupe_before_message");
    if let Some(announce) = announce {
        // Nobody listens any more when the broker is being killed.
        let _ = announce.send(fresh.iter().map(|(entry, _)| *entry).collect());
        claudemesh_sqlite::crash_point("store.after_announce_before_message");
    }
    claudemesh_sqlite::crash_point("store.before_message");
    if claudemesh_sqlite::refusal_point("store.accept.refuse") {
        return Err(StoreError::Unavailable("refused by a test".into()));
    }
    if fresh.is_empty() {
        return Ok(());
    }
    let seqs = insert_messages(conn, &fresh, numbers).await?;
    insert_deliveries(conn, &fresh, &seqs, numbers, answers).await
}

/// Inserts dedupe rows; answers the messages that are new. The others get their outcome.
async fn remember<'b>(
    conn: &mut Conn<'_>,
    entries: &[Entry<'b>],
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<Vec<Entry<'b>>> {
    let named: Vec<(&NewMessage, &ClientMessage, String)> = entries
        .iter()
        .filter_map(|(_, message)| {
            let client = message.client_message.as_ref()?;
            Some((*message, client, hex::encode(client.fingerprint)))
        })
        .collect();
    if named.is_empty() {
        return Ok(entries.to_vec());
    }
    let mut bulk = Bulk::new(9, named.len());
    for (message, client, fingerprint) in &named {
        bulk.push([
            Cell::Text(Some(message.mesh_id.as_str())),
            Cell::Text(Some(&client.id)),
            Cell::Text(message.sender_member_id.as_ref().map(MemberId::as_str)),
            Cell::Text(Some(message.message_id.as_str())),
            Cell::Text(Some(fingerprint)),
            Cell::Integer(Some(client.destination_kind.stored())),
            Cell::Text(Some(&client.destination_ref)),
            Cell::Integer(Some(message.created_at.as_millis())),
            Cell::Integer(client.remember_until.map(claudemesh_protocol::Timestamp::as_millis)),
        ]);
    }
    let inserted = conn.execute(INSERT_DEDUPE, &[Value::Bulk(&bulk)]).await?;
    if inserted == named.len() as u64 {
        return Ok(entries.to_vec());
    }
    tell_known_apart(conn, entries, answers).await
}

/// Answers what was known, duplicates and conflicts, and returns the messages whose dedupe row is their own.
async fn tell_known_apart<'b>(
    conn: &mut Conn<'_>,
    entries: &[Entry<'b>],
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<Vec<Entry<'b>>> {
    let named = |(_, message): &&Entry<'b>| message.client_message.is_some();
    let mut bulk = Bulk::new(2, entries.len());
    for (_, message) in entries.iter().filter(named) {
        let client = message.client_message.as_ref().map(|client| client.id.as_ref());
        bulk.push([Cell::Text(Some(message.mesh_id.as_str())), Cell::Text(client)]);
    }
    let rows = conn.all(FIND_DEDUPE, &[Value::Bulk(&bulk)]).await?;
    let mut stored: HashMap<(String, String), Dedupe> = HashMap::with_capacity(rows.len());
    for row in &rows {
        stored.insert((row.get("mesh_id")?, row.get("client_message_id")?), Dedupe::from_row(row)?);
    }
    let mut fresh = Vec::with_capacity(entries.len());
    for (entry, message) in entries {
        let Some(client) = &message.client_message else {
            fresh.push((*entry, *message));
            continue;
        };
        let key = (message.mesh_id.as_str().to_owned(), client.id.as_ref().to_owned());
        // Gone again: an expired row was removed in this moment. The sender tries again and is accepted.
        let Some(dedupe) = stored.get(&key) else {
            return Err(StoreError::Unavailable("a remembered message id has just expired".into()));
        };
        // Broker ids are fresh: a row with this one was inserted just now.
        if dedupe.message_id == message.message_id {
            fresh.push((*entry, *message));
            continue;
        }
        let is_same = dedupe.is_same_send(message.sender_member_id.as_ref(), &client.fingerprint);
        let outcome = if is_same {
            DeliveryOutcome::Duplicate(dedupe.clone())
        } else {
            DeliveryOutcome::Conflict(dedupe.clone())
        };
        answers.insert(*entry, outcome);
    }
    Ok(fresh)
}

/// Inserts message rows; answers their numbers by message id.
async fn insert_messages(
    conn: &mut Conn<'_>,
    fresh: &[Entry<'_>],
    numbers: Option<&Numbers>,
) -> Result<HashMap<String, i64>> {
    let texts: Vec<(Option<String>, String, Option<String>)> = fresh
        .iter()
        .map(|(_, message)| {
            let session = message.sender_session_key.map(PublicKey::to_hex);
            (session, message.target_spec.to_string(), message.fingerprint.map(hex::encode))
        })
        .collect();
    let mut bulk = Bulk::new(19, fresh.len());
    let mut given = HashMap::with_capacity(fresh.len());
    for ((_, message), (session, target, fingerprint)) in fresh.iter().zip(&texts) {
        let number = numbers.map(Numbers::next_message);
        if let Some(number) = number {
            given.insert(message.message_id.as_str().to_owned(), number);
        }
        bulk.push([
            Cell::Text(Some(message.message_id.as_str())),
            Cell::Text(Some(message.mesh_id.as_str())),
            Cell::Text(message.sender_member_id.as_ref().map(MemberId::as_str)),
            Cell::Text(session.as_deref()),
            Cell::Integer(Some(message.sender_kind.stored())),
            Cell::Text(Some(target)),
            Cell::Integer(Some(stored_priority(message.priority))),
            Cell::Text(Some(&message.nonce)),
            Cell::Text(Some(&message.ciphertext)),
            Cell::Integer(Some(i64::from(message.body_version))),
            Cell::Text(message.reply_to.as_deref()),
            Cell::Text(message.mentions.as_deref()),
            Cell::Integer(Some(i64::from(message.hops))),
            Cell::Integer(message.key_epoch.map(i64::from)),
            Cell::Text(message.client_message.as_ref().map(|client| client.id.as_ref())),
            Cell::Text(fingerprint.as_deref()),
            Cell::Integer(Some(message.created_at.as_millis())),
            Cell::Integer(Some(message.expires_at.as_millis())),
            Cell::Integer(number),
        ]);
    }
    if numbers.is_some() {
        conn.execute(INSERT_NUMBERED_MESSAGES, &[Value::Bulk(&bulk)]).await?;
        return Ok(given);
    }
    let rows = conn.all(INSERT_MESSAGES, &[Value::Bulk(&bulk)]).await?;
    rows.iter().map(|row| Ok((row.get("id")?, row.integer("seq")?))).collect()
}

/// What the initial state of a delivery means for its columns.
struct Born<'d> {
    state: DeliveryState,
    attempt: i64,
    claim: Option<&'d str>,
    due_at: i64,
    delivered_at: Option<i64>,
}

impl<'d> Born<'d> {
    fn of(delivery: &'d NewDelivery, message: &NewMessage) -> Self {
        let expires_at = message.expires_at.as_millis();
        let held = Self {
            state: DeliveryState::Held,
            attempt: 0,
            claim: None,
            due_at: expires_at,
            delivered_at: None,
        };
        match &delivery.state {
            InitialState::Held => held,
            InitialState::Claimed { by, until } => Self {
                state: DeliveryState::Claimed,
                attempt: 1,
                claim: Some(by.as_str()),
                due_at: until.as_millis(),
                ..held
            },
            InitialState::Delivered { at } => Self {
                state: DeliveryState::Delivered,
                attempt: 1,
                delivered_at: Some(at.as_millis()),
                ..held
            },
        }
    }
}

/// One delivery row to be inserted.
struct Placed<'b> {
    entry: usize,
    message: &'b NewMessage,
    message_seq: i64,
    delivery: &'b NewDelivery,
    key: String,
    rerouted_from: Option<String>,
    seq: Option<DeliverySeq>,
}

async fn insert_deliveries(
    conn: &mut Conn<'_>,
    fresh: &[Entry<'_>],
    seqs: &HashMap<String, i64>,
    numbers: Option<&Numbers>,
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<()> {
    let mut rows = Vec::new();
    for (entry, message) in fresh {
        let message_seq = *seqs
            .get(message.message_id.as_str())
            .ok_or_else(|| StoreError::corrupt("message.seq"))?;
        rows.extend(message.deliveries.iter().map(|delivery| Placed {
            entry: *entry,
            message,
            message_seq,
            delivery,
            key: delivery.recipient_key.to_hex(),
            rerouted_from: delivery.rerouted_from.map(PublicKey::to_hex),
            seq: numbers.map(|numbers| delivery.seq.unwrap_or_else(|| numbers.next_delivery())),
        }));
        let deliveries = Vec::with_capacity(message.deliveries.len());
        answers.insert(*entry, DeliveryOutcome::Accepted { deliveries });
    }
    if rows.is_empty() {
        return Ok(());
    }
    let mut bulk = Bulk::new(15, rows.len());
    for row in &rows {
        let born = Born::of(row.delivery, row.message);
        bulk.push([
            Cell::Integer(Some(row.message_seq)),
            Cell::Text(Some(row.message.mesh_id.as_str())),
            Cell::Text(Some(&row.key)),
            Cell::Text(Some(row.delivery.recipient_member_id.as_str())),
            Cell::Integer(Some(row.delivery.recipient_kind.stored())),
            Cell::Integer(Some(stored_priority(row.message.priority))),
            Cell::Integer(Some(born.state.stored())),
            Cell::Integer(Some(born.attempt)),
            Cell::Text(born.claim),
            Cell::Integer(Some(born.due_at)),
            Cell::Integer(Some(row.message.expires_at.as_millis())),
            Cell::Integer(born.delivered_at),
            Cell::Text(row.rerouted_from.as_deref()),
            Cell::Text(row.delivery.wrapped_key.as_deref()),
            Cell::Integer(row.seq.map(|seq| seq.0)),
        ]);
    }
    let found = if numbers.is_some() {
        insert_numbered(conn, &bulk).await?;
        HashMap::new()
    } else {
        let inserted = conn.all(INSERT_DELIVERIES, &[Value::Bulk(&bulk)]).await?;
        inserted
            .iter()
            .map(|row| {
                let place = (row.integer("message_seq")?, row.get::<String>("recipient_key")?);
                Ok((place, DeliverySeq(row.integer("seq")?)))
            })
            .collect::<Result<HashMap<_, _>>>()?
    };
    for row in rows {
        let seq = match row.seq {
            Some(seq) => seq,
            None => *found
                .get(&(row.message_seq, row.key))
                .ok_or_else(|| StoreError::corrupt("delivery.seq"))?,
        };
        if let Some(DeliveryOutcome::Accepted { deliveries }) = answers.get_mut(&row.entry) {
            deliveries.push(seq);
        }
    }
    Ok(())
}

/// Inserts delivery rows that all have a number: many at a time as parameters, the rest as JSON. Only SQLite has such.
async fn insert_numbered(conn: &mut Conn<'_>, rows: &Bulk<'_>) -> Result<()> {
    let (chunks, rest) = rows.chunks(sqlite::DELIVERY_ROWS);
    for chunk in chunks {
        conn.execute(sqlite::INSERT_DELIVERY_ROWS, &[Value::Cells(chunk)]).await?;
    }
    if !rest.is_empty() {
        conn.execute(INSERT_NUMBERED_DELIVERIES, &[Value::Bulk(&rest)]).await?;
    }
    Ok(())
}
