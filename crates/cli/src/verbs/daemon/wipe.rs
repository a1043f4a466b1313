//! `daemon reset`, `daemon uninstall`: the daemon's state off this machine (daemon spec §20.3).

use claudemesh_daemon::care::{recover, wipe};
use claudemesh_daemon::home::config::{Config, MeshEntry};
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits;
use serde_json::{Value, json};

use super::life::{Stopped, stop};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{ResetArgs, UninstallArgs};
use crate::output::prompt::Default;
use crate::output::{Document, Fields, Report, Screen};
use crate::service::Manager;
use crate::verbs::backup::{counted, failure};
use crate::verbs::service;

/// Keys of `daemon reset`.
pub(super) const RESET_FIELDS: Fields = Fields { names: &["ok", "stopped", "queued"], id: "" };
/// Keys of `daemon uninstall`.
pub(super) const UNINSTALL_FIELDS: Fields =
    Fields { names: &["ok", "stopped", "units", "left", "not_left", "removed"], id: "" };
/// What is typed before keys are removed.
const TYPED: &str = "delete my keys";

/// `daemon reset`.
///
/// # Errors
/// Exit 4 when the daemon does not stop, 7 without consent, 10 for files.
pub(super) async fn reset(context: &Context, args: &ResetArgs) -> Outcome<Report> {
    let queued = recover::look(&context.paths).await.map_err(failure)?.queued.len();
    if !args.confirm {
        let lost = counted(queued, "queued message is", "queued messages are");
        let question = format!(
            "received messages and sessions are forgotten, and {lost} lost; memberships stay. Continue?"
        );
        context.consent(&question, Default::No)?;
    }
    let mut screen = Screen::new();
    let stopped = stop_it(context, &mut screen).await?;
    wipe::reset(&context.paths).await.map_err(failure)?;
    screen.done("messages, sessions and tokens of the daemon removed");
    screen.note("memberships, keys, settings and hooks stay");
    screen.hint("claudemesh daemon up");
    let document = json!({ "ok": true, "stopped": stopped, "queued": queued });
    Ok(Report::new(Document::object(document), screen))
}

/// `daemon uninstall`. What a broker does not answer in time is reported, and keeps nothing from going.
///
/// # Errors
/// Exit 1 when the person declines, 4 when the daemon does not stop, 7 when nobody can be asked, 10 for files.
pub(super) async fn uninstall(context: &Context, args: &UninstallArgs) -> Outcome<Report> {
    // Without memberships that can be read there is none to leave.
    let meshes: Vec<MeshEntry> = Config::read(&context.paths.membership_file())
        .map(|config| config.meshes().cloned().collect())
        .unwrap_or_default();
    agree(context, args, meshes.len())?;
    let mut screen = Screen::new();
    let mut units = Vec::new();
    let stopped = stop_it(context, &mut screen).await?;
    while let Some(manager) = Manager::installed(&context.environment) {
        let unit = manager.unit().display().to_string();
        service::remove(&manager).await?;
        screen.done(format!("removed {unit}"));
        units.push(unit);
    }
    // The manager may have started it again in between.
    stop_it(context, &mut screen).await?;
    let (mut left, mut not_left) = (Vec::new(), Vec::<Value>::new());
    for mesh in &meshes {
        let work = context.out.during("leaving", leave(context, mesh));
        match work.await {
            Ok(()) => {
                screen.done(format!("left {}", mesh.slug));
                left.push(mesh.slug.clone());
            }
            Err(why) => {
                screen.attention(format!("still a member of {}: {why}", mesh.slug));
                not_left.push(json!({ "mesh": mesh.slug, "reason": why }));
            }
        }
    }
    wipe::remove_daemon(&context.paths).await.map_err(failure)?;
    screen.done("the daemon's files removed");
    let mut removed = Vec::new();
    if args.purge_keys {
        removed = wipe::purge_keys(&context.paths).map_err(failure)?;
        screen.done("memberships and keys removed");
    } else if !meshes.is_empty() {
        screen.note("memberships and keys stay in config.json; --purge-keys removes them");
    }
    let removed: Vec<String> = removed.iter().map(|path| path.display().to_string()).collect();
    let document = json!({
        "ok": true, "stopped": stopped, "units": units, "left": left, "not_left": not_left,
        "removed": removed,
    });
    Ok(Report::new(Document::object(document), screen))
}

/// Asks; for the keys, words are typed that nobody types by accident, and no flag stands for them.
fn agree(context: &Context, args: &UninstallArgs, meshes: usize) -> Outcome<()> {
    if !args.purge_keys {
        let meshes = counted(meshes, "mesh is", "meshes are");
        let question = format!(
            "{meshes} left, and messages, sessions and service of the daemon are removed. Continue?"
        );
        return context.consent(&question, Default::No);
    }
    if !context.out.may_prompt() {
        return Err(Failure::new(ErrorCode::Forbidden, "keys are removed by a person only")
            .action(format!("type \"{TYPED}\" in a terminal")));
    }
    let typed = context.out.ask_text(&format!(
        "nobody can restore the keys of this machine. To go on, type \"{TYPED}\""
    ))?;
    if typed.trim() == TYPED {
        return Ok(());
    }
    Err(Failure::of_word("cancelled", "cancelled").exit(ExitCode::Cancelled))
}

async fn stop_it(context: &Context, screen: &mut Screen) -> Outcome<bool> {
    let stopping = stop(context, limits::DAEMON_STOP_BUDGET);
    let stopped = context.out.during("stopping the daemon", stopping).await?;
    let was_running = matches!(stopped, Stopped::Was(_));
    if was_running {
        screen.done("daemon stopped");
    }
    Ok(was_running)
}

/// Gives the membership up at its broker; why not.
async fn leave(context: &Context, mesh: &MeshEntry) -> Result<(), String> {
    let http = context.http(&mesh.broker_url).map_err(|failure| failure.message)?;
    let work = http.leave(&mesh.mesh_id, &mesh.member_id, &mesh.keys, Context::now());
    match tokio::time::timeout(limits::UNINSTALL_LEAVE_BUDGET, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(claudemesh_protocol::text::sanitized_line(&error.to_string(), 200)),
        Err(_) => Err(format!("no answer within {} s", limits::UNINSTALL_LEAVE_BUDGET.as_secs())),
    }
}
