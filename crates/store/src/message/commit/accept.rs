//! Accepting messages: dedupe rows first, then messages, then deliveries; three statements for any number of them, a
//! fourth when a client message id was known.

use std::collections::{HashMap, HashSet};

use claudemesh_protocol::{MemberId, PublicKey};

use super::super::{
    ClientMessage, Dedupe, DeliveryOutcome, DeliverySeq, DeliveryState, DeliveryWrite,
    InitialState, NewDelivery, NewMessage, stored_priority,
};
use crate::engine::{Bulk, Cell, Conn, Sql, Value, postgres, sqlite};
use crate::{Result, StoreError};

const INSERT_DEDUPE: Sql = Sql::per_engine(sqlite::INSERT_DEDUPE, postgres::INSERT_DEDUPE);
const FIND_DEDUPE: Sql = Sql::per_engine(sqlite::FIND_DEDUPE, postgres::FIND_DEDUPE);
const INSERT_MESSAGES: Sql = Sql::per_engine(sqlite::INSERT_MESSAGES, postgres::INSERT_MESSAGES);
const INSERT_DELIVERIES: Sql =
    Sql::per_engine(sqlite::INSERT_DELIVERIES, postgres::INSERT_DELIVERIES);

/// A message to be inserted, with its place in the batch.
type Entry<'b> = (usize, &'b NewMessage);

/// Answers every `Accept` of the batch.
pub(super) async fn run(
    conn: &mut Conn<'_>,
    batch: &[DeliveryWrite],
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
    let fresh = remember(conn, &entries, answers).await?;
    claudemesh_sqlite::crash_point("store.after_dedupe_before_message");
    if fresh.is_empty() {
        return Ok(());
    }
    let seqs = insert_messages(conn, &fresh).await?;
    insert_deliveries(conn, &fresh, &seqs, answers).await
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
    let rows = conn.all(INSERT_DEDUPE, &[Value::Bulk(&bulk)]).await?;
    let inserted = rows
        .iter()
        .map(|row| row.get::<String>("broker_message_id"))
        .collect::<Result<HashSet<_>>>()?;
    let (fresh, known): (Vec<Entry<'b>>, Vec<Entry<'b>>) =
        entries.iter().partition(|(_, message)| {
            message.client_message.is_none() || inserted.contains(message.message_id.as_str())
        });
    answer_known(conn, &known, answers).await?;
    Ok(fresh)
}

/// Tells duplicates from conflicts.
async fn answer_known(
    conn: &mut Conn<'_>,
    known: &[Entry<'_>],
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<()> {
    if known.is_empty() {
        return Ok(());
    }
    let mut bulk = Bulk::new(2, known.len());
    for (_, message) in known {
        let client = message.client_message.as_ref().map(|client| client.id.as_ref());
        bulk.push([Cell::Text(Some(message.mesh_id.as_str())), Cell::Text(client)]);
    }
    let rows = conn.all(FIND_DEDUPE, &[Value::Bulk(&bulk)]).await?;
    let mut stored: HashMap<(String, String), Dedupe> = HashMap::with_capacity(rows.len());
    for row in &rows {
        stored.insert((row.get("mesh_id")?, row.get("client_message_id")?), Dedupe::from_row(row)?);
    }
    for (entry, message) in known {
        let Some(client) = &message.client_message else { continue };
        let key = (message.mesh_id.as_str().to_owned(), client.id.as_ref().to_owned());
        // Gone again: an expired row was removed in this moment. The sender tries again and is accepted.
        let Some(dedupe) = stored.get(&key).cloned() else {
            return Err(StoreError::Unavailable("a remembered message id has just expired".into()));
        };
        let is_same = dedupe.is_same_send(message.sender_member_id.as_ref(), &client.fingerprint);
        let outcome = if is_same {
            DeliveryOutcome::Duplicate(dedupe)
        } else {
            DeliveryOutcome::Conflict(dedupe)
        };
        answers.insert(*entry, outcome);
    }
    Ok(())
}

/// Inserts message rows; answers their numbers by message id.
async fn insert_messages(conn: &mut Conn<'_>, fresh: &[Entry<'_>]) -> Result<HashMap<String, i64>> {
    let texts: Vec<(Option<String>, String, Option<String>)> = fresh
        .iter()
        .map(|(_, message)| {
            let session = message.sender_session_key.map(PublicKey::to_hex);
            (session, message.target_spec.to_string(), message.fingerprint.map(hex::encode))
        })
        .collect();
    let mut bulk = Bulk::new(18, fresh.len());
    for ((_, message), (session, target, fingerprint)) in fresh.iter().zip(&texts) {
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
        ]);
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

async fn insert_deliveries(
    conn: &mut Conn<'_>,
    fresh: &[Entry<'_>],
    seqs: &HashMap<String, i64>,
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<()> {
    let mut texts = Vec::new();
    for (entry, message) in fresh {
        let message_seq = *seqs
            .get(message.message_id.as_str())
            .ok_or_else(|| StoreError::corrupt("message.seq"))?;
        for delivery in &message.deliveries {
            let rerouted_from = delivery.rerouted_from.map(PublicKey::to_hex);
            let key = delivery.recipient_key.to_hex();
            texts.push((*entry, *message, message_seq, delivery, key, rerouted_from));
        }
    }
    let mut found: HashMap<(i64, String), DeliverySeq> = HashMap::with_capacity(texts.len());
    if !texts.is_empty() {
        let mut bulk = Bulk::new(14, texts.len());
        for (_, message, message_seq, delivery, key, rerouted_from) in &texts {
            let born = Born::of(delivery, message);
            bulk.push([
                Cell::Integer(Some(*message_seq)),
                Cell::Text(Some(message.mesh_id.as_str())),
                Cell::Text(Some(key)),
                Cell::Text(Some(delivery.recipient_member_id.as_str())),
                Cell::Integer(Some(delivery.recipient_kind.stored())),
                Cell::Integer(Some(stored_priority(message.priority))),
                Cell::Integer(Some(born.state.stored())),
                Cell::Integer(Some(born.attempt)),
                Cell::Text(born.claim),
                Cell::Integer(Some(born.due_at)),
                Cell::Integer(Some(message.expires_at.as_millis())),
                Cell::Integer(born.delivered_at),
                Cell::Text(rerouted_from.as_deref()),
                Cell::Text(delivery.wrapped_key.as_deref()),
            ]);
        }
        let rows = conn.all(INSERT_DELIVERIES, &[Value::Bulk(&bulk)]).await?;
        for row in &rows {
            let place = (row.integer("message_seq")?, row.get("recipient_key")?);
            found.insert(place, DeliverySeq(row.integer("seq")?));
        }
    }
    for (entry, message) in fresh {
        let deliveries = Vec::with_capacity(message.deliveries.len());
        answers.insert(*entry, DeliveryOutcome::Accepted { deliveries });
    }
    for (entry, _, message_seq, _, key, _) in texts {
        let seq =
            found.remove(&(message_seq, key)).ok_or_else(|| StoreError::corrupt("delivery.seq"))?;
        if let Some(DeliveryOutcome::Accepted { deliveries }) = answers.get_mut(&entry) {
            deliveries.push(seq);
        }
    }
    Ok(())
}
