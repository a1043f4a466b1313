//! `daemon status`: whether it runs and what it is connected to (CLI spec §3.18).

use claudemesh_ipc::api::RowStatus;
use claudemesh_protocol::error::ExitCode;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::Outcome;
use crate::link::Probe;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};

/// Keys of `daemon status`.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "running",
        "pid",
        "version",
        "ephemeral",
        "ipc_api",
        "brokers",
        "sessions",
        "outbox",
        "service",
        "socket",
        "ipc_error",
    ],
    id: "pid",
};

/// `daemon status`; not running is a result with exit 1.
///
/// # Errors
/// Exit 10 when the daemon directory cannot be read.
pub(crate) async fn run(context: &Context) -> Outcome<Report> {
    let version = match context.probe().await? {
        Probe::Up(version) => version,
        probe => return Ok(not_running(context, &probe)),
    };
    let client = context.client()?;
    let health = client.health().await.map_err(crate::link::failure)?;
    let mut outbox = Map::new();
    for status in [RowStatus::Pending, RowStatus::Inflight, RowStatus::Dead] {
        let count: u64 = match status {
            RowStatus::Pending => health.meshes.iter().map(|mesh| mesh.queue_depth).sum(),
            RowStatus::Inflight => health.meshes.iter().map(|mesh| mesh.inflight).sum(),
            _ => health.meshes.iter().map(|mesh| mesh.dead).sum(),
        };
        outbox.insert(status.as_str().to_owned(), count.into());
    }
    let sessions: u64 = health.meshes.iter().map(|mesh| mesh.sessions).sum();
    let mut screen = Screen::new();
    let kind = if version.ephemeral { "ephemeral, " } else { "" };
    let (pid, theirs) = (version.pid, &version.daemon_version);
    screen.done(format!("daemon: running ({kind}pid {pid}, v{theirs})"));
    let socket = context.paths.socket().map(|path| path.display().to_string()).unwrap_or_default();
    screen.pairs(&[
        ("socket", socket.clone()),
        ("sessions", sessions.to_string()),
        (
            "outbox",
            outbox
                .iter()
                .map(|(name, count)| format!("{count} {name}"))
                .collect::<Vec<_>>()
                .join(", "),
        ),
    ]);
    for mesh in &health.meshes {
        let icon = if mesh.status == claudemesh_ipc::api::MeshStatus::Open {
            Icon::Online
        } else {
            Icon::Busy
        };
        let mut line =
            Line::new().icon(icon).foreign(Token::Accent, &mesh.slug).put(Token::Plain, " ");
        line = line.put(Token::Plain, mesh.status.as_str());
        if let Some(reason) = &mesh.disabled_reason {
            line = line.foreign(Token::Warn, &format!(" ({reason})"));
        }
        screen.line(line);
    }
    if health.meshes.iter().any(|mesh| mesh.disabled_reason.as_deref() == Some("revoked")) {
        screen.note("revoked: an admin removed you; once you are let in again, restart the daemon");
        screen.hint("claudemesh daemon restart");
    }
    for mesh in health.meshes.iter().filter(|mesh| mesh.broker_key_changed) {
        screen.attention(format!("the broker of {} signs with another key", mesh.slug));
        screen.hint(format!("claudemesh daemon trust-broker --mesh {}", mesh.slug));
    }
    if health.degraded {
        screen.attention(format!("degraded: {}", health.degraded_reasons.join(", ")));
    }
    if health.meshes.iter().any(|mesh| mesh.dead > 0) {
        screen.attention("messages in the outbox could not be sent");
    }
    let unit = context.service_unit().map(|path| path.display().to_string());
    let mut document = json!({
        "running": true,
        "pid": version.pid,
        "version": version.daemon_version,
        "ipc_api": version.ipc_api,
        "brokers": health.brokers,
        "sessions": sessions,
        "outbox": outbox,
        "service": { "platform": std::env::consts::OS, "path": unit, "managed": unit.is_some() },
        "socket": socket,
    });
    if version.ephemeral
        && let Some(map) = document.as_object_mut()
    {
        map.insert("ephemeral".to_owned(), true.into());
    }
    Ok(Report::new(Document::object(document), screen))
}

fn not_running(context: &Context, probe: &Probe) -> Report {
    let mut screen = Screen::new();
    let mut document = Map::from_iter([("running".to_owned(), Value::Bool(false))]);
    if let Probe::Unusable(error) = probe {
        screen.line(Line::new().icon(Icon::Failed).put(Token::Plain, format!("daemon: {error}")));
        screen.hint("claudemesh daemon restart");
        document.insert("ipc_error".to_owned(), error.to_string().into());
    } else {
        screen.note("daemon: not running");
        screen.hint("claudemesh daemon up");
    }
    let unit = context.service_unit().map(|path| path.display().to_string());
    document.insert(
        "service".to_owned(),
        json!({ "platform": std::env::consts::OS, "path": unit, "managed": unit.is_some() }),
    );
    Report::new(Document::Object(document), screen).exit(ExitCode::Cancelled)
}
