//! `daemon accept-host`: this machine takes the place of the one that the files were made on (CLI spec §3.18, daemon spec §4.3).

use claudemesh_daemon::identity::{AcceptError, HostSources, accept_host};
use claudemesh_daemon::settings::Settings;
use claudemesh_protocol::error::ErrorCode;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{Document, Fields, Report, Screen};

/// Keys of the result.
pub(crate) const FIELDS: Fields =
    Fields { names: &["ok", "fingerprint_prefix"], id: "fingerprint_prefix" };
/// Characters of the fingerprint that are shown.
const SHOWN_CHARS: usize = 16;

/// Runs the verb. It writes the file itself: the daemon that needs it does not start.
///
/// # Errors
/// Exit 3 for a bad `config.toml`, exit 10 when the record cannot be written.
pub(crate) fn accept(context: &Context) -> Outcome<Report> {
    let settings = Settings::read(&context.paths.settings_file())
        .map_err(|error| Failure::new(ErrorCode::InvalidArgs, error.to_string()))?;
    let (dir, host) = (context.paths.daemon_dir(), HostSources::default());
    let fingerprint = accept_host(dir, &settings.clone, &host, Context::now())
        .map_err(|error| refused(&error))?;
    // A daemon that was refused a moment ago may be started at once.
    context.forget_failed_start();
    let prefix: String = fingerprint.chars().take(SHOWN_CHARS).collect();
    let mut screen = Screen::new();
    screen.done(format!("host fingerprint accepted {prefix}"));
    let document = json!({ "ok": true, "fingerprint_prefix": prefix });
    Ok(Report::new(Document::object(document), screen))
}

fn refused(error: &AcceptError) -> Failure {
    Failure::new(ErrorCode::Io, error.to_string()).caused_by(error)
}
