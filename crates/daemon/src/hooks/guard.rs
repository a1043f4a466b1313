//! Automatic replies are few (daemon spec §16.5): six a minute from one hook to one sender, and then silence for ten minutes,
//! so that two hooks cannot talk to each other without end.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use claudemesh_protocol::PublicKey;
use claudemesh_protocol::limits::{HOOK_MUTE, HOOK_PAIRS_MAX, HOOK_REPLIES_PER_MINUTE};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::name::HookName;

const MINUTE: Duration = Duration::from_mins(1);

/// Replies of the last minute, and who is silent.
#[derive(Default)]
pub(super) struct Replies {
    pairs: Mutex<HashMap<(HookName, PublicKey), Pair>>,
}

#[derive(Default)]
struct Pair {
    sent: VecDeque<Instant>,
    muted_until: Option<Instant>,
}

impl Pair {
    fn is_over(&self, now: Instant) -> bool {
        self.muted_until.is_none_or(|until| now >= until)
            && self.sent.back().is_none_or(|last| now.duration_since(*last) >= MINUTE)
    }
}

/// Whether a reply may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayReply {
    /// It may.
    Yes,
    /// Not for ten minutes from now on.
    MutedNow,
    /// Still not.
    Muted,
}

impl Replies {
    /// Counts a reply of `hook` to `sender`.
    pub(super) fn count(&self, hook: &HookName, sender: PublicKey) -> MayReply {
        let now = Instant::now();
        let mut pairs = self.pairs.lock();
        let key = (hook.clone(), sender);
        if pairs.len() >= HOOK_PAIRS_MAX && !pairs.contains_key(&key) {
            pairs.retain(|_, pair| !pair.is_over(now));
            if pairs.len() >= HOOK_PAIRS_MAX {
                // So many senders within a minute are no conversation.
                return MayReply::Muted;
            }
        }
        let pair = pairs.entry(key).or_default();
        if pair.muted_until.is_some_and(|until| now < until) {
            return MayReply::Muted;
        }
        while pair.sent.front().is_some_and(|first| now.duration_since(*first) >= MINUTE) {
            pair.sent.pop_front();
        }
        if pair.sent.len() >= HOOK_REPLIES_PER_MINUTE as usize {
            pair.muted_until = Some(now + HOOK_MUTE);
            return MayReply::MutedNow;
        }
        pair.muted_until = None;
        pair.sent.push_back(now);
        MayReply::Yes
    }
}

#[cfg(test)]
mod tests {
    use claudemesh_crypto::KeyPair;

    use super::*;

    fn hook(text: &str) -> HookName {
        HookName::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn six_a_minute_then_ten_minutes_of_silence() {
        let (replies, sender) = (Replies::default(), KeyPair::generate().public());
        let dm = hook("on-dm");
        for _ in 0..6 {
            assert_eq!(replies.count(&dm, sender), MayReply::Yes);
        }
        assert_eq!(replies.count(&dm, sender), MayReply::MutedNow);
        assert_eq!(replies.count(&dm, sender), MayReply::Muted);
        assert_eq!(replies.count(&hook("on-message"), sender), MayReply::Yes);
        assert_eq!(replies.count(&dm, KeyPair::generate().public()), MayReply::Yes);
        let almost = Duration::from_secs(599);
        tokio::time::advance(almost).await;
        assert_eq!(replies.count(&dm, sender), MayReply::Muted);
        tokio::time::advance(HOOK_MUTE.saturating_sub(almost)).await;
        assert_eq!(replies.count(&dm, sender), MayReply::Yes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_conversation_goes_on() {
        let (replies, sender) = (Replies::default(), KeyPair::generate().public());
        for _ in 0..60 {
            assert_eq!(replies.count(&hook("on-dm"), sender), MayReply::Yes);
            tokio::time::advance(Duration::from_secs(11)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let replies = Replies::default();
        let dm = hook("on-dm");
        let key = |number: usize| {
            let mut bytes = [7; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            PublicKey::from_bytes(bytes)
        };
        for number in 0..HOOK_PAIRS_MAX {
            assert_eq!(replies.count(&dm, key(number)), MayReply::Yes);
        }
        assert_eq!(replies.count(&dm, key(HOOK_PAIRS_MAX)), MayReply::Muted);
        tokio::time::advance(MINUTE).await;
        assert_eq!(replies.count(&dm, key(HOOK_PAIRS_MAX)), MayReply::Yes);
        assert_eq!(replies.pairs.lock().len(), 1);
    }
}
