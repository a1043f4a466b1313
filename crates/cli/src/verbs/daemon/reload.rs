//! `daemon reload`: applies what changed in `config.toml` and `config.json` (CLI spec §3.18).

use claudemesh_protocol::error::ExitCode;
use serde_json::json;

use super::running;
use crate::context::Context;
use crate::failure::Outcome;
use crate::link;
use crate::output::{Document, Fields, Report, Screen};

/// Keys of the answer.
pub(super) const FIELDS: Fields =
    Fields { names: &["ok", "applied", "needs_restart", "attached", "detached"], id: "" };

/// Runs the verb.
///
/// # Errors
/// Exit 3 for files that cannot be used, with their place; exit 4 when no daemon runs.
pub(super) async fn run(context: &Context) -> Outcome<Report> {
    let client = running(context).await?;
    let reply = context.out.during("reloading", client.reload()).await.map_err(|error| {
        let failure = link::failure(error);
        let is_refused = failure.code == "io_error";
        if is_refused { failure.exit(ExitCode::InvalidArgs) } else { failure }
    })?;
    let mut screen = Screen::new();
    screen.done("reloaded");
    let lists = [
        ("applied", &reply.applied),
        ("attached", &reply.attached),
        ("detached", &reply.detached),
        ("after a restart", &reply.needs_restart),
    ];
    let pairs: Vec<_> = lists
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| (name, list.join(", ")))
        .collect();
    screen.pairs(&pairs);
    if !reply.needs_restart.is_empty() {
        screen.hint("claudemesh daemon restart");
    }
    let document = json!({
        "ok": reply.ok,
        "applied": reply.applied,
        "needs_restart": reply.needs_restart,
        "attached": reply.attached,
        "detached": reply.detached,
    });
    Ok(Report::new(Document::object(document), screen))
}
