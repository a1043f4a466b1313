//! The policy gate in front of tools: modes, rules, questions, and the log (MCP spec §6).

use claudemesh_mcp::Toolset;
use claudemesh_protocol::ops::policy::ApprovalMode;
use claudemesh_protocol::ops::{Class, OperationKind};
use serde_json::{Value, json};

use crate::client::Client;
use crate::daemon::Daemon;

/// Arguments that fit each tool that changes something.
fn arguments(kind: OperationKind) -> Value {
    match kind {
        OperationKind::StateSet => json!({ "key": "k", "value": 1 }),
        OperationKind::GroupJoin | OperationKind::GroupLeave => json!({ "name": "eng" }),
        OperationKind::MessageSend => json!({ "to": "mou", "message": "hi" }),
        OperationKind::ProfileSummary => json!({ "summary": "s" }),
        OperationKind::ProfileStatus => json!({ "status": "dnd" }),
        OperationKind::ProfileVisible => json!({ "visible": true }),
        OperationKind::ProfileEdit => json!({ "title": "t" }),
        OperationKind::GrantAdd | OperationKind::GrantRemove | OperationKind::GrantBlock => {
            json!({ "peer": "mou" })
        }
        other => panic!("no arguments for {other:?}: add them"),
    }
}

fn audit(daemon: &Daemon) -> Vec<Value> {
    let log =
        std::fs::read_to_string(daemon.home().join(".claudemesh/audit.log")).unwrap_or_default();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write_rules(daemon: &Daemon, text: &str) {
    std::fs::write(daemon.home().join(".claudemesh/policy.yaml"), text).unwrap();
}

/// MCP spec §6: `--approval-mode read-only`.
#[tokio::test]
async fn read_only_denies_every_write_before_the_daemon_hears_of_it() {
    for mode in [ApprovalMode::ReadOnly, ApprovalMode::Plan] {
        let daemon = Daemon::new();
        daemon.start();
        let set = |server: &mut claudemesh_mcp::Server| server.approval = mode;
        let mut client =
            Client::with_tools(&daemon.home(), "all", json!({ "elicitation": {} }), set).await;
        let mut denied = 0;
        for kind in Toolset::parse("all").unwrap().operations().collect::<Vec<_>>() {
            let spec = kind.spec();
            if spec.class != Class::Read {
                let error = client.failed(spec.tool.unwrap(), arguments(kind)).await;
                assert_eq!(error["code"], "policy_denied", "{error}");
                denied += 1;
            }
        }
        assert!(denied >= 11, "{denied}");
        assert!(daemon.see(|memory| memory.ops.is_empty()), "the daemon was asked");
        client.done("list_state", json!({})).await;
        let lines = audit(&daemon);
        assert_eq!(lines.len(), denied + 1);
        assert!(
            lines
                .iter()
                .take(denied)
                .all(|line| line["outcome"] == "denied" && line["isWrite"] == true)
        );
        assert_eq!(
            (&lines[denied]["outcome"], &lines[denied]["mode"]),
            (&json!("allowed"), &json!(mode.as_str()))
        );
        client.close().await;
    }
}

/// The gate needs no daemon to say no.
#[tokio::test]
async fn a_denial_by_mode_comes_without_a_daemon() {
    let daemon = Daemon::new();
    let set = |server: &mut claudemesh_mcp::Server| {
        server.approval = ApprovalMode::ReadOnly;
        server.ensure_daemon = std::sync::Arc::new(|| Box::pin(std::future::pending()));
    };
    let mut client = Client::with_tools(&daemon.home(), "state", json!({}), set).await;
    let error = client.failed("set_state", json!({ "key": "k", "value": 1 })).await;
    assert_eq!(error["code"], "policy_denied");
    client.close().await;
}

#[tokio::test]
async fn rules_of_the_file_deny_by_target_and_by_mesh_and_apply_at_once() {
    let daemon = Daemon::with(|memory| {
        memory.peers = Some(vec![
            json!({"pubkey": "cc".repeat(32), "displayName": "Mou", "status": "idle",
            "summary": null, "groups": [{"name": "admins"}], "sessionId": "x", "connectedAt": "", "mesh": "dev",
            "isSelf": false, "isThisSession": false}),
        ]);
    });
    daemon.start();
    let mut client = Client::with_tools(&daemon.home(), "all", json!({}), |_| ()).await;
    let send = json!({ "to": ["ana", "cccccccc"], "message": "hi" });
    client.done("send_message", send.clone()).await;
    write_rules(
        &daemon,
        "rules:\n  - {resource: message, verb: send, peers: ['@admins'], decision: deny, reason: quiet}\n  \
         - {resource: state, verb: set, mesh: dev, decision: deny}\n",
    );
    let error = client.failed("send_message", send).await;
    assert_eq!(
        (&error["code"], &error["rule"], &error["reason"]),
        (&json!("policy_denied"), &json!(1), &json!("quiet"))
    );
    client.done("send_message", json!({ "to": "ana", "message": "hi" })).await;
    // The mesh was not named: it is the session's.
    let error = client.failed("set_state", json!({ "key": "k", "value": 1 })).await;
    assert_eq!((&error["code"], &error["rule"]), (&json!("policy_denied"), &json!(2)));
    let line = audit(&daemon).pop().unwrap();
    assert_eq!(
        (&line["mesh"], &line["rule"], &line["outcome"]),
        (&json!("dev"), &json!(2), &json!("denied"))
    );
    client.close().await;
}

/// Nobody chose a mesh: a rule about any mesh that the call could reach counts.
#[tokio::test]
async fn a_rule_about_a_mesh_holds_when_the_mesh_is_not_named() {
    let daemon = Daemon::with(|memory| memory.meshes = vec!["dev".into(), "ops".into()]);
    daemon.start();
    let mut client = Client::with_tools(&daemon.home(), "state", json!({}), |_| ()).await;
    write_rules(&daemon, "rules:\n  - {resource: state, verb: '*', mesh: ops, decision: deny}\n");
    assert_eq!(client.failed("get_state", json!({ "key": "k" })).await["code"], "policy_denied");
    client.done("get_state", json!({ "key": "k", "mesh": "dev" })).await;
    client.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_policy_lets_nothing_be_changed() {
    let daemon = Daemon::new();
    daemon.start();
    write_rules(&daemon, "rules: 5\n");
    let mut client = Client::with_tools(&daemon.home(), "state", json!({}), |_| ()).await;
    let error = client.failed("set_state", json!({ "key": "k", "value": 1 })).await;
    assert_eq!(error["code"], "policy_denied");
    assert!(error["message"].as_str().unwrap().contains("policy.yaml"), "{error}");
    client.done("get_state", json!({ "key": "k" })).await;
    client.close().await;
}

#[tokio::test]
async fn a_prompt_asks_the_person_and_runs_only_on_yes() {
    let daemon = Daemon::new();
    daemon.start();
    write_rules(
        &daemon,
        "rules:\n  - {resource: message, verb: send, decision: prompt, reason: 'costs money'}\n",
    );
    let mut client =
        Client::with_tools(&daemon.home(), "all", json!({ "elicitation": {} }), |_| ()).await;
    for (answer, runs) in [
        (json!({ "result": { "action": "accept", "content": {} } }), true),
        (json!({ "result": { "action": "decline" } }), false),
        (json!({ "result": { "action": "cancel" } }), false),
        (json!({ "error": { "code": -32601, "message": "no" } }), false),
    ] {
        daemon.change(|memory| memory.ops.clear());
        let id =
            client.begin("send_message", json!({ "to": "mou", "message": "hi" }), json!({})).await;
        let question = client.line().await;
        assert_eq!(question["method"], "elicitation/create");
        assert_eq!(
            question["params"]["message"],
            "Let the agent run message send mou on dev (costs money)?"
        );
        assert_eq!(question["params"]["requestedSchema"]["type"], "object");
        let mut reply = json!({ "jsonrpc": "2.0", "id": question["id"] });
        reply.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        client.send(&reply).await;
        let result = client.line().await;
        assert_eq!(
            (&result["id"], result["result"]["isError"].is_null()),
            (&json!(id), runs),
            "{result}"
        );
        assert_eq!(daemon.see(|memory| memory.ops.len()), usize::from(runs));
    }
    let outcomes: Vec<Value> = audit(&daemon).iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["allowed", "cancelled", "cancelled", "cancelled"]);
    client.close().await;
}

#[tokio::test]
async fn a_client_that_cannot_ask_is_denied_with_a_hint_and_yolo_asks_nobody() {
    let daemon = Daemon::new();
    daemon.start();
    write_rules(&daemon, "default: prompt\n");
    let mut client = Client::with_tools(&daemon.home(), "state", json!({}), |_| ()).await;
    let error = client.failed("get_state", json!({ "key": "k" })).await;
    assert_eq!(error["code"], "policy_denied");
    assert!(error["hint"].as_str().unwrap().contains("cannot ask"), "{error}");
    assert!(daemon.see(|memory| memory.ops.is_empty()));
    client.close().await;
    let yolo = |server: &mut claudemesh_mcp::Server| server.approval = ApprovalMode::Yolo;
    let mut client = Client::with_tools(&daemon.home(), "state", json!({}), yolo).await;
    client.done("get_state", json!({ "key": "k" })).await;
    client.close().await;
}

/// Nobody answers for a minute: the question is withdrawn and the call denied. Time is virtual.
#[tokio::test(start_paused = true)]
async fn a_question_that_nobody_answers_is_withdrawn() {
    let daemon = Daemon::new();
    std::fs::create_dir_all(daemon.home().join(".claudemesh")).unwrap();
    write_rules(&daemon, "default: prompt\n");
    let set = |server: &mut claudemesh_mcp::Server| {
        server.ensure_daemon = std::sync::Arc::new(|| Box::pin(std::future::pending()));
    };
    let mut client =
        Client::with_tools(&daemon.home(), "state", json!({ "elicitation": {} }), set).await;
    client.begin("get_state", json!({ "key": "k" }), json!({ "progressToken": 7 })).await;
    let mut question = Value::Null;
    let mut withdrawn = Value::Null;
    let result = loop {
        let line = client.line().await;
        match line["method"].as_str() {
            Some("elicitation/create") => question = line["id"].clone(),
            Some("notifications/cancelled") => withdrawn = line["params"]["requestId"].clone(),
            Some("notifications/progress") => {}
            _ => break line,
        }
    };
    assert!(question.is_string() && question == withdrawn);
    assert_eq!(result["result"]["structuredContent"]["error"]["code"], "policy_denied");
    client.close().await;
}
