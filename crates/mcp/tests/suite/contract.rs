//! Every tool against a real daemon and a real broker: its result has the shape it promises, and is the local API's own.

use std::collections::BTreeSet;
use std::time::Duration;

use claudemesh_broker::provision::{self, Provisioned};
use claudemesh_broker::settings::Settings;
use claudemesh_broker::{RunningBroker, StartOptions};
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::at_rest::AtRestKey;
use claudemesh_daemon::home::config::{Config, MeshEntry};
use claudemesh_daemon::{Options, Running};
use claudemesh_ipc::Paths;
use claudemesh_ipc::api::MeshStatus;
use claudemesh_mcp::{Toolset, tool_entry};
use claudemesh_protocol::ops::{Class, OperationKind, fits};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::client::Client;

const SLUG: &str = "home";
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker with two members, each with a daemon of its own.
struct World {
    broker: RunningBroker,
    daemons: Vec<(TempDir, Running)>,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let broker = claudemesh_broker::start(StartOptions::new(Settings::embedded(dir.path())))
            .await
            .unwrap();
        let request = provision::Request {
            slug: SLUG.parse().unwrap(),
            members: 2,
            url: broker.ws_url().to_owned(),
            settings: claudemesh_store::MeshSettings::default(),
        };
        let store = broker.broker().store();
        let now = claudemesh_daemon::clock::now();
        let mesh = provision::members(store, &AtRestKey::generate(), &request, now).await.unwrap();
        let mut daemons = Vec::new();
        for member in 0..2 {
            daemons.push(daemon(&mesh, member).await);
        }
        Self { broker, daemons, _dir: dir }
    }

    fn home(&self, member: usize) -> &std::path::Path {
        self.daemons[member].0.path()
    }

    async fn stop(self) {
        for (_dir, daemon) in self.daemons {
            daemon.shutdown().await;
        }
        self.broker.shutdown().await;
    }
}

async fn daemon(mesh: &Provisioned, member: usize) -> (TempDir, Running) {
    let home = TempDir::new().unwrap();
    let paths = Paths::for_home(home.path());
    let row = &mesh.members[member];
    let entry = MeshEntry {
        mesh_id: mesh.mesh_id.clone(),
        member_id: row.member_id.clone(),
        slug: SLUG.to_owned(),
        name: SLUG.to_owned(),
        keys: KeyPair::from_hex(&row.secret_key).unwrap(),
        broker_url: mesh.url.clone(),
        joined_at: String::new(),
        root_key: None,
        invite_version: None,
        owner_pubkey: None,
        role: None,
    };
    Config::update(&paths.membership_file(), |config| config.add_mesh(entry)).unwrap();
    let running = claudemesh_daemon::start(Options::from_env(paths)).await.unwrap();
    let client = running.client();
    let open = async {
        loop {
            let health = client.health().await.unwrap();
            if health.meshes.iter().any(|mesh| mesh.status == MeshStatus::Open) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, open).await.expect("the mesh opens");
    (home, running)
}

/// Calls tools, checks each result against what the tool promises, and remembers which it called.
struct Caller {
    client: Client,
    called: BTreeSet<&'static str>,
}

impl Caller {
    async fn done(&mut self, kind: OperationKind, arguments: Value) -> Value {
        let tool = kind.spec().tool.unwrap();
        let result = self.client.done(tool, arguments).await;
        // The whole schema, and the one that a client gets, which lets failures pass too.
        for schema in [kind.output_schema(), tool_entry(kind)["outputSchema"].clone()] {
            assert!(fits(&schema, &result), "{tool}: {result} against {schema}");
        }
        self.called.insert(tool);
        result
    }

    /// The same call until `holds`.
    async fn until(
        &mut self,
        kind: OperationKind,
        arguments: Value,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let result = self.done(kind, arguments.clone()).await;
            if holds(&result) {
                return result;
            }
            assert!(tokio::time::Instant::now() < deadline, "{kind:?}: {result}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

async fn agent(world: &World, member: usize, name: &str) -> Caller {
    let client = Client::with_tools(world.home(member), "all", json!({}), |server| {
        name.clone_into(&mut server.claim.display_name);
    })
    .await;
    Caller { client, called: BTreeSet::new() }
}

/// MCP spec §6, contract test per tool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tool_keeps_its_promise_against_a_real_daemon_and_broker() {
    let world = World::new().await;
    let mut ana = agent(&world, 0, "Ana").await;
    let mut mou = agent(&world, 1, "Mou").await;
    let has = |name: &'static str| {
        move |result: &Value| {
            result["peers"].as_array().unwrap().iter().any(|peer| peer["displayName"] == name)
        }
    };
    ana.until(OperationKind::PeerList, json!({}), has("Mou")).await;
    mou.until(OperationKind::PeerList, json!({ "all": true }), has("Ana")).await;

    messaging(&mut ana, &mut mou).await;
    profile(&mut ana, &mut mou).await;
    state(&world, &mut ana, &mut mou).await;
    mesh(&mut ana).await;
    trust(&mut ana).await;

    let offered: BTreeSet<&str> =
        Toolset::parse("all").unwrap().operations().filter_map(|kind| kind.spec().tool).collect();
    let missing: Vec<&&str> = offered.difference(&ana.called).collect();
    assert!(missing.is_empty(), "tools without a contract test: {missing:?}");
    ana.client.close().await;
    mou.client.close().await;
    world.stop().await;
}

async fn messaging(ana: &mut Caller, mou: &mut Caller) {
    let message = json!({ "to": "Mou", "message": "look at the parser", "priority": "low" });
    let sent = ana.done(OperationKind::MessageSend, message).await;
    let id = sent["results"][0]["client_message_id"].as_str().unwrap().to_owned();
    let got = mou
        .until(OperationKind::MessageInbox, json!({}), |result| result["messages"] != json!([]))
        .await;
    let item = &got["messages"][0];
    assert_eq!(
        (&item["body"], &item["sender_name"]),
        (&json!("look at the parser"), &json!("Ana"))
    );
    let answer = json!({ "to": ["Ana"], "message": "done", "reply_to": item["broker_message_id"] });
    mou.done(OperationKind::MessageSend, answer).await;
    let reply = ana
        .until(OperationKind::MessageInbox, json!({ "limit": 10 }), |result| {
            result["messages"] != json!([])
        })
        .await;
    assert_eq!(reply["messages"][0]["reply_to_id"], item["broker_message_id"]);
    ana.until(OperationKind::MessageStatus, json!({ "id": id }), |status| {
        status["delivered"] == true
    })
    .await;
    let error = ana.client.failed("send_message", json!({ "to": "Moo", "message": "hi" })).await;
    assert_eq!(error["code"], "target_not_found", "{error}");
    let error = ana.client.failed("message_status", json!({ "id": "nothing0nothing0" })).await;
    assert_eq!(error["code"], "not_found", "{error}");
}

async fn profile(ana: &mut Caller, mou: &mut Caller) {
    ana.done(OperationKind::ProfileSummary, json!({ "summary": "reviewing the parser" })).await;
    ana.done(OperationKind::ProfileStatus, json!({ "status": "working" })).await;
    ana.done(OperationKind::ProfileVisible, json!({ "visible": true })).await;
    ana.done(OperationKind::ProfileEdit, json!({ "title": "Reviewer" })).await;
    ana.done(OperationKind::GroupJoin, json!({ "name": "@eng/core", "role": "lead" })).await;
    let is_told = |result: &Value| {
        result["peers"].as_array().unwrap().iter().any(|peer| {
            peer["displayName"] == "Ana"
                && peer["summary"] == "reviewing the parser"
                && peer["groups"].to_string().contains("eng/core")
        })
    };
    mou.until(OperationKind::PeerList, json!({}), is_told).await;
    let left = ana.done(OperationKind::GroupLeave, json!({ "name": "eng/core" })).await;
    assert_eq!(left, json!({ "ok": true, "mesh": SLUG, "name": "eng/core" }));
}

async fn state(world: &World, ana: &mut Caller, mou: &mut Caller) {
    let set =
        ana.done(OperationKind::StateSet, json!({ "key": "sprint", "value": { "n": 14 } })).await;
    assert_eq!(set, json!({ "ok": true, "mesh": SLUG, "key": "sprint", "value": { "n": 14 } }));
    let got = mou.done(OperationKind::StateGet, json!({ "key": "sprint" })).await;
    assert_eq!((&got["value"], &got["mesh"]), (&json!({ "n": 14 }), &json!(SLUG)));
    // What the tool says is what the local API says.
    let ipc = world.daemons[1].1.client();
    let arguments = Map::from_iter([("key".to_owned(), json!("sprint"))]);
    let reply = ipc.op(OperationKind::StateGet, Some(SLUG), arguments).await.unwrap();
    assert_eq!(reply.result, got);
    let listed = ana.done(OperationKind::StateList, json!({ "prefix": "spr", "mesh": SLUG })).await;
    assert_eq!(listed["entries"][0]["key"], "sprint");
    mou.done(OperationKind::StateGet, json!({ "key": "sprint" })).await;
    ana.done(OperationKind::StateGet, json!({ "key": "sprint" })).await;
    let error = ana.client.failed("get_state", json!({ "key": "nothing" })).await;
    assert_eq!(error["code"], "not_found", "{error}");
    let error =
        ana.client.failed("get_state", json!({ "key": "sprint", "mesh": "elsewhere" })).await;
    assert_eq!(error["code"], "mesh_not_attached", "{error}");
}

async fn mesh(ana: &mut Caller) {
    let info = ana.done(OperationKind::MeshInfo, json!({})).await;
    assert!(info["stateKeys"].to_string().contains("sprint"), "{info}");
    ana.done(OperationKind::MeshStats, json!({})).await;
    let ping = ana.done(OperationKind::MeshPing, json!({ "priorities": ["now", "next"] })).await;
    assert_eq!(ping["results"][0]["ok"], true, "{ping}");
}

async fn trust(ana: &mut Caller) {
    let numbers = ana.done(OperationKind::PeerVerify, json!({ "peer": "Mou" })).await;
    assert!(numbers["peers"][0]["safetyNumber"].is_string(), "{numbers}");
    let grant = json!({ "peer": "Mou", "capabilities": ["file-read"] });
    let given = ana.done(OperationKind::GrantAdd, grant.clone()).await;
    assert!(given["now"].to_string().contains("file-read"), "{given}");
    ana.done(OperationKind::GrantList, json!({})).await;
    ana.done(OperationKind::GrantRemove, grant).await;
    let blocked = ana.done(OperationKind::GrantBlock, json!({ "peer": "Mou" })).await;
    assert_eq!(blocked["now"], json!([]));
}

/// MCP spec §6: nothing of a denied call reaches the broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_changes_nothing_at_the_broker() {
    let world = World::new().await;
    let mut client = Client::with_tools(world.home(0), "all", json!({}), |server| {
        server.approval = claudemesh_protocol::ops::policy::ApprovalMode::ReadOnly;
    })
    .await;
    let error = client.failed("set_state", json!({ "key": "k", "value": 1 })).await;
    assert_eq!(error["code"], "policy_denied");
    let listed = client.done("list_state", json!({ "mesh": SLUG })).await;
    assert_eq!(listed["entries"], json!([]));
    assert!(OperationKind::StateSet.spec().class != Class::Read);
    client.close().await;
    world.stop().await;
}
