//! `backup`: memberships, keys and settings of this user in one encrypted file (CLI spec §6.10).

use std::path::{Path, PathBuf};

use claudemesh_crypto::backup::BackupError;
use claudemesh_daemon::care::CareError;
use claudemesh_daemon::care::backup::{self, Extras};
use claudemesh_daemon::home::file;
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::BackupArgs;
use crate::output::{Document, Fields, Line, Report, Screen, Token};
use crate::passphrase::Purpose;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &["ok", "path", "files", "bytes", "meshes", "with_inbox", "with_hooks", "created_at"],
    id: "path",
};

/// Runs the verb.
///
/// # Errors
/// Exit 3 for a short passphrase, 5 without memberships, 6 when the file exists, 10 for files.
pub(crate) async fn run(context: &Context, args: &BackupArgs) -> Outcome<Report> {
    let now = Context::now();
    let path = match &args.out {
        Some(path) => path.clone(),
        None => PathBuf::from(default_name(now)),
    };
    // Before anybody types anything; the writing itself makes sure.
    if std::fs::symlink_metadata(&path).is_ok() {
        return Err(exists(&path));
    }
    let meshes: Vec<String> = context.config()?.meshes().map(|mesh| mesh.slug.clone()).collect();
    let extras = Extras { inbox: args.with_inbox, hooks: args.with_hooks };
    let bundle = backup::collect(&context.paths, extras, now).await.map_err(failure)?;
    let passphrase = context.passphrase(&args.passphrase, Purpose::Protect)?;
    for reason in bundle.left_out() {
        context.out.warning(&format!("left out: {reason}"));
    }
    let files = bundle.files();
    let work = blocking(move || bundle.seal(&passphrase));
    let sealed = context.out.during("encrypting", work).await?;
    file::create_new(&path, &sealed, file::SECRET).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return exists(&path);
        }
        Failure::io(format!("cannot write {}", path.display()), &error)
    })?;
    let path = std::path::absolute(&path).unwrap_or(path);
    let mut screen = Screen::new();
    screen.done(format!("backed up {}", counted(meshes.len(), "mesh", "meshes")));
    let file = Line::new().indent(4);
    screen.line(file.put(Token::Code, path.display().to_string()));
    let mut with = vec!["memberships, keys, settings"];
    with.extend(args.with_inbox.then_some("inbox"));
    with.extend(args.with_hooks.then_some("hooks"));
    screen.note(format!("holds {}; opens with its passphrase only", with.join(", ")));
    let document = json!({
        "ok": true, "path": path.display().to_string(), "files": files, "bytes": sealed.len(),
        "meshes": meshes, "with_inbox": args.with_inbox, "with_hooks": args.with_hooks,
        "created_at": now.to_iso(),
    });
    Ok(Report::new(Document::object(document), screen))
}

/// `claudemesh-backup-2026-01-01T00-00-00-000Z.cmb`
fn default_name(now: Timestamp) -> String {
    format!("claudemesh-backup-{}.cmb", now.to_iso().replace([':', '.'], "-"))
}

fn exists(path: &Path) -> Failure {
    Failure::of_word("already_exists", format!("{} exists", path.display()))
        .exit(ExitCode::AlreadyExists)
        .detail("a backup never replaces a file")
        .action("pass another name with --out")
}

/// `1 mesh`, `2 meshes`
pub(crate) fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// Work that keeps a processor busy for a second.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CareError> + Send + 'static,
) -> Outcome<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(failure),
        Err(error) => Err(Failure::internal(&error)),
    }
}

/// What kept files from being cared for, as the command says it.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err, which gives the value")]
pub(crate) fn failure(error: CareError) -> Failure {
    let said = |code: ErrorCode| Failure::new(code, error.to_string());
    match &error {
        CareError::Container(BackupError::WeakPassphrase) => said(ErrorCode::WeakPassphrase),
        CareError::Container(BackupError::Authentication) => {
            said(ErrorCode::BackupAuth).detail("nothing was changed")
        }
        CareError::Container(_) => said(ErrorCode::BackupFormat).detail("nothing was changed"),
        CareError::Document(_) => said(ErrorCode::Io).detail("nothing was changed"),
        CareError::Newer(_) => said(ErrorCode::Io)
            .detail("nothing was changed")
            .action("restore it with the version that made it"),
        CareError::TooLarge => {
            said(ErrorCode::InvalidArgs).action("leave the received messages out: --with-inbox")
        }
        CareError::Nothing => said(ErrorCode::NotFound).action("claudemesh up"),
        CareError::DaemonRunning => said(ErrorCode::DaemonRunning).action("claudemesh daemon down"),
        _ => said(ErrorCode::Io).caused_by(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_is_a_name_everywhere() {
        let name = default_name(Timestamp::from_millis(1_767_225_600_123));
        assert_eq!(name, "claudemesh-backup-2026-01-01T00-00-00-123Z.cmb");
    }
}
