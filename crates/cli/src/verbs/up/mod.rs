//! `up`: a working mesh on this machine with nothing else installed: broker, account, mesh, daemon. Every step first
//! looks whether it is done, so that it can be run at any time and after any crash (CLI spec §5.6).

use std::time::Duration;

use claudemesh_broker::data_dir::BrokerRecord;
use claudemesh_daemon::home::file::{self, FileLock};
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::UpArgs;
use crate::output::{Document, Fields, Report, Screen};

mod account;
pub(crate) mod broker;
mod foreground;
mod listen;
mod mesh;

use account::AccountState;
use listen::Listen;
use mesh::MeshState;

/// Keys of the result.
pub(crate) const FIELDS: Fields =
    Fields { names: &["ok", "broker", "daemon", "mesh", "account", "share_urls", "next"], id: "" };

/// Name of the first mesh.
const FIRST_MESH: &str = "home";
/// How long a second `up` waits for the first.
const LOCK_BUDGET: Duration = Duration::from_secs(30);
/// Step between two tries.
const LOCK_STEP: Duration = Duration::from_millis(20);
/// How long the daemon may take to its first connection.
const OPEN_BUDGET: Duration = Duration::from_secs(10);

/// What is said of the daemon.
pub(super) struct DaemonState {
    pid: u32,
    version: String,
    was_started: bool,
}

/// Runs the verb.
///
/// # Errors
/// By step: 10 files, 4 broker or daemon do not come up, 2 another user owns the account, 6 the mesh name is taken,
/// 7 a network address without `--insecure-http`.
pub(crate) async fn run(context: &Context, args: &UpArgs) -> Outcome<Report> {
    if args.foreground {
        return Box::pin(foreground::run(context, args)).await;
    }
    let dir = broker::data_dir(context)?;
    let _lock = context.out.during("waiting for another up", take_lock(&dir)).await?;
    let listen = Listen::decide(context, args, &dir)?;
    let before = listen::remembered(&dir);
    let broker =
        context.out.during("starting the broker", broker::ensure(context, &dir, &listen)).await?;
    let steps = Box::pin(after_broker(context, args, &dir, &broker.record)).await?;
    let (account, mesh) = (steps.account, steps.mesh);
    let daemon = daemon(context, &mesh.slug).await?;
    if listen.is_new_exposure(before.as_ref()) {
        warn_exposed(context);
    }
    Ok(report(&broker, &account, &mesh, &daemon))
}

/// Account and mesh, once the broker answers.
pub(super) struct Steps {
    account: AccountState,
    mesh: MeshState,
}

pub(super) async fn after_broker(
    context: &Context,
    args: &UpArgs,
    dir: &std::path::Path,
    record: &BrokerRecord,
) -> Outcome<Steps> {
    let http = context.http(&record.url)?;
    let name = person_or(context, args.name.as_deref())?;
    let work = account::ensure(context, &http, dir, record, &name);
    let account = context.out.during("signing in", work).await?;
    let mesh_name = context.global.mesh.as_deref().unwrap_or(FIRST_MESH);
    let work = mesh::ensure(context, &http, &account, record, mesh_name);
    let mesh = context.out.during("making the mesh", work).await?;
    Ok(Steps { account, mesh })
}

/// Only one `up` works on a data directory; a second waits and then finds everything done.
async fn take_lock(dir: &std::path::Path) -> Outcome<FileLock> {
    let path = dir.join("up.lock");
    let fail =
        |error: &std::io::Error| Failure::io(format!("cannot lock {}", path.display()), error);
    file::create_private_dir(dir).map_err(|error| fail(&error))?;
    let deadline = Instant::now() + LOCK_BUDGET;
    loop {
        if let Some(lock) = FileLock::try_take(&path).map_err(|error| fail(&error))? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(ErrorCode::Timeout, "another claudemesh up does not finish")
                .exit(ExitCode::Io)
                .detail(path.display().to_string()));
        }
        sleep(LOCK_STEP).await;
    }
}

/// The daemon, connected to the mesh.
async fn daemon(context: &Context, slug: &str) -> Outcome<DaemonState> {
    context.forget_failed_start();
    let running = match context.probe().await? {
        crate::link::Probe::Up(version) => {
            let client = context.client()?;
            // A daemon that ran before reads the new membership; it would also find it by watching the file.
            let _ = client.reload().await;
            crate::link::Running { client, version: *version, was_started: false }
        }
        _ => context.out.during("starting the daemon", context.start_daemon_with(&[])).await?,
    };
    let work = crate::attach::wait_until_open(&running.client, slug, OPEN_BUDGET);
    context.out.during("connecting", work).await.map_err(|status| {
        let status = status.map_or("unknown", claudemesh_ipc::api::MeshStatus::as_str);
        Failure::new(
            ErrorCode::BrokerUnavailable,
            format!("the daemon does not connect to \"{slug}\" ({status})"),
        )
        .action("claudemesh daemon status")
    })?;
    Ok(DaemonState {
        pid: running.version.pid,
        version: running.version.daemon_version,
        was_started: running.was_started,
    })
}

fn warn_exposed(context: &Context) {
    context
        .out
        .warning("without TLS others on the network can see who talks to whom, and sign-in tokens");
    context
        .out
        .notice("message bodies stay encrypted; the others need CLAUDEMESH_ALLOW_INSECURE=1");
}

pub(super) fn report(
    broker: &broker::Found,
    account: &AccountState,
    mesh: &MeshState,
    daemon: &DaemonState,
) -> Report {
    let record = &broker.record;
    let can_others_join = !record.share_urls.is_empty();
    let mut screen = Screen::new();
    let role = if mesh.is_owner { " (owner)" } else { "" };
    let name = claudemesh_protocol::text::sanitized_line(&account.user.display_name, 60);
    screen.done(format!("broker     {} (pid {})", record.url, record.pid));
    screen.done(format!("daemon     running (pid {})", daemon.pid));
    screen.done(format!("mesh       {} — you are {name}{role}", mesh.slug));
    for url in &record.share_urls {
        screen.note(format!("  others     {url}"));
    }
    let next = if can_others_join { "claudemesh share" } else { "claudemesh up --listen <addr>" };
    screen.hint(if can_others_join {
        "invite someone: claudemesh share".to_owned()
    } else {
        "invite someone on this machine: claudemesh share; on others: claudemesh up --listen <addr> first".to_owned()
    });
    let document = json!({
        "ok": true,
        "broker": {
            "url": record.url, "ws_url": record.ws_url, "pid": record.pid, "listen": record.listen,
            "version": record.version, "started": broker.was_started,
        },
        "daemon": { "pid": daemon.pid, "version": daemon.version, "started": daemon.was_started },
        "mesh": {
            "slug": mesh.slug, "mesh_id": mesh.mesh_id, "member_id": mesh.member_id, "created": mesh.was_created,
        },
        "account": {
            "id": account.user.id, "display_name": account.user.display_name, "created": account.was_created,
        },
        "share_urls": record.share_urls.iter().map(|url| Value::from(url.as_str())).collect::<Vec<_>>(),
        "next": next,
    });
    Report::new(Document::object(document), screen)
}

/// `--name`, else the person.
fn person_or(context: &Context, asked: Option<&str>) -> Outcome<String> {
    let Some(asked) = asked else { return Ok(person(&context.environment)) };
    claudemesh_protocol::text::display_name(asked, limits::MEMBER_NAME_MAX_CHARS).map_err(|error| {
        Failure::invalid(format!("{}: --name", context.spoken)).detail(error.to_string())
    })
}

/// The OS user's full name, else the user name (CLI spec §5.6).
pub(crate) fn person(environment: &Environment) -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = full_name(&passwd, &uid)
        .or_else(|| environment.user.clone())
        .or_else(|| login(&passwd, &uid))
        .unwrap_or_else(|| "me".to_owned());
    claudemesh_protocol::text::display_name(&name, limits::MEMBER_NAME_MAX_CHARS)
        .unwrap_or_else(|_| "me".to_owned())
}

/// The user name of the line with this user id; for environments without `USER`, such as service units.
fn login(passwd: &str, uid: &str) -> Option<String> {
    line_of(passwd, uid)?.split(':').next().map(str::to_owned)
}

fn line_of<'a>(passwd: &'a str, uid: &str) -> Option<&'a str> {
    passwd.lines().find(|line| line.split(':').nth(2) == Some(uid))
}

/// First part of the comment field of the line with this user id; system accounts name themselves there.
fn full_name(passwd: &str, uid: &str) -> Option<String> {
    let line = line_of(passwd, uid)?;
    let login = line.split(':').next()?;
    let name = line.split(':').nth(4)?.split(',').next()?.trim();
    let is_person = !name.is_empty() && name.to_ascii_lowercase() != login;
    is_person.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_name_comes_from_the_comment_field() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nana:x:1000:1000:Ana Lima,Room 1:/home/ana:/bin/sh\n\
            bob:x:1001:1001::/home/bob:/bin/sh\n";
        assert_eq!(full_name(passwd, "1000"), Some("Ana Lima".to_owned()));
        assert_eq!(full_name(passwd, "0"), None);
        assert_eq!(full_name(passwd, "1001"), None);
        assert_eq!(full_name(passwd, "7"), None);
    }
}
