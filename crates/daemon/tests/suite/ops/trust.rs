//! Grants and safety numbers.

use claudemesh_crypto::safety::safety_number;
use claudemesh_protocol::ops::OperationKind as Op;
use serde_json::{Value, json};

use super::world::{HOME, Stage, done, refused};

/// CLI §3.5: grant = union with current-or-default, revoke = difference, none named = all, reset = the defaults; entries
/// are kept by member key, also of absent members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_are_merged_by_member() {
    let stage = Stage::new().await;
    let client = stage.client();
    let defaults = json!(["read", "dm", "broadcast", "state-read"]);
    let bob = stage.world.key(1).to_hex();
    let sorted = |value: &Value| {
        let mut words: Vec<String> = serde_json::from_value(value.clone()).unwrap();
        words.sort();
        words
    };
    // Named by its session, kept by its member.
    let given = json!({ "peer": "bob", "capabilities": ["file-read"] });
    let entry = done(&client, Op::GrantAdd, given).await;
    assert_eq!((&entry["memberPubkey"], &entry["mesh"]), (&json!(bob), &json!(HOME)));
    assert_eq!(sorted(&entry["now"]), ["broadcast", "dm", "file-read", "read", "state-read"]);
    let taken = json!({ "peer": bob, "capabilities": ["dm", "broadcast"] });
    let entry = done(&client, Op::GrantRemove, taken).await;
    assert_eq!(sorted(&entry["now"]), ["file-read", "read", "state-read"]);
    assert_eq!(entry["isDefault"], false);
    let list = done(&client, Op::GrantList, json!({})).await;
    assert_eq!(list["defaults"], defaults);
    assert_eq!(list["grants"].as_array().unwrap().len(), 1);
    assert_eq!(sorted(&list["grants"][0]["now"]), ["file-read", "read", "state-read"]);
    let all = done(&client, Op::GrantAdd, json!({ "peer": "bob" })).await;
    assert_eq!(all["now"].as_array().unwrap().len(), 6);
    let none = done(&client, Op::GrantRemove, json!({ "peer": "bob" })).await;
    assert_eq!(none["now"], json!([]));
    let reset = done(&client, Op::GrantAdd, json!({ "peer": "bob", "reset": true })).await;
    assert_eq!((&reset["now"], &reset["isDefault"]), (&defaults, &json!(true)));
    assert_eq!(done(&client, Op::GrantList, json!({})).await["grants"], json!([]));
    // Somebody who was never here.
    let blocked = done(&client, Op::GrantBlock, json!({ "peer": "bot-2" })).await;
    assert_eq!((&blocked["peer"], &blocked["now"]), (&json!("bot-2"), &json!([])));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_to_groups_to_strangers_or_to_oneself() {
    let stage = Stage::new().await;
    let client = stage.client();
    let own = stage.world.key(0).to_hex();
    let stranger = crate::local::world::some_key();
    for (peer, expected) in [
        ("@eng", "invalid_target"),
        ("*", "invalid_target"),
        ("nobody", "target_not_found"),
        (stranger.as_str(), "target_not_found"),
        (own.as_str(), "self_target"),
    ] {
        let (_, code, _) = refused(&client, Op::GrantBlock, json!({ "peer": peer })).await;
        assert_eq!(code, expected, "{peer}");
    }
    stage.stop().await;
}

/// CLI §3.4.3: the digits are of the two member keys; several sessions of one member are one entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safety_numbers_are_of_members() {
    let stage = Stage::new().await;
    let client = stage.client();
    let second = stage.bob.register("bob two", None, Vec::new());
    stage.bob.session_open(&second).await;
    let expected = safety_number(stage.world.key(0), stage.world.key(1));
    let one = done(&client, Op::PeerVerify, json!({ "peer": "bob" })).await;
    assert_eq!(one["peers"][0]["safetyNumber"], expected);
    assert_eq!(one["peers"][0]["memberPubkey"], stage.world.key(1).to_hex());
    let online = done(&client, Op::PeerVerify, json!({})).await;
    assert_eq!(online["peers"].as_array().unwrap().len(), 1, "{online}");
    assert_eq!(online["peers"][0]["safetyNumber"], expected);
    let absent = done(&client, Op::PeerVerify, json!({ "peer": "bot-2" })).await;
    assert_eq!(absent["peers"][0]["peer"], "bot-2");
    stage.stop().await;
}

/// Wire spec §2.7: permissions and roles are changed by who may, for members who are absent too; an override wins over
/// the role and goes with a reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_and_roles_are_changed_by_the_owner() {
    let stage = Stage::new().await;
    let client = stage.client();
    let all = done(&client, Op::MemberPermissions, json!({})).await;
    let rows = all["members"].as_array().unwrap();
    assert!(rows.len() > 2 && rows.iter().all(|row| row["mesh"] == HOME), "{all}");
    assert_eq!(rows.iter().filter(|row| row["is_owner"] == true).count(), 1, "{all}");
    let deny = json!({ "peer": "bot-2", "permissions": ["canSend", "canWriteState"] });
    let denied = done(&client, Op::MemberDeny, deny).await;
    assert_eq!((&denied["display_name"], &denied["mesh"]), (&json!("bot-2"), &json!(HOME)));
    assert_eq!(denied["permissions"]["canSend"], false);
    assert_eq!(denied["permissions"]["canUseTools"], true);
    let reset = json!({ "peer": "bot-2", "permissions": ["canSend"], "reset": true });
    let (_, code, _) = refused(&client, Op::MemberAllow, reset).await;
    assert_eq!(code, "invalid_field");
    let admin = done(&client, Op::MemberRole, json!({ "peer": "bot-2", "role": "admin" })).await;
    assert_eq!(admin["role"], "admin");
    assert_eq!(admin["permissions"]["canInvite"], true);
    assert_eq!(admin["permissions"]["canSend"], false, "what was denied stays denied");
    let back = done(&client, Op::MemberDeny, json!({ "peer": "bot-2", "reset": true })).await;
    assert_eq!(back["permissions"]["canSend"], true);
    let one = done(&client, Op::MemberPermissions, json!({ "peer": "bot-2" })).await;
    assert_eq!(one["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["members"][0]["permissions"], back["permissions"]);
    let none = done(&client, Op::MemberDeny, json!({ "peer": "bot-2" })).await;
    assert!(none["permissions"].as_object().unwrap().values().all(|may| *may == false), "{none}");
    stage.stop().await;
}
