//! Entries as the agents write them, without what does not matter here.

use serde_json::json;

use super::*;
use crate::render::{Place, Provenance, Trust, frame};

/// A message in its frame.
fn framed(id: &str) -> String {
    let from = Provenance {
        id,
        name: "Mou",
        key: "7d3f09aa",
        mesh: "dev",
        trust: Trust::Verified,
        place: Place::Direct,
        is_urgent: false,
        reply_to: None,
        also_given: false,
    };
    format!("claudemesh: 1 unread\n{}", frame(&from, "hello", 100))
}

fn hook(event: &str, text: &str) -> Value {
    json!({ "type": "attachment", "uuid": "u1", "timestamp": "t1", "isSidechain": false,
            "attachment": { "type": "hook_additional_context", "hookEvent": event, "content": [text] } })
}

fn asked() -> Value {
    json!({ "type": "api-request", "querySource": "repl_main_thread", "timestamp": "t2" })
}

fn ended() -> Value {
    json!({ "type": "system", "subtype": "turn_duration", "isSidechain": false })
}

/// What a reader says to these entries.
fn signs(format: Format, entries: &[Value]) -> Vec<Sign> {
    let mut reader = Reader::new(format);
    entries.iter().flat_map(|entry| reader.read(format!("{entry}\n").as_bytes())).collect()
}

fn shown(id: &str, way: &str, entry: &str, at: &str) -> Sign {
    let text = str::to_owned;
    Sign::InContext(Shown { id: text(id), way: text(way), entry: text(entry), at: text(at) })
}

fn over(id: &str) -> Sign {
    Sign::TurnEnded { id: id.to_owned() }
}

#[test]
fn a_message_is_in_context_once_the_model_was_asked() {
    let entries = [hook("PostToolUse", &framed("01A")), asked(), asked(), ended(), ended()];
    let said = signs(Format::Claude, &entries);
    assert_eq!(said, [shown("01A", "PostToolUse", "u1", "t1"), over("01A")]);
    // Handed to the agent and no more.
    assert_eq!(signs(Format::Claude, &entries[..1]), []);
    // A question beside the conversation proves nothing, nor does a failed answer.
    let beside = json!({ "type": "api-request", "querySource": "generate_session_title" });
    let failed = json!({ "type": "assistant", "isApiErrorMessage": true });
    assert_eq!(signs(Format::Claude, &[entries[0].clone(), beside, failed]), []);
}

#[test]
fn a_hook_that_makes_the_turn_go_on_does_not_end_it() {
    let summary = |errors: Value| json!({ "type": "system", "subtype": "stop_hook_summary", "hookErrors": errors });
    let feedback = json!({ "type": "user", "isMeta": true, "uuid": "u2", "timestamp": "t3",
                           "message": { "role": "user", "content": format!("Stop hook feedback:\n{}", framed("01B")) } });
    let said = signs(
        Format::Claude,
        &[
            hook("UserPromptSubmit", &framed("01A")),
            asked(),
            feedback,
            summary(json!(["01B"])),
            asked(),
            summary(json!([])),
        ],
    );
    assert_eq!(
        said,
        [
            shown("01A", "UserPromptSubmit", "u1", "t1"),
            shown("01B", "prompt", "u2", "t3"),
            over("01A"),
            over("01B"),
        ]
    );
}

#[test]
fn the_agents_own_id_of_a_push_counts_too() {
    let peer = json!({ "type": "user", "uuid": "u3", "timestamp": "t1",
                       "origin": { "kind": "peer", "msg_id": "m-1" },
                       "message": { "content": "<cross-session-message>hi" } });
    let queued = json!({ "type": "attachment", "uuid": "u4", "timestamp": "t1", "attachment": {
        "type": "queued_command", "prompt": framed("01C"), "origin": { "kind": "channel", "server": "claudemesh" } } });
    let said = signs(Format::Claude, &[peer, queued, asked()]);
    assert_eq!(said, [shown("m-1", "peer", "u3", "t1"), shown("01C", "channel", "u4", "t1")]);
}

#[test]
fn people_and_summaries_are_told() {
    let typed = json!({ "type": "user", "uuid": "u5", "timestamp": "t1", "origin": { "kind": "human" },
                        "message": { "content": "do it" } });
    let bell = json!({ "type": "user", "origin": { "kind": "task-notification" }, "message": { "content": "it rings" } });
    let compacted = json!({ "type": "system", "subtype": "compact_boundary" });
    assert_eq!(
        signs(Format::Claude, &[bell, typed, compacted]),
        [Sign::HumanSpoke { at: "t1".to_owned() }, Sign::Compacted]
    );
}

#[test]
fn helpers_and_quoted_frames_prove_nothing() {
    let mut beside = hook("PostToolUse", &framed("01A"));
    beside["isSidechain"] = json!(true);
    let quoted = framed("01A").replace('\n', "\n| ");
    let said =
        signs(Format::Claude, &[beside, hook("PostToolUse", &format!("| {quoted}")), asked()]);
    assert_eq!(said, []);
}

#[test]
fn codex_answers_in_its_own_words() {
    let item =
        |payload: Value| json!({ "timestamp": "t1", "type": "response_item", "payload": payload });
    let message = |role: &str, text: &str| {
        item(
            json!({ "type": "message", "role": role, "content": [{ "type": "input_text", "text": text }] }),
        )
    };
    let said = signs(
        Format::Codex,
        &[
            message("developer", &framed("01A")),
            message("user", &framed("01B")),
            item(json!({ "type": "reasoning" })),
            item(json!({ "type": "function_call_output", "output": framed("01C") })),
            message("assistant", "ok"),
            json!({ "type": "event_msg", "payload": { "type": "task_complete" } }),
        ],
    );
    assert_eq!(
        said,
        [
            shown("01A", "hook", "", "t1"),
            shown("01B", "prompt", "", "t1"),
            shown("01C", "tool", "", "t1"),
            over("01A"),
            over("01B"),
            over("01C"),
        ]
    );
}

#[test]
fn pieces_of_lines_and_garbage_make_no_difference() {
    let lines = format!(
        "{}\nnot json\n\u{0}\n[1]\n{}\n{}\n",
        hook("Stop", &framed("01A")),
        asked(),
        ended()
    );
    let mut reader = Reader::new(Format::Claude);
    let said: Vec<Sign> = lines.as_bytes().chunks(7).flat_map(|piece| reader.read(piece)).collect();
    assert_eq!(said, [shown("01A", "Stop", "u1", "t1"), over("01A")]);
    let mut reader = Reader::new(Format::Claude);
    let long = vec![b'x'; LINE_MAX_BYTES];
    assert!(reader.read(&long).is_empty() && reader.read(&long).is_empty());
    assert!(reader.line.is_empty());
    assert!(reader.read(format!("\n{lines}").as_bytes()) == said);
}

#[test]
fn a_reader_goes_on_where_another_one_may_begin() {
    let lines: Vec<String> = [
        hook("Stop", &framed("01A")),
        asked(),
        hook("PostToolUse", &framed("01B")),
        json!({ "type": "file-history-snapshot" }),
        asked(),
        ended(),
    ]
    .iter()
    .map(|entry| format!("{entry}\n"))
    .collect();
    let text = lines.concat();
    let whole = Reader::new(Format::Claude).read(text.as_bytes());
    assert_eq!(whole.len(), 4, "{whole:?}");
    for cut in 0..=text.len() {
        let mut first = Reader::new(Format::Claude);
        let mut said = first.read(&text.as_bytes()[..cut]);
        assert_eq!(first.offset(), cut as u64);
        let open = said.iter().fold(Vec::new(), |mut open, sign| {
            match sign {
                Sign::InContext(shown) => open.push(shown.id.clone()),
                Sign::TurnEnded { id } => open.retain(|other| other != id),
                _ => {}
            }
            open
        });
        let at = first.safe_offset();
        let mut second = Reader::resume(Format::Claude, at, open);
        said.extend(second.read(&text.as_bytes()[usize::try_from(at).unwrap()..]));
        assert_eq!(said, whole, "cut at {cut}, begun at {at}");
        assert_eq!((second.offset(), second.safe_offset()), (text.len() as u64, text.len() as u64));
    }
}

#[test]
fn what_entered_without_a_question_is_known() {
    let mut reader = Reader::new(Format::Claude);
    reader.read(format!("{}\n", hook("Stop", &framed("01A"))).as_bytes());
    assert!(reader.has_entered("01A") && reader.safe_offset() == 0);
    reader.read(format!("{}\n", asked()).as_bytes());
    assert!(!reader.has_entered("01A") && reader.entered().next().is_none());
}
