//! `status`: everything at a glance (CLI spec §6.4). No diagnosis: that is another verb's.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use claudemesh_daemon::home::config::Config;
use claudemesh_ipc::api::session::{DeliveryPath, PathState};
use claudemesh_ipc::api::{Health, MeshHealth, MeshStatus, SessionView};
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::error::ExitCode;
use claudemesh_protocol::limits::BROKER_PROBE_BUDGET;
use claudemesh_protocol::text::sanitized_line;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::Outcome;
use crate::link::Probe;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};
use crate::peer_cache;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &["version", "config", "account", "daemon", "meshes", "outbox", "unread", "sessions"],
    id: "",
};

/// Longest name shown, in characters.
const NAME_MAX_CHARS: usize = 40;

/// What the daemon says.
struct Daemon {
    version: String,
    health: Health,
    /// Unless a mesh is not written down yet.
    unread: Option<u64>,
    sessions: Vec<SessionView>,
}

/// Whether a mesh can be reached.
struct Reach {
    is_reachable: bool,
    latency_ms: Option<u64>,
    /// The daemon's word for its connection.
    state: Option<&'static str>,
    error: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// Exit 10 for a damaged config. A mesh that cannot be reached is a result with exit 1.
pub(crate) async fn run(context: &Context) -> Outcome<Report> {
    let config = context.config()?;
    let account = context.account()?.map(|account| account.user.display_name);
    let (daemon, trouble) = daemon(context).await?;
    let reaches = reaches(context, &config, daemon.as_ref()).await;
    let is_whole = reaches.values().all(|reach| reach.is_reachable);

    let mode = std::fs::metadata(config.path()).ok().map(|file| file.permissions().mode() & 0o777);
    let mode = mode.map(|mode| format!("{mode:04o}"));
    let path = config.path().display().to_string();
    let mut screen = Screen::new();
    let mut pairs = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let shown_mode = mode.as_deref().unwrap_or("not written yet");
    pairs.push(("config", format!("{path} ({shown_mode})")));
    if let Some(name) = &account {
        pairs.push(("account", sanitized_line(name, NAME_MAX_CHARS)));
    }
    pairs.push(("daemon", daemon_line(daemon.as_ref(), trouble.as_deref())));
    if let Some(daemon) = &daemon {
        pairs.push(("outbox", outbox_line(&daemon.health)));
        if let Some(unread) = daemon.unread {
            pairs.push(("unread", unread.to_string()));
        }
    }
    screen.pairs(&pairs);
    meshes_screen(&mut screen, &config, &reaches);
    sessions_screen(&mut screen, daemon.as_ref().map_or(&[], |daemon| &daemon.sessions));
    if config.meshes().len() == 0 {
        screen.hint("claudemesh up");
    } else if daemon.is_none() {
        screen.hint("claudemesh daemon up");
    }

    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": { "path": path, "mode": mode },
        "account": account,
        "daemon": daemon_document(daemon.as_ref(), trouble),
        "meshes": meshes_document(&config, &reaches),
        "outbox": daemon.as_ref().map(|daemon| json!({
            "pending": pending(&daemon.health),
            "dead": dead(&daemon.health),
        })),
        "unread": daemon.as_ref().and_then(|daemon| daemon.unread),
        "sessions": daemon.as_ref().map(|daemon| sessions_document(&daemon.sessions)),
    });
    let report = Report::new(Document::object(document), screen);
    Ok(if is_whole { report } else { report.exit(ExitCode::Cancelled) })
}

/// The daemon that runs, or why the one there cannot be asked. None is started.
async fn daemon(context: &Context) -> Outcome<(Option<Daemon>, Option<String>)> {
    let version = match context.probe().await? {
        Probe::Up(version) => version.daemon_version,
        Probe::Down => return Ok((None, None)),
        Probe::Unusable(error) => return Ok((None, Some(error.to_string()))),
    };
    let client = context.client()?.with_token(None);
    Ok(match tokio::join!(client.health(), client.sessions()) {
        (Ok(health), sessions) => {
            // It writes down how many nobody has read whenever that changes.
            let cache = peer_cache::read(&context.paths.peer_cache_file());
            let of = |mesh: &MeshHealth| cache.get(&mesh.slug).map(|entry| entry.unread);
            let unread = health.meshes.iter().map(of).sum();
            let sessions = sessions.unwrap_or_default();
            (Some(Daemon { version, health, unread, sessions }), None)
        }
        (Err(error), _) => (None, Some(error.to_string())),
    })
}

/// By slug. What the daemon is connected to it knows; without it each broker is asked, once.
async fn reaches<'a>(
    context: &Context,
    config: &'a Config,
    daemon: Option<&Daemon>,
) -> BTreeMap<&'a str, Reach> {
    if let Some(daemon) = daemon {
        let of = |slug: &str| daemon.health.meshes.iter().find(|mesh| mesh.slug == slug);
        return config.meshes().map(|mesh| (mesh.slug.as_str(), known(of(&mesh.slug)))).collect();
    }
    let mut brokers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for mesh in config.meshes() {
        brokers.entry(&mesh.broker_url).or_default().push(&mesh.slug);
    }
    let asked = brokers.into_iter().map(async |(url, slugs)| (slugs, asked(context, url).await));
    let answers = context.out.during("asking the brokers", join_all(asked)).await;
    let each = answers.into_iter().flat_map(|(slugs, answer)| {
        slugs.into_iter().map(move |slug| {
            let (latency_ms, error) = match &answer {
                Ok(latency) => (Some(*latency), None),
                Err(error) => (None, Some(error.clone())),
            };
            (slug, Reach { is_reachable: error.is_none(), latency_ms, state: None, error })
        })
    });
    each.collect()
}

fn known(mesh: Option<&MeshHealth>) -> Reach {
    let Some(mesh) = mesh else {
        let error = Some("the daemon has not attached it".to_owned());
        return Reach { is_reachable: false, latency_ms: None, state: None, error };
    };
    Reach {
        is_reachable: mesh.status == MeshStatus::Open,
        latency_ms: mesh.lag_ms,
        state: Some(mesh.status.as_str()),
        error: mesh.disabled_reason.clone(),
    }
}

/// How long a broker takes to say that it is well, in milliseconds.
async fn asked(context: &Context, url: &str) -> Result<u64, String> {
    let http = context.http(url).map_err(|failure| failure.message)?;
    let began = Instant::now();
    let budget = context.budget(BROKER_PROBE_BUDGET);
    match tokio::time::timeout(budget, http.health()).await {
        Ok(Ok(_)) => Ok(millis(began.elapsed())),
        Ok(Err(error)) => Err(crate::remote::http_failure(error, http.base()).message),
        Err(_) => Err(format!("no answer within {} s", budget.as_secs())),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn pending(health: &Health) -> u64 {
    health.meshes.iter().map(|mesh| mesh.queue_depth + mesh.inflight).sum()
}

fn dead(health: &Health) -> u64 {
    health.meshes.iter().map(|mesh| mesh.dead).sum()
}

fn outbox_line(health: &Health) -> String {
    format!("{} pending, {} dead", pending(health), dead(health))
}

fn daemon_line(daemon: Option<&Daemon>, trouble: Option<&str>) -> String {
    match (daemon, trouble) {
        (Some(daemon), _) => {
            let up = Context::span(Duration::from_secs(daemon.health.uptime_s));
            format!("pid {}, v{}, up {up}", daemon.health.pid, daemon.version)
        }
        (None, Some(trouble)) => trouble.to_owned(),
        (None, None) => "not running".to_owned(),
    }
}

fn daemon_document(daemon: Option<&Daemon>, trouble: Option<String>) -> Value {
    match (daemon, trouble) {
        (Some(daemon), _) => json!({
            "running": true,
            "pid": daemon.health.pid,
            "version": daemon.version,
            "uptime_s": daemon.health.uptime_s,
        }),
        (None, Some(trouble)) => json!({ "running": false, "ipc_error": trouble }),
        (None, None) => json!({ "running": false }),
    }
}

fn meshes_screen(screen: &mut Screen, config: &Config, reaches: &BTreeMap<&str, Reach>) {
    screen.section(&format!("meshes ({})", config.meshes().len()));
    if config.meshes().len() == 0 {
        screen.note("(no meshes)");
    }
    for mesh in config.meshes() {
        let Some(reach) = reaches.get(mesh.slug.as_str()) else { continue };
        let icon = if reach.is_reachable { Icon::Done } else { Icon::Failed };
        let state = reach.state.unwrap_or(if reach.is_reachable { "answers" } else { "silent" });
        let line = Line::new().icon(icon).foreign(Token::Accent, &mesh.slug);
        let mut line = line.put(Token::Plain, format!("  {state}"));
        let url = sanitized_line(&mesh.broker_url, 200);
        line = line.put(
            Token::Dim,
            match reach.latency_ms {
                Some(ms) => format!("  ({ms}ms → {url})"),
                None => format!("  (→ {url})"),
            },
        );
        screen.line(line);
        if let Some(error) = &reach.error {
            screen.line(Line::new().indent(4).foreign(Token::Warn, error));
        }
    }
}

fn meshes_document(config: &Config, reaches: &BTreeMap<&str, Reach>) -> Vec<Value> {
    let row = |(slug, url): (&str, &str)| {
        let reach = reaches.get(slug)?;
        let mut row = Map::from_iter([
            ("slug".to_owned(), Value::from(slug)),
            ("brokerUrl".to_owned(), Value::from(url)),
            ("reachable".to_owned(), Value::from(reach.is_reachable)),
        ]);
        let more = [
            ("latencyMs", reach.latency_ms.map(Value::from)),
            ("error", reach.error.as_deref().map(Value::from)),
            ("daemonState", reach.state.map(Value::from)),
        ];
        let said = more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        row.extend(said);
        Some(Value::Object(row))
    };
    config
        .meshes()
        .map(|mesh| (mesh.slug.as_str(), mesh.broker_url.as_str()))
        .filter_map(row)
        .collect()
}

/// How messages reach the agents here, as far as that is known (agents spec §1.2).
fn sessions_screen(screen: &mut Screen, sessions: &[SessionView]) {
    if sessions.is_empty() {
        return;
    }
    screen.section(&format!("sessions ({})", sessions.len()));
    for session in sessions {
        let line = Line::new().icon(Icon::Online).foreign(Token::Accent, &session.display_name);
        let line = line.put(Token::Plain, "  ").foreign(Token::Plain, &session.mesh);
        screen.line(line.put(Token::Dim, format!("  {}", ways(session))));
    }
}

/// The ways that work, in words.
fn ways(session: &SessionView) -> String {
    let word = |path: DeliveryPath, state: PathState| match (path, state) {
        (DeliveryPath::Channel, PathState::Listening) => Some("channel"),
        (DeliveryPath::Channel, PathState::Unknown) => Some("channel (unconfirmed)"),
        (DeliveryPath::Hooks, PathState::Listening) => Some("hooks"),
        (DeliveryPath::Bell, PathState::Armed) => Some("bell"),
        (DeliveryPath::Record, PathState::Readable) => Some("record"),
        _ => None,
    };
    let ways: Vec<&str> =
        session.paths.iter().filter_map(|way| word(way.path, way.state)).collect();
    if ways.is_empty() { "no way to its agent is known".to_owned() } else { ways.join(", ") }
}

fn sessions_document(sessions: &[SessionView]) -> Vec<Value> {
    let row = |session: &SessionView| {
        json!({
            "session_id": session.session_id,
            "mesh": session.mesh,
            "display_name": session.display_name,
            "status": session.status,
            "paths": session.paths,
            "since": Timestamp::parse_iso(&session.registered_at).map(Timestamp::to_iso),
        })
    };
    sessions.iter().map(row).collect()
}
