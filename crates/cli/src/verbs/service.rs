//! `daemon install-service`, `daemon uninstall-service`: the daemon under the service manager of this system (CLI spec
//! §6.2, daemon spec §21).

use std::path::Path;
use std::time::Duration;

use claudemesh_daemon::care;
use claudemesh_daemon::home::file::{self, Symlinks};
use claudemesh_daemon::service::Plan;
use claudemesh_ipc::api::{Health, MeshStatus};
use claudemesh_ipc::{Client, Paths, env};
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::InstallServiceArgs;
use crate::output::{Document, Fields, Line, Report, Screen, Token};
use crate::service::{Manager, Order, is_passing, lasting_path};
use crate::verbs::daemon;

/// Keys of `install-service`.
pub(crate) const INSTALL_FIELDS: Fields = Fields {
    names: &["platform", "unitPath", "bootCommand", "connected", "meshes"],
    id: "unitPath",
};
/// Keys of `uninstall-service`.
pub(crate) const UNINSTALL_FIELDS: Fields =
    Fields { names: &["platform", "removed"], id: "platform" };
/// Between two looks at a daemon that is starting.
const STEP: Duration = Duration::from_millis(150);
/// Users of the system, their homes among them.
const PASSWD: &str = "/etc/passwd";

/// `daemon install-service`. Doing it again writes the unit anew and restarts the daemon.
///
/// # Errors
/// Exit 3 without a service manager, 4 when the daemon does not start under it, 7 in an automated build, 10 for files.
pub(crate) async fn install(context: &Context, args: &InstallServiceArgs) -> Outcome<Report> {
    if context.environment.is_ci && !args.allow_ci_persistent {
        return Err(Failure::new(
            ErrorCode::Forbidden,
            "an automated build gets no lasting service",
        )
        .action("pass --allow-ci-persistent"));
    }
    if context.global.mesh.is_some() || args.name.is_some() {
        context.out.notice("--mesh and --name are ignored: one daemon serves every mesh");
    }
    let (manager, paths) = manager(context, args).await?;
    let plan = plan(context, &paths)?;
    let unit = manager.unit();
    let text = manager.text(&plan).map_err(|error| Failure::invalid(error.to_string()))?;
    let earlier = Earlier::of(&manager, &paths)?;
    if earlier.is_some() {
        // What is not running need not be stopped.
        let _ = manager.tell(Order::Stop).await;
    }
    daemon::stop_process(context, &paths, limits::DAEMON_STOP_BUDGET).await?;
    write(&unit, text.as_bytes())?;
    let work = manager.tell(Order::Start);
    if let Err(said) = context.out.during("starting the daemon", work).await {
        let failure = not_started(&manager, earlier, &paths).await;
        return Err(failure.detail(claudemesh_protocol::text::sanitized_line(&said, 300)));
    }
    let client = Client::for_paths(&paths)
        .map_err(|error| Failure::io("cannot find the daemon's socket", &error))?;
    let work = first_connection(&client, limits::SERVICE_READY_BUDGET);
    let health = context.out.during("waiting for the broker", work).await;
    let mut screen = Screen::new();
    screen.done(format!("installed {} unit", manager.platform()));
    screen.line(Line::new().indent(4).put(Token::Code, unit.display().to_string()));
    let connected = say_connection(&mut screen, health.as_ref());
    if manager.ends_with_the_login(context.environment.user.as_deref()).await {
        screen.note("it ends with your last login; to keep it running:");
        screen.line(Line::new().indent(4).put(Token::Code, "loginctl enable-linger"));
    }
    screen.hint(manager.inspect());
    let meshes = health.map(|health| health.brokers);
    let document = json!({
        "platform": manager.platform(), "unitPath": unit.display().to_string(),
        "bootCommand": manager.boot_command(), "connected": connected, "meshes": meshes,
    });
    Ok(Report::new(Document::object(document), screen))
}

/// True when the unit is there as it would be written, and its daemon runs.
pub(crate) fn is_current(context: &Context) -> bool {
    let Some(manager) = Manager::of_user(&context.environment) else { return false };
    let Ok(found) = std::fs::read_to_string(manager.unit()) else { return false };
    let wanted = plan(context, &context.paths).ok().and_then(|plan| manager.text(&plan).ok());
    wanted.as_ref() == Some(&found) && care::is_daemon_running(&context.paths).unwrap_or_default()
}

/// `daemon uninstall-service`. Nothing installed is fine.
///
/// # Errors
/// Exit 10 when the unit cannot be removed.
pub(crate) async fn uninstall(context: &Context) -> Outcome<Report> {
    let mut removed = Vec::new();
    let mut screen = Screen::new();
    while let Some(manager) = Manager::installed(&context.environment) {
        let unit = manager.unit();
        remove(&manager).await?;
        screen.done(format!("removed {}", unit.display()));
        removed.push(unit.display().to_string());
    }
    if removed.is_empty() {
        screen.note("no service unit installed");
    } else {
        screen.note("the daemon starts on demand from now on");
    }
    let platform = Manager::of_user(&context.environment).map(|manager| manager.platform());
    let document = json!({ "platform": platform, "removed": removed });
    Ok(Report::new(Document::object(document), screen))
}

/// Stops the daemon, takes the unit away and lets the manager notice.
///
/// # Errors
/// Exit 10 when the unit cannot be removed.
pub(crate) async fn remove(manager: &Manager) -> Outcome<()> {
    let unit = manager.unit();
    // A manager that cannot be reached must not keep its unit.
    let _ = manager.tell(Order::Disable).await;
    std::fs::remove_file(&unit)
        .map_err(|error| Failure::io(format!("cannot remove {}", unit.display()), &error))?;
    let _ = manager.tell(Order::Forget).await;
    Ok(())
}

/// Who will run the daemon, and whose files it serves.
async fn manager(context: &Context, args: &InstallServiceArgs) -> Outcome<(Manager, Paths)> {
    let environment = &context.environment;
    if args.system {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root || !cfg!(target_os = "linux") {
            return Err(Failure::new(ErrorCode::Forbidden, "a system service needs root on Linux")
                .action("sudo claudemesh daemon install-service --system"));
        }
        let user = environment.sudo_user.clone().or_else(|| environment.user.clone());
        let user = user.unwrap_or_else(|| "root".to_owned());
        let paths = match home_of(&user) {
            Some(home) if environment.sudo_user.is_some() => Paths::for_home(Path::new(&home)),
            _ => context.paths.clone(),
        };
        return Ok((Manager::System { user }, paths));
    }
    let unsupported = |why: String| {
        Failure::new(ErrorCode::ServiceUnsupported, "there is no service manager to install it in")
            .detail(why)
            .detail("without one the daemon starts on demand")
    };
    let manager = Manager::of_user(environment)
        .ok_or_else(|| unsupported(format!("on {}", std::env::consts::OS)))?;
    manager.tell(Order::Ask).await.map_err(unsupported)?;
    Ok((manager, context.paths.clone()))
}

/// The home of a user, from the system's list.
fn home_of(user: &str) -> Option<String> {
    let list = std::fs::read_to_string(PASSWD).ok()?;
    list.lines().find_map(|line| {
        let mut parts = line.split(':');
        (parts.next() == Some(user)).then(|| parts.nth(4).map(str::to_owned)).flatten()
    })
}

fn plan(context: &Context, paths: &Paths) -> Outcome<Plan> {
    let exe = std::env::current_exe()
        .map_err(|error| Failure::io("cannot tell where this program is", &error))?;
    let program = lasting_path(&exe, context.environment.search_path.as_deref());
    if is_passing(&program) {
        let program = program.display();
        context.out.warning(&format!("{program} is no lasting place for a service's program"));
    }
    let root = paths.root();
    let mut writes = vec![root.to_owned()];
    let mut variables = Vec::new();
    for (name, dir, usual) in [
        (env::DAEMON_DIR, paths.daemon_dir(), root.join("daemon")),
        (env::SESSIONS_DIR, paths.sessions_dir(), root.join("sessions")),
    ] {
        if dir != usual {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
            variables.push((name.to_owned(), dir.to_string_lossy().into_owned()));
            writes.push(dir);
        }
    }
    if context.environment.allow_insecure {
        variables.push((env::ALLOW_INSECURE.to_owned(), "1".to_owned()));
    }
    let home = root.parent().unwrap_or(root).to_owned();
    Ok(Plan { program, home, writes, log: paths.log_file(), variables })
}

/// The unit that an installation replaces.
struct Earlier {
    text: Vec<u8>,
    was_running: bool,
}

impl Earlier {
    /// The unit that is there.
    ///
    /// # Errors
    /// One that leads to something else than a file is masked: whoever did that wants no service. Exit 10 when it cannot be
    /// read.
    fn of(manager: &Manager, paths: &Paths) -> Outcome<Option<Self>> {
        let unit = manager.unit();
        if std::fs::symlink_metadata(&unit).is_err() {
            return Ok(None);
        }
        if unit.exists() && !unit.is_file() {
            return Err(Failure::new(ErrorCode::ServiceUnsupported, "the unit is masked")
                .detail(unit.display().to_string())
                .action(manager.unmask()));
        }
        let content = file::read(&unit, Symlinks::Follow)
            .map_err(|error| Failure::io(format!("cannot read {}", unit.display()), &error))?;
        let was_running = care::is_daemon_running(paths).unwrap_or_default();
        Ok(content.map(|content| Self { text: content.bytes.to_vec(), was_running }))
    }
}

fn write(unit: &Path, text: &[u8]) -> Outcome<()> {
    let fail =
        |error: std::io::Error| Failure::io(format!("cannot write {}", unit.display()), &error);
    if let Some(dir) = unit.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    file::replace(unit, text, file::PUBLIC, Symlinks::Follow).map_err(fail)
}

/// The manager did not start the daemon. A unit that the manager itself refused makes way for the one before, if there
/// was one: as long as there is a unit, nobody else starts a daemon.
async fn not_started(manager: &Manager, earlier: Option<Earlier>, paths: &Paths) -> Failure {
    let failure =
        |what: String| Failure::new(ErrorCode::DaemonUnreachable, what).exit(ExitCode::Network);
    if manager.has_taken_unit().await {
        let failure = failure("the service did not start".to_owned()).action(manager.inspect());
        let words = crate::detach::last_words(&paths.log_file(), 0, 1);
        return words.into_iter().fold(failure, Failure::detail);
    }
    let failure = failure(format!("{} refused the unit", manager.platform()));
    let Some(earlier) = earlier else {
        return match remove(manager).await {
            Ok(()) => failure.detail("the unit was taken away again"),
            Err(_) => failure.detail(format!("remove {}", manager.unit().display())),
        };
    };
    if write(&manager.unit(), &earlier.text).is_err() {
        return failure.detail(format!("{} is not the one from before", manager.unit().display()));
    }
    let _ = manager.tell(Order::Forget).await;
    let failure = failure.detail("the unit from before is back");
    if earlier.was_running && manager.tell(Order::Start).await.is_err() {
        return failure.detail("it does not start any more").action(manager.inspect());
    }
    failure
}

/// Watches until a mesh is connected, or there is none to connect; the last health seen.
async fn first_connection(client: &Client, budget: Duration) -> Option<Health> {
    let deadline = Instant::now() + budget;
    let mut seen = None;
    loop {
        if let Ok(health) = client.health().await {
            let is_settled = health.meshes.is_empty()
                || health.meshes.iter().any(|mesh| mesh.status == MeshStatus::Open);
            seen = Some(health);
            if is_settled {
                return seen;
            }
        }
        if Instant::now() >= deadline {
            return seen;
        }
        sleep(STEP).await;
    }
}

/// Says how far the daemon came; the mesh it is connected to.
fn say_connection(screen: &mut Screen, health: Option<&Health>) -> Option<String> {
    let Some(health) = health else {
        screen.attention("the daemon does not answer yet");
        return None;
    };
    if let Some(open) = health.meshes.iter().find(|mesh| mesh.status == MeshStatus::Open) {
        screen.done(format!("broker connected (mesh={})", open.slug));
        return Some(open.slug.clone());
    }
    if health.meshes.is_empty() {
        screen.note("no mesh joined yet");
        return None;
    }
    let states = health.meshes.iter().map(|mesh| format!("{} {}", mesh.slug, mesh.status.as_str()));
    screen.attention(format!("not connected yet: {}", states.collect::<Vec<_>>().join(", ")));
    None
}
