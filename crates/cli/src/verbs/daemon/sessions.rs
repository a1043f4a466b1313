//! `daemon sessions`: the agent sessions registered with the daemon (CLI spec §3.18).

use claudemesh_ipc::api::SessionView;
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::text::sanitized_line;
use serde_json::Value;

use super::running_with;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link;
use crate::output::{Document, Fields, Report, Screen, Side, Table};

/// Keys of a session (daemon spec §9.7).
pub(super) const FIELDS: Fields = Fields {
    names: &[
        "session_id",
        "mesh",
        "display_name",
        "pid",
        "cwd",
        "role",
        "groups",
        "message_mode",
        "caps",
        "session_pubkey",
        "member_pubkey",
        "broker_status",
        "registered_at",
        "token_prefix",
        "kind",
        "ambient",
        "status",
        "paths",
    ],
    id: "session_id",
};

/// Longest name and directory of a row, in characters.
const TEXT_MAX_CHARS: usize = 60;

/// Runs the verb; `--mesh` narrows the list.
///
/// # Errors
/// Exit 4 when no daemon runs.
pub(super) async fn run(context: &Context) -> Outcome<Report> {
    let mut sessions =
        running_with(context, "sessions").await?.sessions().await.map_err(link::failure)?;
    if let Some(mesh) = &context.global.mesh {
        sessions.retain(|session| session.mesh == *mesh);
    }
    sessions.sort_by(|left, right| {
        (&left.mesh, &left.display_name).cmp(&(&right.mesh, &right.display_name))
    });
    let rows: Outcome<Vec<Value>> = sessions
        .iter()
        .map(|session| serde_json::to_value(session).map_err(|error| Failure::internal(&error)))
        .collect();
    Ok(Report::new(Document::list(rows?), screen(&sessions)))
}

fn screen(sessions: &[SessionView]) -> Screen {
    let mut screen = Screen::new();
    if sessions.is_empty() {
        screen.note("(no sessions)");
        return screen;
    }
    let columns = [
        ("name", Side::Left),
        ("mesh", Side::Left),
        ("pid", Side::Right),
        ("directory", Side::Left),
        ("age", Side::Right),
    ];
    let mut table = Table::new(columns.map(|(name, side)| (name.to_owned(), side)).to_vec());
    for session in sessions {
        let age = Timestamp::parse_iso(&session.registered_at).map(Context::age_of);
        table.row(vec![
            sanitized_line(&session.display_name, TEXT_MAX_CHARS),
            session.mesh.clone(),
            session.pid.to_string(),
            sanitized_line(session.cwd.as_deref().unwrap_or_default(), TEXT_MAX_CHARS),
            age.unwrap_or_default(),
        ]);
    }
    screen.table(table);
    screen
}
