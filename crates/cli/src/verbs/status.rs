//! `message status`: how far a message came (CLI spec §3.6).

use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::ops::OperationKind;
use claudemesh_protocol::{PublicKey, Timestamp};
use serde_json::{Map, Value};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link;
use crate::output::{Document, Fields, Report, Screen};
use crate::select::Several;

mod wording;

use wording::Told;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "messageId",
        "targetSpec",
        "targetName",
        "delivered",
        "deliveredAt",
        "recipients",
        "mesh",
        "live",
        "outbox",
    ],
    id: "messageId",
};

/// Shortest id prefix, in characters (CLI spec §1.8).
const ID_MIN_CHARS: usize = 8;
/// Longest id, in characters: a client's own.
const ID_MAX_CHARS: usize = claudemesh_protocol::limits::CLIENT_MESSAGE_ID_MAX_CHARS;

/// Characters of an id and of a key on the screen.
const ID_SHOWN_CHARS: usize = 12;
const KEY_SHOWN_CHARS: usize = 12;
/// Longest name on the screen, in characters.
const NAME_MAX_CHARS: usize = 60;

/// Runs the verb.
///
/// # Errors
/// Exit 3 for something that is no id, exit 5 for an unknown one.
pub(crate) async fn run(context: &Context, id: &str) -> Outcome<Report> {
    check_id(&context.spoken, id)?;
    let config = context.config()?;
    let chosen = context.meshes(&config, Several::Aggregate).await?;
    context.admit(chosen.slugs(), Some(id)).await?;
    let client = context.client_of(OperationKind::MessageStatus).await?;
    let work = settled(&client, async || {
        client.message_status(chosen.one(), id).await.map_err(link::failure)
    });
    let reply =
        context.out.during("asking", work).await.map_err(|failure| unknown_id(id, failure))?;
    let mut map = match reply.result {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    if let Some(mesh) = reply.mesh {
        map.entry("mesh").or_insert_with(|| Value::from(mesh));
    }
    let screen = screen(id, &map);
    Ok(Report::new(Document::Object(map), screen))
}

/// 8 to 128 characters of an id alphabet; UUIDs with dashes are fine.
pub(crate) fn check_id(verb: &str, id: &str) -> Outcome<()> {
    let length = id.chars().count();
    let why = if length < ID_MIN_CHARS {
        format!("id is {length} chars, needs ≥{ID_MIN_CHARS}")
    } else if length > ID_MAX_CHARS {
        format!("id is {length} chars, at most {ID_MAX_CHARS}")
    } else if !id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
    {
        "id has other characters than letters, digits and -_.:".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::new(ErrorCode::InvalidArgs, format!("{verb} \"{id}\""))
        .detail(why)
        .with("field", "id"))
}

fn unknown_id(id: &str, failure: Failure) -> Failure {
    if failure.code == "ambiguous_prefix" && failure.action.is_none() {
        return failure.action("claudemesh message status <more of the id>");
    }
    if failure.code != "not_found" {
        return failure;
    }
    let is_prefix = id.len() < claudemesh_protocol::id::ROW_ID_CHARS;
    let what = if is_prefix { "no message whose id begins with" } else { "no message with id" };
    Failure::not_found(format!("{what} \"{id}\""))
}

pub(super) fn screen(asked: &str, map: &Map<String, Value>) -> Screen {
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut screen = Screen::new();
    let id = Some(text("messageId")).filter(|id| !id.is_empty()).unwrap_or(asked);
    let short: String = id.chars().take(ID_SHOWN_CHARS).collect();
    screen.section(&format!("message {short}…"));
    let target = target(text("targetName"), text("targetSpec"));
    let is_delivered = map.get("delivered").and_then(Value::as_bool).unwrap_or(false);
    let mut pairs =
        vec![("target", target), ("delivered", if is_delivered { "yes" } else { "no" }.to_owned())];
    if let Some(at) = Timestamp::parse_iso(text("deliveredAt")) {
        pairs.push(("delivered at", format!("{} ({} ago)", at.to_iso(), Context::age_of(at))));
    }
    screen.pairs(&pairs);
    screen.blank();
    let said = map.get("outbox").and_then(|row| row.get("last_error")).and_then(Value::as_str);
    let recipients = map.get("recipients").and_then(Value::as_array);
    for recipient in recipients.into_iter().flatten() {
        Told::read(recipient, said).show(&mut screen, Context::now());
    }
    let is_last_word = map.get("live").and_then(Value::as_bool) == Some(false)
        && map.get("messageId").is_some_and(Value::is_string);
    if is_last_word {
        screen.blank();
        screen.attention("the broker cannot be reached: this is the last that was reported here");
    }
    screen
}

/// A name and the beginning of its key; a group as it is written.
fn target(name: &str, spec: &str) -> String {
    if spec.parse::<PublicKey>().is_err() {
        return claudemesh_protocol::text::sanitized_line(spec, NAME_MAX_CHARS);
    }
    let key: String = spec.chars().take(KEY_SHOWN_CHARS).collect();
    match name {
        "" => format!("{key}… (name not known here)"),
        name => {
            format!("{} {key}", claudemesh_protocol::text::sanitized_line(name, NAME_MAX_CHARS))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_foreign_ids_are_refused() {
        let failure = check_id("msg-status", "abc").unwrap_err();
        assert_eq!(
            (failure.exit, failure.details),
            (3, vec!["id is 3 chars, needs ≥8".to_owned()])
        );
        assert_eq!(check_id("msg-status", "abc/defgh").unwrap_err().exit, 3);
        assert!(check_id("msg-status", "0190f3a2-1111-7000-8000-000000000000").is_ok());
        assert!(check_id("msg-status", "abcdefgh").is_ok());
    }
}
