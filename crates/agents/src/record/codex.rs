//! Rollouts of Codex, as 0.169 writes them (`~/.codex/sessions/<year>/<month>/<day>/rollout-<time>-<thread>.jsonl`).

use serde_json::Value;

use super::{Entering, Step, text_at, texts_in};

pub(super) fn step(entry: &Value) -> Step {
    let payload = entry.get("payload").unwrap_or(&Value::Null);
    let kind = text_at(payload, "/type");
    match text_at(entry, "/type") {
        "response_item" => item(entry, payload, kind),
        "event_msg" if matches!(kind, "task_complete" | "turn_complete" | "turn_aborted") => {
            Step::Ended
        }
        "compacted" => Step::Compacted,
        _ => Step::Other,
    }
}

fn item(entry: &Value, payload: &Value, kind: &str) -> Step {
    let way = match (kind, text_at(payload, "/role")) {
        ("message", "assistant") | ("reasoning" | "function_call", _) => return Step::Asked,
        ("message", "developer") => "hook",
        ("message", _) => "prompt",
        (kind, _) if kind.ends_with("_call_output") => "tool",
        (kind, _) if kind.ends_with("_call") => return Step::Asked,
        _ => return Step::Other,
    };
    Step::Enters(Entering {
        texts: texts_in(payload),
        id: None,
        way: way.to_owned(),
        entry: String::new(),
        at: text_at(entry, "/timestamp").to_owned(),
    })
}
