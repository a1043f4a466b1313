//! Senders that could not be proved when their message came: judged again with every roster, so that a message that
//! arrived before the roster did is not shown as a stranger's for ever (daemon spec §15).

use std::collections::BTreeMap;
use std::time::Duration;

use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::{PublicKey, Timestamp};
use parking_lot::Mutex;

use super::Mesh;
use super::sender::Claim;
use crate::clock;
use crate::storage::Causes;

/// Keys remembered; strangers must not fill the memory.
const UNPROVED_MAX: usize = 1_024;
/// Age up to which messages of an earlier run are judged again.
const LOOKED_BACK: Duration = Duration::from_hours(24);

/// The senders of one mesh that are not proved.
#[derive(Default)]
pub(super) struct Unproved {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_key: BTreeMap<PublicKey, Shown>,
    /// Those of earlier runs were looked up.
    has_looked_back: bool,
}

/// What the sender's newest message came with.
#[derive(Clone)]
pub(super) struct Shown {
    key: PublicKey,
    name: Option<String>,
    attestation: Option<ParentAttestation>,
    created_at: Timestamp,
}

impl Shown {
    /// What a message claimed.
    pub(super) fn of(claim: &Claim<'_>) -> Self {
        Self {
            key: claim.key,
            name: claim.name.map(str::to_owned),
            attestation: claim.attestation.cloned(),
            created_at: claim.created_at,
        }
    }
}

impl Unproved {
    /// A message of this sender is stored and unproved.
    pub(super) fn note(&self, shown: Shown) {
        let mut state = self.state.lock();
        if state.by_key.len() < UNPROVED_MAX || state.by_key.contains_key(&shown.key) {
            state.by_key.insert(shown.key, shown);
        }
    }

    fn all(&self) -> Vec<Shown> {
        self.state.lock().by_key.values().cloned().collect()
    }
}

impl Mesh {
    /// Judges the unproved senders by the roster that has just come, and completes their messages.
    pub(super) async fn prove_senders(&self) {
        self.look_back().await;
        let view = self.roster.view();
        for shown in self.unproved.all() {
            let key = shown.key;
            let claim = Claim {
                key,
                name: shown.name.as_deref(),
                attestation: shown.attestation.as_ref(),
                created_at: shown.created_at,
            };
            let sender = self.senders.judge(&claim, &view);
            let Some(member) = sender.member.filter(|_| sender.is_verified) else { continue };
            match self.context.inbox.prove_sender(&self.slug, key, member, &sender.name).await {
                Ok(()) => {
                    self.unproved.state.lock().by_key.remove(&key);
                }
                Err(error) => {
                    tracing::warn!(mesh = %self.slug, error = %Causes(&error), "sender_not_proved");
                }
            }
        }
    }

    /// Once in a run: the unproved senders of earlier ones.
    async fn look_back(&self) {
        if std::mem::replace(&mut self.unproved.state.lock().has_looked_back, true) {
            return;
        }
        let now = clock::now();
        match self.context.inbox.unproved_senders(&self.slug, now.minus(LOOKED_BACK)).await {
            Ok(keys) => {
                for key in keys.into_iter().take(UNPROVED_MAX) {
                    let claim = Claim { key, name: None, attestation: None, created_at: now };
                    self.unproved.note(Shown::of(&claim));
                }
            }
            Err(error) => {
                tracing::warn!(mesh = %self.slug, error = %Causes(&error), "senders_not_read");
            }
        }
    }
}
