//! Signed heads of the audit log: what was the newest entry at some time, under the broker's signature, so that a chain
//! which was cut off at its end is not taken for a whole one (broker spec §4.19).
//!
//! A head is only ever written over a chain that was recomputed from the head before: what was signed once and does not
//! stand any more is never signed away.

use claudemesh_crypto::audit::Head;
use claudemesh_protocol::limits::{AUDIT_HEAD_PERIOD, AUDIT_HEADS_KEPT};
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};

use super::lock_mesh;
use super::verify::{AuditFault, Walk};
use crate::engine::Row;
use crate::{Result, Store};

/// A signed head. Its texts are as stored: whoever changed the database may have changed them, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of the entry.
    pub entry: i64,
    /// Entries up to and with it.
    pub entries: u64,
    /// Its hash.
    pub hash: String,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// The key it was signed with, in hexadecimal.
    pub broker_pubkey: String,
    /// The signature, in hexadecimal.
    pub signature: String,
}

/// What follows the newest signed head of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTail {
    /// Nothing.
    Signed,
    /// Entries that nobody has signed yet.
    Unsigned {
        /// The head before; 0 for none.
        after: i64,
        /// The newest entry.
        entry: i64,
        /// Entries up to and with it.
        entries: u64,
        /// Its hash.
        hash: String,
    },
    /// The chain does not go on from the newest head.
    Broken {
        /// The first entry that does not fit.
        at: i64,
        /// Why.
        fault: AuditFault,
    },
}

impl AuditHead {
    /// True when the broker with this key signed exactly this.
    pub fn is_signed_by(&self, mesh: &MeshId, broker: PublicKey) -> bool {
        let Ok(signature) = self.signature.parse() else { return false };
        let Self { entry, entries, hash, signed_at: at, .. } = self;
        let head = Head { mesh, entry: *entry, entries: *entries, hash, at: *at };
        self.broker_pubkey == broker.to_hex() && head.verify(broker, &signature).is_ok()
    }

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            entry: row.integer("entry_id")?,
            entries: row.count("entries")?,
            hash: row.get("hash")?,
            signed_at: row.time("signed_at")?,
            broker_pubkey: row.get("broker_pubkey")?,
            signature: row.get("signature")?,
        })
    }
}

impl Store {
    /// Meshes whose log has entries after the newest signed head, and no head that was signed in the last
    /// [`AUDIT_HEAD_PERIOD`]. The clock of another broker may be ahead; a head that is further ahead than the period is of
    /// a clock that was set back, and does not count.
    pub async fn unsigned_audit_meshes(&self, now: Timestamp) -> Result<Vec<MeshId>> {
        let mut reader = self.upkeep_reader().await?;
        let rows = reader
            .conn()
            .all(
                "SELECT g.id FROM mesh g
                 WHERE NOT EXISTS (SELECT 1 FROM audit_head h
                        WHERE h.mesh_id = g.id AND h.signed_at > $1 AND h.signed_at < $2)
                    AND EXISTS (SELECT 1 FROM audit_log a
                        WHERE a.mesh_id = g.id
                            AND a.id > COALESCE((SELECT MAX(n.entry_id) FROM audit_head n WHERE n.mesh_id = g.id), 0))
                 ORDER BY g.id",
                &[now.minus(AUDIT_HEAD_PERIOD).into(), now.plus(AUDIT_HEAD_PERIOD).into()],
            )
            .await?;
        rows.iter().map(|row| row.get::<String>("id").map(MeshId::new)).collect()
    }

    /// The newest signed head of a mesh.
    pub async fn audit_head(&self, mesh: &MeshId) -> Result<Option<AuditHead>> {
        let mut reader = self.upkeep_reader().await?;
        let row = reader
            .conn()
            .first(
                "SELECT * FROM audit_head WHERE mesh_id = $1 ORDER BY entry_id DESC LIMIT 1",
                &[mesh.as_str().into()],
            )
            .await?;
        row.as_ref().map(AuditHead::from_row).transpose()
    }

    /// All signed heads of a mesh, the oldest first.
    pub(super) async fn audit_heads(&self, mesh: &MeshId) -> Result<Vec<AuditHead>> {
        let mut reader = self.upkeep_reader().await?;
        let rows = reader
            .conn()
            .all(
                "SELECT * FROM audit_head WHERE mesh_id = $1 ORDER BY entry_id",
                &[mesh.as_str().into()],
            )
            .await?;
        rows.iter().map(AuditHead::from_row).collect()
    }

    /// Recomputes what was appended since the newest signed head, which must still stand.
    pub async fn audit_tail(&self, mesh: &MeshId) -> Result<AuditTail> {
        let head = self.audit_head(mesh).await?;
        let after = head.as_ref().map_or(0, |head| head.entry);
        if let Some(head) = &head
            && self.audit_hash(mesh, head.entry).await?.as_deref() != Some(&*head.hash)
        {
            return Ok(AuditTail::Broken { at: head.entry, fault: AuditFault::Gone });
        }
        let mut walk = Walk::after(mesh, head.as_ref());
        while let Some(entry) = walk.next(self).await? {
            if !entry.follows {
                return Ok(AuditTail::Broken { at: entry.id, fault: AuditFault::Changed });
            }
        }
        Ok(match walk.last() {
            None => AuditTail::Signed,
            Some((entry, hash)) => AuditTail::Unsigned {
                after,
                entry,
                entries: walk.count() + head.map_or(0, |head| head.entries),
                hash,
            },
        })
    }

    async fn audit_hash(&self, mesh: &MeshId, entry: i64) -> Result<Option<String>> {
        let mut reader = self.upkeep_reader().await?;
        let row = reader
            .conn()
            .first(
                "SELECT hash FROM audit_log WHERE id = $1 AND mesh_id = $2",
                &[entry.into(), mesh.as_str().into()],
            )
            .await?;
        row.map(|row| row.get("hash")).transpose()
    }

    /// Keeps a signed head, and the newest [`AUDIT_HEADS_KEPT`] of the mesh. False when its entry does not stand any
    /// more, when another broker has signed since `after`, the newest head this one follows (0 for none), or when it did
    /// so in the last [`AUDIT_HEAD_PERIOD`], just before `after` was read.
    pub async fn keep_audit_head(
        &self,
        mesh: &MeshId,
        head: AuditHead,
        after: i64,
    ) -> Result<bool> {
        let mesh = mesh.clone();
        self.write(move |mut conn| {
            Box::pin(async move {
                lock_mesh(&mut conn, "audit head", &mesh).await?;
                let entries = i64::try_from(head.entries).unwrap_or(i64::MAX);
                let kept = conn
                    .execute(
                        "INSERT INTO audit_head
                            (mesh_id, entry_id, entries, hash, signed_at, broker_pubkey, signature)
                         SELECT mesh_id, id, $3, hash, $5, $6, $7 FROM audit_log
                         WHERE mesh_id = $1 AND id = $2 AND hash = $4
                            AND COALESCE((SELECT MAX(entry_id) FROM audit_head WHERE mesh_id = $1), 0) = $8
                            AND NOT EXISTS (SELECT 1 FROM audit_head
                                WHERE mesh_id = $1 AND signed_at > $9 AND signed_at < $10)",
                        &[
                            mesh.as_str().into(),
                            head.entry.into(),
                            entries.into(),
                            head.hash.as_str().into(),
                            head.signed_at.into(),
                            head.broker_pubkey.as_str().into(),
                            head.signature.as_str().into(),
                            after.into(),
                            head.signed_at.minus(AUDIT_HEAD_PERIOD).into(),
                            head.signed_at.plus(AUDIT_HEAD_PERIOD).into(),
                        ],
                    )
                    .await?;
                conn.execute(
                    "DELETE FROM audit_head WHERE mesh_id = $1 AND entry_id NOT IN
                        (SELECT entry_id FROM audit_head WHERE mesh_id = $1 ORDER BY entry_id DESC LIMIT $2)",
                    &[mesh.as_str().into(), AUDIT_HEADS_KEPT.into()],
                )
                .await?;
                Ok(kept > 0)
            })
        })
        .await
    }
}
