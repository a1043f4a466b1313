//! `claudemesh` without a command (CLI spec §5.1): what to do first, or what there is.

use serde_json::json;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};
use crate::select;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields { names: &["meshes", "next"], id: "" };

/// Runs the call.
///
/// # Errors
/// Exit 5 without a mesh and without a terminal.
pub(crate) fn run(context: &Context) -> Outcome<Report> {
    let config = context.config()?;
    if config.meshes().len() == 0 {
        if !context.out.may_prompt() || context.out.stdout_style().width.is_none() {
            return Err(select::no_mesh(&config));
        }
        let mut screen = brand();
        screen.note("agents and people on different machines talk, end-to-end encrypted");
        screen.blank();
        screen.line(step("claudemesh up", "start a mesh on this machine"));
        screen.line(step("claudemesh join <invite>", "join one by its link"));
        return Ok(Report::new(
            Document::object(json!({ "meshes": [], "next": "claudemesh up" })),
            screen,
        ));
    }
    let slugs: Vec<&str> = config.meshes().map(|mesh| mesh.slug.as_str()).collect();
    let mut screen = brand();
    screen.note(format!("joined: {}", slugs.join(", ")));
    screen.blank();
    screen.line(step("claudemesh peers", "see who is there"));
    screen.line(step("claudemesh send <name> <text>", "send a message"));
    screen.line(step("claudemesh inbox", "read what arrived"));
    screen.line(step("claudemesh help", "everything else"));
    let document = json!({ "meshes": slugs, "next": "claudemesh peers" });
    Ok(Report::new(Document::object(document), screen))
}

fn brand() -> Screen {
    let mut screen = Screen::new();
    screen.blank();
    screen.line(Line::new().icon(Icon::Brand).put(Token::Accent, "claudemesh"));
    screen
}

fn step(command: &str, what: &str) -> Line {
    let command = crate::output::style::padded(command, 32);
    Line::new().put(Token::Code, command).put(Token::Dim, what)
}
