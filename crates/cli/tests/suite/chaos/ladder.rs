//! Receipts only move forward: what each sender's daemon knows about each recipient, compared with what it knew before.

use std::collections::BTreeMap;
use std::path::Path;

use super::engine::read_only;

const RECEIPTS: &str =
    "SELECT client_message_id, receipts FROM outbox WHERE receipts IS NOT NULL AND status = 'done'";

/// From the bottom to the top (wire spec §3.1).
const LADDER: [&str; 6] =
    ["accepted", "on_device", "handed", "in_context", "turn_ended", "answered"];

/// The highest rank seen, by (person, client message id, recipient key); with the broker's id it is about.
#[derive(Default)]
pub struct Ladder {
    seen: BTreeMap<(usize, String, String), (String, usize)>,
}

impl Ladder {
    /// Reads an outbox; what has gone back since the last look.
    pub async fn look(&mut self, person: usize, outbox: &Path) -> Vec<String> {
        let Ok(mut connection) = read_only(outbox).await else { return Vec::new() };
        let rows: Vec<(String, String)> =
            sqlx::query_as(RECEIPTS).fetch_all(&mut connection).await.unwrap_or_default();
        let mut faults = Vec::new();
        for (id, text) in rows {
            let receipts: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(&text).unwrap_or_default();
            for (recipient, entry) in receipts {
                let message = entry["message"].as_str().unwrap_or_default().to_owned();
                let state = entry["ladder"].as_str().unwrap_or_default();
                let Some(now) = LADDER.iter().position(|step| *step == state) else {
                    faults.push(format!("{id}: a receipt that cannot be read: {entry}"));
                    continue;
                };
                let before = self
                    .seen
                    .insert((person, id.clone(), recipient.clone()), (message.clone(), now));
                if let Some((of, rank)) = before
                    && of == message
                    && rank > now
                {
                    faults
                        .push(format!("{id}: receipt of {recipient:.8} went back: {rank}, {now}"));
                }
            }
        }
        faults
    }

    /// Recipients whose receipt came back at all, or higher.
    pub fn count(&self) -> u64 {
        u64::try_from(self.seen.len()).unwrap()
    }
}
