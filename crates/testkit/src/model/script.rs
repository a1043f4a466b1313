//! What the model says next, told by the text it is shown.

use serde_json::Value;

use super::recorded::{Recorded, TurnKind};

/// Begins a scripted call in a user's text.
const CALL: &str = "CALL ";

/// What the model does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// It speaks.
    Say(String),
    /// It calls a tool.
    Call(Call),
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    /// Namespace, for clients that have them.
    pub(super) namespace: Option<String>,
    /// Name of the tool.
    pub(super) tool: String,
    /// Its arguments.
    pub(super) arguments: Value,
}

/// The newest user text with calls in it is the script; as many of them are done as there are results since.
pub(super) fn next(request: &Recorded) -> Act {
    let turns = request.turns();
    let scripted = turns.iter().enumerate().rev().find_map(|(at, turn)| {
        let calls = if turn.kind == TurnKind::User { calls_in(&turn.text) } else { Vec::new() };
        (!calls.is_empty()).then_some((at, calls))
    });
    let say = || Act::Say(format!("ack-{}", request.number));
    // Side questions, such as for a title, show the same text and offer no tools.
    let Some((at, calls)) = scripted.filter(|_| !request.tools().is_empty()) else { return say() };
    let done: usize = turns.iter().skip(at).map(|turn| turn.results).sum();
    calls.into_iter().nth(done).map_or_else(say, Act::Call)
}

fn calls_in(text: &str) -> Vec<Call> {
    text.match_indices(CALL)
        .filter_map(|(at, word)| {
            let (name, rest) = text.get(at + word.len()..)?.split_once(' ')?;
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            let arguments = values.next()?.ok().filter(Value::is_object)?;
            let (namespace, tool) = match name.split_once('@') {
                Some((namespace, tool)) => (Some(namespace.to_owned()), tool),
                None => (None, name),
            };
            Some(Call { namespace, tool: tool.to_owned(), arguments })
        })
        .collect()
}
