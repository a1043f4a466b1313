//! `daemon version` (CLI spec §3.18).

use serde_json::json;

use super::running;
use crate::context::Context;
use crate::failure::Outcome;
use crate::link;
use crate::output::{Document, Fields, Report, Screen};

/// Keys of the answer. The layout of the daemon directory is `schema.layout`: `schema_version` is that of this document.
pub(super) const FIELDS: Fields = Fields {
    names: &[
        "daemon_version",
        "ipc_api",
        "ipc_minor",
        "ipc_features",
        "schema",
        "pid",
        "started_at",
    ],
    id: "pid",
};

/// Runs the verb.
///
/// # Errors
/// Exit 4 when no daemon runs.
pub(super) async fn run(context: &Context) -> Outcome<Report> {
    let version = running(context).await?.version().await.map_err(link::failure)?;
    let mut screen = Screen::new();
    let (api, layout) = (&version.ipc_api, version.schema.layout);
    screen.line(crate::output::Line::new().put(
        crate::output::Token::Plain,
        format!("daemon {} (ipc {api}, schema {layout})", version.daemon_version),
    ));
    let document = json!({
        "daemon_version": version.daemon_version,
        "ipc_api": version.ipc_api,
        "ipc_minor": version.ipc_minor,
        "ipc_features": version.ipc_features,
        "schema": version.schema,
        "pid": version.pid,
        "started_at": version.started_at,
    });
    Ok(Report::new(Document::object(document), screen))
}
