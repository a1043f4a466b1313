//! `restore`: puts a backup in place on this machine (CLI spec §6.10).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use claudemesh_crypto::backup::Header;
use claudemesh_daemon::care;
use claudemesh_daemon::care::bundle::{Bundle, Verified};
use claudemesh_daemon::care::restore::{self, Restored};
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits;
use serde_json::json;

use super::backup::{blocking, counted, failure};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::RestoreArgs;
use crate::output::prompt::Default;
use crate::output::{Document, Fields, Line, Report, Screen, Token};
use crate::passphrase::Purpose;
use crate::verbs::daemon;

/// Keys of the result.
pub(crate) const FIELDS: Fields =
    Fields { names: &["ok", "created_at", "meshes", "present", "files", "kept"], id: "" };
/// Bytes of a container around its document, and some.
const CONTAINER_BYTES: usize = 4096;

/// Runs the verb. Everything that can be known to be wrong is known before the first file is touched.
///
/// # Errors
/// Exit 2 for a wrong passphrase or a damaged file, 3 for no backup, 5 for no file, 6 while a daemon runs that may not be
/// stopped, 7 without consent, 10 for files.
pub(crate) async fn run(context: &Context, args: &RestoreArgs) -> Outcome<Report> {
    care::arm_crash_points();
    let container = read(&args.input)?;
    Header::read(&container).map_err(|error| failure(error.into()))?;
    let is_running = || care::is_daemon_running(&context.paths).map_err(failure);
    if is_running()? && !context.global.yes && !context.out.may_prompt() {
        return Err(failure(care::CareError::DaemonRunning));
    }
    let passphrase = context.passphrase(&args.passphrase, Purpose::Open)?;
    let work = blocking(move || Bundle::open(&container, &passphrase)?.verify());
    let verified = context.out.during("decrypting", work).await?;
    agree(context, args, &verified)?;
    if is_running()? {
        context.consent("a daemon is running. Stop it?", Default::Yes)?;
        daemon::stop(context, limits::DAEMON_STOP_BUDGET).await?;
    }
    let restored = if args.merge {
        restore::merge(&verified, &context.paths, Context::now()).await
    } else {
        restore::replace(&verified, &context.paths, Context::now()).await
    };
    let restored = restored.map_err(failure)?;
    if verified.names_its_host() && !args.merge {
        context.out.warning(
            "config.toml has clone.id_override: change it while the other machine is still in use",
        );
    }
    Ok(report(&verified, &restored))
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let fail = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Failure::not_found(format!("there is no file {}", path.display()));
        }
        Failure::io(format!("cannot read {}", path.display()), &error)
    };
    let most = limits::BACKUP_MAX_BYTES + CONTAINER_BYTES;
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(most as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > most {
        return Err(Failure::new(ErrorCode::BackupFormat, "the file is too large for a backup"));
    }
    Ok(bytes)
}

/// Says what will be there, and asks when something else is.
fn agree(context: &Context, args: &RestoreArgs, verified: &Verified) -> Outcome<()> {
    let names = verified.meshes().join(", ");
    context.out.notice(&format!("backup of {}: {names}", verified.created_at()));
    let has_config = std::fs::symlink_metadata(context.paths.membership_file()).is_ok();
    if args.merge || args.confirm || !has_config {
        return Ok(());
    }
    let question = format!(
        "the backup's memberships ({names}) take the place of those on this machine, which are kept beside them. Continue?"
    );
    context.consent(&question, Default::No)
}

fn report(verified: &Verified, restored: &Restored) -> Report {
    let kept: Vec<String> = restored.kept.iter().map(|path| path.display().to_string()).collect();
    let mut screen = Screen::new();
    if restored.meshes.is_empty() {
        screen.note("nothing to add: every mesh of the backup is joined here already");
    } else {
        let meshes = counted(restored.meshes.len(), "mesh", "meshes");
        screen.done(format!("restored {meshes}: {}", restored.meshes.join(", ")));
    }
    if !restored.present.is_empty() && !restored.meshes.is_empty() {
        screen.note(format!("joined here already: {}", restored.present.join(", ")));
    }
    if let Some(newest) = kept.last() {
        screen.note(match kept.len() {
            1 => "what was there before is kept as".to_owned(),
            count => format!("what was there before is kept, {count} files such as"),
        });
        screen.line(Line::new().indent(4).put(Token::Code, newest));
    }
    if !restored.meshes.is_empty() {
        screen.note("a daemon elsewhere with the same memberships gives way to this one");
        screen.hint("claudemesh daemon up");
    }
    let document = json!({
        "ok": true, "created_at": verified.created_at(), "meshes": restored.meshes,
        "present": restored.present, "files": restored.files, "kept": kept,
    });
    Report::new(Document::object(document), screen)
}
