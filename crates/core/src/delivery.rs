//! States of one delivery row and how long a push may wait for its ack (broker spec §1.3, §3.4).

use std::time::Duration;

use claudemesh_protocol::limits::CLAIM_LEASE_MAX;

/// Where one delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Waiting for its recipient.
    Held,
    /// Pushed, or about to be; the ack is awaited until the claim ends.
    Claimed,
    /// The recipient has it. Final.
    Delivered,
    /// Given up for a reason other than age. Final.
    Dropped,
    /// Past its time. Final.
    Expired,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: &'static [Self] =
        &[Self::Held, Self::Claimed, Self::Delivered, Self::Dropped, Self::Expired];

    /// The word in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Claimed => "claimed",
            Self::Delivered => "delivered",
            Self::Dropped => "dropped",
            Self::Expired => "expired",
        }
    }

    /// True when nothing can happen to the row any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Delivered | Self::Dropped | Self::Expired)
    }

    /// The state after `event`; `None` when the event does not apply and the row stays as it is.
    pub const fn after(self, event: DeliveryEvent) -> Option<Self> {
        match (self, event) {
            (Self::Held, DeliveryEvent::Claim) => Some(Self::Claimed),
            (Self::Claimed, DeliveryEvent::Release) => Some(Self::Held),
            (Self::Held | Self::Claimed, DeliveryEvent::Ack) => Some(Self::Delivered),
            (Self::Held | Self::Claimed, DeliveryEvent::Drop) => Some(Self::Dropped),
            (Self::Held | Self::Claimed, DeliveryEvent::Expire) => Some(Self::Expired),
            _ => None,
        }
    }

    /// True when a row that was seen in this state may be seen in `later` after any number of events: what nobody who looks
    /// from time to time may find otherwise.
    pub const fn may_become(self, later: Self) -> bool {
        match self {
            Self::Held | Self::Claimed => true,
            Self::Delivered | Self::Dropped | Self::Expired => self as u8 == later as u8,
        }
    }
}

/// What happens to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryEvent {
    /// A drain or a direct push takes it.
    Claim,
    /// Its claim ended without an ack, or its socket went away.
    Release,
    /// The recipient stored it. Counts for a held row too: the ack of an earlier push may come late.
    Ack,
    /// Sender banned, duplicate after a reroute.
    Drop,
    /// Its time is over.
    Expire,
}

impl DeliveryEvent {
    /// Every event.
    pub const ALL: &'static [Self] =
        &[Self::Claim, Self::Release, Self::Ack, Self::Drop, Self::Expire];
}

/// How long the push of this 1-based `attempt` waits for its ack: `first`, doubling, at most 600 s.
pub fn claim_lease(first: Duration, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(CLAIM_LEASE_MAX.max(first))
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::limits::CLAIM_LEASE;

    use super::*;

    #[test]
    fn leases_double_up_to_the_limit() {
        let seconds: Vec<u64> =
            (0..9).map(|attempt| claim_lease(CLAIM_LEASE, attempt).as_secs()).collect();
        assert_eq!(seconds, [30, 30, 60, 120, 240, 480, 600, 600, 600]);
        assert_eq!(claim_lease(CLAIM_LEASE, u32::MAX).as_secs(), 600);
    }
}
