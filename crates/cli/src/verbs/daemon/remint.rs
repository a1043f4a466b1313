//! `daemon remint`: this machine becomes a member of its own, and the one that its files were copied from stays what it is
//! (CLI spec §3.18, daemon spec §4.3). No daemon does it: the one that needs it does not start.
//!
//! Without `--invite` the machine makes one for itself, with the key that it is about to give up: that member may invite,
//! or it asks somebody who may.
//!
//! What if the power goes between these two lines? The new keys are kept from before they are used until the mesh is done,
//! so that the same words go on with them, also with another invite of their own. The machine is accepted last: until then
//! no daemon starts that would send what waits in the other machine's name.

use claudemesh_daemon::care;
use claudemesh_daemon::home::config::MeshEntry;
use claudemesh_daemon::home::file::{self, FileLock};
use claudemesh_daemon::identity::{HostSources, accept_host, host_fingerprint};
use claudemesh_daemon::outbox::Outbox;
use claudemesh_daemon::settings::Settings;
use claudemesh_protocol::account::InviteCreateRequest;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits::REMINT_INVITE_TTL;
use claudemesh_protocol::status::MemberRole;
use serde_json::Value;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::DaemonRemintArgs;
use crate::output::prompt::Default as Answer;
use crate::output::{Document, Fields, Report, Screen};
use crate::verbs::join::{self, Anew};
use crate::verbs::share;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &["mesh", "member_id", "old_prefix", "new_prefix", "aborted", "host_accepted"],
    id: "member_id",
};
/// What is written down about messages that are not sent.
const ABORTED_BY: &str = "remint";
/// Characters of a fingerprint that tell the machines of one person apart.
const MACHINE_CHARS: usize = 16;

/// Runs the verb: the mesh of `--mesh`, the one that an invite leads to, or one after the other.
///
/// # Errors
/// Exit 1 when the person says no; exit 5 for a mesh that is not joined; exit 6 while a daemon runs; exit 7 without consent,
/// and without an invite where the member may not make one; and what a join can say.
pub(crate) async fn run(context: &Context, args: &DaemonRemintArgs) -> Outcome<Report> {
    care::arm_crash_points();
    let config = context.config()?;
    let joined: Vec<&MeshEntry> = config.meshes().collect();
    let chosen = chosen(context, &joined, args.invite.is_some())?;
    let is_every = chosen.len() == config.meshes().len();
    let _no_daemon = hold(context)?;
    context.consent(&question(&chosen), Answer::No)?;
    let settings = Settings::read(&context.paths.settings_file())
        .map_err(|error| Failure::new(ErrorCode::InvalidArgs, error.to_string()))?;
    let mut screen = Screen::new();
    let (mut rows, mut kept) = (Vec::new(), Vec::new());
    for mesh in &chosen {
        let done = match args.invite.as_deref() {
            Some(invite) => by_invite(context, mesh, invite).await?,
            None => by_own_invite(context, mesh, &settings).await?,
        };
        let aborted = leave_to_the_other(context, &mesh.slug).await?;
        screen.append(done.report.screen);
        if let Document::Object(mut row) = done.report.document {
            row.insert("aborted".to_owned(), Value::from(aborted));
            rows.push(row);
        }
        kept.push(done.kept_as);
    }
    if is_every {
        accept(context, &settings)?;
    }
    kept.iter().try_for_each(|kept_as| join::forget(context, kept_as))?;
    if !is_every {
        screen.note("other meshes still have the keys of the other machine");
        screen.hint("then: claudemesh daemon accept-host");
    }
    for row in &mut rows {
        row.insert("host_accepted".to_owned(), Value::from(is_every));
    }
    let is_one = chosen.len() == 1;
    let document = match rows.pop() {
        Some(row) if is_one => Document::Object(row),
        last => Document::list(rows.into_iter().chain(last).map(Value::Object).collect()),
    };
    Ok(Report::new(document, screen))
}

/// The mesh of `--mesh`, else all; an invite leads to one.
fn chosen(
    context: &Context,
    joined: &[&MeshEntry],
    is_one_wanted: bool,
) -> Outcome<Vec<MeshEntry>> {
    let names = || joined.iter().map(|mesh| mesh.slug.as_str()).collect::<Vec<_>>().join(", ");
    match (context.global.mesh.as_deref(), joined) {
        (_, []) => Err(Failure::new(ErrorCode::NoMesh, "no mesh is joined here")
            .action("claudemesh join <invite>")),
        (Some(asked), joined) => {
            let found = joined.iter().find(|mesh| mesh.slug == asked);
            found.map(|mesh| vec![(*mesh).clone()]).ok_or_else(|| {
                let message = format!("mesh \"{asked}\" not joined");
                Failure::new(ErrorCode::MeshNotAttached, message)
                    .exit(ExitCode::NotFound)
                    .detail(format!("joined: {}", names()))
                    .action("claudemesh list")
            })
        }
        (None, [_, _, ..]) if is_one_wanted => {
            Err(Failure::new(ErrorCode::MeshRequired, "which mesh does the invite lead to?")
                .detail(format!("joined: {}", names()))
                .action("pass --mesh <slug>"))
        }
        (None, joined) => Ok(joined.iter().map(|mesh| (*mesh).clone()).collect()),
    }
}

fn question(meshes: &[MeshEntry]) -> String {
    let names: Vec<_> = meshes.iter().map(|mesh| format!("\"{}\"", mesh.slug)).collect();
    let (names, whose) = (names.join(", "), if meshes.len() == 1 { "its" } else { "their" });
    format!(
        "what waits to be sent on {names} is left to the other machine, and {whose} sessions begin anew. \
         Become another member?"
    )
}

/// A mesh that has its new member.
struct Done {
    /// What to say.
    report: Report,
    /// What the new keys are kept under.
    kept_as: String,
}

async fn by_invite(context: &Context, mesh: &MeshEntry, invite: &str) -> Outcome<Done> {
    let by = Anew::Given(invite);
    let kept_as = by.kept_as(context)?;
    Ok(Done { report: join::anew(context, by, &mesh.slug).await?, kept_as })
}

/// By an invite that the member this machine still is makes for one use.
async fn by_own_invite(context: &Context, mesh: &MeshEntry, settings: &Settings) -> Outcome<Done> {
    let (dir, host) = (context.paths.daemon_dir(), HostSources::default());
    let machine = host_fingerprint(dir, &settings.clone, &host);
    // Files that are copied on to a third machine must not make it the second one.
    let machine: String = machine.chars().take(MACHINE_CHARS).collect();
    let kept_as = format!("remint-{}-{machine}", mesh.mesh_id);
    if let Some(report) = join::already_anew(context, &kept_as, mesh)? {
        return Ok(Done { report, kept_as });
    }
    let request = InviteCreateRequest {
        email: None,
        role: Some(MemberRole::Member),
        expires_in: i64::try_from(REMINT_INVITE_TTL.as_secs()).ok(),
        max_uses: Some(1),
        preset: None,
    };
    let made = share::make(context, mesh, &request).await.map_err(|failure| {
        if failure.exit != ExitCode::PermissionDenied as u8 {
            return failure;
        }
        failure
            .detail("or an admin makes an invite: claudemesh share")
            .action("claudemesh daemon remint --invite <invite>")
    })?;
    let server = context.environment.broker_http.as_deref().unwrap_or(&mesh.broker_url);
    let server = context.http(server)?.base().to_owned();
    let by = Anew::Own { code: &made.code, server: &server, kept_as: &kept_as };
    Ok(Done { report: join::anew(context, by, &mesh.slug).await?, kept_as })
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

fn accept(context: &Context, settings: &Settings) -> Outcome<()> {
    let (dir, host) = (context.paths.daemon_dir(), HostSources::default());
    accept_host(dir, &settings.clone, &host, Context::now())
        .map_err(|error| Failure::new(ErrorCode::Io, error.to_string()).caused_by(&error))?;
    context.forget_failed_start();
    Ok(())
}
