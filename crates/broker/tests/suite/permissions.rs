//! Permissions, profiles, settings and grants over HTTP: who may, by bearer or signature (broker spec §4.24, §4.28, §4.29).

use std::time::Duration;

use claudemesh_crypto::hash::sha256;
use claudemesh_crypto::{KeyPair, statement};
use claudemesh_protocol::{MemberId, MeshId, canonical};
use reqwest::Method;
use serde_json::{Value, json};

use crate::peers::Person;
use crate::world::{Answer, Joiner, World};

/// Mesh `alpha` with its owner and two members.
struct Scene {
    world: World,
    token: String,
    owner: Person,
    bob: Person,
    carol: Person,
}

impl Scene {
    async fn new() -> Self {
        let world = World::start().await;
        let host = world.with_invite(json!({ "max_uses": 9 })).await;
        let mesh = MeshId::new(host.mesh["id"].as_str().unwrap());
        let owner = Person {
            mesh: mesh.clone(),
            id: MemberId::new(host.mesh["member_id"].as_str().unwrap()),
            key: host.owner,
            name: "ana".to_owned(),
        };
        let mut members = Vec::new();
        for name in ["bob", "carol"] {
            let joiner = Joiner { name: Some(name), ..Joiner::new() };
            let claimed = world.claim(&host.code, &joiner).await.ok();
            members.push(Person {
                mesh: mesh.clone(),
                id: MemberId::new(claimed["member_id"].as_str().unwrap()),
                key: joiner.member,
                name: name.to_owned(),
            });
        }
        let carol = members.remove(1);
        Self { world, token: host.token, owner, bob: members.remove(0), carol }
    }

    /// A request signed by this key.
    async fn signed(&self, key: &KeyPair, method: Method, path: &str, body: &Value) -> Answer {
        self.world.clock.advance(Duration::from_millis(1));
        let (now, body) = (self.world.clock_now(), body.to_string());
        let text = canonical::signed_http(method.as_str(), path, &sha256(body.as_bytes()), now);
        let signature = statement::sign(text, key).unwrap();
        let request = self
            .world
            .request(method, path)
            .header("X-Member-Pubkey", key.public().to_hex())
            .header("X-Timestamp", now.as_millis().to_string())
            .header("X-Signature", signature.to_hex())
            .body(body);
        Answer::of(request).await
    }

    /// A request with the owner's bearer.
    async fn as_owner(&self, method: Method, path: &str, body: &Value) -> Answer {
        Answer::of(self.world.request(method, path).bearer_auth(&self.token).json(body)).await
    }

    fn members_path(&self) -> String {
        format!("/mesh/{}/members", self.owner.mesh)
    }

    fn settings_path(&self) -> String {
        format!("/mesh/{}/settings", self.owner.mesh)
    }

    async fn permissions_of(&self, person: &Person) -> Value {
        let answer = self.as_owner(Method::GET, PERMISSIONS, &json!({})).await.ok();
        let rows = answer["members"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["member_id"] == json!(person.id)).unwrap()["permissions"]
            .clone()
    }
}

fn member_path(person: &Person) -> String {
    format!("/mesh/{}/member/{}", person.mesh, person.id)
}

const PERMISSIONS: &str = "/cli/mesh/alpha/permissions";

fn grant(person: &Person, permission: &str, may: impl Into<Value>) -> Value {
    json!({ "member_id": person.id, "permissions": { permission: may.into() } })
}

/// PRM-2, PRM-3.
#[tokio::test]
async fn nobody_gives_what_it_does_not_have() {
    let scene = Scene::new().await;
    let (world, bob, carol) = (&scene.world, &scene.bob, &scene.carol);
    world.get(PERMISSIONS).await.refused(401, "missing_bearer_token");
    let body = grant(carol, "canDeleteMesh", true);
    world.post(PERMISSIONS, &body).await.refused(401, "missing_bearer_token");
    scene.signed(&bob.key, Method::POST, PERMISSIONS, &body).await.refused(403, "forbidden");
    world.promote(bob).await;
    let refused = scene.signed(&bob.key, Method::POST, PERMISSIONS, &body).await;
    assert_eq!(refused.refused(403, "forbidden")["permission"], "canDeleteMesh");
    assert_eq!(scene.permissions_of(carol).await["canDeleteMesh"], false);
    scene.as_owner(Method::POST, PERMISSIONS, &body).await.ok();
    assert_eq!(scene.permissions_of(carol).await["canDeleteMesh"], true);
    // An admin gives what it has, and takes what it lacks.
    let invite = grant(carol, "canInvite", true);
    scene.signed(&bob.key, Method::POST, PERMISSIONS, &invite).await.ok();
    let take = grant(carol, "canDeleteMesh", Value::Null);
    scene.signed(&bob.key, Method::POST, PERMISSIONS, &take).await.ok();
    let now = scene.permissions_of(carol).await;
    assert_eq!((&now["canInvite"], &now["canDeleteMesh"]), (&json!(true), &json!(false)));
    let unknown = grant(carol, "canFly", true);
    scene.as_owner(Method::POST, PERMISSIONS, &unknown).await.refused(400, "invalid_permission");
    let owner = grant(&scene.owner, "canSend", false);
    scene.signed(&bob.key, Method::POST, PERMISSIONS, &owner).await.refused(403, "forbidden");
    let nobody = json!({ "member_id": "x".repeat(32), "permissions": {} });
    scene.as_owner(Method::POST, PERMISSIONS, &nobody).await.refused(404, "not_found");
    world.get_as("cm_session_nobody", PERMISSIONS).await.refused(401, "invalid_or_revoked_token");
}

/// PRM-1 for the paths that exist: the next message and the next write are refused.
#[tokio::test]
async fn a_permission_that_is_taken_counts_with_the_next_frame() {
    let scene = Scene::new().await;
    let mut bob = scene.world.daemon(&scene.bob).await;
    let everybody = json!({"targetSpec": scene.owner.key.public()});
    assert_eq!(bob.message(everybody.clone()).await["queued"], true);
    for flag in ["canSend", "canWriteState"] {
        let take = grant(&scene.bob, flag, false);
        scene.as_owner(Method::POST, PERMISSIONS, &take).await.ok();
    }
    let ack = bob.message(everybody).await;
    assert_eq!(ack["error"], "forbidden: missing permission \"canSend\"");
    let answer = bob.ask(json!({"type": "set_state", "key": "a", "value": 1})).await;
    assert_eq!(answer["message"], "missing permission \"canWriteState\"", "{answer}");
}

/// PRF-1.
#[tokio::test]
async fn a_refused_field_changes_nothing_and_an_admin_changes_all() {
    let scene = Scene::new().await;
    let (bob, path) = (&scene.bob, member_path(&scene.bob));
    let mut socket = scene.world.daemon(bob).await;
    let policy = json!({ "selfEditable": { "groups": false } });
    scene.as_owner(Method::PATCH, &scene.settings_path(), &policy).await.ok();
    let change = json!({ "groups": [{"name": "ops"}], "displayName": "robert" });
    let refused = scene.signed(&bob.key, Method::PATCH, &path, &change).await;
    let refused = refused.refused(403, "admin_managed");
    assert_eq!(refused["fields"], json!(["groups"]));
    assert_eq!(refused["message"], "admin-managed fields: groups");
    let unchanged = scene.as_owner(Method::GET, &scene.members_path(), &json!({})).await.ok();
    assert!(unchanged.to_string().contains("\"bob\""), "{unchanged}");
    let role = json!({ "permission": "admin" });
    scene.signed(&bob.key, Method::PATCH, &path, &role).await.refused(403, "admin_managed");
    scene.signed(&bob.key, Method::PATCH, &path, &json!({})).await.refused(400, "malformed");
    let named = json!({ "displayName": "robert", "roleTag": "lead", "messageMode": "inbox" });
    let answer = scene.signed(&bob.key, Method::PATCH, &path, &named).await.ok();
    assert_eq!(answer["member"]["displayName"], "robert", "{answer}");
    assert_eq!(socket.event("profile_updated").await, named);
    let answer = scene.as_owner(Method::PATCH, &path, &change).await.ok();
    assert_eq!(answer["member"]["groups"][0]["name"], "ops", "{answer}");
    assert_eq!(socket.event("profile_updated").await["displayName"], "robert");
    let taken = json!({ "displayName": "CAROL" });
    scene.signed(&bob.key, Method::PATCH, &path, &taken).await.refused(400, "invalid");
    let demoted = json!({ "permission": "member" });
    let own = member_path(&scene.owner);
    scene.as_owner(Method::PATCH, &own, &demoted).await.refused(403, "forbidden");
}

/// PRF-2.
#[tokio::test]
async fn nothing_in_a_request_names_another_caller() {
    let scene = Scene::new().await;
    let change = json!({ "displayName": "mallory" });
    let path = member_path(&scene.carol);
    scene.signed(&scene.bob.key, Method::PATCH, &path, &change).await.refused(403, "forbidden");
    // A header of old clients is no identity.
    let plain = scene
        .world
        .request(Method::PATCH, &path)
        .header("X-Member-Id", scene.carol.id.as_str())
        .json(&change);
    Answer::of(plain).await.refused(401, "missing_bearer_token");
    let stranger = KeyPair::generate();
    scene.signed(&stranger, Method::PATCH, &path, &change).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn members_are_listed_for_members_with_their_sessions() {
    let scene = Scene::new().await;
    let path = scene.members_path();
    scene.world.get(&path).await.refused(401, "missing_bearer_token");
    let _bob = scene.world.daemon(&scene.bob).await;
    let _session = scene.world.session(&scene.bob, &crate::peers::Session::new()).await;
    let listed = scene.signed(&scene.carol.key, Method::GET, &path, &json!({})).await.ok();
    let members = listed["members"].as_array().unwrap();
    let row = |name: &str| members.iter().find(|row| row["displayName"] == name).unwrap();
    assert_eq!((&row("bob")["online"], &row("bob")["sessionCount"]), (&json!(true), &json!(1)));
    assert_eq!((&row("ana")["isOwner"], &row("ana")["online"]), (&json!(true), &json!(false)));
    scene
        .as_owner(Method::GET, "/mesh/nowhere/members", &json!({}))
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn settings_are_changed_by_whoever_may_and_everybody_is_told() {
    let scene = Scene::new().await;
    let path = scene.settings_path();
    let mut bob = scene.world.daemon(&scene.bob).await;
    let change = json!({
        "cloneConcurrencyPolicy": "prefer_oldest", "groupEncryption": "off", "openData": false,
        "showPaths": true, "retentionDays": 3, "max_peers": 7, "dedupeMode": "permanent",
    });
    scene.signed(&scene.bob.key, Method::PATCH, &path, &change).await.refused(403, "forbidden");
    let answer = scene.as_owner(Method::PATCH, &path, &change).await.ok();
    assert_eq!(answer["changes"].as_array().unwrap().len(), 7, "{answer}");
    let event = bob.event("mesh_state_update").await;
    assert_eq!((&event["seq"], &event["fields"]), (&json!(1), &answer["changes"]));
    let store = scene.world.broker().broker().store();
    let settings = store.mesh(&scene.owner.mesh).await.unwrap().unwrap().settings;
    assert_eq!((settings.max_peers, settings.retention_days), (Some(7), Some(3)));
    assert!(settings.show_paths && !settings.open_data);
    for wrong in [
        json!({}),
        json!({ "retentionDays": 0 }),
        json!({ "max_peers": -1 }),
        json!({ "cloneConcurrencyPolicy": "random" }),
        json!({ "selfEditable": { "shoes": true } }),
        json!({ "dedupeDays": 2 }),
    ] {
        scene.as_owner(Method::PATCH, &path, &wrong).await.refused(400, "malformed");
    }
}

#[tokio::test]
async fn grants_are_set_over_http_by_the_same_rules() {
    let scene = Scene::new().await;
    let path = "/cli/mesh/alpha/grants";
    let key = scene.bob.key.public().to_hex();
    let block = json!({ "grants": { &key: [] } });
    scene.world.post(path, &block).await.refused(401, "missing_bearer_token");
    let answer = scene.as_owner(Method::POST, path, &block).await.ok();
    assert_eq!(answer, json!({ "ok": true, "grants": { &key: [] } }));
    let mut bob = scene.world.daemon(&scene.bob).await;
    let ack = bob.message(json!({"targetSpec": scene.owner.key.public()})).await;
    assert!(ack["error"].as_str().unwrap().starts_with("forbidden: blocked"), "{ack}");
    let own = scene.signed(&scene.bob.key, Method::POST, path, &block).await;
    own.refused(400, "invalid_args");
    let unknown = json!({ "grants": { &key: ["fly"] } });
    scene.as_owner(Method::POST, path, &unknown).await.refused(400, "invalid_args");
}
