//! Row numbers given out before the rows are written, so that a push can overtake the commit of its row and what
//! happens to it meanwhile (an acknowledgement, a lost socket) already has a name (broker spec §3.4).
//!
//! Only for a SQLite file that one process writes: the numbers come from memory, not from the database.

use std::sync::atomic::{AtomicI64, Ordering};

use super::DeliverySeq;
use crate::{Result, Store, StoreError};

/// The next free row numbers.
#[derive(Debug)]
pub(crate) struct Numbers {
    message: AtomicI64,
    delivery: AtomicI64,
}

impl Numbers {
    pub(super) fn next_message(&self) -> i64 {
        self.message.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn next_delivery(&self) -> DeliverySeq {
        DeliverySeq(self.delivery.fetch_add(1, Ordering::Relaxed))
    }
}

impl Store {
    /// From now on this handle and its clones number messages and deliveries themselves. Answers false, and changes
    /// nothing, on PostgreSQL. Whoever calls it makes sure that nobody else writes to the file.
    ///
    /// # Errors
    /// When the numbers used so far cannot be read.
    pub async fn number_rows(&self) -> Result<bool> {
        if self.sqlite().is_none() {
            return Ok(false);
        }
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all("SELECT name, seq FROM sqlite_sequence WHERE name IN ('message', 'delivery')", &[])
            .await?;
        let (mut message, mut delivery) = (1, 1);
        for row in &rows {
            let next = row
                .integer("seq")?
                .checked_add(1)
                .ok_or_else(|| StoreError::corrupt("sqlite_sequence.seq"))?;
            match row.get::<String>("name")?.as_str() {
                "message" => message = next,
                _ => delivery = next,
            }
        }
        // A second call finds the numbers in use already and leaves them.
        let numbers = Numbers { message: message.into(), delivery: delivery.into() };
        let _ = self.numbers().set(numbers);
        Ok(true)
    }

    /// The number of the next delivery row, for [`super::NewDelivery::seq`]; `None` unless [`Store::number_rows`] was
    /// called. A number that is not used in the end leaves a gap.
    pub fn next_delivery_seq(&self) -> Option<DeliverySeq> {
        self.numbers().get().map(Numbers::next_delivery)
    }
}
