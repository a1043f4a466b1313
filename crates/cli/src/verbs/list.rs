//! `mesh list`: what is joined here and what the account has (CLI spec §3.1).

use claudemesh_daemon::home::config::Config;
use claudemesh_protocol::account::AccountMesh;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};
use crate::remote::http_failure;

/// Keys of one row.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "slug",
        "meshId",
        "role",
        "isOwner",
        "memberCount",
        "activePeers",
        "local",
        "server",
        "brokerUrl",
        "joinedAt",
    ],
    id: "meshId",
};

/// One mesh, from either side.
struct Row {
    slug: String,
    mesh_id: String,
    role: String,
    is_owner: bool,
    counts: Option<(u64, u64)>,
    is_local: bool,
    is_on_server: bool,
    broker_url: String,
    joined_at: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// Exit 10 for a damaged config; a silent server is a warning.
pub(crate) async fn run(context: &Context) -> Outcome<Report> {
    let config = context.config()?;
    context.admit(&[], None).await?;
    let on_server = server_list(context, &config).await;
    let rows = rows(&config, on_server.as_deref().unwrap_or_default());
    let items = rows.iter().map(document).collect();
    Ok(Report::new(Document::list(items), screen(&rows, &config)))
}

/// The account's meshes; `None` when nobody is signed in or the server does not answer.
async fn server_list(context: &Context, config: &Config) -> Option<Vec<AccountMesh>> {
    context.account().ok().flatten()?;
    let signed_in = match context.signed_in(config) {
        Ok(signed_in) => signed_in,
        Err(failure) => {
            context.out.warning(&format!("server list unavailable: {}", failure.message));
            return None;
        }
    };
    let work = signed_in.http.meshes(&signed_in.token);
    match context.out.during("asking the server", work).await {
        Ok(reply) => Some(reply.meshes),
        Err(error) => {
            let why = http_failure(error, signed_in.http.base()).message;
            context.out.warning(&format!("server list unavailable: {why}"));
            None
        }
    }
}

fn rows(config: &Config, on_server: &[AccountMesh]) -> Vec<Row> {
    let mut rows: Vec<Row> = config
        .meshes()
        .map(|mesh| {
            let remote = on_server.iter().find(|remote| remote.id == mesh.mesh_id);
            let is_owner = remote.is_some_and(|remote| remote.is_owner)
                || mesh.owner_pubkey.is_some_and(|owner| owner == mesh.keys.public());
            let role = mesh.role.or_else(|| remote.map(|remote| remote.role));
            Row {
                slug: mesh.slug.clone(),
                mesh_id: mesh.mesh_id.as_str().to_owned(),
                role: role.map_or("member", |role| role.as_str()).to_owned(),
                is_owner,
                counts: remote.map(|remote| (remote.member_count, remote.active_peers)),
                is_local: true,
                is_on_server: remote.is_some(),
                broker_url: mesh.broker_url.clone(),
                joined_at: Some(mesh.joined_at.clone()).filter(|at| !at.is_empty()),
            }
        })
        .collect();
    let is_new = |remote: &&AccountMesh| !config.meshes().any(|mesh| mesh.mesh_id == remote.id);
    rows.extend(on_server.iter().filter(is_new).map(|remote| Row {
        slug: remote.slug.clone(),
        mesh_id: remote.id.as_str().to_owned(),
        role: remote.role.as_str().to_owned(),
        is_owner: remote.is_owner,
        counts: Some((remote.member_count, remote.active_peers)),
        is_local: false,
        is_on_server: true,
        broker_url: remote.broker_url.clone(),
        joined_at: remote.joined_at.clone(),
    }));
    rows
}

fn document(row: &Row) -> Value {
    let mut value = json!({
        "slug": row.slug,
        "meshId": row.mesh_id,
        "role": row.role,
        "isOwner": row.is_owner,
        "memberCount": row.counts.map(|counts| counts.0),
        "activePeers": row.counts.map(|counts| counts.1),
        "local": row.is_local,
        "server": row.is_on_server,
        "brokerUrl": row.broker_url,
    });
    if let (Some(map), Some(at)) = (value.as_object_mut(), &row.joined_at) {
        map.insert("joinedAt".to_owned(), Value::from(at.as_str()));
    }
    value
}

fn screen(rows: &[Row], config: &Config) -> Screen {
    let mut screen = Screen::new();
    screen.section(&format!("meshes ({})", rows.len()));
    if rows.is_empty() {
        screen.note("(no meshes)");
        screen.hint("claudemesh up");
    }
    for row in rows {
        let icon = match (row.is_local, row.is_on_server) {
            (true, true) => Icon::Online,
            (true, false) => Icon::Busy,
            _ => Icon::Offline,
        };
        screen.line(Line::new().icon(icon).foreign(Token::Accent, &row.slug));
        let role = if row.is_owner { "owner" } else { &row.role };
        let counts = row.counts.map(|(members, online)| {
            let plural = if members == 1 { "member" } else { "members" };
            format!(" · {members} {plural} · {online} online")
        });
        let line = format!("{role}{}", counts.unwrap_or_default());
        screen.line(Line::new().indent(4).foreign(Token::Dim, &line));
    }
    if rows.iter().any(|row| !row.is_local) {
        screen.hint("not joined here: ask for an invite, then claudemesh join <invite>");
    }
    screen.note(config.path().display().to_string());
    screen
}
