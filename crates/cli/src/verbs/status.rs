//! `message status`: how far a message came (CLI spec §3.6).

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::error::ErrorCode;
use serde_json::{Map, Value};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link;
use crate::output::{Document, Fields, Line, Report, Screen, Token};
use crate::select::Several;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &["messageId", "targetSpec", "delivered", "deliveredAt", "recipients", "mesh"],
    id: "messageId",
};

/// Shortest id prefix, in characters (CLI spec §1.8).
const ID_MIN_CHARS: usize = 8;
/// Longest id, in characters: a client's own.
const ID_MAX_CHARS: usize = claudemesh_protocol::limits::CLIENT_MESSAGE_ID_MAX_CHARS;

/// Runs the verb.
///
/// # Errors
/// Exit 3 for something that is no id, exit 5 for an unknown one.
pub(crate) async fn run(context: &Context, id: &str) -> Outcome<Report> {
    check_id(&context.spoken, id)?;
    let config = context.config()?;
    let chosen = context.meshes(&config, Several::Aggregate).await?;
    let client = context.daemon_client().await?;
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
    let screen = screen(&map);
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
    if failure.code != "not_found" {
        return failure;
    }
    let is_prefix = id.len() < claudemesh_protocol::id::ROW_ID_CHARS;
    let what = if is_prefix { "no message whose id begins with" } else { "no message with id" };
    Failure::not_found(format!("{what} \"{id}\""))
}

fn screen(map: &Map<String, Value>) -> Screen {
    let text = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let whole = Value::Object(map.clone());
    let mut screen = Screen::new();
    let short: String = text(&whole, "messageId").chars().take(12).collect();
    screen.section(&format!("message {short}…"));
    let delivered = map.get("delivered").and_then(Value::as_bool).unwrap_or(false);
    let mut pairs = vec![
        ("target", text(&whole, "targetSpec")),
        ("delivered", if delivered { "yes" } else { "no" }.to_owned()),
    ];
    let at = text(&whole, "deliveredAt");
    if !at.is_empty() {
        pairs.push(("delivered at", at));
    }
    screen.pairs(&pairs);
    let recipients = map.get("recipients").and_then(Value::as_array);
    for recipient in recipients.into_iter().flatten() {
        let key: String = text(recipient, "pubkey").chars().take(12).collect();
        let state = match text(recipient, "state") {
            state if state.is_empty() => text(recipient, "status"),
            state => state,
        };
        let mut line = Line::new()
            .foreign(Token::Accent, &text(recipient, "name"))
            .put(Token::Dim, format!(" {key} · "))
            .foreign(Token::Plain, &state);
        if let Some(since) = Timestamp::parse_iso(&text(recipient, "since")) {
            line = line.put(Token::Dim, format!(" {}", age(since)));
        }
        let by: Vec<String> = ["assertedBy", "path"]
            .into_iter()
            .map(|key| text(recipient, key))
            .filter(|text| !text.is_empty())
            .collect();
        if !by.is_empty() {
            line = line.foreign(Token::Dim, &format!(" ({})", by.join(", ")));
        }
        let why = match text(recipient, "next") {
            next if next.is_empty() => text(recipient, "reason"),
            next => next,
        };
        if !why.is_empty() {
            line = line.foreign(Token::Plain, &format!(" — {why}"));
        }
        screen.line(line.cut());
    }
    screen
}

/// `12s`, `5m`, `3h`, `2d`.
fn age(since: Timestamp) -> String {
    let seconds = Context::now().since(since).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
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
