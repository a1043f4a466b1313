//! `inbox search`, also `daemon search`: messages by their words (CLI spec §3.6, §3.18).

use claudemesh_ipc::api::inbox::{Found, SearchQuery};
use claudemesh_protocol::Timestamp;
use serde_json::Value;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::InboxSearchArgs;
use crate::link;
use crate::output::{Document, Fields, Line, Report, Screen, Token};
use crate::select::Several;
use crate::verbs::inbox::{self, message_keys};

/// Keys of a finding: those of a message, the place, and how well it fits.
pub(crate) const FIELDS: Fields = Fields { names: message_keys!("snippet", "rank"), id: "id" };

/// Findings of one page of the local API.
const PAGE: u32 = 200;

/// Runs the verb. Nothing is marked as read.
///
/// # Errors
/// Exit 3 without a word; exit 4 without a daemon; exit 5 when the inbox has no index.
pub(crate) async fn run(context: &Context, args: &InboxSearchArgs) -> Outcome<Report> {
    let words = args.words.join(" ");
    if words.trim().is_empty() {
        return Err(Failure::invalid("nothing to search for")
            .detail("expected: one or more words, such as: inbox search build red"));
    }
    let config = context.config()?;
    let chosen = context.meshes(&config, Several::Aggregate).await?;
    context.admit(chosen.slugs(), None).await?;
    let client = context.daemon_with("search").await?;
    let wanted = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut query =
        SearchQuery { q: words, mesh: chosen.one().map(str::to_owned), ..SearchQuery::default() };
    let mut found: Vec<Found> = Vec::new();
    while found.len() < wanted {
        let left = u32::try_from(wanted - found.len()).unwrap_or(PAGE);
        query.limit = Some(left.min(PAGE));
        let page = context.out.during("searching", client.inbox_search(&query)).await;
        let page = page.map_err(link::failure)?;
        found.extend(page.items);
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    let rows: Outcome<Vec<Value>> = found
        .iter()
        .map(|found| serde_json::to_value(found).map_err(|error| Failure::internal(&error)))
        .collect();
    let screen = screen(&found, chosen.one(), Context::now());
    Ok(Report::new(Document::list(rows?), screen))
}

fn screen(found: &[Found], mesh: Option<&str>, now: Timestamp) -> Screen {
    let mut screen = Screen::new();
    let place = mesh.map(|mesh| format!(" — {mesh}")).unwrap_or_default();
    let plural = if found.len() == 1 { "message" } else { "messages" };
    screen.section(&format!("found{place} ({} {plural})", found.len()));
    if found.is_empty() {
        screen.note("(no messages)");
    }
    for found in found {
        screen.line(inbox::head(&found.item, mesh.is_none(), now));
        let snippet = claudemesh_protocol::text::sanitized(&found.snippet).replace('\n', " ");
        screen.line(Line::new().indent(4).put(Token::Plain, snippet.replace('\t', " ")));
    }
    screen
}
