//! Checks of the table that need no broker and no daemon.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::*;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

#[test]
fn names_tools_and_verbs_are_unique_and_summaries_are_sentences() {
    let mut seen = BTreeSet::new();
    for kind in OperationKind::ALL {
        let spec = kind.spec();
        assert!(seen.insert(format!("op {}", spec.name)), "{}", spec.name);
        if let Some(tool) = spec.tool {
            assert!(seen.insert(format!("tool {tool}")), "{tool}");
        }
        for words in
            spec.verb.iter().flat_map(|verb| std::iter::once(&verb.words).chain(verb.aliases))
        {
            assert!(seen.insert(format!("verb {words}")), "{words}");
        }
        assert!(spec.summary.ends_with('.') && !spec.summary.starts_with(' '), "{}", spec.summary);
    }
}

/// CAP-4.
#[test]
fn every_operation_needs_exactly_one_capability_unless_it_is_local() {
    for kind in OperationKind::ALL {
        let spec = kind.spec();
        match spec.access {
            Access::Needs(_) | Access::ByTarget => {
                assert_ne!(spec.scope, Scope::Local, "{}", spec.name);
            }
            Access::Upkeep => assert_eq!(spec.scope, Scope::Local, "{}", spec.name),
            Access::Handshake => panic!("{} cannot be a handshake", spec.name),
        }
    }
}

#[test]
fn every_field_is_described_and_every_declared_name_exists() {
    for kind in OperationKind::ALL {
        let spec = kind.spec();
        let fields = kind.fields();
        for field in &fields {
            assert!(!field.description.is_empty(), "{} {}", spec.name, field.name);
        }
        let has = |name: &str| fields.iter().any(|field| field.name == name);
        let verb = spec.verb.unwrap_or(Verb::of(""));
        for name in verb
            .positional
            .iter()
            .chain(spec.redact)
            .chain(spec.tool_names.iter().map(|(wire, _)| wire))
            .chain(verb.flags.iter().map(|(wire, _)| wire))
            .chain(verb.one_of)
            .chain(Some(&verb.clears).filter(|name| !name.is_empty()))
        {
            assert!(has(name), "{} names the field {name}, which its input lacks", spec.name);
        }
        if let Shape::Done(echoed) = spec.shape {
            assert!(echoed.iter().all(|name| has(name)), "{}", spec.name);
        }
    }
}

/// CLI spec §1.15: what would only decorate a connection that ends with the call, and what is the daemon's own.
#[test]
fn what_changes_a_presence_or_is_the_daemons_own_needs_the_daemon() {
    for kind in OperationKind::ALL {
        let spec = kind.spec();
        let is_of_a_presence = spec.scope == Scope::Session
            && spec.class != Class::Read
            && *kind != OperationKind::MessageSend;
        match spec.needs_daemon {
            NeedsDaemon::Never => {
                assert!(!is_of_a_presence && spec.scope != Scope::Local, "{}", spec.name);
            }
            NeedsDaemon::Always => assert!(spec.needs_daemon_for(&Map::new()), "{}", spec.name),
            NeedsDaemon::For(fields) => {
                let known = kind.fields();
                assert!(fields.iter().all(|name| known.iter().any(|field| field.name == *name)));
                assert!(!spec.needs_daemon_for(&Map::new()), "{}", spec.name);
            }
        }
    }
    let edit = OperationKind::ProfileEdit.spec();
    assert!(edit.needs_daemon_for(&object(json!({ "title": "Build master" }))));
    assert!(!edit.needs_daemon_for(&object(json!({ "display_name": "Mou" }))));
}

#[test]
fn schemas_are_closed_objects_under_tool_names() {
    for kind in OperationKind::ALL {
        let schema = kind.input_schema();
        assert_eq!(schema["additionalProperties"], json!(false));
        assert!(schema["properties"]["mesh"]["description"].is_string());
        for (name, property) in schema["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{kind:?} {name}");
        }
    }
    let status = OperationKind::MessageStatus.input_schema();
    assert!(status["properties"]["id"].is_object() && status["properties"]["messageId"].is_null());
    assert_eq!(status["required"], json!(["id"]));
}

#[test]
fn an_argument_is_accepted_under_either_name_and_not_under_both() {
    let kind = OperationKind::MessageStatus;
    for name in ["id", "messageId"] {
        let given = Map::from_iter([(name.to_owned(), json!("abcdefgh"))]);
        assert_eq!(kind.arguments(given).unwrap(), object(json!({ "messageId": "abcdefgh" })));
    }
    let both = object(json!({ "id": "abcdefgh", "messageId": "abcdefgh" }));
    assert!(matches!(kind.arguments(both), Err(ArgumentError::Twice { .. })));
}

#[test]
fn each_mutation_of_a_valid_input_is_refused_and_named() {
    let kind = OperationKind::StateSet;
    let valid = json!({ "key": "k", "value": null, "ifVersion": 3 });
    assert!(kind.arguments(object(valid.clone())).is_ok());
    let long = "k".repeat(257);
    for (mutation, field) in [
        (json!({ "value": 1 }), "key"),
        (json!({ "key": "", "value": 1 }), "key"),
        (json!({ "key": long, "value": 1 }), "key"),
        (json!({ "key": 1, "value": 1 }), "key"),
        (json!({ "key": "k", "value": 1, "ifVersion": "3" }), "ifVersion"),
        (json!({ "key": "k", "value": 1, "ifVersion": -1 }), "ifVersion"),
        (json!({ "key": "k", "value": 1, "ifVersion": 1.5 }), "ifVersion"),
        (json!({ "key": "k", "value": 1, "keyy": 1 }), "keyy"),
    ] {
        let error = kind.arguments(object(mutation.clone())).unwrap_err();
        assert_eq!(error.field(), field, "{mutation}");
    }
    let status = OperationKind::ProfileStatus;
    let error = status.arguments(object(json!({ "status": "busy" }))).unwrap_err();
    assert_eq!(error.to_string(), "\"status\" must be one of idle, working, dnd");
}

#[test]
fn a_forwarded_operation_becomes_its_frame() {
    let kind = OperationKind::StateSet;
    let arguments = kind.arguments(object(json!({ "key": "k", "value": { "a": 1 } }))).unwrap();
    let frame = crate::wire::ClientFrame::of_operation(kind, arguments).unwrap().unwrap();
    assert_eq!(Run::Forward(frame.kind()), kind.spec().run);
    let daemon = crate::wire::ClientFrame::of_operation(OperationKind::PeerList, Map::new());
    assert_eq!(daemon.unwrap(), None);
}

#[test]
fn a_group_name_is_checked_and_loses_its_sign() {
    let kind = OperationKind::GroupJoin;
    let given = |name: &str| object(json!({ "name": name }));
    assert_eq!(kind.arguments(given("@eng/core")).unwrap(), given("eng/core"));
    for bad in ["", "all", "@all", "a b", "@@eng"] {
        assert_eq!(kind.arguments(given(bad)).unwrap_err().field(), "name", "{bad}");
    }
}

#[test]
fn schemas_for_models_say_one_sentence_and_no_bound_that_goes_without_saying() {
    let schema = OperationKind::StateSet.input_schema();
    assert_eq!(schema["properties"]["key"]["description"], json!("Name of the entry"));
    assert_eq!(schema["properties"]["key"]["maxLength"], json!(256));
    assert!(schema["properties"]["key"].get("minLength").is_none());
    assert!(schema["properties"]["ifVersion"].get("minimum").is_none());
    let to = &OperationKind::MessageSend.input_schema()["properties"]["to"];
    assert_eq!(to["anyOf"][1]["maxItems"], json!(32));
    assert!(to["anyOf"][1].get("description").is_none() && to["description"].is_string());
}
