//! The result of a tool call as MCP carries it (MCP spec §6).

use claudemesh_protocol::limits::MCP_RESULT_MAX_BYTES;
use claudemesh_protocol::ops::Shape;
use serde_json::{Value, json};

use super::call::Call;
use super::failure::Failure;
use super::listing::Revision;
use super::text::ToolText;

/// What a tool call came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The result of the operation, exactly as the local API gives it.
    Done(Value),
    /// It failed.
    Failed(Failure),
}

impl Outcome {
    /// The `result` of `tools/call`.
    pub(crate) fn to_result(&self, call: &Call, revision: Revision, text: &ToolText) -> Value {
        match self {
            Self::Done(result) => {
                let (text, structured) = bounded(call, result.clone(), text);
                result_of(&text, structured, revision)
            }
            Self::Failed(failure) => failed(failure, revision),
        }
    }
}

/// The result for a call that found every place taken.
pub(crate) fn busy(revision: Revision) -> Value {
    failed(&Failure::busy(), revision)
}

fn failed(failure: &Failure, revision: Revision) -> Value {
    let mut result = result_of(&failure.text(), failure.structured(), revision);
    if let Some(object) = result.as_object_mut() {
        object.insert("isError".to_owned(), true.into());
    }
    result
}

fn result_of(text: &str, structured: Value, revision: Revision) -> Value {
    let mut result = json!({ "content": [{ "type": "text", "text": text }] });
    if revision.has_structured_results()
        && let Some(object) = result.as_object_mut()
    {
        object.insert("structuredContent".to_owned(), structured);
    }
    result
}

/// Text and structured form of a result within [`MCP_RESULT_MAX_BYTES`]. A list loses rows at its end, so that what is
/// left is whole and both forms say the same; of a record, which has no rows to lose, only the text is cut.
fn bounded(call: &Call, mut result: Value, text: &ToolText) -> (String, Value) {
    let size = result.to_string().len();
    if size > MCP_RESULT_MAX_BYTES {
        shorten(call, &mut result);
    }
    let mut text = text.of(call, &result);
    let end = (0..=MCP_RESULT_MAX_BYTES).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or_default());
    (text, result)
}

fn shorten(call: &Call, result: &mut Value) {
    if let Value::Object(object) = result {
        object.insert("truncated".to_owned(), true.into());
    }
    if let Shape::List(list) = call.kind.spec().shape {
        let excess = result.to_string().len().saturating_sub(MCP_RESULT_MAX_BYTES);
        if let Some(rows) = result.get_mut(list).and_then(Value::as_array_mut) {
            let mut saved = 0;
            while saved < excess && rows.len() > 1 {
                saved += rows.pop().map_or(0, |row| row.to_string().len() + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use claudemesh_protocol::ops::OperationKind;
    use serde_json::Map;

    use super::*;

    fn call(kind: OperationKind) -> Call {
        Call { kind, mesh: None, arguments: Map::new() }
    }

    fn result(kind: OperationKind, value: &Value) -> Value {
        Outcome::Done(value.clone()).to_result(&call(kind), Revision::NEWEST, &ToolText::Json)
    }

    #[test]
    fn text_and_structure_are_the_same_result() {
        let value = json!({ "key": "k", "value": { "a": 1 }, "version": 3 });
        let result = result(OperationKind::StateGet, &value);
        assert_eq!(result["structuredContent"], value);
        let text = result["content"][0]["text"].as_str().unwrap();
        assert_eq!(text, value.to_string());
        assert!(result.get("isError").is_none());
    }

    #[test]
    fn a_long_list_loses_rows_and_says_so() {
        let row = json!({ "key": "k", "value": "ä".repeat(1000) });
        let value = json!({ "entries": vec![row; 300] });
        let result = result(OperationKind::StateList, &value);
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.len() <= MCP_RESULT_MAX_BYTES && text.len() > MCP_RESULT_MAX_BYTES - 4096);
        let read: Value = serde_json::from_str(text).unwrap();
        assert_eq!(read, result["structuredContent"]);
        assert_eq!(read["truncated"], json!(true));
    }

    #[test]
    fn a_long_record_is_cut_between_characters() {
        let value = json!({ "key": "k", "value": "ä".repeat(MCP_RESULT_MAX_BYTES) });
        let result = result(OperationKind::StateGet, &value);
        assert!(result["content"][0]["text"].as_str().unwrap().len() <= MCP_RESULT_MAX_BYTES);
        assert_eq!(result["structuredContent"]["truncated"], json!(true));
    }

    #[test]
    fn old_revisions_get_text_only() {
        let old = Revision::agreed("2025-03-26");
        let failure = Failure::new("not_found", "nothing there").hint("look elsewhere");
        let result = failed(&failure, old);
        assert!(result.get("structuredContent").is_none());
        assert_eq!(result["isError"], json!(true));
        assert_eq!(result["content"][0]["text"], "not_found: nothing there (look elsewhere)");
    }

    /// MCP spec §6: `--tool-text human`.
    #[test]
    fn text_for_people_stands_beside_the_same_structure() {
        let human = ToolText::Human(Arc::new(|shown: &super::super::Shown<'_>| {
            format!("{} {}", shown.kind.spec().name, shown.result["value"]).repeat(100_000)
        }));
        let value = json!({ "key": "k", "value": 14 });
        let done = Outcome::Done(value.clone());
        let result = done.to_result(&call(OperationKind::StateGet), Revision::NEWEST, &human);
        assert_eq!(result["structuredContent"], value);
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with("state.get 14") && text.len() == MCP_RESULT_MAX_BYTES);
        let missing = Outcome::Failed(Failure::new("not_found", "nothing there"));
        let result = missing.to_result(&call(OperationKind::StateGet), Revision::NEWEST, &human);
        assert_eq!(result["content"][0]["text"], "not_found: nothing there");
    }
}
