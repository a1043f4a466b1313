//! `daemon rotate-token` (CLI spec §3.18, daemon spec §20.1). The new token is never printed: it stands in its file.

use serde_json::json;

use super::running;
use crate::context::Context;
use crate::failure::Outcome;
use crate::link;
use crate::output::{Document, Fields, Report, Screen};

/// Keys of the answer.
pub(super) const FIELDS: Fields =
    Fields { names: &["rotated", "rotated_at", "old_valid_until"], id: "" };

/// Runs the verb.
///
/// # Errors
/// Exit 4 when no daemon runs.
pub(super) async fn rotate(context: &Context) -> Outcome<Report> {
    let client = running(context).await?;
    let reply = client.rotate_token().await.map_err(link::failure)?;
    let mut screen = Screen::new();
    screen.done("local token rotated");
    screen.note("the old one is taken for another minute");
    let document = json!({
        "rotated": reply.rotated,
        "rotated_at": reply.rotated_at,
        "old_valid_until": reply.old_valid_until,
    });
    Ok(Report::new(Document::object(document), screen))
}
