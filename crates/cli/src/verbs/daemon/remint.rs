//! `daemon remint`: this machine becomes a member of its own, and the one that its files were copied from stays what it is
//! (CLI spec §3.18, daemon spec §4.3). No daemon does it: the one that needs it does not start.
//!
//! What if the power goes between these two lines? The keys of the new member are kept with the invite from before it is
//! used, so that the same words go on with them. The machine is accepted last: until then no daemon starts that would send
//! what waits in the other machine's name.

use claudemesh_daemon::home::file::{self, FileLock};
use claudemesh_daemon::identity::{HostSources, accept_host};
use claudemesh_daemon::outbox::Outbox;
use claudemesh_daemon::settings::Settings;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use serde_json::Value;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::DaemonRemintArgs;
use crate::output::prompt::Default as Answer;
use crate::output::{Document, Fields, Report};
use crate::verbs::join;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &["mesh", "member_id", "old_prefix", "new_prefix", "aborted", "host_accepted"],
    id: "member_id",
};
/// What is written down about messages that are not sent.
const ABORTED_BY: &str = "remint";

/// Runs the verb.
///
/// # Errors
/// Exit 1 when the person says no; exit 5 for a mesh that is not joined; exit 6 while a daemon runs; exit 7 without an
/// invite or consent; and what a join can say.
pub(crate) async fn run(context: &Context, args: &DaemonRemintArgs) -> Outcome<Report> {
    let config = context.config()?;
    let joined: Vec<_> = config.meshes().map(|mesh| mesh.slug.as_str()).collect();
    let slug = chosen(context, &joined)?;
    let is_only = config.meshes().len() == 1;
    let Some(invite) = args.invite.as_deref() else {
        return Err(Failure::new(ErrorCode::Forbidden, "a new member needs an invite")
            .detail(format!("ask an admin of \"{slug}\" for one"))
            .action("claudemesh daemon remint --invite <invite>"));
    };
    let _no_daemon = hold(context)?;
    let question = format!(
        "what waits to be sent on \"{slug}\" is left to the other machine, and its sessions begin anew. \
         Become another member?"
    );
    context.consent(&question, Answer::No)?;
    let mut report = join::anew(context, invite, &slug).await?;
    let aborted = leave_to_the_other(context, &slug).await?;
    if is_only {
        accept(context)?;
    } else {
        report.screen.note("other meshes still have the keys of the other machine");
        report.screen.hint("then: claudemesh daemon accept-host");
    }
    if let Document::Object(map) = &mut report.document {
        map.insert("aborted".to_owned(), Value::from(aborted));
        map.insert("host_accepted".to_owned(), Value::from(is_only));
    }
    Ok(report)
}

/// The mesh of `--mesh`, or the only one.
fn chosen(context: &Context, joined: &[&str]) -> Outcome<String> {
    let none = || {
        Failure::new(ErrorCode::NoMesh, "no mesh is joined here").action("claudemesh join <invite>")
    };
    match (context.global.mesh.as_deref(), joined) {
        (_, []) => Err(none()),
        (Some(asked), joined) if joined.contains(&asked) => Ok(asked.to_owned()),
        (Some(asked), joined) => {
            let failure =
                Failure::new(ErrorCode::MeshNotAttached, format!("mesh \"{asked}\" not joined"));
            Err(failure
                .exit(ExitCode::NotFound)
                .detail(format!("joined: {}", joined.join(", ")))
                .action("claudemesh list"))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, joined) => Err(Failure::new(ErrorCode::MeshRequired, "which mesh?")
            .detail(format!("joined: {}", joined.join(", ")))
            .action("pass --mesh <slug>")),
    }
}

/// The daemon's own lock: none runs, and none starts meanwhile.
fn hold(context: &Context) -> Outcome<FileLock> {
    let (dir, lock) = (context.paths.daemon_dir(), context.paths.lock_file());
    let cannot = |error: &std::io::Error| Failure::io("cannot lock the daemon's files", error);
    file::create_private_dir(dir).map_err(|error| cannot(&error))?;
    FileLock::try_take(&lock).map_err(|error| cannot(&error))?.ok_or_else(|| {
        Failure::new(
            ErrorCode::DaemonRunning,
            "the daemon runs, with the keys of the other machine",
        )
        .action("claudemesh daemon down")
    })
}

/// What waits to be sent, and the keys of sessions, are the other machine's.
async fn leave_to_the_other(context: &Context, slug: &str) -> Outcome<u64> {
    let (outbox, now) = (context.paths.outbox_file(), Context::now());
    let mut aborted = 0;
    if outbox.exists() {
        let failed = |error: &dyn std::error::Error| {
            Failure::new(ErrorCode::Io, error.to_string()).caused_by(error)
        };
        let outbox = Outbox::open(&outbox, None, now).await.map_err(|error| failed(&error))?;
        let given_up = outbox.abort_mesh(slug, ABORTED_BY, now).await;
        outbox.close().await;
        aborted = given_up.map_err(|error| failed(&error))?;
    }
    let keys = context.paths.sessions_dir().join(slug);
    let kept =
        context.paths.sessions_dir().join(format!(".before-remint.{}.{slug}", now.as_millis()));
    match std::fs::rename(&keys, &kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::io(format!("cannot move {}", keys.display()), &error))
        }
        _ => Ok(aborted),
    }
}

fn accept(context: &Context) -> Outcome<()> {
    let settings = Settings::read(&context.paths.settings_file())
        .map_err(|error| Failure::new(ErrorCode::InvalidArgs, error.to_string()))?;
    let (dir, host) = (context.paths.daemon_dir(), HostSources::default());
    accept_host(dir, &settings.clone, &host, Context::now())
        .map_err(|error| Failure::new(ErrorCode::Io, error.to_string()).caused_by(&error))?;
    context.forget_failed_start();
    Ok(())
}
