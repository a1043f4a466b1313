//! Each row of the wording table of CLI spec §3.6.

use claudemesh_ipc::api::RowStatus;

use super::*;
use crate::output::screen::WithHint;
use crate::output::style::Style;

const PLAIN: Style = Style { colour: false, unicode: true, width: None };

fn reply(recipient_online: Option<bool>) -> SendReply {
    SendReply {
        client_message_id: "c1".into(),
        status: RowStatus::Pending,
        mesh: "dev".into(),
        target: "ab".repeat(32),
        recipient_online,
        duplicate: false,
        broker_message_id: None,
        history_id: None,
        meta_dropped: false,
        results: None,
        broker_answer: None,
    }
}

fn said<'a>(reply: &'a SendReply, kind: Kind, sent: Option<&'a Map<String, Value>>) -> Said<'a> {
    let name = if kind == Kind::Direct { "Mou" } else { "@eng" };
    Said {
        reply,
        kind,
        name,
        sent,
        is_open: true,
        delivered: None,
        waited: Duration::from_secs(10),
    }
}

fn check(said: &Said<'_>, text: &str, outcome: &str, exit: u8) {
    let report = said.report();
    assert_eq!(report.screen.render(PLAIN, WithHint::No).trim_end(), text);
    let Document::Object(map) = &report.document else { panic!() };
    assert_eq!((map["outcome"].as_str(), report.exit), (Some(outcome), exit));
    assert_eq!(map["via"], "daemon");
}

fn word(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[test]
fn direct_messages() {
    let live = word(json!({ "broker_message_id": "MSG0000000001", "recipient_online": true }));
    let away = word(json!({ "broker_message_id": "MSG0000000001", "recipient_online": false }));
    let moved = word(
        json!({ "broker_message_id": "M", "recipient_online": false, "rerouted_to": "cd".repeat(32) }),
    );
    let reply = reply(Some(true));
    check(
        &said(&reply, Kind::Direct, Some(&live)),
        "  ✔ sent to Mou (abababababababab…) (online)  MSG00000",
        "sent",
        0,
    );
    check(
        &said(&reply, Kind::Direct, Some(&away)),
        "  ⚠ queued for Mou — not connected on \"dev\"",
        "queued",
        0,
    );
    check(
        &said(&reply, Kind::Direct, Some(&moved)),
        "  ⚠ that session has ended — queued for Mou's inbox",
        "queued",
        0,
    );
    let offline = Said { is_open: false, ..said(&reply, Kind::Direct, None) };
    check(&offline, "  ⚠ queued locally — broker offline; will retry", "queued_local", 0);
    let arrived = Said { delivered: Some(true), ..said(&reply, Kind::Direct, Some(&live)) };
    check(&arrived, "  ✔ delivered to Mou", "delivered", 0);
    let waited = Said { delivered: Some(false), ..said(&reply, Kind::Direct, Some(&live)) };
    check(&waited, "  ⚠ sent, not confirmed within 10s", "sent", 4);
}

#[test]
fn groups_count_who_was_reached() {
    let reply = reply(None);
    let sent = word(json!({ "recipients": 5, "held": 2 }));
    check(
        &said(&reply, Kind::Many, Some(&sent)),
        "  ✔ sent to @eng (3 online, 2 held for absent members)",
        "sent",
        0,
    );
    let here = word(json!({ "recipients": 2 }));
    check(&said(&reply, Kind::Many, Some(&here)), "  ✔ sent to @eng (2 online)", "sent", 0);
    let nobody = word(json!({ "recipients": 0 }));
    check(
        &said(&reply, Kind::Many, Some(&nobody)),
        "  ⚠ nobody else is in @eng: the message reached nobody",
        "sent",
        0,
    );
    let some =
        word(json!({ "recipients": 1, "held": 0, "unreadable_by": ["Old"], "left_out": ["Far"] }));
    check(
        &said(&reply, Kind::Many, Some(&some)),
        "  ✔ sent to @eng (1 online, 0 held for absent members)\n  ⚠ not readable by Old\n  ⚠ left out: Far",
        "sent",
        0,
    );
}

#[test]
fn a_fan_out_counts_what_failed() {
    let entry =
        |ok| FanoutEntry { target: "cd".repeat(32), ok, client_message_id: None, error: None };
    for (rows, exit) in
        [(vec![true, true], 0), (vec![true, false], 8), (vec![false], 4), (vec![], 4)]
    {
        let rows = rows.into_iter().map(entry).collect();
        let report = fan_out(&SendReply { results: Some(rows), ..reply(None) });
        assert_eq!(report.exit, exit);
    }
}

#[test]
fn ten_names_then_a_count() {
    let names: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
    assert!(shortened(&names).ends_with("n9, and 2 more"));
}
