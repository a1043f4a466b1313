//! `group join` and `group leave` (CLI spec §3.7): they change the caller's own presence, so they need the daemon.

use claudemesh_ipc::api::OpReply;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::group::GroupName;
use serde_json::{Map, Value};

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{GroupJoinArgs, GroupLeaveArgs};
use crate::link;
use crate::output::{Document, Fields, Report, Screen};

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields { names: &["ok", "mesh", "name", "role"], id: "name" };

/// Joins a group.
///
/// # Errors
/// Exit 3 for a bad name, exit 4 without daemon or broker.
pub(crate) async fn join(context: &Context, args: &GroupJoinArgs) -> Outcome<Report> {
    let group = name(context, &args.group)?;
    let mesh = context.mesh(&context.config()?).await?;
    let client = context.daemon_client().await?;
    let work = settled(&client, async || {
        let joined = client.group_join(Some(&mesh), group.as_str(), args.role.as_deref()).await;
        joined.map_err(link::failure)
    });
    let reply = context.out.during("joining", work).await?;
    Ok(report(&reply, &mesh, &group, &format!("joined @{group} on {mesh}")))
}

/// Leaves a group.
///
/// # Errors
/// As [`join`].
pub(crate) async fn leave(context: &Context, args: &GroupLeaveArgs) -> Outcome<Report> {
    let group = name(context, &args.group)?;
    let mesh = context.mesh(&context.config()?).await?;
    let client = context.daemon_client().await?;
    let work = settled(&client, async || {
        client.group_leave(Some(&mesh), group.as_str()).await.map_err(link::failure)
    });
    let reply = context.out.during("leaving", work).await?;
    Ok(report(&reply, &mesh, &group, &format!("left @{group} on {mesh}")))
}

fn name(context: &Context, text: &str) -> Outcome<GroupName> {
    GroupName::parse_lenient(text).map_err(|error| {
        Failure::new(ErrorCode::InvalidArgs, format!("{} \"{text}\"", context.spoken))
            .detail(error.to_string())
            .detail("expected: eng, eng/core or @eng")
    })
}

/// The reply as it stands, completed to `{ok, mesh, name}`.
fn report(reply: &OpReply, mesh: &str, group: &GroupName, sentence: &str) -> Report {
    let mut map = Map::from_iter([
        ("ok".to_owned(), Value::Bool(true)),
        ("mesh".to_owned(), Value::from(mesh)),
    ]);
    if let Value::Object(result) = &reply.result {
        map.extend(result.clone());
    }
    map.entry("name").or_insert_with(|| Value::from(group.as_str()));
    let mut screen = Screen::new();
    screen.done(sentence);
    Report::new(Document::Object(map), screen)
}
