//! Presences: the durable half of live and leased connections, with the replay memory of hellos (broker spec §1.2,
//! §2.1, §2.2). Who is online is decided in memory; these rows carry leases over a restart.

use std::time::Duration;

use claudemesh_protocol::status::{PeerRole, PeerStatus, StatusSource};
use claudemesh_protocol::wire::presence::{SetProfile, Stats};
use claudemesh_protocol::{Group, MemberId, MeshId, PresenceId, PublicKey, Timestamp};

use crate::engine::{Conn, Row, Sql, Value, to_json};
use crate::message::{self, ClaimId};
use crate::pending_status::{self, PendingStatusOf};
use crate::{PeerState, Rerouted, Result, SessionKeySeen, Store, StoreError, peer_state};

const HEARTBEAT_PRESENCES: Sql = Sql::per_engine(
    "UPDATE presence SET last_ping_at = $2
     WHERE id IN (SELECT value FROM json_each($1)) AND disconnected_at IS NULL AND last_ping_at < $2",
    "UPDATE presence SET last_ping_at = $2
     WHERE id = ANY($1) AND disconnected_at IS NULL AND last_ping_at < $2",
);

const HEARTBEAT_SESSION_KEYS: Sql = Sql::per_engine(
    "UPDATE session_key_seen SET last_seen_at = $2
     WHERE (mesh_id, session_pubkey) IN (SELECT p.mesh_id, p.session_pubkey FROM presence p
        WHERE p.id IN (SELECT value FROM json_each($1)) AND p.session_pubkey IS NOT NULL)
        AND last_seen_at < $2",
    "UPDATE session_key_seen SET last_seen_at = $2
     WHERE (mesh_id, session_pubkey) IN (SELECT p.mesh_id, p.session_pubkey FROM presence p
        WHERE p.id = ANY($1) AND p.session_pubkey IS NOT NULL)
        AND last_seen_at < $2",
);

const HEARTBEAT_MEMBERS: Sql = Sql::per_engine(
    "UPDATE member SET last_seen_at = $2
     WHERE id IN (SELECT p.member_id FROM presence p WHERE p.id IN (SELECT value FROM json_each($1)))
        AND (last_seen_at IS NULL OR last_seen_at < $2)",
    "UPDATE member SET last_seen_at = $2
     WHERE id IN (SELECT p.member_id FROM presence p WHERE p.id = ANY($1))
        AND (last_seen_at IS NULL OR last_seen_at < $2)",
);

/// What a presence tells about itself and may change while it lives.
#[derive(Debug, Clone, PartialEq)]
pub struct PresenceState {
    /// What it is doing.
    pub status: PeerStatus,
    /// Who said so.
    pub status_source: StatusSource,
    /// Since when.
    pub status_updated_at: Timestamp,
    /// Its own words, at most 500 characters.
    pub summary: Option<String>,
    /// Groups it is in.
    pub groups: Vec<Group>,
    /// False hides it from broadcasts and lists.
    pub is_visible: bool,
    /// Who it says it is.
    pub profile: SetProfile,
    /// What it has counted since it began.
    pub stats: Option<Stats>,
}

/// A presence as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct PresenceRow {
    /// Its id; a reattached connection keeps it.
    pub id: PresenceId,
    /// Its mesh.
    pub mesh_id: MeshId,
    /// Its member.
    pub member_id: MemberId,
    /// The client's name for the session.
    pub session_id: String,
    /// The session's own key.
    pub session_pubkey: Option<PublicKey>,
    /// Name shown.
    pub display_name: String,
    /// What kind of connection it is.
    pub role: PeerRole,
    /// Process id at the client.
    pub pid: i64,
    /// Working directory there.
    pub cwd: Option<String>,
    /// Machine name.
    pub hostname: Option<String>,
    /// Fingerprint of the machine.
    pub host_fingerprint: Option<String>,
    /// `ai`, `human`, `connector`, `bridge`.
    pub peer_type: Option<String>,
    /// Client channel, such as `claudemesh-daemon`.
    pub channel: Option<String>,
    /// Model name the client gave.
    pub model: Option<String>,
    /// Capability words of its hello.
    pub capabilities: Vec<String>,
    /// Attestation it came with, as JSON text; restrictions of a session stand in it.
    pub attestation: Option<String>,
    /// What it tells about itself.
    pub state: PresenceState,
    /// The broker process that holds its socket.
    pub node_id: String,
    /// When it first connected.
    pub connected_at: Timestamp,
    /// When it last answered a ping, to the minute.
    pub last_ping_at: Timestamp,
    /// End of the lease while it has no socket.
    pub lease_until: Option<Timestamp>,
}

/// A hello or a signed request that was accepted, for the refusal of its repeat (wire spec §2.3, broker spec §7.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloSeen {
    /// The key that signed.
    pub pubkey: PublicKey,
    /// The time it signed, in Unix milliseconds.
    pub timestamp: Timestamp,
    /// SHA-256 of the signature.
    pub signature_hash: [u8; 32],
    /// When it may be forgotten.
    pub expires_at: Timestamp,
}

/// What came of opening a presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenPresence {
    /// The row stands and the hello is remembered.
    Opened,
    /// The same; a status that waited for it was applied: it works from the start, or does not, as a hook said.
    OpenedAs(PeerStatus),
    /// This very hello was accepted before; nothing was written.
    Replayed,
}

/// A presence that ends for good.
#[derive(Debug, Clone, PartialEq)]
pub struct EndPresence {
    /// Which.
    pub id: PresenceId,
    /// Now.
    pub at: Timestamp,
    /// What to keep for its return; its counters are those stored so far, to which `counted` is added.
    pub peer_state: Option<PeerState>,
    /// What this presence alone has counted.
    pub counted: Stats,
    /// Claims it holds, which go back to held.
    pub claim_id: ClaimId,
    /// Set when its session key has no other presence: rows held for the key move to the member's queue.
    pub reroute: Option<crate::Reroute>,
}

/// Work that ending a presence has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PresenceEnded {
    /// Claims returned to held.
    pub released: u64,
    /// Rows moved to the member's queue.
    pub rerouted: u64,
    /// Rows dropped because the member's queue had the message already.
    pub merged: u64,
    /// Whose messages the moved rows are.
    pub told: Vec<message::Told>,
}

/// Whose presences a restarted broker takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreviousRun {
    /// All of them (one broker per database).
    EveryNode,
    /// Those of one node that is dead.
    Node(String),
}

impl Store {
    /// Remembers a request that a member key signed; false when this very one was accepted before, here or elsewhere.
    pub async fn remember_signed(&self, request: HelloSeen) -> Result<bool> {
        self.write(move |mut conn| {
            Box::pin(async move { remember_hello(&mut conn, &request).await })
        })
        .await
    }

    /// Stores an accepted hello: replay memory, presence row (insert, or update when the id reattaches, which ends its
    /// lease), session key, the status that waited for it, and the member's last-seen time, in one commit.
    pub async fn open_presence(
        &self,
        mut presence: PresenceRow,
        hello: HelloSeen,
        session_key: Option<SessionKeySeen>,
        pending: Option<PendingStatusOf>,
    ) -> Result<OpenPresence> {
        self.write(move |mut conn| {
            Box::pin(async move {
                if !remember_hello(&mut conn, &hello).await? {
                    return Ok(OpenPresence::Replayed);
                }
                let waited = match &pending {
                    Some(of) => pending_status::take(&mut conn, of).await?,
                    None => None,
                };
                if let Some(status) = waited {
                    presence.state.status = status;
                    presence.state.status_source = StatusSource::Hook;
                }
                upsert(&mut conn, &presence).await?;
                if let Some(seen) = &session_key {
                    peer_state::upsert_session_key(&mut conn, seen).await?;
                }
                conn.execute(
                    "UPDATE member SET last_seen_at = $2 WHERE id = $1 AND (last_seen_at IS NULL OR last_seen_at < $2)",
                    &[presence.member_id.as_str().into(), presence.last_ping_at.into()],
                )
                .await?;
                Ok(waited.map_or(OpenPresence::Opened, OpenPresence::OpenedAs))
            })
        })
        .await
    }

    /// Writes what presences tell about themselves, all in one commit. Ended presences are skipped.
    pub async fn save_presence_states(
        &self,
        states: Vec<(PresenceId, PresenceState)>,
    ) -> Result<()> {
        self.write(move |mut conn| {
            Box::pin(async move {
                for (id, state) in &states {
                    conn.execute(
                        "UPDATE presence SET status = $2, status_source = $3, status_updated_at = $4, summary = $5,
                            groups_json = $6, visible = $7, profile = $8, stats = $9
                         WHERE id = $1 AND disconnected_at IS NULL",
                        &[
                            id.as_str().into(),
                            state.status.as_str().into(),
                            state.status_source.as_str().into(),
                            state.status_updated_at.into(),
                            state.summary.as_deref().into(),
                            to_json(&state.groups, "presence.groups_json")?.into(),
                            state.is_visible.into(),
                            to_json(&state.profile, "presence.profile")?.into(),
                            stats_text(state.stats.as_ref())?.into(),
                        ],
                    )
                    .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The minute's bulk update: last ping of live presences, last-seen of their session keys and members.
    pub async fn heartbeat(&self, live: Vec<PresenceId>, at: Timestamp) -> Result<()> {
        let ids: Vec<String> = live.into_iter().map(PresenceId::into_string).collect();
        self.write(move |mut conn| {
            Box::pin(async move {
                for sql in [HEARTBEAT_PRESENCES, HEARTBEAT_SESSION_KEYS, HEARTBEAT_MEMBERS] {
                    conn.execute(sql, &[Value::Texts(&ids), at.into()]).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Gives presences without a socket their lease, all in one commit (one lost socket, or all of a stopping broker).
    pub async fn lease_presences(&self, leased: Vec<PresenceId>, until: Timestamp) -> Result<()> {
        let ids: Vec<String> = leased.into_iter().map(PresenceId::into_string).collect();
        self.write(move |mut conn| {
            Box::pin(async move {
                let sql = Sql::per_engine(
                    "UPDATE presence SET lease_until = $2
                     WHERE id IN (SELECT value FROM json_each($1)) AND disconnected_at IS NULL",
                    "UPDATE presence SET lease_until = $2 WHERE id = ANY($1) AND disconnected_at IS NULL",
                );
                conn.execute(sql, &[Value::Texts(&ids), until.into()]).await.map(drop)
            })
        })
        .await
    }

    /// Ends a presence: row, saved state, claims and held rows of an ended session key, in one commit. Ending twice
    /// changes nothing more.
    pub async fn end_presence(&self, end: EndPresence) -> Result<PresenceEnded> {
        self.write(move |mut conn| {
            Box::pin(async move {
                if claudemesh_sqlite::refusal_point("store.end_presence.refuse") {
                    return Err(StoreError::Unavailable("refused by a test".into()));
                }
                let ended = conn
                    .first(
                        "UPDATE presence SET disconnected_at = $2, lease_until = NULL
                         WHERE id = $1 AND disconnected_at IS NULL
                         RETURNING mesh_id, session_pubkey,
                            (SELECT m.peer_pubkey FROM member m WHERE m.id = presence.member_id) AS peer_pubkey",
                        &[end.id.as_str().into(), end.at.into()],
                    )
                    .await?;
                let Some(row) = ended else { return Ok(PresenceEnded::default()) };
                if let Some(state) = end.peer_state {
                    peer_state::upsert_counted(&mut conn, state, end.counted).await?;
                }
                let released = message::release_claims(&mut conn, &end.claim_id, &row).await?;
                let rerouted = match &end.reroute {
                    Some(reroute) => message::reroute(&mut conn, reroute).await?,
                    None => Rerouted::default(),
                };
                Ok(PresenceEnded {
                    released,
                    rerouted: rerouted.moved,
                    merged: rerouted.merged,
                    told: rerouted.told,
                })
            })
        })
        .await
    }

    /// Rows that count as present although nothing has shown life since `silent_since` and no lease runs at `now`: what a
    /// broker left that could not write the end. At most `limit`, oldest first. Whether memory holds them is the caller's
    /// knowledge.
    pub async fn stale_presences(
        &self,
        silent_since: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<PresenceRow>> {
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all(
                "SELECT * FROM presence WHERE disconnected_at IS NULL AND last_ping_at < $1
                    AND (lease_until IS NULL OR lease_until <= $2)
                 ORDER BY last_ping_at LIMIT $3",
                &[silent_since.into(), now.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()],
            )
            .await?;
        rows.iter().map(PresenceRow::from_row).collect()
    }

    /// Takes over after a restart: presences of the previous run that are not ended become leased until
    /// `max(last ping + lease, now + grace)` and all their claims go back to held. Answers those presences.
    pub async fn lease_previous_run(
        &self,
        run: PreviousRun,
        now: Timestamp,
        lease: Duration,
        grace: Duration,
    ) -> Result<Vec<PresenceRow>> {
        self.write_upkeep(move |mut conn| {
            Box::pin(async move {
                let node = match &run {
                    PreviousRun::EveryNode => None,
                    PreviousRun::Node(node) => Some(node.as_str()),
                };
                let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
                let rows = conn
                    .all(
                        "UPDATE presence SET lease_until =
                            CASE WHEN last_ping_at + $2 > $3 THEN last_ping_at + $2 ELSE $3 END
                         WHERE disconnected_at IS NULL AND ($1 IS NULL OR node_id = $1)
                         RETURNING *",
                        &[node.into(), lease_ms.into(), now.plus(grace).into()],
                    )
                    .await?;
                let presences =
                    rows.iter().map(PresenceRow::from_row).collect::<Result<Vec<_>>>()?;
                let holders = presences.iter().map(|presence| presence.id.as_str().to_owned());
                message::release_claims_of_run(
                    &mut conn,
                    node.map(|_| holders.collect::<Vec<_>>()),
                )
                .await?;
                Ok(presences)
            })
        })
        .await
    }
}

impl PresenceRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: PresenceId::new(row.get::<String>("id")?),
            mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
            member_id: MemberId::new(row.get::<String>("member_id")?),
            session_id: row.get("session_id")?,
            session_pubkey: row.parsed_option("session_pubkey")?,
            display_name: row.get("display_name")?,
            role: row.parsed("role")?,
            pid: row.integer("pid")?,
            cwd: row.get("cwd")?,
            hostname: row.get("hostname")?,
            host_fingerprint: row.get("host_fingerprint")?,
            peer_type: row.get("peer_type")?,
            channel: row.get("channel")?,
            model: row.get("model")?,
            capabilities: row.json("capabilities")?,
            attestation: row.get("attestation")?,
            state: PresenceState {
                status: row.parsed("status")?,
                status_source: row.parsed("status_source")?,
                status_updated_at: row.time("status_updated_at")?,
                summary: row.get("summary")?,
                groups: row.json("groups_json")?,
                is_visible: row.flag("visible")?,
                profile: parsed_or_default(row.get::<Option<String>>("profile")?.as_deref()),
                stats: row
                    .get::<Option<String>>("stats")?
                    .and_then(|text| serde_json::from_str(&text).ok()),
            },
            node_id: row.get("node_id")?,
            connected_at: row.time("connected_at")?,
            last_ping_at: row.time("last_ping_at")?,
            lease_until: row.time_option("lease_until")?,
        })
    }
}

fn stats_text(stats: Option<&Stats>) -> Result<Option<String>> {
    stats.map(|stats| to_json(stats, "presence.stats")).transpose()
}

/// Rows of older releases say nothing.
fn parsed_or_default<T: serde::de::DeserializeOwned + Default>(text: Option<&str>) -> T {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// False when this very hello or request is remembered already.
async fn remember_hello(conn: &mut Conn<'_>, hello: &HelloSeen) -> Result<bool> {
    let rows = conn
        .execute(
            "INSERT INTO hello_seen (pubkey, timestamp_ms, signature_hash, expires_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            &[
                (&hello.pubkey).into(),
                hello.timestamp.into(),
                hex::encode(hello.signature_hash).into(),
                hello.expires_at.into(),
            ],
        )
        .await?;
    Ok(rows > 0)
}

/// Inserts the row, or lets the row of a reattached presence live again without a lease.
async fn upsert(conn: &mut Conn<'_>, presence: &PresenceRow) -> Result<()> {
    let state = &presence.state;
    conn.execute(
        "INSERT INTO presence (id, mesh_id, member_id, session_id, session_pubkey, display_name, role, pid, cwd,
            hostname, host_fingerprint, peer_type, channel, model, capabilities, attestation, status, status_source,
            status_updated_at, summary, groups_json, visible, node_id, connected_at, last_ping_at, lease_until, profile,
            stats)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
            $23, $24, $25, $26, $27, $28)
         ON CONFLICT (id) DO UPDATE SET session_id = excluded.session_id, session_pubkey = excluded.session_pubkey,
            display_name = excluded.display_name, role = excluded.role, pid = excluded.pid, cwd = excluded.cwd,
            hostname = excluded.hostname, host_fingerprint = excluded.host_fingerprint,
            peer_type = excluded.peer_type, channel = excluded.channel, model = excluded.model,
            capabilities = excluded.capabilities, attestation = excluded.attestation, status = excluded.status,
            status_source = excluded.status_source, status_updated_at = excluded.status_updated_at,
            summary = excluded.summary, groups_json = excluded.groups_json, visible = excluded.visible,
            node_id = excluded.node_id, last_ping_at = excluded.last_ping_at, lease_until = excluded.lease_until,
            profile = excluded.profile, stats = excluded.stats, disconnected_at = NULL",
        &[
            presence.id.as_str().into(),
            presence.mesh_id.as_str().into(),
            presence.member_id.as_str().into(),
            presence.session_id.as_str().into(),
            presence.session_pubkey.as_ref().into(),
            presence.display_name.as_str().into(),
            presence.role.as_str().into(),
            presence.pid.into(),
            presence.cwd.as_deref().into(),
            presence.hostname.as_deref().into(),
            presence.host_fingerprint.as_deref().into(),
            presence.peer_type.as_deref().into(),
            presence.channel.as_deref().into(),
            presence.model.as_deref().into(),
            to_json(&presence.capabilities, "presence.capabilities")?.into(),
            presence.attestation.as_deref().into(),
            state.status.as_str().into(),
            state.status_source.as_str().into(),
            state.status_updated_at.into(),
            state.summary.as_deref().into(),
            to_json(&state.groups, "presence.groups_json")?.into(),
            state.is_visible.into(),
            presence.node_id.as_str().into(),
            presence.connected_at.into(),
            presence.last_ping_at.into(),
            presence.lease_until.into(),
            to_json(&state.profile, "presence.profile")?.into(),
            stats_text(state.stats.as_ref())?.into(),
        ],
    )
    .await
    .map(drop)
}
