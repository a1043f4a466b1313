//! `daemon outbox list|inspect|requeue|drop|prune` (CLI spec §3.18).

use claudemesh_ipc::IpcError;
use claudemesh_ipc::api::{OutboxItem, OutboxPruneRequest, OutboxQuery, RequeueRequest, RowStatus};
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::IPC_BODY_MAX_BYTES;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{OutboxListArgs, OutboxPruneArgs, OutboxRequeueArgs, OutboxVerb};
use crate::link;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};

/// Keys of a row (daemon spec §11.2).
pub(crate) const ROW_FIELDS: Fields = Fields {
    names: &[
        "id",
        "client_message_id",
        "mesh",
        "to",
        "target",
        "status",
        "attempts",
        "enqueued_at",
        "next_attempt_at",
        "delivered_at",
        "broker_message_id",
        "history_id",
        "last_error",
        "last_error_code",
        "aborted_at",
        "aborted_by",
        "superseded_by",
        "sender_session_prefix",
        "payload_bytes",
        "request_fingerprint_prefix",
        "hops",
        "answer",
        "receipts",
    ],
    id: "id",
};
/// Keys of `daemon outbox inspect`.
const INSPECT_FIELDS: Fields = Fields { names: &["row", "chain"], id: "row" };
/// Keys of the verbs that change something.
const CHANGE_FIELDS: Fields = Fields {
    names: &["aborted_row_id", "new_row_id", "new_client_message_id", "compacted", "bytes_freed"],
    id: "aborted_row_id",
};
/// Rows of one page of the local API.
const PAGE: u32 = 500;

/// Keys of the JSON that a verb prints.
pub(crate) const fn fields(verb: &OutboxVerb) -> Fields<'static> {
    match verb {
        OutboxVerb::List(_) => ROW_FIELDS,
        OutboxVerb::Inspect(_) => INSPECT_FIELDS,
        OutboxVerb::Requeue(_) | OutboxVerb::Drop(_) | OutboxVerb::Prune(_) => CHANGE_FIELDS,
    }
}

/// Runs one of the verbs.
///
/// # Errors
/// Exit 4 without daemon; exit 5 for an unknown id; exit 6 for a row that is finished or on its way.
pub(crate) async fn run(verb: OutboxVerb, context: &Context) -> Outcome<Report> {
    match verb {
        OutboxVerb::List(args) => list(context, &args).await,
        OutboxVerb::Inspect(args) => inspect(context, &args.id).await,
        OutboxVerb::Requeue(args) => requeue(context, &args).await,
        OutboxVerb::Drop(args) => drop_row(context, &args.id).await,
        OutboxVerb::Prune(args) => prune(context, &args).await,
    }
}

async fn list(context: &Context, args: &OutboxListArgs) -> Outcome<Report> {
    let chosen = [
        (args.pending, RowStatus::Pending),
        (args.inflight, RowStatus::Inflight),
        (args.done, RowStatus::Done),
        (args.failed, RowStatus::Dead),
        (args.aborted, RowStatus::Aborted),
    ];
    let status = chosen.iter().find(|(is_asked, _)| *is_asked).map(|(_, status)| *status);
    let client = context.daemon_with("outbox").await?;
    let mut rows: Vec<OutboxItem> = Vec::new();
    let mut cursor = None;
    let wanted = usize::try_from(args.limit).unwrap_or(usize::MAX);
    while rows.len() < wanted {
        let left = u32::try_from(wanted - rows.len()).unwrap_or(PAGE);
        let query = OutboxQuery {
            status: status.map(|status| status.as_str().to_owned()),
            mesh: context.global.mesh.clone(),
            limit: Some(left.min(PAGE)),
            cursor: cursor.take(),
        };
        let page = client.outbox(&query).await.map_err(link::failure)?;
        rows.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let mut screen = Screen::new();
    if rows.is_empty() {
        screen.note("(empty)");
    }
    for row in &rows {
        screen.line(line(row).cut());
    }
    Ok(Report::new(Document::list(values(&rows)?), screen))
}

async fn inspect(context: &Context, id: &str) -> Outcome<Report> {
    let client = context.daemon_with("outbox").await?;
    let reply = client.outbox_row(id).await.map_err(|error| row_failure(id, error))?;
    let row = &reply.row;
    let mut screen = Screen::new();
    screen.line(line(row));
    let mut pairs = vec![
        ("mesh", row.mesh.clone()),
        ("to", row.to.clone()),
        ("target", row.target.clone()),
        ("accepted", row.enqueued_at.clone()),
        ("size", format!("{} bytes", row.payload_bytes)),
    ];
    let optional = [
        ("delivered", &row.delivered_at),
        ("error", &row.last_error_code),
        ("aborted", &row.aborted_at),
        ("by", &row.aborted_by),
    ];
    pairs.extend(optional.iter().filter_map(|(name, value)| Some((*name, (*value).clone()?))));
    if matches!(row.status, RowStatus::Pending) {
        pairs.push(("next try", row.next_attempt_at.clone()));
    }
    screen.pairs(&pairs);
    for progress in &row.receipts {
        let mut text = Line::new()
            .indent(4)
            .put(Token::Dim, progress.recipient.short(12))
            .put(Token::Plain, format!(" {} {}", progress.state.as_str(), progress.at));
        if let Some(reason) = &progress.reason {
            text = text.foreign(Token::Dim, &format!(" — {reason}"));
        }
        screen.line(text.cut());
    }
    if reply.chain.len() > 1 {
        screen.line(Line::new().indent(4).put(Token::Dim, reply.chain.join(" → ")));
    }
    let document = json!({ "row": reply.row, "chain": reply.chain });
    Ok(Report::new(Document::object(document), screen))
}

async fn requeue(context: &Context, args: &OutboxRequeueArgs) -> Outcome<Report> {
    let payload = match &args.patch_payload {
        None => None,
        Some(path) => {
            let shown = path.display();
            let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
            if usize::try_from(bytes).unwrap_or(usize::MAX) > IPC_BODY_MAX_BYTES {
                return Err(Failure::new(
                    ErrorCode::PayloadTooLarge,
                    format!("{shown} is too large for a message"),
                ));
            }
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::io(format!("cannot read {shown}"), &error))?;
            Some(text)
        }
    };
    let request = RequeueRequest {
        id: args.id.clone(),
        new_client_message_id: args.new_client_id.clone(),
        payload,
        keep_target: args.keep_target,
        force: args.force,
        aborted_by: None,
    };
    let client = context.daemon_with("outbox").await?;
    let reply =
        client.outbox_requeue(&request).await.map_err(|error| row_failure(&args.id, error))?;
    let mut screen = Screen::new();
    screen.done(format!(
        "requeued: aborted {} → new {} (client id {})",
        reply.aborted_row_id, reply.new_row_id, reply.new_client_message_id
    ));
    Ok(Report::new(Document::object(json!(reply)), screen))
}

async fn drop_row(context: &Context, id: &str) -> Outcome<Report> {
    let client = context.daemon_with("outbox").await?;
    let reply = client.outbox_drop(id).await.map_err(|error| row_failure(id, error))?;
    let mut screen = Screen::new();
    screen.done(format!("dropped {} (aborted)", reply.aborted_row_id));
    Ok(Report::new(Document::object(json!(reply)), screen))
}

async fn prune(context: &Context, args: &OutboxPruneArgs) -> Outcome<Report> {
    if !args.confirm && !context.global.yes {
        return Err(Failure::new(
            ErrorCode::MissingFilter,
            "old messages lose their text; pass --confirm",
        ));
    }
    let request = OutboxPruneRequest { confirm: true, older_than: Some(args.older_than.as_secs()) };
    let client = context.daemon_with("outbox").await?;
    let work = client.outbox_prune(&request);
    let reply = context.out.during("taking old texts out", work).await.map_err(link::failure)?;
    let mut screen = Screen::new();
    screen.done(format!("compacted {} ({} freed)", reply.compacted, size(reply.bytes_freed)));
    Ok(Report::new(Document::object(json!(reply)), screen))
}

/// `status id cid=… attempts=N → bmid last_error="…"`.
fn line(row: &OutboxItem) -> Line {
    let (icon, token) = match row.status {
        RowStatus::Done => (Icon::Done, Token::Plain),
        RowStatus::Dead => (Icon::Failed, Token::Warn),
        RowStatus::Pending | RowStatus::Inflight => (Icon::Busy, Token::Plain),
        RowStatus::Aborted => (Icon::Attention, Token::Dim),
    };
    let mut line = Line::new()
        .icon(icon)
        .put(token, row.status.as_str())
        .put(Token::Plain, format!(" {}", row.id))
        .foreign(Token::Dim, &format!(" cid={}", row.client_message_id))
        .put(Token::Dim, format!(" attempts={}", row.attempts));
    if let Some(id) = &row.broker_message_id {
        line = line.foreign(Token::Dim, &format!(" → {id}"));
    }
    if let Some(error) = &row.last_error {
        line = line.foreign(Token::Warn, &format!(" last_error={error:?}"));
    }
    line
}

fn values(rows: &[OutboxItem]) -> Outcome<Vec<Value>> {
    let value = |row: &OutboxItem| serde_json::to_value(row);
    rows.iter().map(|row| value(row).map_err(|error| Failure::internal(&error))).collect()
}

fn row_failure(id: &str, error: IpcError) -> Failure {
    let failure = link::failure(error);
    if failure.code == ErrorCode::NotFound.as_str() {
        return Failure::not_found(format!("no row \"{id}\" in the outbox"))
            .action("claudemesh daemon outbox list");
    }
    failure
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const KIB: u64 = 1024;
    const MIB: u64 = KIB * KIB;
    match bytes {
        0..KIB => format!("{bytes} bytes"),
        KIB..MIB => format!("{} KiB", bytes / KIB),
        _ => format!("{} MiB", bytes / MIB),
    }
}
