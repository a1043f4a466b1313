//! `mesh leave`: ends the membership on this machine (CLI spec §3.1).

use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::LeaveArgs;
use crate::grammar::words;
use crate::output::{Document, Fields, Report, Screen};

/// Keys of the result.
pub(crate) const FIELDS: Fields =
    Fields { names: &["slug", "left", "remaining", "released"], id: "slug" };

/// Runs the verb: first the server is asked to release the member, best effort, then the local files.
///
/// # Errors
/// Exit 5 when the mesh is not joined.
pub(crate) async fn run(context: &Context, args: &LeaveArgs) -> Outcome<Report> {
    let slug = args.slug.as_str();
    let config = context.config()?;
    let Some(entry) = config.mesh(slug).cloned() else {
        return Err(not_joined(
            slug,
            &config.meshes().map(|mesh| mesh.slug.clone()).collect::<Vec<_>>(),
        ));
    };
    context.admit(&[slug.to_owned()], None).await?;
    let released = release(context, &entry).await;
    let remaining = context.update_config(|config| {
        config.remove_mesh(slug);
        Ok(config.meshes().len())
    })?;
    context.forget_mesh(slug);
    context.detached(slug).await;
    let mut screen = Screen::new();
    screen.done(format!("left {slug} (remaining: {remaining})"));
    let document =
        json!({ "slug": slug, "left": true, "remaining": remaining, "released": released });
    Ok(Report::new(Document::object(document), screen))
}

/// True when the server took the member out of its roster. An owner stays there, and so does a member whose server
/// cannot be reached; neither keeps this machine from forgetting the mesh.
pub(crate) async fn release(
    context: &Context,
    entry: &claudemesh_daemon::home::config::MeshEntry,
) -> bool {
    let Ok(http) = context.http(&entry.broker_url) else { return false };
    let work = http.leave(&entry.mesh_id, &entry.member_id, &entry.keys, Context::now());
    let work = tokio::time::timeout(limits::REQUEST_TIMEOUT, work);
    matches!(context.out.during("leaving", work).await, Ok(Ok(())))
}

fn not_joined(slug: &str, joined: &[String]) -> Failure {
    let mut failure =
        Failure::new(ErrorCode::MeshNotAttached, format!("mesh \"{slug}\" not joined"))
            .exit(ExitCode::NotFound)
            .detail(format!(
                "joined: {}",
                if joined.is_empty() { "none".to_owned() } else { joined.join(", ") }
            ));
    if let Some(near) = words::nearest(slug, joined.iter().map(String::as_str)) {
        failure = failure.detail(format!("did you mean: {near}"));
    }
    failure.action("claudemesh list")
}
