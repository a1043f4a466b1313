//! Who hears of a message, and when: at once, when the gate of its session opens, or only by asking (daemon spec §13.2).

use std::sync::Arc;

use claudemesh_ipc::api::{EventKind, InboxItem, MessageMode, RecipientKind};
use claudemesh_protocol::{Priority, PublicKey};
use serde_json::{Map, Value};

use super::insert::Twin;
use super::{Inbox, row};
use crate::events::{Audience, Event, MessageKey};
use crate::sessions::Session;
use crate::sessions::activity::Lane;
use crate::storage::StorageError;

/// Rows read at once for a gate that opens.
const RELEASE_ROWS: usize = 256;

impl Inbox {
    /// Tells everybody who may hear of the new row `seq` now, except sessions that have the same message under another
    /// key. `told` is the session that the row was told to under its own key, or is to be. True when it waits: every
    /// session it is for is busy.
    pub(super) fn announce(
        &self,
        item: &InboxItem,
        seq: i64,
        told: Option<&str>,
        twins: &[Twin],
    ) -> bool {
        let sessions = self.sessions_for(item);
        let is_member = item.recipient_kind == Some(RecipientKind::Member);
        let earlier = told.filter(|_| is_member).map(str::to_owned);
        let lanes: Vec<(Arc<Session>, Lane)> = sessions
            .into_iter()
            .map(|session| {
                let is_told = told == Some(session.session_id.as_str());
                let lane = if is_member && is_told {
                    // It was its own before: told, or its gate still keeps it.
                    if session.activity.is_waiting(seq) { Lane::Held } else { Lane::Off }
                } else if has_twin(&session, item, twins) || !(is_member || is_told) {
                    // One that came while the row was on its way to the disk finds it in the inbox.
                    Lane::Off
                } else {
                    let lane = session.activity.admit(session.message_mode, item.priority, seq);
                    count(&session, item, lane);
                    lane
                };
                (session, lane)
            })
            .collect();
        let in_lane = |wanted: Lane| {
            lanes.iter().filter(move |(_, lane)| *lane == wanted).map(|(session, _)| session)
        };
        let given = in_lane(Lane::Push).count() + in_lane(Lane::Held).count();
        let mut told = item.clone();
        told.also_given = others(given, item.recipient_kind);
        let is_low = item.priority == Priority::Low;
        let is_told_otherwise = |lane: Lane| match lane {
            Lane::Push => false,
            Lane::Quiet => !is_low,
            Lane::Held | Lane::Off => true,
        };
        let mut left_out: Vec<String> = lanes
            .iter()
            .filter(|(_, lane)| is_told_otherwise(*lane))
            .map(|(session, _)| session.session_id.clone())
            .collect();
        // Also one that has ended: it may come back, and go on where it stopped reading.
        left_out.extend(earlier);
        let audience = match (item.recipient_kind, item.recipient_pubkey) {
            (Some(RecipientKind::Session), Some(key)) => Audience::Session(key),
            _ => Audience::Member,
        };
        for session in in_lane(Lane::Push) {
            offer(session, item);
        }
        self.events.publish(message_event(&told, audience, left_out, !is_low));
        let quiet: Vec<String> = in_lane(Lane::Quiet)
            .filter(|_| !is_low)
            .map(|session| session.session_id.clone())
            .collect();
        if !quiet.is_empty() {
            self.events.publish(message_event(&told, Audience::Listed, quiet, false));
        }
        in_lane(Lane::Held).next().is_some() && in_lane(Lane::Push).next().is_none()
    }

    /// Counts a message that is told in a digest.
    pub(super) fn count_late(&self, item: &InboxItem) {
        for session in self.sessions_for(item) {
            let is_off = session.message_mode == MessageMode::Off;
            count(&session, item, if is_off { Lane::Off } else { Lane::Quiet });
        }
    }

    /// The copy of a message to a session takes over what the session has of the copy to its member, which it hides.
    pub(super) async fn take_over_state(&self, item: &InboxItem, seq: i64, twins: &[Twin]) {
        let at_member = twins.iter().find(|twin| twin.kind == RecipientKind::Member);
        let session = match (item.recipient_kind, item.recipient_pubkey) {
            (Some(RecipientKind::Session), Some(key)) => self.sessions.by_key(&item.mesh, &key),
            _ => None,
        };
        let (Some(twin), Some(session)) = (at_member.map(|twin| twin.seq), session) else { return };
        let session_id = session.session_id.clone();
        let copied: Result<(), StorageError> = self
            .db
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "UPDATE inbox SET seen_at=s.seen_at, pushed_at=s.handed_at FROM inbox_session s \
                               WHERE inbox.seq=$1 AND s.inbox_seq=$2 AND s.session_id=$3";
                    sqlx::query(sql).bind(seq).bind(twin).bind(session_id).execute(conn).await?;
                    Ok(())
                })
            })
            .await;
        if let Err(error) = copied {
            tracing::warn!(error = %crate::storage::Causes(&error), "inbox_state_not_copied");
        }
    }

    /// The gate of a session has opened: tells it what waited, oldest first.
    pub(crate) async fn release(&self, session: &Session) {
        let mut next = session.activity.begin_release();
        while let Some(first) = next {
            let mut from = first;
            loop {
                let rows = match self.held_rows(session, first, from).await {
                    Ok(rows) => rows,
                    Err(error) => {
                        let error = crate::storage::Causes(&error);
                        tracing::warn!(session_id = session.session_id, %error, "inbox_release_failed");
                        session.activity.end_release(from);
                        return;
                    }
                };
                for (_, item) in rows.iter().filter(|(seq, _)| session.activity.was_held(*seq)) {
                    offer(session, item);
                    let only = vec![session.session_id.clone()];
                    self.events.publish(message_event(item, Audience::Listed, only, true));
                }
                match rows.last() {
                    Some((seq, _)) if rows.len() >= RELEASE_ROWS => from = seq + 1,
                    _ => break,
                }
            }
            next = session.activity.next_release();
        }
    }

    /// What waits for this session from row `from` on and is still to be told; `first` is the first row that waited. A
    /// copy to the session of what it was told before that as its member's is hidden by it (see [`has_twin`]).
    async fn held_rows(
        &self,
        session: &Session,
        first: i64,
        from: i64,
    ) -> Result<Vec<(i64, InboxItem)>, StorageError> {
        let sql = "SELECT i.*, i.seen_at AS shown_seen_at, i.pushed_at AS shown_pushed_at, 0 AS shown_elsewhere, \
                   0 AS shown_given FROM inbox i \
                   WHERE i.seq>=$1 AND +i.mesh=$2 AND i.digest=0 AND i.priority='next' AND i.answered_at IS NULL \
                   AND ((i.recipient_pubkey=$3 AND i.seen_at IS NULL \
                   AND NOT EXISTS (SELECT 1 FROM inbox m WHERE m.client_message_id=i.client_message_id \
                   AND +m.mesh=i.mesh AND +m.sender_pubkey=i.sender_pubkey AND +m.recipient_kind='member' \
                   AND m.seq<$6)) OR (i.recipient_kind='member' \
                   AND NOT EXISTS (SELECT 1 FROM inbox_session s WHERE s.inbox_seq=i.seq AND s.session_id=$4) \
                   AND NOT EXISTS (SELECT 1 FROM inbox o WHERE o.mesh=i.mesh AND o.recipient_pubkey=$3 \
                   AND o.sender_pubkey=i.sender_pubkey AND o.client_message_id=i.client_message_id))) \
                   ORDER BY i.seq LIMIT $5";
        let rows = sqlx::query(sql)
            .bind(from)
            .bind(&session.mesh)
            .bind(session.key().map(PublicKey::to_hex).unwrap_or_default())
            .bind(&session.session_id)
            .bind(i64::try_from(RELEASE_ROWS).unwrap_or(i64::MAX))
            .bind(first)
            .fetch_all(self.db.reader())
            .await?;
        let others = others(self.given_to(&session.mesh), Some(RecipientKind::Member));
        rows.iter()
            .map(|found| {
                let (seq, mut item) = row::numbered(found)?;
                if item.recipient_kind == Some(RecipientKind::Member) {
                    item.also_given = others;
                }
                Ok((seq, item))
            })
            .collect()
    }

    /// The live sessions a message concerns.
    fn sessions_for(&self, item: &InboxItem) -> Vec<Arc<Session>> {
        match (item.recipient_kind, item.recipient_pubkey) {
            (Some(RecipientKind::Session), Some(key)) => {
                self.sessions.by_key(&item.mesh, &key).into_iter().collect()
            }
            _ => self.sessions.live(&item.mesh),
        }
    }

    /// How many live sessions a message to the member is put before.
    fn given_to(&self, mesh: &str) -> usize {
        let live = self.sessions.live(mesh);
        live.iter().filter(|session| session.message_mode == MessageMode::Push).count()
    }
}

/// True when a session has been told of the message under its other key. A copy to the member that still waits for the
/// session's gate is no telling: the copy to the session takes its place in the row of waiting ones.
fn has_twin(session: &Session, item: &InboxItem, twins: &[Twin]) -> bool {
    match item.recipient_kind {
        Some(RecipientKind::Session) => twins.iter().any(|twin| {
            twin.kind == RecipientKind::Member && !session.activity.is_waiting(twin.seq)
        }),
        _ => twins.iter().any(|twin| {
            twin.kind == RecipientKind::Session && Some(twin.recipient) == session.key()
        }),
    }
}

/// Counts a message for a session that it came in for; one that stays away from its member's messages gets only its own.
fn count(session: &Session, item: &InboxItem, lane: Lane) {
    if lane != Lane::Off || item.recipient_kind == Some(RecipientKind::Session) {
        session.activity.counters.message_in();
    }
}

/// The message is on its way to the agent; from now on its answers are answers to it.
fn offer(session: &Session, item: &InboxItem) {
    session.activity.was_offered(&item.id);
    if session.activity.has_live_path() {
        session.was_shown(item.hops);
    }
}

/// Other sessions of the member that get the same message.
fn others(given: usize, kind: Option<RecipientKind>) -> u32 {
    match kind {
        Some(RecipientKind::Member) => u32::try_from(given.saturating_sub(1)).unwrap_or(u32::MAX),
        _ => 0,
    }
}

fn message_event(
    item: &InboxItem,
    audience: Audience,
    sessions: Vec<String>,
    is_pushed: bool,
) -> Event {
    let mut data = match serde_json::to_value(item) {
        Ok(Value::Object(data)) => data,
        _ => Map::new(),
    };
    data.insert("push".to_owned(), Value::Bool(is_pushed));
    Event {
        kind: EventKind::Message,
        mesh: Some(item.mesh.clone()),
        audience,
        sessions,
        message: Some(MessageKey {
            sender: item.sender_pubkey.clone(),
            client_message_id: item.client_message_id.clone(),
        }),
        data,
    }
}
