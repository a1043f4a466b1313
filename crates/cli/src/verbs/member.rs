//! `member list`: who belongs to a mesh, present or not (CLI spec §3.4).

use std::time::Duration;

use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::MemberListArgs;
use crate::link;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};

/// Keys of one row.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "memberId",
        "pubkey",
        "displayName",
        "role",
        "roleTag",
        "groups",
        "joinedAt",
        "lastSeenAt",
        "online",
        "mesh",
        "isSelf",
    ],
    id: "memberId",
};

/// Time for one answer of the daemon (CLI spec §9).
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the verb.
///
/// # Errors
/// Exit 4 when the roster cannot be read.
pub(crate) async fn run(context: &Context, args: &MemberListArgs) -> Outcome<Report> {
    let config = context.config()?;
    let mesh = context.mesh(&config).await?;
    context.admit(std::slice::from_ref(&mesh), None).await?;
    let client = context.client_of(OperationKind::MemberList).await?;
    let client = client.with_timeout(context.budget(TIMEOUT));
    let work = settled(&client, async || client.members(Some(&mesh)).await.map_err(link::failure));
    let mut reply = context.out.during("reading members", work).await?;
    let (total, online) =
        (reply.members.len(), reply.members.iter().filter(|member| member.row.online).count());
    if args.online {
        reply.members.retain(|member| member.row.online);
    }
    let items: Outcome<Vec<Value>> = reply
        .members
        .iter()
        .map(|member| serde_json::to_value(member).map_err(|error| Failure::internal(&error)))
        .collect();
    let envelope = Map::from_iter([
        ("mesh".to_owned(), Value::from(mesh.as_str())),
        ("total".to_owned(), Value::from(total)),
        ("online".to_owned(), Value::from(online)),
    ]);
    let mut screen = Screen::new();
    screen.section(&format!("{mesh} members ({online}/{total} online)"));
    if reply.members.is_empty() {
        screen.note("(no members)");
    }
    for member in &reply.members {
        let row = &member.row;
        let icon = if row.online { Icon::Online } else { Icon::Offline };
        let key = if context.out.is_verbose() { row.pubkey.to_hex() } else { row.pubkey.short(8) };
        let mut line = Line::new().icon(icon).foreign(Token::Accent, &row.display_name);
        if member.is_self {
            line = line.put(Token::Dim, " (you)");
        }
        line = line.put(Token::Plain, format!("  {}  ", row.role)).put(Token::Dim, key);
        if let Some(tag) = row.role_tag.as_deref().filter(|tag| !tag.is_empty()) {
            line = line.foreign(Token::Plain, &format!("  {tag}"));
        }
        screen.line(line.cut());
    }
    Ok(Report::new(Document::List { items: items?, envelope }, screen))
}
