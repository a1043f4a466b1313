//! A home directory with joined meshes, a daemon in this process, and requests to it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::home::config::{Config, ConfigError, MeshEntry};
use claudemesh_daemon::sessions::Processes;
use claudemesh_daemon::{Options, Running};
use claudemesh_ipc::api::{RegisterReply, RegisterRequest, SendRequest};
use claudemesh_ipc::{Client, IpcError, Paths, SessionToken};
use claudemesh_protocol::{MemberId, MeshId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// A home.
pub struct Home {
    dir: TempDir,
    pub paths: Paths,
}

impl Home {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let paths = Paths::for_home(dir.path());
        Self { dir, paths }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Joins a mesh whose broker does not exist.
    pub fn join(&self, slug: &str) -> KeyPair {
        self.join_at(slug, "ws://127.0.0.1:1/ws")
    }

    pub fn join_at(&self, slug: &str, broker_url: &str) -> KeyPair {
        let keys = KeyPair::generate();
        let entry = MeshEntry {
            mesh_id: MeshId::new(format!("mesh-{slug}")),
            member_id: MemberId::new(format!("member-{slug}")),
            slug: slug.to_owned(),
            name: slug.to_owned(),
            keys: keys.clone(),
            broker_url: broker_url.to_owned(),
            joined_at: "2026-01-01T00:00:00.000Z".to_owned(),
            root_key: None,
            invite_version: Some(2),
            owner_pubkey: None,
            role: None,
        };
        self.join_as(entry);
        keys
    }

    /// Joins as a member that a broker knows.
    pub fn join_as(&self, entry: MeshEntry) {
        Config::update(&self.paths.membership_file(), |config| config.add_mesh(entry)).unwrap();
    }

    pub fn leave(&self, slug: &str) {
        let left = Config::update(&self.paths.membership_file(), |config| {
            Ok::<_, ConfigError>(config.remove_mesh(slug).is_some())
        });
        assert!(left.unwrap());
    }

    /// Writes `config.toml`.
    pub fn settings(&self, text: &str) {
        for dir in [self.paths.root(), self.paths.daemon_dir()] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).unwrap();
        }
        std::fs::write(self.paths.settings_file(), text).unwrap();
    }

    pub async fn start(&self) -> Running {
        claudemesh_daemon::start(Options::from_env(self.paths.clone())).await.unwrap()
    }

    pub async fn start_with(&self, processes: Arc<dyn Processes>) -> Running {
        let mut options = Options::from_env(self.paths.clone());
        options.processes = processes;
        claudemesh_daemon::start(options).await.unwrap()
    }
}

pub fn letter(to: &str, message: &str) -> SendRequest {
    SendRequest { to: to.to_owned(), message: message.to_owned(), ..SendRequest::default() }
}

pub fn some_key() -> String {
    KeyPair::generate().public().to_hex()
}

pub fn token(byte: u8) -> SessionToken {
    SessionToken::from_bytes(&[byte; 32])
}

pub const UUID: &str = "6f1b2c3d-0000-4000-8000-0123456789ab";

/// Registers a session of this very process and answers its client.
pub async fn register(
    running: &Running,
    mesh: &str,
    byte: u8,
    change: impl FnOnce(&mut RegisterRequest),
) -> (Client, RegisterReply) {
    let id = format!("6f1b2c3d-0000-4000-8000-0123456789{byte:02x}");
    let mut request = RegisterRequest::stored(
        token(byte),
        id,
        mesh.to_owned(),
        format!("session {byte}"),
        std::process::id(),
    );
    change(&mut request);
    let client = running.client().with_token(Some(request.token.clone()));
    let reply = client.register_session(&request).await.unwrap();
    (client, reply)
}

/// The code of a refused call.
pub fn code<T>(result: Result<T, IpcError>) -> String {
    match result.map(|_| ()).unwrap_err() {
        IpcError::Api(error) => error.body.error.clone(),
        other => panic!("not an answer: {other}"),
    }
}

/// One raw exchange: status and whole answer.
pub async fn raw(socket: &Path, head: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let text = format!("{head}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (status_of(&answer), answer)
}

pub fn status_of(answer: &str) -> u16 {
    answer.split_whitespace().nth(1).unwrap_or_default().parse().unwrap_or_default()
}

/// Waits until `check` holds, at most 10 s.
pub async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "not in 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
