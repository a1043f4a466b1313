//! The list of tools as a client gets it, and what it costs a model (MCP spec §1, §6).

use claudemesh_mcp::client_config::default_list;
use claudemesh_mcp::{Toolset, tool_entry};
use claudemesh_protocol::ops::{Family, OperationKind, fits};
use serde_json::{Value, json};

use crate::client::Client;
use crate::daemon::Daemon;

/// Most tokens that the tools of the default recipe may cost in every conversation.
const DEFAULT_TOKENS_MAX: usize = 1000;

/// What a model is given of a tool: name, description, input schema. Counted as compact JSON, four bytes to a token.
fn tokens(kinds: &[OperationKind]) -> usize {
    let bytes: usize = kinds
        .iter()
        .map(|kind| {
            let entry = tool_entry(*kind);
            let seen = json!({ "name": entry["name"], "description": entry["description"],
                "input_schema": entry["inputSchema"] });
            seen.to_string().len()
        })
        .sum();
    bytes.div_ceil(4)
}

fn kinds(list: &str) -> Vec<OperationKind> {
    Toolset::parse(list).unwrap().operations().collect()
}

#[test]
fn the_default_tools_cost_a_model_less_than_a_thousand_tokens() {
    for family in Family::ALL {
        let kinds = kinds(family.as_str());
        let whole: usize = kinds.iter().map(|kind| tool_entry(*kind).to_string().len()).sum();
        println!(
            "{:<15} {:>2} tools {:>5} tokens for the model {:>6} bytes on the wire",
            family.as_str(),
            kinds.len(),
            tokens(&kinds),
            whole
        );
    }
    let cost = tokens(&kinds(&default_list()));
    println!("{} {cost}", default_list());
    assert!(cost < DEFAULT_TOKENS_MAX, "{cost}");
}

#[tokio::test]
async fn tools_are_listed_by_family_with_schemas_and_annotations() {
    let daemon = Daemon::new();
    let mut client = Client::with_tools(&daemon.home(), "state,messaging", json!({}), |_| ()).await;
    let reply = client.ask("tools/list", json!({})).await;
    let tools = reply["result"]["tools"].as_array().unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "send_message",
            "list_peers",
            "message_status",
            "check_messages",
            "set_state",
            "get_state",
            "list_state",
        ]
    );
    for tool in tools {
        let schema = &tool["inputSchema"];
        assert_eq!(
            (&schema["type"], &schema["additionalProperties"]),
            (&json!("object"), &json!(false))
        );
        assert!(schema["properties"]["mesh"].is_object());
        for property in schema["properties"].as_object().unwrap().values() {
            assert!(!property["description"].as_str().unwrap().is_empty());
        }
        assert_eq!(tool["outputSchema"]["type"], "object", "{}", tool["name"]);
        assert!(tool["annotations"]["readOnlyHint"].is_boolean());
        assert!(tool["title"].is_string() && tool["description"].is_string());
    }
    client.close().await;
}

/// MCP spec §1: no tools unless they are asked for.
#[tokio::test]
async fn without_a_list_there_are_no_tools() {
    let daemon = Daemon::new();
    let mut client = Client::with_tools(&daemon.home(), "", json!({}), |_| ()).await;
    assert_eq!(client.ask("tools/list", json!({})).await["result"]["tools"], json!([]));
    assert_eq!(client.call("get_state", json!({ "key": "k" })).await["error"]["code"], -32602);
    client.close().await;
}

#[tokio::test]
async fn clients_of_old_revisions_get_text_only() {
    let daemon = Daemon::new();
    daemon.start();
    let mut client = Client::with_tools(&daemon.home(), "state", json!({}), |_| ()).await;
    for (version, is_structured) in
        [("2024-11-05", false), ("2025-03-26", false), ("2025-06-18", true), ("2025-11-25", true)]
    {
        client.ask("initialize", json!({ "protocolVersion": version, "capabilities": {} })).await;
        let reply = client.ask("tools/list", json!({})).await;
        assert_eq!(
            reply["result"]["tools"][0]["outputSchema"].is_object(),
            is_structured,
            "{version}"
        );
        let reply = client.call("list_state", json!({})).await;
        assert_eq!(reply["result"]["structuredContent"].is_object(), is_structured, "{version}");
        assert_eq!(reply["result"]["content"][0]["type"], "text");
    }
    client.close().await;
}

#[test]
fn the_schema_of_every_tool_is_an_object_of_what_it_takes_and_gives() {
    for kind in kinds("all") {
        let entry = tool_entry(kind);
        assert_eq!(entry["outputSchema"]["type"], json!("object"), "{kind:?}");
        assert!(!entry["outputSchema"].to_string().contains("\"description\":\""), "{kind:?}");
        assert!(entry["description"].as_str().unwrap().len() < 120, "{kind:?}");
        let failure = json!({ "error": { "code": "not_found", "message": "m" } });
        assert!(fits(&entry["outputSchema"], &failure), "{kind:?}: clients check failures too");
        let names = entry["inputSchema"]["properties"].as_object().unwrap();
        let declared: Vec<String> =
            kind.fields().into_iter().map(|field| field.tool_name).collect();
        assert!(
            declared.iter().all(|name| names.contains_key(name))
                && names.len() == declared.len() + 1
        );
    }
}

#[test]
fn an_operation_without_a_tool_has_no_entry() {
    assert_eq!(tool_entry(OperationKind::PeerKick), Value::Null);
}
