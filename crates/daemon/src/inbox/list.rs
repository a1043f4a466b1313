//! Listing messages (daemon spec §13.3, §13.4, §13.7).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claudemesh_ipc::api::InboxItem;
use claudemesh_protocol::{PublicKey, Timestamp};
use futures_util::TryStreamExt as _;
use sqlx::{QueryBuilder, Sqlite};

use super::fit::Fit;
use super::{Inbox, Scope, SessionScope, row};
use crate::sessions::Opening;
use crate::storage::{Columns as _, StorageError};

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InboxFilter {
    /// Received then or later.
    pub since: Option<Timestamp>,
    /// Received earlier.
    pub before: Option<Timestamp>,
    /// Topic or group name.
    pub topic: Option<String>,
    /// Sender's key, or name in any letter case.
    pub from: Option<String>,
    /// Mesh slug.
    pub mesh: Option<String>,
    /// Only what the caller has not seen.
    pub unread_only: bool,
    /// Only what came after this row of an earlier page.
    pub after: Option<Cursor>,
    /// Items of a page.
    pub limit: u32,
}

/// Where a page ended: order is newest first, then by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    received_at: i64,
    id: String,
}

impl Cursor {
    /// Reads the opaque form.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (received_at, id) = plain.split_once(',')?;
        Some(Self { received_at: received_at.parse().ok()?, id: id.to_owned() })
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{},{}", self.received_at, self.id))
    }
}

/// One page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Newest first.
    pub items: Vec<InboxItem>,
    /// Opaque start of the next page.
    pub next_cursor: Option<String>,
}

impl Inbox {
    /// One page of what the caller may see: as many as asked for, and as many as one answer holds.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn list(&self, scope: &Scope, filter: &InboxFilter) -> Result<Page, StorageError> {
        let limit = i64::from(filter.limit) + 1;
        let mut query = union(scope, Order::NewestFirst, limit, |query| push_filter(query, filter));
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        let (mut items, mut fit, mut last) = (Vec::new(), Fit::default(), None);
        // Row by row: what does not fit the answer is not read either.
        let mut rows = query.build().fetch(self.db.reader());
        while let Some(row) = rows.try_next().await? {
            let item = row::item(&row)?;
            if items.len() == limit || !fit.takes(&item) {
                let next_cursor = last.as_ref().map(Cursor::encode);
                return Ok(Page { items, next_cursor });
            }
            last = Some(Cursor { received_at: row.column("received_at")?, id: row.column("id")? });
            items.push(item);
        }
        Ok(Page { items, next_cursor: None })
    }

    /// What the caller has not seen, oldest first, at most as many as the filter says; and how many there are in all.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn unread(
        &self,
        scope: &Scope,
        filter: &InboxFilter,
    ) -> Result<(Vec<InboxItem>, u64), StorageError> {
        let filter = InboxFilter { unread_only: true, ..filter.clone() };
        let narrowed = |query: &mut QueryBuilder<Sqlite>| push_filter(query, &filter);
        let mut page = union(scope, Order::OldestFirst, i64::from(filter.limit), narrowed);
        let rows = page.build().fetch_all(self.db.reader()).await?;
        let items: Vec<InboxItem> = rows.iter().map(row::item).collect::<Result<_, _>>()?;
        if items.len() < usize::try_from(filter.limit).unwrap_or(usize::MAX) {
            let count = items.len() as u64;
            return Ok((items, count));
        }
        let mut all = QueryBuilder::new("SELECT count(*) FROM (");
        push_union(&mut all, scope, Order::OldestFirst, i64::MAX, narrowed);
        all.push(")");
        let count: i64 = all.build_query_scalar().fetch_one(self.db.reader()).await?;
        Ok((items, u64::try_from(count).unwrap_or_default()))
    }

    /// What a gate that opens this far lets through to a session and was not put before it yet, oldest first.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn waiting(
        &self,
        session: &SessionScope,
        opening: Opening,
        limit: u32,
    ) -> Result<Vec<InboxItem>, StorageError> {
        let scope = Scope::Session(session.clone());
        let mut query = union(&scope, Order::OldestFirst, i64::from(limit), |query| {
            query.push(" AND i.digest=0 AND i.answered_at IS NULL AND i.priority IN (");
            query.push(if opening == Opening::All { "'now','next')" } else { "'now')" });
            query.push(" AND shown_seen_at IS NULL AND shown_pushed_at IS NULL");
        });
        let rows = query.build().fetch_all(self.db.reader()).await?;
        Ok(rows.iter().map(row::item).collect::<Result<_, _>>()?)
    }

    /// The most hops among these messages; `None` when there is none of them.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn most_hops(&self, ids: &[String]) -> Result<Option<u32>, StorageError> {
        let sql = "SELECT max(hops) FROM inbox WHERE id IN (SELECT value FROM json_each($1))";
        let ids = serde_json::to_string(ids).unwrap_or_default();
        Ok(sqlx::query_scalar(sql).bind(ids).fetch_one(self.db.reader()).await?)
    }

    /// Own session keys to which something unread was addressed.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn unseen_recipients(&self) -> Result<Vec<PublicKey>, StorageError> {
        let sql = "SELECT DISTINCT coalesce(addressed_to, recipient_pubkey) AS key FROM inbox \
                   WHERE seen_at IS NULL AND (recipient_kind='session' OR addressed_to IS NOT NULL)";
        let rows = sqlx::query(sql).fetch_all(self.db.reader()).await?;
        Ok(rows.iter().map(|row| row.parsed("key")).collect::<Result<_, _>>()?)
    }

    /// The message in this row, as nobody's in particular.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn by_id(&self, id: &str) -> Result<Option<InboxItem>, StorageError> {
        let sql = "SELECT i.*, i.seen_at AS shown_seen_at, i.pushed_at AS shown_pushed_at, 0 AS shown_elsewhere, \
                   0 AS shown_given FROM inbox i WHERE i.id=$1";
        let found = sqlx::query(sql).bind(id).fetch_optional(self.db.reader()).await?;
        Ok(found.as_ref().map(row::item).transpose()?)
    }

    /// Broker ids of messages whose broker or client id is `id`, or begins with it; at most two. For a reply that names
    /// a message by a prefix.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn by_message_id(
        &self,
        mesh: &str,
        id: &str,
    ) -> Result<Vec<(Option<String>, String)>, StorageError> {
        let sql = "SELECT DISTINCT broker_message_id, client_message_id FROM inbox WHERE +mesh=$1 AND \
                   ((broker_message_id>=$2 AND broker_message_id<$3) \
                    OR (client_message_id>=$2 AND client_message_id<$3) OR id=$2) LIMIT 2";
        let rows = sqlx::query(sql)
            .bind(mesh)
            .bind(id)
            .bind(format!("{id}{}", char::MAX))
            .fetch_all(self.db.reader())
            .await?;
        let pair = |row| -> Result<_, sqlx::Error> {
            let row: &sqlx::sqlite::SqliteRow = row;
            Ok((row.column("broker_message_id")?, row.column("client_message_id")?))
        };
        Ok(rows.iter().map(pair).collect::<Result<_, _>>()?)
    }
}

fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &InboxFilter) {
    if let Some(since) = filter.since {
        query.push(" AND i.received_at>=").push_bind(since.as_millis());
    }
    if let Some(before) = filter.before {
        query.push(" AND i.received_at<").push_bind(before.as_millis());
    }
    if let Some(topic) = &filter.topic {
        query.push(" AND i.topic=").push_bind(topic.trim_start_matches('#').to_owned());
    }
    if let Some(from) = &filter.from {
        let key = from.to_ascii_lowercase();
        query.push(" AND (i.sender_pubkey=").push_bind(key.clone());
        query.push(" OR i.sender_member_pubkey=").push_bind(key);
        query.push(" OR lower(i.sender_name)=lower(").push_bind(from.clone()).push("))");
    }
    if let Some(mesh) = &filter.mesh {
        query.push(" AND i.mesh=").push_bind(mesh.clone());
    }
    if filter.unread_only {
        // What another session has answered waits for nobody any more.
        query.push(" AND shown_seen_at IS NULL AND NOT shown_elsewhere");
    }
    if let Some(after) = &filter.after {
        query.push(" AND (i.received_at,i.id)<(").push_bind(after.received_at);
        query.push(",").push_bind(after.id.clone()).push(")");
    }
}

/// Order of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    NewestFirst,
    OldestFirst,
}

impl Order {
    const fn of(self, alias: &str) -> &'static str {
        match (self, alias.is_empty()) {
            (Self::NewestFirst, false) => " ORDER BY i.received_at DESC, i.id DESC LIMIT ",
            (Self::OldestFirst, false) => " ORDER BY i.received_at, i.id LIMIT ",
            (Self::NewestFirst, true) => " ORDER BY received_at DESC, id DESC LIMIT ",
            (Self::OldestFirst, true) => " ORDER BY received_at, id LIMIT ",
        }
    }
}

/// The first `limit` rows of the scope. A session's two keys are read apart, each along its index, and then merged.
fn union(
    scope: &Scope,
    order: Order,
    limit: i64,
    filter: impl Fn(&mut QueryBuilder<Sqlite>),
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("");
    push_union(&mut query, scope, order, limit, filter);
    query
}

fn push_union(
    query: &mut QueryBuilder<Sqlite>,
    scope: &Scope,
    order: Order,
    limit: i64,
    filter: impl Fn(&mut QueryBuilder<Sqlite>),
) {
    let parts: &[Part] = match scope {
        Scope::Everything => &[Part::Everything],
        Scope::Session(session) if session.key.is_none() => &[Part::Member],
        Scope::Session(_) => &[Part::Session, Part::Member],
    };
    for (index, part) in parts.iter().enumerate() {
        query.push(if index == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
        query.push("SELECT i.*");
        push_shown(query, scope, "inbox i");
        query.push(" WHERE ");
        push_part(query, scope, *part);
        filter(query);
        query.push(order.of("i")).push_bind(limit).push(")");
    }
    if parts.len() > 1 {
        query.push(order.of("")).push_bind(limit);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Everything,
    Session,
    Member,
}

/// `, … AS shown_… FROM <rows> …`: the read state as the caller knows it.
pub(super) fn push_shown(query: &mut QueryBuilder<Sqlite>, scope: &Scope, rows: &'static str) {
    let Scope::Session(session) = scope else {
        query.push(
            ", i.seen_at AS shown_seen_at, i.pushed_at AS shown_pushed_at, 0 AS shown_given, \
             (i.answered_at IS NOT NULL AND i.answered_session IS NULL) AS shown_elsewhere FROM ",
        );
        query.push(rows);
        return;
    };
    // A message to the member that came before the session did, and was read by anybody, is old news to it.
    for (own, shown, column) in [
        ("s.seen_at", "shown_seen_at", "i.seen_at"),
        ("s.handed_at", "shown_pushed_at", "i.pushed_at"),
    ] {
        query.push(format!(
            ", CASE WHEN i.recipient_kind='session' THEN {column} \
             ELSE coalesce({own}, CASE WHEN i.received_at<"
        ));
        query.push_bind(session.registered_at.as_millis());
        query.push(format!(" THEN {column} END) END AS {shown}"));
    }
    query.push(
        ", (SELECT count(*) FROM inbox_session o WHERE o.inbox_seq=i.seq AND o.handed_at IS NOT NULL \
         AND o.session_id<>",
    );
    query.push_bind(session.session_id.clone()).push(") AS shown_given");
    query.push(
        ", (i.answered_at IS NOT NULL AND i.recipient_kind='member' AND i.answered_session IS NOT ",
    );
    query.push_bind(session.session_id.clone()).push(") AS shown_elsewhere");
    query.push(" FROM ").push(rows);
    query.push(" LEFT JOIN inbox_session s ON s.inbox_seq=i.seq AND s.session_id=");
    query.push_bind(session.session_id.clone());
}

fn push_part(query: &mut QueryBuilder<Sqlite>, scope: &Scope, part: Part) {
    let Scope::Session(session) = scope else {
        query.push("1=1");
        return;
    };
    query.push("i.mesh=").push_bind(session.mesh.clone()).push(" AND i.recipient_pubkey=");
    match (part, session.key) {
        (Part::Session, Some(key)) => {
            query.push_bind(key.to_hex());
        }
        (_, key) => {
            query.push_bind(session.member_key.to_hex());
            if let Some(key) = key {
                push_not_at(query, key);
            }
        }
    }
}

/// The same message to both keys is shown once: the one to the session.
fn push_not_at(query: &mut QueryBuilder<Sqlite>, session: PublicKey) {
    query.push(
        " AND NOT EXISTS (SELECT 1 FROM inbox o WHERE o.mesh=i.mesh \
         AND o.sender_pubkey=i.sender_pubkey \
         AND o.client_message_id=i.client_message_id AND o.recipient_pubkey=",
    );
    query.push_bind(session.to_hex()).push(")");
}

/// Restricts `inbox i` to what belongs to a session.
pub(super) fn push_session_scope(query: &mut QueryBuilder<Sqlite>, session: &SessionScope) {
    query.push("i.mesh=").push_bind(session.mesh.clone());
    let member = session.member_key.to_hex();
    let Some(key) = session.key else {
        query.push(" AND i.recipient_pubkey=").push_bind(member);
        return;
    };
    query.push(" AND (i.recipient_pubkey=").push_bind(key.to_hex());
    query.push(" OR (i.recipient_pubkey=").push_bind(member);
    push_not_at(query, key);
    query.push("))");
}
