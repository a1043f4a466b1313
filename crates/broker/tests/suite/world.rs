//! One broker in a temporary directory, and people who talk to it over HTTP.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use claudemesh_broker::settings::StorageProfile;
use claudemesh_broker::{RunningBroker, Settings, StartOptions, start};
use claudemesh_core::clock::Clock;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::at_rest::AtRestKey;
use claudemesh_crypto::exchange::ExchangeSecret;
use claudemesh_crypto::hello;
use claudemesh_crypto::invite::{Claim, RootKey};
use claudemesh_crypto::tokens::SecretText;
use claudemesh_protocol::{MemberId, MeshId, Timestamp};
use claudemesh_testkit::postgres::{self, TestDatabase};
use claudemesh_testkit::way::Way;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::process::Server;

/// Longest wait for anything in these tests.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// The system clock, shifted.
#[derive(Default)]
pub struct ShiftedClock(std::sync::atomic::AtomicI64);

impl ShiftedClock {
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap();
        self.0.fetch_add(millis, std::sync::atomic::Ordering::SeqCst);
    }

    pub fn set_back(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap();
        self.0.fetch_sub(millis, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let shift = self.0.load(std::sync::atomic::Ordering::SeqCst);
        Timestamp::from_millis(claudemesh_broker::SystemClock.now().as_millis() + shift)
    }
}

pub struct World {
    _dir: TempDir,
    pub settings: Settings,
    pub clock: Arc<ShiftedClock>,
    pub max_database_pages: Option<u32>,
    running: Option<RunningBroker>,
    /// Where a broker in a process of its own serves this data instead.
    apart: Option<String>,
    pub http: Client,
    /// Dropped after the broker.
    database: Option<TestDatabase>,
}

pub fn client() -> Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder().timeout(PATIENCE).no_proxy().build().unwrap()
}

/// A client that calls from another loopback address than 127.0.0.1.
pub fn client_from(address: &str) -> Client {
    client();
    Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .local_address(Some(address.parse().unwrap()))
        .build()
        .unwrap()
}

/// `postgres` runs the tests that start a broker of the embedded profile on PostgreSQL instead: the families of
/// operations have to behave alike on both (`scripts/test engines`).
const ENGINE: &str = "CLAUDEMESH_TEST_ENGINE";

impl World {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A second broker on the same database.
    pub async fn beside(first: &Self) -> Self {
        let shared = first.settings.clone();
        Self::start_with(|settings| {
            settings.profile = shared.profile;
            settings.database_url = shared.database_url;
            settings.encryption_key = shared.encryption_key;
        })
        .await
    }

    /// On SQLite, or on the engine that [`ENGINE`] names.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        if std::env::var(ENGINE).is_ok_and(|engine| engine == "postgres") {
            return Self::on_database_with(postgres::database().await.unwrap(), change).await;
        }
        Self::embedded_with(change).await
    }

    async fn embedded_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::embedded(dir.path().join("data"));
        change(&mut settings);
        let mut world = Self {
            _dir: dir,
            settings,
            clock: Arc::default(),
            max_database_pages: None,
            running: None,
            apart: None,
            http: client(),
            database: None,
        };
        world.resume().await;
        world
    }

    /// A broker of the server profile on its own PostgreSQL database; `None` when those tests are switched off.
    pub async fn on_postgres() -> Option<Self> {
        if postgres::is_skipped() {
            return None;
        }
        Some(Self::on_database(postgres::database().await.unwrap()).await)
    }

    /// As [`World::on_postgres`], with settings of its own.
    pub async fn on_postgres_with(change: impl FnOnce(&mut Settings)) -> Option<Self> {
        if postgres::is_skipped() {
            return None;
        }
        Some(Self::on_database_with(postgres::database().await.unwrap(), change).await)
    }

    /// A broker of the server profile on this database.
    pub async fn on_database(database: TestDatabase) -> Self {
        Self::on_database_with(database, |_| {}).await
    }

    /// The same with settings of its own, which may name another way to the database.
    pub async fn on_database_with(
        database: TestDatabase,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let url = SecretText::new(database.url());
        let mut world = Self::embedded_with(|settings| {
            settings.profile = StorageProfile::Server;
            settings.database_url = Some(Arc::new(url));
            settings.encryption_key = Some(Arc::new(AtRestKey::generate()));
            change(settings);
        })
        .await;
        world.database = Some(database);
        world
    }

    /// A broker whose PostgreSQL is behind a network that can go silent; `None` when those tests are switched off.
    pub async fn behind_a_way() -> Option<(Self, Way)> {
        if postgres::is_skipped() {
            return None;
        }
        let database = postgres::database().await.unwrap();
        let way = Way::to(&database.url()).await.unwrap();
        let url = way.url();
        let world = Self::on_database_with(database, move |settings| {
            settings.database_url = Some(Arc::new(SecretText::new(url)));
        })
        .await;
        Some((world, way))
    }

    /// Starts the broker again on the same data.
    pub async fn resume(&mut self) {
        let options = StartOptions {
            clock: self.clock.clone(),
            max_database_pages: self.max_database_pages,
            ..StartOptions::new(self.settings.clone())
        };
        self.running = Some(start(options).await.unwrap());
        self.apart = None;
    }

    pub async fn stop(&mut self) {
        self.running.take().unwrap().shutdown().await;
    }

    /// Stops the broker and serves the same data in a process of its own, with crash points armed.
    pub async fn move_apart(&mut self, points: &str) -> Server {
        self.move_apart_with(&[("FAILPOINTS", points)]).await
    }

    /// As [`World::move_apart`], with these environment variables.
    pub async fn move_apart_with(&mut self, variables: &[(&str, &str)]) -> Server {
        self.stop().await;
        let dir = self.data_dir().parent().unwrap();
        let server = Server::start(dir, variables).await;
        self.apart = Some(server.record.ws_url.clone());
        server
    }

    /// Where sockets connect to.
    pub fn ws_url(&self) -> &str {
        self.apart.as_deref().unwrap_or_else(|| self.broker().ws_url())
    }

    pub async fn kill(&mut self) {
        self.running.take().unwrap().abort().await;
    }

    pub fn broker(&self) -> &RunningBroker {
        self.running.as_ref().unwrap()
    }

    pub fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.broker().http_url())
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub async fn post_as(&self, token: &str, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).bearer_auth(token).json(body)).await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).bearer_auth(token)).await
    }

    /// The broker's time.
    pub fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn setup_code(&self) -> String {
        std::fs::read_to_string(self.settings.setup_code_path()).unwrap()
    }

    /// Makes the first account and returns its token.
    pub async fn sign_up(&self) -> String {
        let body = json!({ "setup_code": self.setup_code(), "display_name": "Ana" });
        let answer = self.post("/cli/setup", &body).await.ok();
        answer["session_token"].as_str().unwrap().to_owned()
    }

    /// Makes a mesh; returns the answer and the owner's member key.
    pub async fn create_mesh(&self, token: &str, name: &str) -> (Value, KeyPair) {
        let owner = KeyPair::generate();
        let body =
            json!({ "name": name, "pubkey": owner.public().to_hex(), "display_name": "ana" });
        (self.post_as(token, "/cli/mesh/create", &body).await.ok(), owner)
    }

    /// Makes an invite and returns its code.
    pub async fn invite(&self, token: &str, slug: &str, terms: Value) -> String {
        let answer = self.post_as(token, &format!("/cli/mesh/{slug}/invite"), &terms).await.ok();
        answer["code"].as_str().unwrap().to_owned()
    }

    /// First account, mesh `alpha`, and one invite with these terms.
    pub async fn with_invite(&self, terms: Value) -> Host {
        let token = self.sign_up().await;
        let (mesh, owner) = self.create_mesh(&token, "Alpha").await;
        let code = self.invite(&token, "alpha", terms).await;
        Host { token, mesh, owner, code }
    }

    pub async fn claim(&self, code: &str, joiner: &Joiner) -> Answer {
        self.post(&format!("/invites/{code}/claim"), &joiner.claim_body(code, self.clock.now()))
            .await
    }

    pub async fn use_count(&self, token: &str, code: &str) -> u64 {
        let invites = self.get_as(token, "/cli/mesh/alpha/invites").await.ok();
        let rows = invites["invites"].as_array().unwrap().clone();
        let row = rows.into_iter().find(|row| row["code"] == code).unwrap();
        row["used_count"].as_u64().unwrap()
    }

    /// Says hello and returns the first frame that answers.
    pub async fn hello(&self, mesh_id: &str, member_id: &str, key: &KeyPair) -> Value {
        let (mesh, member) = (MeshId::new(mesh_id), MemberId::new(member_id));
        let now = self.clock.now();
        let signature = hello::sign(&mesh, &member, key, now).unwrap();
        let frame = json!({
            "type": "hello", "meshId": mesh_id, "memberId": member_id, "pubkey": key.public().to_hex(),
            "sessionId": "s1", "pid": 1, "cwd": "/", "timestamp": now.as_millis(), "signature": signature.to_hex(),
        });
        let connecting = tokio_tungstenite::connect_async(self.broker().ws_url());
        let (mut socket, _) = tokio::time::timeout(PATIENCE, connecting).await.unwrap().unwrap();
        socket.send(Message::text(frame.to_string())).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        let answer = serde_json::from_str(answer.to_text().unwrap()).unwrap();
        let _ = socket.close(None).await;
        answer
    }
}

/// What an inviting person holds.
pub struct Host {
    pub token: String,
    pub mesh: Value,
    pub owner: KeyPair,
    pub code: String,
}

/// Somebody about to join.
pub struct Joiner {
    pub member: KeyPair,
    pub exchange: ExchangeSecret,
    pub name: Option<&'static str>,
}

impl Joiner {
    pub fn new() -> Self {
        Self {
            member: KeyPair::generate(),
            exchange: ExchangeSecret::generate(),
            name: Some("bob"),
        }
    }

    /// The body of a claim with a valid proof.
    pub fn claim_body(&self, code: &str, now: Timestamp) -> Value {
        let recipient = self.exchange.public().to_b64url();
        let proof =
            Claim::Code { code, recipient_x25519: &recipient }.prove(&self.member, now).unwrap();
        json!({
            "recipient_x25519_pubkey": recipient, "peer_pubkey": self.member.public().to_hex(),
            "timestamp": now.as_millis(), "proof": proof.to_hex(), "display_name": self.name,
        })
    }

    /// Opens the root key of an answer.
    pub fn open(&self, answer: &Value) -> Option<RootKey> {
        RootKey::open_sealed(answer["sealed_root_key"].as_str().unwrap(), &self.exchange).ok()
    }
}

/// A status and a body.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self { status, headers, body }
    }

    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }

    /// Asserts a refusal with its status, code and the form every error has.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(
            (self.status.as_u16(), self.body["error"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
        assert!(self.body["message"].is_string(), "{}", self.body);
        assert_eq!(self.headers["x-request-id"].to_str().ok(), self.body["request_id"].as_str());
        self.body
    }
}
