//! `peer unblock-loop`: a person lets two sessions talk again that the loop guard stopped (CLI spec §3.4).

use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link;
use crate::output::{Document, Fields, Report, Screen};
use crate::select::Several;
use crate::verbs::person;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields { names: &["peer", "name", "lifted", "mesh"], id: "peer" };

/// Longest name in the answer, in characters.
const NAME_MAX_CHARS: usize = 60;

/// Runs the verb.
///
/// # Errors
/// Exit 5 for an unknown peer, exit 7 without a terminal: an agent that could lift its own stop would have none.
pub(crate) async fn run(context: &Context, peer: &str) -> Outcome<Report> {
    if !context.environment.stdin_is_terminal {
        return Err(Failure::new(
            ErrorCode::Forbidden,
            "a stopped loop is lifted by a person at a terminal",
        )
        .action(format!("claudemesh peer unblock-loop {peer}   (in a terminal of your own)")));
    }
    let config = context.config()?;
    let chosen = context.meshes(&config, Several::Aggregate).await?;
    context.admit(chosen.slugs(), Some(peer)).await?;
    let client = context.client_of(OperationKind::PeerUnblockLoop).await?;
    let work = settled(&client, async || {
        client.unblock_loop(chosen.one(), peer).await.map_err(link::failure)
    });
    let reply = context.out.during("lifting", work).await;
    let reply = reply.map_err(|failure| person::refused(peer, chosen.one(), failure))?;
    let map = match reply.result {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let name = map.get("name").and_then(Value::as_str).unwrap_or(peer);
    let name = claudemesh_protocol::text::sanitized_line(name, NAME_MAX_CHARS);
    let mut screen = Screen::new();
    if map.get("lifted").and_then(Value::as_bool) == Some(true) {
        screen.done(format!("loop stop with {name} lifted"));
    } else {
        screen.note(format!("no loop stop with {name}"));
    }
    Ok(Report::new(Document::Object(map), screen))
}
