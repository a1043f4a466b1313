//! `mesh share`: an invite link, with a QR code on a terminal (CLI spec §3.1).

use std::io::Write as _;
use std::process::{Command, Stdio};

use claudemesh_daemon::home::config::MeshEntry;
use claudemesh_protocol::account::{InviteCreateReply, InviteCreateRequest};
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::invite::InvitePreset;
use claudemesh_protocol::limits;
use claudemesh_protocol::status::MemberRole;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{InviteRole, ShareArgs};
use crate::grammar::values;
use crate::output::{Document, Fields, Line, Report, Screen, Token, qr};
use crate::remote::http_failure;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields {
    names: &["url", "code", "expires_at", "max_uses", "role", "mesh", "emailed", "copied"],
    id: "code",
};

/// Runs the verb.
///
/// # Errors
/// As [`make`]; exit 5 for a mesh that is not joined.
pub(crate) async fn run(context: &Context, args: &ShareArgs) -> Outcome<Report> {
    let expires = args.expires;
    if expires < limits::INVITE_TTL_MIN || expires > limits::INVITE_TTL_MAX {
        return Err(Failure::invalid(format!(
            "{}: --expires {}s",
            context.spoken,
            expires.as_secs()
        ))
        .detail("expected: 1m to 365d")
        .with("field", "expires"));
    }
    let groups =
        args.groups.as_deref().map(|text| values::groups(&context.spoken, text)).transpose()?;
    let config = context.config()?;
    let slug = context.mesh(&config).await?;
    let Some(mesh) = config.mesh(&slug) else {
        return Err(crate::select::no_mesh(&config));
    };
    context.admit(std::slice::from_ref(&slug), None).await?;
    let role = match args.role {
        InviteRole::Member => MemberRole::Member,
        InviteRole::Admin => MemberRole::Admin,
    };
    let request = InviteCreateRequest {
        email: None,
        role: Some(role),
        expires_in: i64::try_from(expires.as_secs()).ok(),
        max_uses: Some(args.uses),
        preset: groups
            .map(|groups| InvitePreset { groups: Some(groups), ..InvitePreset::default() }),
    };
    let invite = context.out.during("making an invite", make(context, mesh, &request)).await?;
    let copied = !args.no_clipboard && !context.out.is_json() && copy(context, &invite.url);
    let mut screen = Screen::new();
    screen.blank();
    let line = Line::new().put(Token::Code, invite.url.as_str());
    screen.line(if copied { line.put(Token::Dim, "  (copied to clipboard)") } else { line });
    screen.blank();
    for row in qr_rows(context, args, &invite.url) {
        screen.line(Line::new().indent(0).put(Token::Plain, row));
    }
    let uses = if args.uses == 1 { "once".to_owned() } else { format!("{} times", args.uses) };
    let until = claudemesh_protocol::Timestamp::parse_iso(&invite.expires_at)
        .map_or_else(|| invite.expires_at.clone(), |at| super::inbox::clock(at, Context::now()));
    screen.note(format!("joins {slug} as {role}, works {uses} until {until}"));
    if claudemesh_protocol::invite::is_loopback(&crate::local::authority(&invite.url)) {
        screen.hint("works on this machine only; for others: claudemesh up --listen <addr>");
    }
    let document = json!({
        "url": invite.url,
        "code": invite.code,
        "expires_at": invite.expires_at,
        "max_uses": args.uses,
        "role": role,
        "mesh": slug,
        "emailed": invite.emailed,
        "copied": copied,
    });
    Ok(Report::new(Document::object(document), screen))
}

/// An invite by the member's own key. An older broker wants the account of the member.
///
/// # Errors
/// Exit 7 without the right to invite, and for a key that is no member's any more; exit 2 at an older broker without an
/// account there.
pub(super) async fn make(
    context: &Context,
    mesh: &MeshEntry,
    request: &InviteCreateRequest,
) -> Outcome<InviteCreateReply> {
    let server = context.environment.broker_http.as_deref().unwrap_or(&mesh.broker_url);
    let http = context.http(server)?;
    let made = http.invite_create(&mesh.mesh_id, &mesh.keys, request, Context::now()).await;
    let failure = match made {
        Ok(made) => return Ok(made),
        Err(error) => http_failure(error, http.base()),
    };
    let slug = mesh.slug.as_str();
    match ErrorCode::parse(&failure.code) {
        Some(ErrorCode::MissingBearerToken) => {
            let signed_in = context.signed_in_for(mesh)?;
            // The name of the mesh at the server may differ from a local alias.
            let name = if mesh.name.is_empty() { slug } else { mesh.name.as_str() };
            let made = signed_in.http.invite_create_by_account(&signed_in.token, name, request);
            made.await.map_err(|error| refused(http_failure(error, signed_in.http.base()), slug))
        }
        _ => Err(refused(failure, slug)),
    }
}

/// Why a member cannot invite, in the words of whoever asked.
fn refused(failure: Failure, slug: &str) -> Failure {
    let no_member = Failure::new(ErrorCode::Forbidden, format!("you cannot invite to \"{slug}\""));
    match ErrorCode::parse(&failure.code) {
        Some(ErrorCode::Forbidden) if failure.message.contains("canInvite") => no_member
            .detail(failure.message)
            .detail("an admin allows it: claudemesh member allow <name> canInvite"),
        Some(ErrorCode::Forbidden | ErrorCode::Unauthorized | ErrorCode::Revoked) => {
            no_member.detail(failure.message)
        }
        _ => failure,
    }
}

/// The code when asked for, or on a terminal it fits.
fn qr_rows(context: &Context, args: &ShareArgs, link: &str) -> Vec<String> {
    let style = context.out.stdout_style();
    let is_wanted = args.qr || (!args.no_qr && style.width.is_some() && style.unicode);
    if !is_wanted || context.out.is_json() {
        return Vec::new();
    }
    let mut rows = qr::lines(link, style.width.unwrap_or(usize::MAX)).unwrap_or_default();
    if !rows.is_empty() {
        rows.push(String::new());
    }
    rows
}

/// Puts the link on the clipboard of a person's desktop; silent when there is none. Never without a terminal, where
/// nobody asked for it.
fn copy(context: &Context, link: &str) -> bool {
    if !context.environment.stdout_is_terminal || context.environment.is_ci {
        return false;
    }
    if context.environment.over_ssh {
        // The terminal at the other end takes it from an escape sequence (OSC 52).
        return crate::output::copy_through_terminal(link);
    }
    let programs: &[&[&str]] = if cfg!(target_os = "macos") {
        &[&["pbcopy"]]
    } else if context.environment.wayland {
        &[&["wl-copy"]]
    } else {
        &[&["xclip", "-selection", "clipboard"], &["xsel", "-b"]]
    };
    programs.iter().any(|words| pipe_to(words, link))
}

fn pipe_to(words: &[&str], text: &str) -> bool {
    let [program, args @ ..] = words else { return false };
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let written =
        child.stdin.take().is_some_and(|mut stdin| stdin.write_all(text.as_bytes()).is_ok());
    written && child.wait().is_ok_and(|status| status.success())
}
