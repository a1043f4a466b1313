//! `daemon outbox …` (CLI spec §3.18).

use serde_json::Value;

use crate::home::{two_people, until};

fn ids(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["client_message_id"].as_str().unwrap()).collect()
}

/// CLI spec §3.18, daemon spec §11.8.
#[test]
fn an_operator_looks_after_rows() {
    let (ana, _bob) = two_people();
    ana.ok(&["send", "Bob", "gets there", "--client-id", "row-done"]);
    until("it is done", || {
        ids(&ana.json_ok(&["daemon", "outbox", "list", "--done"])) == ["row-done"]
    });
    let shown = ana.json_ok(&["daemon", "outbox", "inspect", "row-done"]);
    assert_eq!(shown["row"]["status"], "done", "{shown}");
    assert_eq!(shown["chain"].as_array().unwrap().len(), 1);
    for verb in ["requeue", "drop"] {
        let (code, refused) = ana.json(&["daemon", "outbox", verb, "row-done"]);
        assert_eq!((code, refused["error"].as_str()), (6, Some("row_finished")), "{verb}");
        let (code, refused) = ana.json(&["daemon", "outbox", verb, "unheard-of"]);
        assert_eq!((code, refused["error"].as_str()), (5, Some("not_found")), "{verb}");
    }
    let ran = ana.run(&["daemon", "outbox", "prune"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let pruned = ana.json_ok(&["daemon", "outbox", "prune", "--older-than", "0s", "--confirm"]);
    assert_eq!(pruned["compacted"], 1, "{pruned}");
    assert!(pruned["bytes_freed"].as_u64().unwrap() > 0, "{pruned}");

    let bob = ana.member_key("Bob");
    ana.ok(&["down", "--broker-only"]);
    until("the broker is away", || ana.json_ok(&["daemon", "status"])["brokers"]["home"] != "open");
    ana.run(&["send", &bob, "waits", "--client-id", "row-waits"]);
    let waiting = ana.json_ok(&["daemon", "outbox", "list", "--pending"]);
    assert_eq!(ids(&waiting), ["row-waits"]);
    let text = ana.ok(&["daemon", "outbox"]);
    assert!(text.contains("pending") && text.contains("cid=row-waits"), "{text}");
    std::fs::write(ana.file("patch.txt"), "another text").unwrap();
    let patch = ana.file("patch.txt");
    let requeued = ana.json_ok(&[
        "daemon",
        "outbox",
        "requeue",
        "row-waits",
        "--new-client-id",
        "row-again",
        "--patch-payload",
        patch.to_str().unwrap(),
    ]);
    assert_eq!(requeued["new_client_message_id"], "row-again", "{requeued}");
    let shown = ana.json_ok(&["daemon", "outbox", "inspect", "row-again"]);
    assert_eq!(shown["row"]["payload_bytes"], "another text".len(), "{shown}");
    assert_eq!(shown["chain"][0], requeued["aborted_row_id"]);
    let said = ana.ok(&["daemon", "outbox", "drop", "row-again"]);
    assert!(said.contains("(aborted)"), "{said}");
    let aborted = ana.json_ok(&["daemon", "outbox", "list", "--aborted"]);
    assert_eq!(ids(&aborted), ["row-again", "row-waits"]);
    assert_eq!(ana.ok(&["daemon", "outbox", "list", "--pending"]).trim(), "(empty)");
}
