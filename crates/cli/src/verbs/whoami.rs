//! `whoami`: this session, the account, the memberships of this machine (CLI spec §3.3).

use claudemesh_ipc::SessionToken;
use claudemesh_ipc::api::SessionView;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};
use crate::remote::SIGN_IN;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &["signed_in", "user", "token_source", "token_expires_at", "meshes", "local", "session"],
    id: "",
};

/// What the server says about the account.
struct Online {
    expires_at: Option<String>,
    owned: usize,
    guest: usize,
}

/// Runs the verb.
///
/// # Errors
/// Exit 10 for damaged files. Nobody at all is a result with exit 2.
pub(crate) async fn run(context: &Context) -> Outcome<Report> {
    let config = context.config()?;
    let account = context.account()?;
    let session = session(context).await;
    let online = if account.is_some() { online(context, &config).await } else { None };
    let is_anyone = account.is_some() || session.is_some() || config.meshes().len() > 0;

    let mut map = Map::new();
    map.insert("signed_in".to_owned(), account.is_some().into());
    if let Some(account) = &account {
        map.insert("user".to_owned(), json!(account.user));
        map.insert("token_source".to_owned(), account.token_source.as_str().into());
        if let Some(online) = &online {
            map.insert("token_expires_at".to_owned(), online.expires_at.clone().into());
            map.insert(
                "meshes".to_owned(),
                json!({ "owned": online.owned, "guest": online.guest }),
            );
        }
    }
    let local: Vec<Value> = config
        .meshes()
        .map(|mesh| {
            json!({
                "slug": mesh.slug,
                "mesh_id": mesh.mesh_id,
                "member_id": mesh.member_id,
                "pubkey_prefix": mesh.keys.public().short(12),
            })
        })
        .collect();
    map.insert(
        "local".to_owned(),
        json!({ "config_path": config.path().display().to_string(), "meshes": local }),
    );
    map.insert("session".to_owned(), session.as_ref().map_or(Value::Null, session_value));

    let mut screen = Screen::new();
    if let Some(session) = &session {
        session_screen(&mut screen, session);
    }
    screen.section("account");
    match (&account, &online) {
        (None, _) => {
            screen.note("(not signed in)");
        }
        (Some(account), online) => {
            let email = account.user.email.clone().unwrap_or_else(|| "(none)".to_owned());
            let name = claudemesh_protocol::text::sanitized_line(&account.user.display_name, 60);
            let mut pairs = vec![
                ("name", name),
                ("e-mail", email),
                ("signed in by", account.token_source.clone()),
            ];
            if let Some(server) = &account.server {
                pairs.push(("server", server.clone()));
            }
            if online.is_none() {
                pairs.push(("account", "unreachable".to_owned()));
            }
            screen.pairs(&pairs);
        }
    }
    let count = config.meshes().len();
    screen.section(&format!("local ({count} {})", if count == 1 { "mesh" } else { "meshes" }));
    for mesh in config.meshes() {
        let member: String = mesh.member_id.as_str().chars().take(8).collect();
        let line = Line::new().icon(Icon::Online).foreign(Token::Accent, &mesh.slug);
        screen.line(
            line.put(Token::Dim, format!("  member {member}  pk {}", mesh.keys.public().short(12))),
        );
    }
    screen.note(config.path().display().to_string());
    if !is_anyone {
        screen.hint(SIGN_IN);
        if context.out.is_json() {
            map.insert("error".to_owned(), ErrorCode::Unauthorized.as_str().into());
        }
    }
    let report = Report::new(Document::Object(map), screen);
    Ok(if is_anyone { report } else { report.exit(ExitCode::Auth) })
}

async fn session(context: &Context) -> Option<SessionView> {
    SessionToken::from_env()?;
    context.running_daemon().await?.session().await.ok()
}

/// `None` when the server cannot be asked: what is local is still true.
async fn online(
    context: &Context,
    config: &claudemesh_daemon::home::config::Config,
) -> Option<Online> {
    let signed_in = context.signed_in(config).ok()?;
    let work = async {
        let me = signed_in.http.me(&signed_in.token).await.ok()?;
        let meshes = signed_in.http.meshes(&signed_in.token).await.ok()?.meshes;
        let owned = meshes.iter().filter(|mesh| mesh.is_owner).count();
        Some(Online {
            expires_at: me.credential.and_then(|credential| credential.expires_at),
            owned,
            guest: meshes.len() - owned,
        })
    };
    context.out.during("asking the server", work).await
}

/// The session without anything secret.
fn session_value(session: &SessionView) -> Value {
    json!({
        "session_id": session.session_id,
        "mesh": session.mesh,
        "display_name": session.display_name,
        "pid": session.pid,
        "cwd": session.cwd,
        "role": session.role,
        "groups": session.groups,
        "session_pubkey": session.session_pubkey,
        "token_prefix": session.token_prefix,
    })
}

fn session_screen(screen: &mut Screen, session: &SessionView) {
    let line = |text: &str| claudemesh_protocol::text::sanitized_line(text, 80);
    screen.section("this session");
    let groups: Vec<String> =
        session.groups.iter().map(|group| format!("@{}", group.name)).collect();
    let mut pairs = vec![
        ("name", format!("{} on {}", line(&session.display_name), session.mesh)),
        ("session", line(&session.session_id)),
        ("pid", session.pid.to_string()),
    ];
    if let Some(key) = session.session_pubkey {
        pairs.push(("pubkey", format!("{}…", key.short(16))));
    }
    if let Some(role) = &session.role {
        pairs.push(("role", line(role)));
    }
    if !groups.is_empty() {
        pairs.push(("groups", groups.join(", ")));
    }
    if let Some(cwd) = &session.cwd {
        pairs.push(("cwd", line(cwd)));
    }
    screen.pairs(&pairs);
}
