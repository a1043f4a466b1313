//! What a member or session left behind for its return (`peer_state`), and which session keys were seen
//! (`session_key_seen`); broker spec §1.1, §1.2, §3.2.

use claudemesh_protocol::wire::presence::{SetProfile, Stats};
use claudemesh_protocol::{Group, MemberId, MeshId, PublicKey, Timestamp};

use crate::engine::{Conn, Row, to_json};
use crate::{Result, Store};

/// Saved state of a member's own connection, or of one session key.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerState {
    /// Its mesh.
    pub mesh_id: MeshId,
    /// Its member.
    pub member_id: MemberId,
    /// `None` is the member itself.
    pub session_pubkey: Option<PublicKey>,
    /// Groups it was in.
    pub groups: Vec<Group>,
    /// Its profile.
    pub profile: SetProfile,
    /// Whether it was visible.
    pub is_visible: bool,
    /// Its last summary.
    pub last_summary: Option<String>,
    /// The name it last showed.
    pub last_display_name: Option<String>,
    /// Counters over all connections that have ended (wire spec §2.6).
    pub stats: Stats,
    /// When it was last connected.
    pub last_seen_at: Timestamp,
}

/// A session key that was seen in a mesh; it may be addressed for seven days after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionKeySeen {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The key.
    pub session_pubkey: PublicKey,
    /// Whose session it is.
    pub member_id: MemberId,
    /// Newest attestation as JSON text, handed to receivers.
    pub attestation: Option<String>,
    /// When it was last connected.
    pub last_seen_at: Timestamp,
}

impl Store {
    /// Reads a saved state; `session_key` `None` is the member's own.
    pub async fn peer_state(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        session_key: Option<&PublicKey>,
    ) -> Result<Option<PeerState>> {
        let session = session_key.map(|key| key.to_hex()).unwrap_or_default();
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                "SELECT mesh_id, member_id, session_pubkey, groups_json, profile, visible, last_summary,
                    last_display_name, cumulative_stats, last_seen_at
                 FROM peer_state WHERE mesh_id = $1 AND member_id = $2 AND session_pubkey = $3",
                &[mesh.as_str().into(), member.as_str().into(), session.into()],
            )
            .await?;
        row.as_ref().map(PeerState::from_row).transpose()
    }

    /// The saved states behind every presence that has not ended, in one question: a start reads them all.
    pub async fn peer_states_of_present(&self) -> Result<Vec<PeerState>> {
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all(
                "SELECT s.mesh_id, s.member_id, s.session_pubkey, s.groups_json, s.profile, s.visible, s.last_summary,
                    s.last_display_name, s.cumulative_stats, s.last_seen_at
                 FROM peer_state s WHERE EXISTS (
                    SELECT 1 FROM presence p WHERE p.disconnected_at IS NULL AND p.mesh_id = s.mesh_id
                        AND p.member_id = s.member_id)",
                &[],
            )
            .await?;
        rows.iter().map(PeerState::from_row).collect()
    }

    /// Saves states, replacing older ones, all in one commit. Counters that are stored already stay: they grow when a
    /// presence ends.
    pub async fn save_peer_states(&self, states: Vec<PeerState>) -> Result<()> {
        self.write(move |mut conn| {
            Box::pin(async move {
                for state in &states {
                    upsert(&mut conn, state).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Looks up a session key seen at or after `not_before`.
    pub async fn session_key(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
        not_before: Timestamp,
    ) -> Result<Option<SessionKeySeen>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                "SELECT mesh_id, session_pubkey, member_id, attestation, last_seen_at FROM session_key_seen
                 WHERE mesh_id = $1 AND session_pubkey = $2 AND last_seen_at >= $3",
                &[mesh.as_str().into(), key.into(), not_before.into()],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SessionKeySeen {
            mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
            session_pubkey: row.parsed("session_pubkey")?,
            member_id: MemberId::new(row.get::<String>("member_id")?),
            attestation: row.get("attestation")?,
            last_seen_at: row.time("last_seen_at")?,
        }))
    }
}

impl PeerState {
    fn from_row(row: &Row) -> Result<Self> {
        let session: String = row.get("session_pubkey")?;
        let session_pubkey =
            if session.is_empty() { None } else { Some(row.parsed("session_pubkey")?) };
        Ok(Self {
            mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
            member_id: MemberId::new(row.get::<String>("member_id")?),
            session_pubkey,
            groups: row.json("groups_json")?,
            profile: row.json("profile")?,
            is_visible: row.flag("visible")?,
            last_summary: row.get("last_summary")?,
            last_display_name: row.get("last_display_name")?,
            stats: row.json("cumulative_stats")?,
            last_seen_at: row.time("last_seen_at")?,
        })
    }
}

/// Replaces the saved state of a member or session, and adds what was counted to the counters that are stored.
pub(crate) async fn upsert_counted(
    conn: &mut Conn<'_>,
    mut state: PeerState,
    counted: Stats,
) -> Result<()> {
    let stored = conn
        .first(
            "SELECT cumulative_stats FROM peer_state WHERE mesh_id = $1 AND member_id = $2 AND session_pubkey = $3",
            &[
                state.mesh_id.as_str().into(),
                state.member_id.as_str().into(),
                state.session_pubkey.map(PublicKey::to_hex).unwrap_or_default().into(),
            ],
        )
        .await?;
    let Some(stored) = stored else {
        state.stats = counted;
        return upsert(conn, &state).await;
    };
    upsert(conn, &state).await?;
    let sum = stored.json::<Stats>("cumulative_stats")?.plus(counted);
    conn.execute(
        "UPDATE peer_state SET cumulative_stats = $4
         WHERE mesh_id = $1 AND member_id = $2 AND session_pubkey = $3",
        &[
            state.mesh_id.as_str().into(),
            state.member_id.as_str().into(),
            state.session_pubkey.map(PublicKey::to_hex).unwrap_or_default().into(),
            to_json(&sum, "peer_state.cumulative_stats")?.into(),
        ],
    )
    .await
    .map(drop)
}

/// Replaces the saved state of a member or session, but for its counters.
async fn upsert(conn: &mut Conn<'_>, state: &PeerState) -> Result<()> {
    conn.execute(
        "INSERT INTO peer_state (mesh_id, member_id, session_pubkey, groups_json, profile, visible, last_summary,
            last_display_name, cumulative_stats, last_seen_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (mesh_id, member_id, session_pubkey) DO UPDATE SET groups_json = excluded.groups_json,
            profile = excluded.profile, visible = excluded.visible, last_summary = excluded.last_summary,
            last_display_name = excluded.last_display_name, last_seen_at = excluded.last_seen_at",
        &[
            state.mesh_id.as_str().into(),
            state.member_id.as_str().into(),
            state.session_pubkey.map(PublicKey::to_hex).unwrap_or_default().into(),
            to_json(&state.groups, "peer_state.groups_json")?.into(),
            to_json(&state.profile, "peer_state.profile")?.into(),
            state.is_visible.into(),
            state.last_summary.as_deref().into(),
            state.last_display_name.as_deref().into(),
            to_json(&state.stats, "peer_state.cumulative_stats")?.into(),
            state.last_seen_at.into(),
        ],
    )
    .await
    .map(drop)
}

/// Notes a session key. The newest attestation stays; a key never changes its member.
pub(crate) async fn upsert_session_key(conn: &mut Conn<'_>, seen: &SessionKeySeen) -> Result<()> {
    conn.execute(
        "INSERT INTO session_key_seen (mesh_id, session_pubkey, member_id, attestation, last_seen_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (mesh_id, session_pubkey) DO UPDATE SET
            attestation = COALESCE(excluded.attestation, session_key_seen.attestation),
            last_seen_at = excluded.last_seen_at
         WHERE session_key_seen.member_id = excluded.member_id",
        &[
            seen.mesh_id.as_str().into(),
            (&seen.session_pubkey).into(),
            seen.member_id.as_str().into(),
            seen.attestation.as_deref().into(),
            seen.last_seen_at.into(),
        ],
    )
    .await
    .map(drop)
}
