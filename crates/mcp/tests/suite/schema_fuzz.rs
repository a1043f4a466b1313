//! Arguments that fit the schema reach the daemon; each way not to fit is refused before anything is asked of it.

use claudemesh_mcp::Toolset;
use claudemesh_protocol::ops::{Field, FieldKind, OperationKind, fits};
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::daemon::Daemon;

/// Values that fit, at the edges of what the field allows.
fn good(field: &Field) -> Vec<Value> {
    let text = |chars: u64| Value::from("x".repeat(usize::try_from(chars).unwrap()));
    match &field.kind {
        _ if field.is_group_name => vec![json!("eng"), json!("@eng/core")],
        FieldKind::Text => {
            let longest = field.max_chars.unwrap_or(2000);
            vec![
                text(field.min_chars.unwrap_or(0)),
                text(longest),
                json!("ä\u{1f600}"),
                json!("12345678"),
            ]
        }
        FieldKind::Choice(words) => words.iter().map(|word| json!(word)).collect(),
        FieldKind::Flag => vec![json!(true), json!(false)],
        FieldKind::Integer | FieldKind::Duration => {
            vec![json!(field.min.unwrap_or(0)), json!(field.max.unwrap_or(1 << 40))]
        }
        FieldKind::Number => vec![json!(0), json!(1.5)],
        FieldKind::Words(words) => {
            let word = words.first().map_or("x", String::as_str);
            let most = usize::try_from(field.max_items.unwrap_or(40)).unwrap();
            vec![json!([]), json!(vec![word; most])]
        }
        FieldKind::Json => vec![json!(null), json!({ "a": [1, "b"] }), json!("x"), json!(-1.5)],
        FieldKind::Structured => vec![json!("mou"), json!(["mou"]), json!(vec!["mou"; 32])],
    }
}

/// Values that do not fit: another type, a word that is none of those listed, one more than allowed.
fn bad(field: &Field) -> Vec<Value> {
    let text = |chars: u64| Value::from("x".repeat(usize::try_from(chars).unwrap()));
    let mut values = match &field.kind {
        _ if field.is_group_name => vec![json!(5), json!("a b"), json!("all"), json!("")],
        FieldKind::Text => vec![json!(5), json!(["x"]), json!({}), json!(true)],
        FieldKind::Choice(_) => vec![json!("urgent"), json!(5), json!([])],
        FieldKind::Flag => vec![json!("true"), json!(1)],
        FieldKind::Integer | FieldKind::Duration => vec![json!("5"), json!(1.5), json!(true)],
        FieldKind::Number => vec![json!("5")],
        FieldKind::Words(words) => {
            let mut values = vec![json!("x"), json!([5]), json!({})];
            if !words.is_empty() {
                values.push(json!(["no such word"]));
            }
            values
        }
        FieldKind::Json => Vec::new(),
        FieldKind::Structured => {
            vec![json!(5), json!([]), json!(vec!["mou"; 33]), json!([5]), json!({}), json!(true)]
        }
    };
    if let (Some(max), false) = (field.max_chars, field.is_group_name) {
        values.push(text(max + 1));
    }
    if let (Some(min @ 1..), false) = (field.min_chars, field.is_group_name) {
        values.push(text(min - 1));
    }
    values.extend(field.min.map(|min| json!(min - 1)));
    values.extend(field.max.map(|max| json!(max + 1)));
    if let (Some(max), FieldKind::Words(words)) = (field.max_items, &field.kind) {
        let word = words.first().map_or("x", String::as_str);
        values.push(json!(vec![word; usize::try_from(max).unwrap() + 1]));
    }
    values
}

/// Required fields with a value that fits.
fn smallest(fields: &[Field]) -> Map<String, Value> {
    let required = fields.iter().filter(|field| field.is_required);
    required.map(|field| (field.tool_name.clone(), good(field)[0].clone())).collect()
}

/// MCP spec §6, schema fuzz.
#[tokio::test]
async fn valid_arguments_reach_the_daemon_and_each_mutation_is_refused_without_it() {
    let daemon = Daemon::new();
    daemon.start();
    let mut client = Client::with_tools(&daemon.home(), "all", json!({}), |_| ()).await;
    let (mut valid, mut invalid) = (0, 0);
    for kind in Toolset::parse("all").unwrap().operations().collect::<Vec<OperationKind>>() {
        let tool = kind.spec().tool.unwrap();
        let schema = kind.input_schema();
        let fields = kind.fields();
        let base = smallest(&fields);
        let mut inputs = vec![base.clone()];
        let mut mutations: Vec<(String, Map<String, Value>)> = Vec::new();
        for field in &fields {
            let with = |value: Value| {
                let mut input = base.clone();
                input.insert(field.tool_name.clone(), value);
                input
            };
            inputs.extend(good(field).into_iter().map(with));
            mutations
                .extend(bad(field).into_iter().map(|value| (field.tool_name.clone(), with(value))));
            if field.is_required {
                let mut without = base.clone();
                without.remove(&field.tool_name);
                mutations.push((field.tool_name.clone(), without));
            }
        }
        for (stranger, value) in
            [("colour", json!("red")), ("mesh", json!(5)), ("mesh", json!(["dev"]))]
        {
            let mut input = base.clone();
            input.insert(stranger.to_owned(), value);
            mutations.push((stranger.to_owned(), input));
        }
        let mut on_mesh = base.clone();
        on_mesh.insert("mesh".to_owned(), json!("dev"));
        inputs.push(on_mesh);

        for input in inputs {
            let input = Value::Object(input);
            assert!(fits(&schema, &input), "{tool}: the schema itself refuses {input}");
            daemon.change(|memory| memory.ops.clear());
            client.done(tool, input.clone()).await;
            let (name, body, has_token) = daemon.see(|memory| memory.ops[0].clone());
            assert_eq!(name, kind.spec().name);
            assert!(has_token, "{tool} without the session's token");
            assert_eq!(body["mesh"].is_null(), input["mesh"].is_null());
            valid += 1;
        }
        daemon.change(|memory| memory.ops.clear());
        for (field, input) in mutations {
            let input = Value::Object(input);
            let reply = client.call(tool, input.clone()).await;
            assert_eq!(reply["error"]["code"], -32602, "{tool} {input}: {reply}");
            let message = reply["error"]["message"].as_str().unwrap();
            assert!(message.contains(&format!("\"{field}\"")), "{tool} {input}: {message}");
            invalid += 1;
        }
        assert!(daemon.see(|memory| memory.ops.is_empty()), "{tool} asked the daemon");
    }
    assert!(valid > 60 && invalid > 100, "{valid} {invalid}");
    client.close().await;
}

#[tokio::test]
async fn what_is_no_tool_of_this_server_is_refused_by_name() {
    let daemon = Daemon::new();
    daemon.start();
    let mut client =
        Client::with_tools(&daemon.home(), "state,-set_state", json!({}), |_| ()).await;
    for tool in ["set_state", "send_message", "peer_kick", "state.get", ""] {
        let reply = client.call(tool, json!({})).await;
        assert_eq!(reply["error"]["code"], -32602);
        assert!(reply["error"]["message"].as_str().unwrap().contains("unknown tool"), "{reply}");
    }
    assert_eq!(client.ask("tools/call", json!({})).await["error"]["code"], -32602);
    client.close().await;
}
