//! What the daemon says about one send after it took it: events, and the message's status at the broker.

use std::time::Duration;

use claudemesh_ipc::api::{BrokerAnswer, Event, EventKind, SendReply};
use claudemesh_ipc::{Client, EventStream};
use claudemesh_protocol::PublicKey;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::failure::{Failure, Outcome};

/// Step between two looks at the status while no event says anything.
const STATUS_STEP: Duration = Duration::from_millis(250);

/// Receipt states in which the recipient's daemon has the message.
const ARRIVED: [&str; 5] = ["on_device", "handed", "in_context", "turn_ended", "answered"];

/// Follows one send.
pub(super) struct Watch {
    events: Option<EventStream>,
    client_message_id: String,
    broker_message_id: Option<String>,
    mesh: String,
    /// The message is for one peer: what one recipient says is then said for all.
    is_direct: bool,
    sent: Option<Map<String, Value>>,
    has_arrived: bool,
}

/// The broker's word of a message that went to it at once, as `message_sent` tells it.
fn word_of(answer: &BrokerAnswer, reply: &SendReply) -> Map<String, Value> {
    let mut word = match serde_json::to_value(answer) {
        Ok(Value::Object(word)) => word,
        _ => Map::new(),
    };
    word.insert("broker_message_id".to_owned(), reply.broker_message_id.clone().into());
    word
}

impl Watch {
    pub(super) fn new(events: Option<EventStream>, reply: &SendReply) -> Self {
        Self {
            events,
            client_message_id: reply.client_message_id.clone(),
            broker_message_id: reply.broker_message_id.clone(),
            mesh: reply.mesh.clone(),
            is_direct: reply.target.parse::<PublicKey>().is_ok(),
            sent: reply.broker_answer.as_ref().map(|answer| word_of(answer, reply)),
            has_arrived: false,
        }
    }

    /// The broker's word, if it came within `limit`: the fields of `message_sent`.
    ///
    /// # Errors
    /// The broker refused the message for good.
    pub(super) async fn sent(&mut self, limit: Duration) -> Outcome<Option<Map<String, Value>>> {
        let deadline = Instant::now() + limit;
        while self.sent.is_none() {
            if !self.step(deadline).await? {
                break;
            }
        }
        Ok(self.sent.clone())
    }

    /// The broker's word as far as it is known now.
    pub(super) fn last_word(&self) -> Option<Map<String, Value>> {
        self.sent.clone()
    }

    /// True once the recipient's daemon has the message; false when `limit` passed first.
    ///
    /// # Errors
    /// The broker refused the message for good.
    pub(super) async fn delivered(&mut self, client: &Client, limit: Duration) -> Outcome<bool> {
        let deadline = Instant::now() + limit;
        loop {
            if self.has_arrived || self.is_delivered(client).await {
                return Ok(true);
            }
            let step = (Instant::now() + STATUS_STEP).min(deadline);
            if !self.step(step).await? {
                // Without a stream, or when nothing came: the status is asked again after the step.
                tokio::time::sleep_until(step).await;
            }
            if Instant::now() >= deadline {
                return Ok(self.has_arrived || self.is_delivered(client).await);
            }
        }
    }

    async fn is_delivered(&self, client: &Client) -> bool {
        let Some(id) = &self.broker_message_id else { return false };
        let status = client.message_status(Some(&self.mesh), id).await;
        status.is_ok_and(|status| {
            status.result.get("delivered").and_then(Value::as_bool) == Some(true)
        })
    }

    /// Takes in one event of this message; false when none came before `deadline`.
    async fn step(&mut self, deadline: Instant) -> Outcome<bool> {
        loop {
            let Some(events) = self.events.as_mut() else { return Ok(false) };
            match timeout_at(deadline, events.next()).await {
                Err(_) => return Ok(false),
                Ok(Ok(Some(event))) => {
                    if self.concerns_us(&event) {
                        self.take(event)?;
                        return Ok(true);
                    }
                }
                Ok(Ok(None) | Err(_)) => self.events = None,
            }
        }
    }

    fn concerns_us(&self, event: &Event) -> bool {
        let names = |key: &str, id: &str| event.data.get(key).and_then(Value::as_str) == Some(id);
        names("client_message_id", &self.client_message_id)
            || self.broker_message_id.as_deref().is_some_and(|id| names("broker_message_id", id))
    }

    fn take(&mut self, event: Event) -> Outcome<()> {
        let data = match event.data {
            Value::Object(data) => data,
            _ => Map::new(),
        };
        let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
        match event.kind {
            EventKind::MessageSent => {
                self.broker_message_id =
                    text("broker_message_id").or(self.broker_message_id.take());
                self.sent = Some(data);
            }
            EventKind::Receipt => {
                self.has_arrived |= self.is_direct
                    && text("state").is_some_and(|state| ARRIVED.contains(&state.as_str()));
            }
            EventKind::OutboxDead => {
                let code = text("last_error_code").unwrap_or_else(|| "internal".to_owned());
                let why = text("last_error")
                    .unwrap_or_else(|| "the broker refused the message".to_owned());
                let why = why.strip_prefix(&format!("{code}: ")).unwrap_or(&why).to_owned();
                return Err(Failure::of_word(&code, why)
                    .with("client_message_id", self.client_message_id.clone()));
            }
            _ => {}
        }
        Ok(())
    }
}
