//! `daemon events`: what happens, one line each, as it happens (CLI spec §3.18).

use claudemesh_ipc::api::{Event, EventScope, EventsQuery};
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::text::sanitized_line;
use serde_json::{Map, Value, json};

use super::running_with;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::DaemonEventsArgs;
use crate::link;
use crate::output::{Document, Fields, Line, Report, Screen, Token};
use crate::verbs::inbox::clock;

/// Keys of a line.
pub(super) const FIELDS: Fields = Fields { names: &["id", "kind", "ts", "mesh", "data"], id: "id" };

/// Longest value of a field, in characters.
const VALUE_MAX_CHARS: usize = 60;
/// Fields that stand elsewhere on the line, or say nothing to a person.
const NOT_SHOWN: [&str; 2] = ["ts", "mesh"];

/// Prints events until nobody reads them any more.
///
/// # Errors
/// Exit 4 when no daemon runs, and when it ends.
pub(super) async fn run(context: &Context, args: &DaemonEventsArgs) -> Outcome<Report> {
    let in_session = context.environment.in_session;
    let query = EventsQuery {
        // A session sees its own.
        scope: (!in_session).then_some(EventScope::All),
        mesh: context.global.mesh.clone(),
        kinds: args.kind.clone(),
    };
    let client = running_with(context, "events").await?;
    let mut events = client.events(&query, None).await.map_err(link::failure)?;
    while let Some(event) = events.next().await.map_err(link::failure)? {
        if !context.out.item(&report(&event), FIELDS) {
            return Ok(Report::new(Document::Raw(String::new()), Screen::new()));
        }
    }
    Err(Failure::new(ErrorCode::DaemonUnreachable, "the daemon ended")
        .action("claudemesh daemon status"))
}

fn report(event: &Event) -> Report {
    let text = |name: &str| event.data.get(name).and_then(Value::as_str).unwrap_or_default();
    let document = json!({
        "id": event.id,
        "kind": event.kind.as_str(),
        "ts": event.data.get("ts"),
        "mesh": event.data.get("mesh"),
        "data": event.data,
    });
    let now = Context::now();
    let at = Timestamp::parse_iso(text("ts")).map(|at| clock(at, now)).unwrap_or_default();
    let mut line = Line::new().put(Token::Dim, at).put(Token::Plain, " ");
    line = line.foreign(Token::Accent, event.kind.as_str());
    if !text("mesh").is_empty() {
        line = line.foreign(Token::Dim, &format!(" [{}]", text("mesh")));
    }
    for (name, value) in event.data.as_object().into_iter().flat_map(fields) {
        line = line.put(Token::Dim, format!(" {name}=")).put(Token::Plain, value);
    }
    let mut screen = Screen::new();
    screen.line(line.cut());
    Report::new(Document::object(document), screen)
}

/// What fits a line: texts, numbers, words.
fn fields(data: &Map<String, Value>) -> impl Iterator<Item = (&String, String)> {
    data.iter().filter(|(name, _)| !NOT_SHOWN.contains(&name.as_str())).filter_map(
        |(name, value)| {
            let text = match value {
                Value::String(text) if !text.is_empty() => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(true) => "true".to_owned(),
                _ => return None,
            };
            Some((name, sanitized_line(&text, VALUE_MAX_CHARS)))
        },
    )
}
