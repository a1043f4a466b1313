//! Codex.

use claudemesh_agents::record::{Format, Sign};

use super::rig::{PATIENCE, Scene, framed, is_in_context, is_missing, proved};

/// Agents spec §1.6: the model of Codex calls our tool by its namespace.
#[test]
#[ignore = "needs the real Codex: make test-agents"]
fn the_model_sends_a_message_and_reads_what_became_of_it() {
    if is_missing("codex") {
        return;
    }
    let scene = Scene::new();
    let codex = scene.codex(
        "[mcp_servers.claudemesh]\ncommand = \"claudemesh\"\nargs = [\"mcp\", \"--tools\", \"messaging\"]\n\
         default_tools_approval_mode = \"approve\"\n",
    );
    let script = r#"CALL mcp__claudemesh@send_message {"to":"Bob","message":"from another model"}"#;
    let ran = codex.exec(script, &[]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    scene.bob_has("from another model");
    let request = scene
        .model
        .wait_for("the result of the tool", PATIENCE, |request| !request.tool_results().is_empty())
        .unwrap();
    let results = request.tool_results();
    assert!(results[0].contains(r#""to":"Bob","ok":true"#), "{results:?}");
    assert_eq!(codex.rollouts().len(), 1);
}

/// Agents spec §1.8: the rollout proves what the requests show.
#[test]
#[ignore = "needs the real Codex: make test-agents"]
fn the_rollout_proves_what_the_model_was_shown() {
    if is_missing("codex") {
        return;
    }
    let scene = Scene::new();
    let codex = scene.codex("");
    let ran = codex.exec(&framed("01CODEX", "hello"), &[]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    scene.model.wait_for_text("[claudemesh message 01CODEX ", PATIENCE).unwrap();
    let signs = proved(Format::Codex, &codex.rollouts());
    assert!(is_in_context(&signs, "01CODEX", "prompt"), "{signs:#?}");
    assert!(signs.contains(&Sign::TurnEnded { id: "01CODEX".to_owned() }), "{signs:#?}");
}
