//! Transcripts of Claude Code, as 2.1.329 writes them (`~/.claude/projects/<directory>/<session>.jsonl`).

use serde_json::Value;

use super::{Entering, Step, text_at, texts_in};

/// Attachments whose text the model reads.
const ATTACHMENTS: [&str; 3] = ["hook_additional_context", "hook_blocking_error", "queued_command"];
/// Who asks the model in the conversation itself, and not beside it, for a title or a summary.
const MAIN_SOURCES: [&str; 2] = ["sdk", "repl_main_thread"];

pub(super) fn step(entry: &Value) -> Step {
    // What a helper of the agent reads is not what the agent reads.
    if entry.get("isSidechain") == Some(&Value::Bool(true)) {
        return Step::Other;
    }
    match text_at(entry, "/type") {
        "user" => user(entry),
        "attachment" => attachment(entry),
        "api-request" if MAIN_SOURCES.contains(&text_at(entry, "/querySource")) => Step::Asked,
        "assistant" if entry.get("isApiErrorMessage") != Some(&Value::Bool(true)) => Step::Asked,
        "system" => match text_at(entry, "/subtype") {
            "turn_duration" => Step::Ended,
            // Without a terminal no duration is written. With an error the hook made the turn go on.
            "stop_hook_summary" => {
                let errors = entry.get("hookErrors").and_then(Value::as_array);
                if errors.is_some_and(Vec::is_empty) { Step::Ended } else { Step::Other }
            }
            "compact_boundary" => Step::Compacted,
            _ => Step::Other,
        },
        _ => Step::Other,
    }
}

fn user(entry: &Value) -> Step {
    let content = entry.pointer("/message/content").unwrap_or(&Value::Null);
    let kind = text_at(entry, "/origin/kind");
    let is_result = content
        .as_array()
        .is_some_and(|blocks| blocks.iter().any(|block| text_at(block, "/type") == "tool_result"));
    let way = match kind {
        "" | "human" if is_result => "tool",
        "" | "human" => "prompt",
        kind => kind,
    };
    let entering = entering(entry, way, texts_in(content), entry.pointer("/origin/msg_id"));
    if kind == "human" && !is_result { Step::Human(entering) } else { Step::Enters(entering) }
}

fn attachment(entry: &Value) -> Step {
    let Some(attachment) = entry.get("attachment") else { return Step::Other };
    let kind = text_at(attachment, "/type");
    if !ATTACHMENTS.contains(&kind) {
        return Step::Other;
    }
    let hook = text_at(attachment, "/hookEvent");
    let origin = text_at(attachment, "/origin/kind");
    let way = if hook.is_empty() { origin } else { hook };
    let id = attachment.pointer("/origin/msg_id");
    Step::Enters(entering(entry, way, texts_in(attachment), id))
}

fn entering(entry: &Value, way: &str, texts: Vec<String>, id: Option<&Value>) -> Entering {
    Entering {
        texts,
        id: id.and_then(Value::as_str).map(str::to_owned),
        way: way.to_owned(),
        entry: text_at(entry, "/uuid").to_owned(),
        at: text_at(entry, "/timestamp").to_owned(),
    }
}
