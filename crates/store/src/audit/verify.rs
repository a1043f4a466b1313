//! Recomputing the audit log of a mesh and holding it against the heads that were signed (broker spec §4.19).

use std::collections::VecDeque;

use claudemesh_crypto::audit::{Chain, Entry};
use claudemesh_protocol::{MeshId, PublicKey};

use super::head::AuditHead;
use super::{AuditEntry, entry_columns};
use crate::engine::Row;
use crate::{Result, Store};

/// Entries read at once while the chain is recomputed.
const STEP: u32 = 1_000;

/// What is wrong at an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFault {
    /// It does not follow from the entry before it.
    Changed,
    /// It was signed, and is gone or another one now.
    Gone,
    /// Its signed head is not by this broker's key.
    Forged,
}

/// What recomputing the chain came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditVerdict {
    /// Entries looked at.
    pub entries: u64,
    /// The first entry that does not follow from the one before it, or does not fit what was signed.
    pub broken_at: Option<i64>,
    /// Why it does not.
    pub fault: Option<AuditFault>,
    /// The newest signed head.
    pub head: Option<AuditHead>,
}

impl Store {
    /// Recomputes the chain of a mesh from its first entry, a batch at a time, and compares it with what the broker with
    /// this key has signed. What is appended meanwhile counts.
    pub async fn verify_audit(&self, mesh: &MeshId, broker: PublicKey) -> Result<AuditVerdict> {
        // Before the entries: whatever was signed by now stands among them.
        let mut heads = VecDeque::from(self.audit_heads(mesh).await?);
        let newest = heads.back().cloned();
        let mut walk = Walk::after(mesh, None);
        let verdict = |walk: &Walk<'_>, broken: Option<(i64, AuditFault)>| AuditVerdict {
            entries: walk.count(),
            broken_at: broken.map(|(at, _)| at),
            fault: broken.map(|(_, fault)| fault),
            head: newest.clone(),
        };
        while let Some(stored) = walk.next(self).await? {
            let Standing { id, hash, follows } = stored;
            if let Some(head) = heads.front()
                && head.entry < id
            {
                return Ok(verdict(&walk, Some((head.entry, AuditFault::Gone))));
            }
            if !follows {
                return Ok(verdict(&walk, Some((id, AuditFault::Changed))));
            }
            let Some(head) = heads.pop_front_if(|head| head.entry == id) else { continue };
            let fault = if head.hash != hash {
                AuditFault::Gone
            } else if !head.is_signed_by(mesh, broker) {
                AuditFault::Forged
            } else {
                continue;
            };
            return Ok(verdict(&walk, Some((id, fault))));
        }
        Ok(verdict(&walk, heads.front().map(|head| (head.entry, AuditFault::Gone))))
    }
}

/// A look at one entry.
pub(super) struct Standing {
    pub(super) id: i64,
    pub(super) hash: String,
    /// It follows from the one before it.
    pub(super) follows: bool,
}

/// Goes through the entries of a mesh in their order.
pub(super) struct Walk<'m> {
    mesh: &'m MeshId,
    chain: Chain,
    after: i64,
    ahead: VecDeque<Row>,
    count: u64,
    hash: Option<String>,
}

impl<'m> Walk<'m> {
    /// Begins after a head, or at the first entry.
    pub(super) fn after(mesh: &'m MeshId, head: Option<&AuditHead>) -> Self {
        Self {
            mesh,
            chain: head.map_or_else(Chain::default, |head| Chain::after(head.hash.as_str())),
            after: head.map_or(0, |head| head.entry),
            ahead: VecDeque::new(),
            count: 0,
            hash: None,
        }
    }

    /// Entries seen so far.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Number and hash of the entry seen last.
    pub(super) fn last(&self) -> Option<(i64, String)> {
        self.hash.clone().map(|hash| (self.after, hash))
    }

    pub(super) async fn next(&mut self, store: &Store) -> Result<Option<Standing>> {
        if self.ahead.is_empty() {
            let mut reader = store.upkeep_reader().await?;
            let rows = reader
                .conn()
                .all(
                    concat!(
                        entry_columns!(),
                        " WHERE mesh_id = $1 AND id > $2 ORDER BY id LIMIT $3"
                    ),
                    &[self.mesh.as_str().into(), self.after.into(), STEP.into()],
                )
                .await?;
            self.ahead = rows.into();
        }
        let Some(row) = self.ahead.pop_front() else { return Ok(None) };
        let stored = AuditEntry::from_row(&row)?;
        let entry = Entry {
            mesh: self.mesh,
            event: &stored.event,
            actor: stored.actor.as_ref(),
            payload: &stored.payload,
            created_at: stored.created_at,
        };
        let follows = self.chain.follows(&entry, &row.get::<String>("prev_hash")?, &stored.hash);
        self.count += 1;
        self.after = stored.id;
        self.hash = Some(stored.hash.clone());
        Ok(Some(Standing { id: stored.id, hash: stored.hash, follows }))
    }
}
