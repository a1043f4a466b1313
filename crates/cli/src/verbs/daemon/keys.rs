//! `daemon rotate-keypair` and `daemon archive-cleanup` (CLI spec §3.18, daemon spec §19).

use claudemesh_ipc::api::identity::RotateKeypairRequest;
use claudemesh_protocol::error::ErrorCode;
use serde_json::{Value, json};

use super::running;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link;
use crate::output::prompt::Default as Answer;
use crate::output::{Document, Fields, Line, Report, Screen, Token};

/// Keys of `daemon rotate-keypair`.
pub(crate) const ROTATED_FIELDS: Fields =
    Fields { names: &["mesh", "old_prefix", "new_prefix", "error", "message"], id: "mesh" };
/// Keys of `daemon archive-cleanup`.
pub(crate) const CLEANED_FIELDS: Fields = Fields { names: &["ok", "removed", "kept"], id: "ok" };

/// `daemon rotate-keypair`: one mesh after the other, or the one of `--mesh`.
///
/// # Errors
/// Exit 1 when the person says no; exit 4 without a daemon, without a connection to the broker, and where the broker cannot
/// change keys; exit 5 for an unknown mesh; exit 7 without consent.
pub(crate) async fn rotate(context: &Context) -> Outcome<Report> {
    let chosen = context.global.mesh.clone();
    let client = running(context).await?;
    context.consent(&question(chosen.as_deref()), Answer::No)?;
    let request = RotateKeypairRequest { mesh: chosen.clone() };
    let rotating = client.rotate_keypair(&request);
    let reply = context.out.during("changing keys", rotating).await.map_err(link::failure)?;
    if reply.rotated.is_empty() {
        return Err(Failure::new(ErrorCode::NoMesh, "no mesh is joined here")
            .action("claudemesh join <invite>"));
    }
    let mut screen = Screen::new();
    let mut rows: Vec<Value> = Vec::new();
    for rotated in &reply.rotated {
        screen.line(
            Line::new()
                .icon(crate::output::Icon::Done)
                .put(Token::Plain, format!("new key {} on ", rotated.new_prefix))
                .foreign(Token::Accent, &rotated.mesh),
        );
        rows.push(json!({
            "mesh": rotated.mesh, "old_prefix": rotated.old_prefix, "new_prefix": rotated.new_prefix,
        }));
    }
    for error in &reply.errors {
        screen.attention(format!("{}: {}", error.mesh, error.message));
        rows.push(json!({ "mesh": error.mesh, "error": error.error, "message": error.message }));
    }
    let document = match (chosen, rows.pop()) {
        (Some(_), Some(row)) => Document::object(row),
        (_, last) => Document::list(rows.into_iter().chain(last).collect()),
    };
    Ok(Report::new(document, screen))
}

fn question(mesh: Option<&str>) -> String {
    let which = mesh.map_or_else(|| "each mesh".to_owned(), |mesh| format!("\"{mesh}\""));
    format!("other machines with the present key of {which} lose their membership. Change the key?")
}

/// `daemon archive-cleanup`.
///
/// # Errors
/// Exit 4 without a daemon; exit 10 when the archive cannot be written.
pub(crate) async fn clean_up(context: &Context) -> Outcome<Report> {
    let client = running(context).await?;
    let cleaned = client.archive_cleanup().await.map_err(link::failure)?;
    let mut screen = Screen::new();
    screen.done(match cleaned.removed {
        0 => "no archived key has had its time".to_owned(),
        1 => "1 archived key removed".to_owned(),
        removed => format!("{removed} archived keys removed"),
    });
    let document = json!({ "ok": true, "removed": cleaned.removed, "kept": cleaned.kept });
    Ok(Report::new(Document::object(document), screen))
}
