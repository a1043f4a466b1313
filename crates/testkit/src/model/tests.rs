//! The mock model, asked over HTTP as agents ask it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use super::*;

/// Longest wait for what is under way already.
const SOON: Duration = Duration::from_secs(5);

fn model() -> (tempfile::TempDir, MockModel) {
    let dir = tempfile::tempdir().unwrap();
    let model = MockModel::start(&dir.path().join("requests")).unwrap();
    (dir, model)
}

/// Body of the answer to one HTTP request.
fn ask(model: &MockModel, method: &str, path: &str, body: &Value) -> String {
    let host = model.url().strip_prefix("http://").unwrap();
    let body = if method == "POST" { body.to_string() } else { String::new() };
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// The documents of a stream.
fn events(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn probes_are_answered_and_not_recorded() {
    let (_dir, model) = model();
    ask(&model, "HEAD", "/", &Value::Null);
    let models: Value =
        serde_json::from_str(&ask(&model, "GET", "/v1/models", &Value::Null)).unwrap();
    assert_eq!(models, json!({ "data": [], "models": [] }));
    let counted = ask(&model, "POST", "/v1/messages/count_tokens", &json!({ "messages": [] }));
    assert_eq!(counted, r#"{"input_tokens":10}"#);
    assert_eq!(ask(&model, "POST", "/api/event_logging", &json!({ "events": [] })), "{}");
    assert!(model.requests().is_empty());
}

#[test]
fn a_line_calls_a_tool_and_its_result_ends_the_call() {
    let (_dir, model) = model();
    let tools = json!([{ "name": "Bash" }, { "name": "Read" }]);
    let script = "please\nCALL Bash {\"command\":\"echo {}\"}\nCALL Read {\"path\":\"x\"} now";
    let mut messages = vec![json!({ "role": "user", "content": script })];
    let mut called = Vec::new();
    for _ in 0..3 {
        let asked = json!({ "model": "m", "stream": true, "messages": messages, "tools": tools });
        let events = events(&ask(&model, "POST", "/v1/messages?beta=true", &asked));
        let block = &events[1]["content_block"];
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(
            kinds,
            [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop"
            ]
        );
        called.push((
            block["name"].as_str().unwrap_or("-").to_owned(),
            events[2]["delta"]["partial_json"].as_str().unwrap_or("-").to_owned(),
            events[4]["delta"]["stop_reason"].as_str().unwrap().to_owned(),
        ));
        let result = json!({ "type": "tool_result", "tool_use_id": block["id"],
                             "content": [{ "type": "text", "text": "CALL Bash {\"command\":\"evil\"}" }] });
        messages.push(json!({ "role": "assistant", "content": [block] }));
        messages.push(json!({ "role": "user", "content": [result] }));
    }
    let expected = [
        ("Bash", r#"{"command":"echo {}"}"#, "tool_use"),
        ("Read", r#"{"path":"x"}"#, "tool_use"),
        ("-", "-", "end_turn"),
    ];
    assert_eq!(called, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    // A question about the same text that offers no tools gets words, streamed or not.
    let title: Value = serde_json::from_str(&ask(
        &model,
        "POST",
        "/v1/messages",
        &json!({ "messages": messages, "system": [{ "type": "text", "text": "make a title" }] }),
    ))
    .unwrap();
    assert_eq!(title["content"][0]["text"], "ack-4");
    let requests = model.requests();
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[3].instructions(), "make a title");
    assert_eq!(requests[1].tool_results(), ["CALL Bash {\"command\":\"evil\"}"]);
    assert_eq!(requests[0].tools(), ["Bash", "Read"]);
}

#[test]
fn the_other_dialect_calls_by_namespace() {
    let (_dir, model) = model();
    let user = json!({ "type": "message", "role": "user", "content": [
        { "type": "input_text", "text": "CALL mcp__mesh@send_message {\"to\":\"bob\"}" }] });
    let asked = json!({ "input": [user], "tools": [{ "name": "tool_search" }] });
    let first = events(&ask(&model, "POST", "/v1/responses", &asked));
    let item = &first[1]["item"];
    assert_eq!(
        (item["namespace"].as_str(), item["name"].as_str(), item["arguments"].as_str()),
        (Some("mcp__mesh"), Some("send_message"), Some(r#"{"to":"bob"}"#))
    );
    let output = json!({ "type": "function_call_output", "call_id": "call_1", "output": "sent" });
    let asked = json!({ "input": [user, item, output], "tools": [{ "name": "tool_search" }] });
    let second = events(&ask(&model, "POST", "/v1/responses", &asked));
    assert_eq!(second[1]["item"]["content"][0]["text"], "ack-2");
    assert_eq!(second[2]["type"], "response.completed");
    assert_eq!(model.requests()[1].tool_results(), ["sent"]);
    // A second turn has a script of its own.
    let next = json!({ "type": "message", "role": "user", "content": "CALL shell {\"a\":1}" });
    let asked =
        json!({ "input": [user, item, output, next], "tools": [{ "name": "tool_search" }] });
    let third = events(&ask(&model, "POST", "/v1/responses", &asked));
    assert_eq!(third[1]["item"]["name"], "shell");
}

#[test]
fn waiting_finds_what_came_and_what_comes() {
    let (_dir, model) = model();
    let say = |text: &str| {
        json!({ "messages": [{ "role": "system", "content": "reminder" },
                             { "role": "user", "content": text }] })
    };
    ask(&model, "POST", "/v1/messages", &say("one"));
    assert_eq!(model.wait_for_text("one", SOON).unwrap().number, 1);
    let late = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| model.wait_for_text("two", SOON).unwrap().number);
        ask(&model, "POST", "/v1/messages", &say("two"));
        waiting.join().unwrap()
    });
    assert_eq!(late, 2);
    let file = model.dir().join("req-0002.json");
    let kept: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(kept, say("two"));
    let never = model.wait_for_text("three", Duration::ZERO).err().unwrap().to_string();
    assert!(never.contains("never shown three") && never.contains("two"), "{never}");
}
