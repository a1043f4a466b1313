//! What needs no mesh.

use serde_json::json;

use super::*;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

#[test]
fn the_mesh_is_taken_from_beside_or_among_the_arguments() {
    for (beside, among) in [
        (Some("dev"), json!({ "key": "k" })),
        (None, json!({ "key": "k", "mesh": "dev" })),
        (None, json!({ "key": "k", "mesh_slug": "dev" })),
        (Some("dev"), json!({ "key": "k", "mesh": "dev", "mesh_slug": null })),
    ] {
        let mut arguments = object(among);
        assert_eq!(named_mesh(beside, &mut arguments).unwrap().as_deref(), Some("dev"));
        assert_eq!(arguments, object(json!({ "key": "k" })));
    }
    let mut two = object(json!({ "mesh": "ops" }));
    assert_eq!(named_mesh(Some("dev"), &mut two).unwrap_err().code(), "invalid_field");
    let mut number = object(json!({ "mesh": 7 }));
    assert_eq!(named_mesh(None, &mut number).unwrap_err().code(), "invalid_field");
}

#[test]
fn a_log_never_shows_what_is_redacted() {
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).finish();
    tracing::subscriber::with_default(subscriber, || {
        let arguments = object(json!({ "key": "k", "value": "secret" }));
        let text = shown(&OperationKind::StateSet.spec(), &arguments).unwrap();
        assert_eq!(text, "key=\"k\" value=…");
    });
}

#[test]
fn a_lost_answer_is_unknown_only_where_a_repeat_would_do_it_twice() {
    let lost = RequestError {
        code: "broker_timeout".to_owned(),
        message: String::new(),
        retry_after_ms: None,
        may_have_run: true,
    };
    for (kind, code) in [
        (OperationKind::StateGet, "broker_timeout"),
        (OperationKind::StateSet, "broker_timeout"),
        (OperationKind::PeerKick, "outcome_unknown"),
        (OperationKind::PeerBan, "outcome_unknown"),
    ] {
        assert_eq!(lost_or_failed(&kind.spec(), &lost).code(), code, "{kind:?}");
    }
    let refused = RequestError { may_have_run: false, code: "forbidden".to_owned(), ..lost };
    assert_eq!(lost_or_failed(&OperationKind::PeerBan.spec(), &refused).code(), "forbidden");
    assert_eq!(
        too_late(&OperationKind::PeerBan.spec(), Duration::from_secs(5)).code(),
        "outcome_unknown"
    );
    assert_eq!(
        too_late(&OperationKind::AuditVerify.spec(), Duration::from_secs(5)).code(),
        "timeout"
    );
}
