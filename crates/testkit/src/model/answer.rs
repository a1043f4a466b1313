//! Answers in the manner of each vendor.

use std::fmt::Write as _;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde_json::{Value, json};

use super::recorded::{Dialect, Recorded};
use super::script::{self, Act, Call};

/// Events of a stream, as they are sent.
#[derive(Default)]
struct Events(String);

impl Events {
    fn add(&mut self, kind: &str, mut event: Value) {
        if let Some(event) = event.as_object_mut() {
            event.insert("type".to_owned(), Value::from(kind));
        }
        let _ = write!(self.0, "event: {kind}\ndata: {event}\n\n");
    }
}

/// The answer to a request.
pub(super) fn to(request: &Recorded) -> Response {
    let act = script::next(request);
    match request.dialect {
        Dialect::Messages if request.wants_stream() => stream(messages_stream(request, &act)),
        Dialect::Messages => {
            plain(&message(request, &json!([block(request, &act)]), Some(stop_reason(&act))))
        }
        Dialect::Responses => stream(responses_stream(request, &act)),
    }
}

/// A document.
pub(super) fn plain(document: &Value) -> Response {
    response("application/json", document.to_string())
}

fn stream(events: Events) -> Response {
    response("text/event-stream", events.0)
}

fn response(content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static(content_type));
    response
}

fn message(request: &Recorded, content: &Value, stop_reason: Option<&str>) -> Value {
    json!({
        "id": format!("msg_{}", request.number), "type": "message", "role": "assistant",
        "model": request.body.get("model"), "content": content, "stop_reason": stop_reason, "stop_sequence": null,
        "usage": { "input_tokens": 10, "output_tokens": 5 },
    })
}

fn block(request: &Recorded, act: &Act) -> Value {
    match act {
        Act::Say(text) => json!({ "type": "text", "text": text }),
        Act::Call(call) => tool_use(request, call, &call.arguments),
    }
}

fn tool_use(request: &Recorded, call: &Call, input: &Value) -> Value {
    let id = format!("toolu_{}", request.number);
    json!({ "type": "tool_use", "id": id, "name": call.tool, "input": input })
}

const fn stop_reason(act: &Act) -> &'static str {
    match act {
        Act::Say(_) => "end_turn",
        Act::Call(_) => "tool_use",
    }
}

fn messages_stream(request: &Recorded, act: &Act) -> Events {
    let mut events = Events::default();
    events.add("message_start", json!({ "message": message(request, &json!([]), None) }));
    let (begun, delta) = match act {
        Act::Say(text) => {
            (json!({ "type": "text", "text": "" }), json!({ "type": "text_delta", "text": text }))
        }
        Act::Call(call) => {
            let input = call.arguments.to_string();
            let delta = json!({ "type": "input_json_delta", "partial_json": input });
            (tool_use(request, call, &json!({})), delta)
        }
    };
    events.add("content_block_start", json!({ "index": 0, "content_block": begun }));
    events.add("content_block_delta", json!({ "index": 0, "delta": delta }));
    events.add("content_block_stop", json!({ "index": 0 }));
    let delta = json!({ "stop_reason": stop_reason(act), "stop_sequence": null });
    events.add("message_delta", json!({ "delta": delta, "usage": { "output_tokens": 5 } }));
    events.add("message_stop", json!({}));
    events
}

fn responses_stream(request: &Recorded, act: &Act) -> Events {
    let number = request.number;
    let item = match act {
        Act::Say(text) => json!({
            "type": "message", "role": "assistant", "id": format!("m{number}"),
            "content": [{ "type": "output_text", "text": text }],
        }),
        Act::Call(call) => {
            let mut item = json!({
                "type": "function_call", "id": format!("fc{number}"),
                "call_id": format!("call_{number}"), "name": call.tool,
                "arguments": call.arguments.to_string(),
            });
            if let Some((namespace, item)) = call.namespace.as_ref().zip(item.as_object_mut()) {
                item.insert("namespace".to_owned(), Value::from(namespace.as_str()));
            }
            item
        }
    };
    let id = format!("r{number}");
    let usage = json!({ "input_tokens": 5, "output_tokens": 5, "total_tokens": 10 });
    let mut events = Events::default();
    events.add("response.created", json!({ "response": { "id": id } }));
    events.add("response.output_item.done", json!({ "output_index": 0, "item": item }));
    events.add("response.completed", json!({ "response": { "id": id, "usage": usage } }));
    events
}
