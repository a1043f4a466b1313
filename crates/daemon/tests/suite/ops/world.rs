//! A daemon whose words with its broker are read along, and a second member with a session.

use claudemesh_daemon::Running;
use claudemesh_ipc::api::{MeshStatus, OpReply};
use claudemesh_ipc::{Client, IpcError};
use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value};

use super::tap::Tap;
use crate::local::world::{Home, register};
use crate::mesh::node::{Node, World, until};

/// Slug of the mesh.
pub const HOME: &str = "home";

/// The owner's daemon behind a tap, and a plain member `bob` with a session of that name.
pub struct Stage {
    pub world: World,
    pub tap: Tap,
    pub running: Running,
    pub bob: Node,
    _home: Home,
}

impl Stage {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With further meshes joined.
    pub async fn with(join: impl FnOnce(&Home)) -> Self {
        let world = World::new(3).await;
        let tap = Tap::before(world.broker.address()).await;
        let bob = Node::open(world.entry(1)).await;
        let session = bob.register("bob", None, Vec::new());
        bob.session_open(&session).await;
        let home = Home::new();
        home.join_as(world.entry_at(0, &tap.url()));
        join(&home);
        let running = home.start().await;
        let stage = Self { world, tap, running, bob, _home: home };
        let client = stage.client();
        until("the mesh is open", async || {
            client.health().await.unwrap().brokers[HOME] == MeshStatus::Open
        })
        .await;
        until("the roster is there", async || {
            stage.peers().await.iter().any(|peer| peer["displayName"] == "bob")
        })
        .await;
        stage
    }

    pub fn client(&self) -> Client {
        self.running.client()
    }

    /// A session of the owner, connected.
    pub async fn session(&self, byte: u8) -> Client {
        let (client, reply) = register(&self.running, HOME, byte, |_| {}).await;
        let key = reply.session_pubkey.unwrap();
        until("the session is listed", async || {
            self.peers().await.iter().any(|peer| peer["pubkey"] == key.to_hex())
        })
        .await;
        client
    }

    async fn peers(&self) -> Vec<Value> {
        let reply = self.client().op(OperationKind::PeerList, Some(HOME), Map::new()).await;
        reply.unwrap().result["peers"].as_array().unwrap().clone()
    }

    pub async fn stop(self) {
        self.running.shutdown().await;
        self.bob.stop().await;
    }
}

pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

/// Runs an operation on the mesh.
pub async fn op(client: &Client, kind: OperationKind, args: Value) -> Result<OpReply, IpcError> {
    client.op(kind, Some(HOME), object(args)).await
}

/// The result of one that succeeds.
pub async fn done(client: &Client, kind: OperationKind, args: Value) -> Value {
    match op(client, kind, args.clone()).await {
        Ok(reply) => reply.result,
        Err(error) => panic!("{} {args}: {error:?}", kind.spec().name),
    }
}

/// Code, status and body of one that is refused.
pub async fn refused(client: &Client, kind: OperationKind, args: Value) -> (u16, String, Value) {
    let error = op(client, kind, args.clone()).await.err();
    let error = error.unwrap_or_else(|| panic!("{} {args} was not refused", kind.spec().name));
    let error = error.api().unwrap_or_else(|| panic!("{} {args}: no answer", kind.spec().name));
    let extra = Value::Object(error.body.extra.clone());
    (error.status, error.body.error.clone(), extra)
}

/// Sorted names of the fields.
pub fn keys(value: &Value) -> Vec<String> {
    let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    keys
}
