//! `inbox`, `inbox flush`, `inbox delete` (CLI spec §3.6).

use std::time::Duration;

use chrono::{Local, TimeZone as _};
use claudemesh_ipc::Client;
use claudemesh_ipc::api::inbox::FlushQuery;
use claudemesh_ipc::api::{EventsQuery, InboxItem, InboxQuery};
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::text::sanitized;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{InboxArgs, InboxFlushArgs};
use crate::grammar::values;
use crate::link;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};
use crate::select::{self, Several};

/// Keys of one message (daemon spec §13.3), and more behind them.
macro_rules! message_keys {
    ($($more:literal),*) => {
        &[
        "id",
        "client_message_id",
        "broker_message_id",
        "mesh",
        "channel",
        "topic",
        "sender_pubkey",
        "sender_member_pubkey",
        "sender_name",
        "priority",
        "subtype",
        "body",
        "meta",
        "mentions",
        "decrypt",
        "reply_to_id",
        "created_at",
        "received_at",
        "seen_at",
        "pushed_at",
        "digest",
        "addressed_to",
        "recipient_pubkey",
        "recipient_kind",
        "transport",
        "hops",
        "sender_verified",
            $($more,)*
        ]
    };
}
pub(super) use message_keys;

/// Keys of one message.
pub(crate) const FIELDS: Fields = Fields { names: message_keys!(), id: "id" };

/// Keys of the two deletions.
pub(crate) const REMOVED_FIELDS: Fields = Fields { names: &["removed", "id"], id: "id" };

/// Time for one answer of the daemon (CLI spec §9).
const TIMEOUT: Duration = Duration::from_secs(3);
/// Longest name shown in front of a message.
const NAME_MAX_CHARS: usize = 60;

/// Lists messages, newest first.
///
/// # Errors
/// Exit 3 for a bad time, exit 4 without daemon.
pub(crate) async fn run(context: &Context, args: &InboxArgs) -> Outcome<Report> {
    let now = Context::now();
    let since = match &args.since {
        None => None,
        Some(text) => Some(values::time(&context.spoken, "--since", text, now)?),
    };
    let config = context.config()?;
    let chosen = context.meshes(&config, Several::Aggregate).await?;
    context.admit(chosen.slugs(), None).await?;
    let client = context.daemon_with("inbox").await?.with_timeout(context.budget(TIMEOUT));
    let mut query = InboxQuery {
        since: since.map(Timestamp::to_iso),
        topic: args.topic.as_ref().map(|topic| topic.trim_start_matches('#').to_owned()),
        from: args.from.clone(),
        mesh: chosen.one().map(str::to_owned),
        limit: Some(args.limit),
        unread_only: args.unread.then_some(true),
        mark_seen: Some(!args.peek),
        ..InboxQuery::default()
    };
    if let Some(wait) = args.wait {
        let work = wait_for_new(&client, chosen.one(), wait);
        let began = context.out.during("waiting for messages", work).await?;
        query.since = Some(began.to_iso());
    }
    let page = context
        .out
        .during("reading the inbox", client.inbox(&query))
        .await
        .map_err(link::failure)?;
    let items: Outcome<Vec<Value>> = page
        .items
        .iter()
        .map(|item| serde_json::to_value(item).map_err(|error| Failure::internal(&error)))
        .collect();
    let unread = page.items.iter().filter(|item| item.seen_at.is_none()).count();
    let mut envelope = Map::from_iter([
        ("total".to_owned(), Value::from(page.items.len())),
        ("unread".to_owned(), Value::from(unread)),
    ]);
    if let Some(mesh) = chosen.one() {
        envelope.insert("mesh".to_owned(), Value::from(mesh));
    }
    let screen = screen(&page.items, chosen.one(), unread, now);
    Ok(Report::new(Document::List { items: items?, envelope }, screen))
}

/// Returns when something new came in, or when `limit` passed; gives the time it began to wait.
async fn wait_for_new(client: &Client, mesh: Option<&str>, limit: Duration) -> Outcome<Timestamp> {
    let deadline = Instant::now() + limit;
    let query = EventsQuery {
        mesh: mesh.map(str::to_owned),
        kinds: Some("message,inbox_digest".to_owned()),
        ..EventsQuery::default()
    };
    // Before the stream is open: what comes in between is new, too.
    let began = Context::now();
    let mut events = client.events(&query, None).await.map_err(link::failure)?;
    match timeout_at(deadline, events.next()).await {
        Err(_) | Ok(Ok(_)) => Ok(began),
        Ok(Err(error)) => Err(link::failure(error)),
    }
}

pub(super) fn screen(
    items: &[InboxItem],
    mesh: Option<&str>,
    unread: usize,
    now: Timestamp,
) -> Screen {
    let place = mesh.map(|mesh| format!(" — {mesh}")).unwrap_or_default();
    let fresh = if unread > 0 { format!(", {unread} unread") } else { String::new() };
    let plural = if items.len() == 1 { "message" } else { "messages" };
    let mut screen = Screen::new();
    screen.section(&format!("inbox{place} ({} {plural}{fresh})", items.len()));
    if items.is_empty() {
        screen.note("(no messages)");
    }
    for item in items {
        row(&mut screen, item, mesh.is_none(), now);
    }
    screen
}

fn row(screen: &mut Screen, item: &InboxItem, with_mesh: bool, now: Timestamp) {
    screen.line(head(item, with_mesh, now));
    let body = match &item.body {
        Some(body) => sanitized(body),
        None => "[encrypted]".to_owned(),
    };
    for text in body.lines() {
        screen.line(Line::new().indent(4).put(Token::Plain, text.replace('\t', "    ")));
    }
}

/// Who wrote it, where, when.
pub(super) fn head(item: &InboxItem, with_mesh: bool, now: Timestamp) -> Line {
    let name = claudemesh_protocol::text::sanitized_line(&item.sender_name, NAME_MAX_CHARS);
    let key: String = item.sender_pubkey.chars().take(8).collect();
    let mut line = Line::new();
    line =
        if item.seen_at.is_none() { line.icon(Icon::Unread) } else { line.put(Token::Plain, "  ") };
    line = line.put(Token::Accent, name).foreign(Token::Dim, &format!(" ({key})"));
    if !item.sender_verified {
        line = line.put(Token::Warn, " [unverified]");
    }
    if with_mesh {
        line = line.put(Token::Dim, format!(" [{}]", item.mesh));
    }
    if let Some(topic) = item.topic.as_deref().filter(|topic| !topic.is_empty()) {
        let sign = if item.channel == "group" { '@' } else { '#' };
        line = line
            .foreign(Token::Accent, &format!(" {sign}{}", topic.trim_start_matches(['@', '#'])));
    }
    let at = Timestamp::parse_iso(&item.received_at).map(|at| clock(at, now)).unwrap_or_default();
    line.put(Token::Dim, format!(" {at}")).cut()
}

/// `HH:MM:SS` today, `Mon HH:MM` within the last seven days, else the date (CLI spec §8.2).
pub(crate) fn clock(at: Timestamp, now: Timestamp) -> String {
    let local = |time: Timestamp| Local.timestamp_millis_opt(time.as_millis()).single();
    let (Some(at_local), Some(now_local)) = (local(at), local(now)) else { return String::new() };
    let form = if at_local.date_naive() == now_local.date_naive() {
        "%H:%M:%S"
    } else if at <= now && now.since(at) < Duration::from_hours(7 * 24) {
        "%a %H:%M"
    } else {
        "%Y-%m-%d"
    };
    at_local.format(form).to_string()
}

/// Deletes many messages; never everything without being told so.
///
/// # Errors
/// Exit 3 without a filter or with a bad time.
pub(crate) async fn flush(context: &Context, args: &InboxFlushArgs) -> Outcome<Report> {
    let before = match &args.before {
        None => None,
        Some(text) => Some(values::time(&context.spoken, "--before", text, Context::now())?),
    };
    let mesh = context.global.mesh.clone();
    if before.is_none() && mesh.is_none() && !args.all {
        return Err(Failure::new(
            ErrorCode::MissingFilter,
            "refusing to delete everything; pass --mesh, --before or --all",
        ));
    }
    let config = context.config()?;
    let slugs: Vec<String> = config.meshes().map(|mesh| mesh.slug.clone()).collect();
    if slugs.is_empty() {
        return Err(select::no_mesh(&config));
    }
    if let Some(mesh) = &mesh {
        select::known(mesh, &slugs)?;
    }
    let meshes = mesh.as_ref().map_or(slugs.as_slice(), std::slice::from_ref);
    context.admit(meshes, None).await?;
    let query = FlushQuery {
        mesh: mesh.clone(),
        before: before.map(Timestamp::to_iso),
        all: args.all.then_some(true),
    };
    let client = context.daemon_with("inbox").await?;
    let removed = client.inbox_flush(&query).await.map_err(link::failure)?.removed;
    let scope = mesh.unwrap_or_else(|| "all meshes".to_owned());
    let mut screen = Screen::new();
    screen.done(format!("flushed {removed} messages from {scope}"));
    Ok(Report::new(Document::object(json!({ "removed": removed })), screen))
}

/// Deletes one message.
///
/// # Errors
/// Exit 5 when there is none of that id.
pub(crate) async fn delete(context: &Context, id: &str) -> Outcome<Report> {
    super::status::check_id(&context.spoken, id)?;
    context.admit(&[], Some(id)).await?;
    let client = context.daemon_with("inbox").await?;
    let removed = client.inbox_delete(id).await.map_err(|error| {
        let failure = link::failure(error);
        if failure.code == "not_found" {
            Failure::not_found(format!("no inbox row \"{id}\""))
                .action("claudemesh inbox --json=id,body")
        } else {
            failure
        }
    })?;
    let mut screen = Screen::new();
    screen.done(format!("deleted inbox row {id}"));
    Ok(Report::new(Document::object(json!({ "removed": removed.removed, "id": id })), screen))
}
