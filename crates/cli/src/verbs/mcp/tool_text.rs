//! The text of a tool's result for people, `mcp --tool-text human`: what the verb of the same operation shows (MCP spec
//! §6).

use claudemesh_ipc::api::PeersReply;
use claudemesh_mcp::Shown;
use claudemesh_protocol::ops::OperationKind;
use claudemesh_protocol::ops::messaging::{SendOutcome, SendOutcomes};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::context::Context;
use crate::output::screen::WithHint;
use crate::output::{Icon, Line, Screen, Style, Token};
use crate::verbs::operation::draw::{Manner, drawn};
use crate::verbs::{peer, status};

/// The text, without colours and as wide as it is. A result of which a verb would show nothing is its own text.
pub(super) fn of(shown: &Shown<'_>) -> String {
    let style = Style { colour: false, unicode: true, width: None };
    let text = screen(shown).render(style, WithHint::Yes);
    if text.trim().is_empty() { shown.result.to_string() } else { text }
}

fn screen(shown: &Shown<'_>) -> Screen {
    by_hand(shown).unwrap_or_else(|| {
        let manner = Manner { is_verbose: false, now: Context::now() };
        drawn(shown.kind, shown.arguments, shown.mesh, shown.result.clone(), manner).screen
    })
}

/// Of operations whose verbs have a screen of their own. `None` for others, and for a result that cannot be read.
fn by_hand(shown: &Shown<'_>) -> Option<Screen> {
    match shown.kind {
        OperationKind::MessageSend => {
            let sent: SendOutcomes = read(shown.result)?;
            let mut screen = Screen::new();
            for outcome in &sent.results {
                screen.line(sent_line(outcome));
            }
            Some(screen)
        }
        OperationKind::PeerList => {
            let reply: PeersReply = read(shown.result)?;
            let mut slugs: Vec<String> = reply.peers.iter().map(|peer| peer.mesh.clone()).collect();
            slugs.extend(shown.mesh.map(str::to_owned));
            slugs.sort();
            slugs.dedup();
            let mut screen = peer::screen(&slugs, &reply, false);
            for error in &reply.errors {
                screen.attention(format!("{}: {}", error.mesh, error.error));
            }
            Some(screen)
        }
        OperationKind::MessageStatus => {
            let asked = shown.arguments.get("messageId").and_then(Value::as_str)?;
            shown.result.as_object().map(|result| status::screen(asked, result))
        }
        _ => None,
    }
}

fn read<T: DeserializeOwned>(result: &Value) -> Option<T> {
    serde_json::from_value(result.clone()).ok()
}

/// One target of a send: taken by the daemon, or why not.
fn sent_line(outcome: &SendOutcome) -> Line {
    if let Some(error) = &outcome.error {
        let line = Line::new().icon(Icon::Failed).foreign(Token::Plain, &outcome.to);
        return line.foreign(Token::Plain, &format!(": {error}"));
    }
    let (word, place) = match (outcome.status.as_deref(), outcome.recipient_online) {
        (Some("done"), _) => ("sent to ", ""),
        (_, Some(true)) => ("queued for ", " (online)"),
        (_, Some(false)) => ("queued for ", " (not connected; it waits there)"),
        (_, None) => ("queued for ", ""),
    };
    let id: String = outcome.client_message_id.iter().flat_map(|id| id.chars()).take(12).collect();
    Line::new()
        .icon(Icon::Done)
        .put(Token::Plain, word)
        .foreign(Token::Plain, &outcome.to)
        .put(Token::Plain, place)
        .put(Token::Dim, format!(" · id {id}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn text(kind: OperationKind, arguments: Value, result: &Value) -> String {
        let arguments: Map<String, Value> = serde_json::from_value(arguments).unwrap();
        of(&Shown { kind, arguments: &arguments, mesh: Some("dev"), result })
    }

    /// MCP spec §6: the words of the command line.
    #[test]
    fn results_read_as_on_the_command_line() {
        let value = json!({ "ok": true, "mesh": "dev", "key": "sprint", "value": 14 });
        assert_eq!(text(OperationKind::StateSet, json!({}), &value), "  ✔ sprint = 14\n");
        let sent = json!({ "results": [
            { "to": "Mou", "ok": true, "client_message_id": "m-1", "status": "queued", "recipient_online": true },
            { "to": "Zed\u{1b}[2J", "ok": false, "error": "target_not_found: no peer" },
        ] });
        assert_eq!(
            text(OperationKind::MessageSend, json!({}), &sent),
            "  ✔ queued for Mou (online) · id m-1\n  ✘ Zed[2J: target_not_found: no peer\n"
        );
        let nobody = text(OperationKind::PeerList, json!({}), &json!({ "peers": [] }));
        assert!(nobody.contains("peers on dev (0)"), "{nobody}");
        let status =
            json!({ "messageId": "abcdefgh1234", "targetSpec": "@eng", "delivered": true });
        let status =
            text(OperationKind::MessageStatus, json!({ "messageId": "abcdefgh" }), &status);
        assert!(status.contains("message abcdefgh1234") && status.contains("@eng"), "{status}");
    }

    /// No tool is left without a text, whatever came of it.
    #[test]
    fn every_tool_has_a_text() {
        let empty =
            json!({ "results": [], "peers": [], "messages": [], "entries": [], "grants": [] });
        for kind in OperationKind::ALL.iter().filter(|kind| kind.spec().tool.is_some()) {
            let text = text(*kind, json!({ "messageId": "abcdefgh" }), &empty);
            assert!(!text.trim().is_empty(), "{kind:?}");
        }
    }
}
