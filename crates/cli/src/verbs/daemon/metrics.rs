//! `daemon metrics`: the figures as Prometheus reads them (CLI spec §3.18).

use super::running_with;
use crate::context::Context;
use crate::failure::Outcome;
use crate::link;
use crate::output::{Document, Fields, Report, Screen};

/// The text is the same with `--json`.
pub(super) const FIELDS: Fields = Fields { names: &[], id: "" };

/// Runs the verb.
///
/// # Errors
/// Exit 4 when no daemon runs, exit 5 when `metrics.prometheus` is off.
pub(super) async fn run(context: &Context) -> Outcome<Report> {
    let text = running_with(context, "metrics").await?.metrics().await.map_err(link::failure)?;
    Ok(Report::new(Document::Raw(text), Screen::new()))
}
