//! The system under test: one broker, four people with a daemon each, a proxy before each daemon, two sessions for most.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use claudemesh_daemon::home::config::Config;
use claudemesh_ipc::api::RegisterRequest;
use claudemesh_ipc::api::session::GroupSpec;
use claudemesh_ipc::api::system::MeshStatus;
use claudemesh_ipc::{Client, Paths, SessionToken};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::agent::{Agent, Stage};
use super::disk::Disk;
use super::engine::{Engine, check_file, with_environment};
use super::ladder::Ladder;
use super::plan::Plan;
use super::process::{Process, program};
use super::proxy::Proxy;
use super::say;

/// Slug of the mesh.
pub const MESH: &str = "chaos";
/// Who takes part. The last one is hardly ever there.
pub const NAMES: [&str; 4] = ["ana", "ben", "cleo", "dora"];
/// Index of the one who is absent.
pub const ABSENT: usize = NAMES.len() - 1;
/// Sessions of each of the others.
pub const SESSIONS: usize = 2;
/// The group of everybody's first session.
pub const GROUP: &str = "red";
/// Longest wait for the start of everything.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Watchdogs, leases and waits in seconds instead of minutes, so that a run goes through many of them.
const BROKER_SETTINGS: [(&str, &str); 12] = [
    ("BROKER_BIND", "127.0.0.1"),
    ("SEND_BURST", "1000000"),
    ("SEND_PER_MIN", "6000000"),
    // Everybody is shown something all the time, so that hops add up between any two prompts.
    ("LOOP_MAX_HOPS", "4000000000"),
    ("LOOP_PAIR_MESSAGES", "1000000"),
    ("CLAIM_LEASE_MS", "3000"),
    ("DUE_INTERVAL_MS", "1000"),
    // Longer than a daemon waits after its session was replaced, shorter than a long absence.
    ("LEASE_TTL_MS", "35000"),
    ("PING_INTERVAL_MS", "2000"),
    ("SILENCE_LIMIT_MS", "6000"),
    // A daemon that is killed leaves a presence behind for the time of a lease, here every second.
    ("MAX_CONNECTIONS_PER_MESH", "2000"),
    ("SLOW_CONSUMER_MS", "4000"),
];
const DAEMON_SETTINGS: &str = "
[reconnect]
schedule_ms = [250, 500, 1000]
min_wait = \"250ms\"
[watchdog]
ping_interval = \"2s\"
stale_after = \"6s\"
[disk]
reserved_bytes = 65536
";

/// One person's machine.
pub struct Person {
    pub name: &'static str,
    pub member_id: String,
    /// Every member key it had, the one in force last.
    pub keys: Vec<String>,
    pub paths: Paths,
    pub daemon: Process,
    pub proxy: Proxy,
    pub disk: Disk,
    pub sessions: Vec<Session>,
}

/// One agent session. Its process outlives every daemon, and ends when a fault says so.
#[derive(Clone)]
pub struct Session {
    pub id: String,
    pub name: String,
    pub token: SessionToken,
    pub pubkey: String,
    pub groups: Vec<GroupSpec>,
    pub agent: Arc<Agent>,
}

impl Person {
    pub fn client(&self) -> Client {
        Client::for_paths(&self.paths).unwrap()
    }

    /// The member key in force.
    pub fn pubkey(&self) -> &str {
        self.keys.last().unwrap()
    }

    /// True for the member key in force and for all before it.
    pub fn is_member_key(&self, key: &str) -> bool {
        self.keys.iter().any(|own| own == key)
    }
}

impl Session {
    /// Registers with the daemon, unless it is gone; the key pair is the same every time.
    pub async fn register(&mut self, client: &Client) -> bool {
        if self.agent.stage() == Stage::Gone {
            return false;
        }
        let mut request = RegisterRequest::stored(
            self.token.clone(),
            self.id.clone(),
            MESH.to_owned(),
            self.name.clone(),
            self.agent.pid(),
        );
        request.groups = self.groups.clone();
        let Ok(reply) = client.register_session(&request).await else { return false };
        let Some(pubkey) = reply.session_pubkey else { return false };
        self.pubkey = pubkey.to_string();
        true
    }
}

/// Everything that runs. Ends with the value; what it wrote is kept when the test fails.
pub struct System {
    pub broker: Process,
    pub people: Vec<Person>,
    pub broker_disk: Disk,
    pub engine: Engine,
    tracker: TaskTracker,
    root: Option<tempfile::TempDir>,
    scratches: u64,
    pub ladder: Ladder,
    /// The member key of each person, for whoever writes to it.
    pub addresses: Arc<Mutex<Vec<String>>>,
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

impl System {
    /// Starts broker and daemons and registers the sessions; the absent one stays away.
    pub async fn start(plan: &Plan) -> Self {
        let root = tempfile::Builder::new().prefix("claudemesh-chaos-").tempdir().unwrap();
        let dir = root.path().to_owned();
        let home = |name: &str| {
            let home = dir.join(name);
            std::fs::DirBuilder::new().mode(0o700).create(&home).unwrap();
            home
        };
        std::fs::create_dir(dir.join("scratch")).unwrap();
        let broker_home = home("broker");
        let broker_disk = Disk::at(&broker_home);
        let data_dir = broker_home.join("data");
        let server_dir = dir.join("server");
        std::fs::create_dir(&server_dir).unwrap();
        // A server runs as another user, who has to get there.
        for directory in [&dir, &server_dir] {
            let may_enter = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(directory, may_enter).unwrap();
        }
        let engine = Engine::start(plan.engine, &data_dir, &server_dir).await;
        let broker_address =
            std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let environment = engine.environment();
        let recipe = move |words: &[&str]| {
            let mut command = with_environment(program(&broker_home), environment.clone());
            command.arg("broker").args(words).env("DATA_DIR", &data_dir);
            command.env("BROKER_PORT", broker_address.port().to_string()).envs(BROKER_SETTINGS);
            command
        };
        let members = provision(recipe(&["provision", "--mesh", MESH]), &dir);
        let mut broker = Process::new("broker", &dir, move || recipe(&["serve"]));
        broker.start();
        let tracker = TaskTracker::new();
        let mut people = Vec::new();
        for (index, name) in NAMES.into_iter().enumerate() {
            let home = home(name);
            let disk = Disk::at(&home);
            let proxy = Proxy::start(broker_address, &tracker).await;
            let member = &members["members"][index];
            let mesh_id = members["mesh_id"].as_str().unwrap();
            let paths = Paths::for_home(&home);
            write_settings(&paths, mesh_id, member, &format!("ws://{}/ws", proxy.address()));
            let daemon = Process::new(name, &dir, move || {
                let mut command = program(&home);
                command.args(["daemon", "up", "--foreground"]);
                command.env("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1");
                command
            });
            let text = |field: &str| member[field].as_str().unwrap().to_owned();
            let (member_id, keys) = (text("member_id"), vec![text("pubkey")]);
            let sessions = if index == ABSENT { Vec::new() } else { sessions_of(index, name) };
            people.push(Person { name, member_id, keys, paths, daemon, proxy, disk, sessions });
        }
        let addresses = people.iter().map(|person| person.pubkey().to_owned()).collect();
        let mut system = Self {
            addresses: Arc::new(Mutex::new(addresses)),
            broker,
            people,
            broker_disk,
            engine,
            tracker,
            root: Some(root),
            scratches: 0,
            ladder: Ladder::default(),
        };
        system.register_all().await;
        system
    }

    async fn register_all(&mut self) {
        let deadline = Instant::now() + START_PATIENCE;
        for person in self.people.iter_mut().take(ABSENT) {
            person.daemon.start();
        }
        for person in self.people.iter_mut().take(ABSENT) {
            let client = person.client();
            for session in &mut person.sessions {
                while !session.register(&client).await {
                    assert!(Instant::now() < deadline, "{} cannot register", session.name);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        while !self.is_connected().await {
            assert!(Instant::now() < deadline, "the system does not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// True when every daemon that should be there is connected, and each of its sessions.
    pub async fn is_connected(&self) -> bool {
        self.missing().await.is_empty()
    }

    /// Who should be connected and is not, with what its daemon says about it.
    pub async fn missing(&self) -> Vec<(String, String)> {
        let mut missing = Vec::new();
        for person in self.people.iter().filter(|person| person.daemon.is_up()) {
            let client = person.client();
            let (health, sessions) = match (client.health().await, client.sessions().await) {
                (Ok(health), Ok(sessions)) => (health, sessions),
                (Err(error), _) | (_, Err(error)) => {
                    missing.push((person.name.to_owned(), error.to_string()));
                    continue;
                }
            };
            let own = (person.name.to_owned(), health.brokers.get(MESH).copied());
            let theirs = person.sessions.iter().map(|session| {
                let view = sessions.iter().find(|view| view.session_id == session.id);
                (session.name.clone(), view.and_then(|view| view.broker_status))
            });
            let away = std::iter::once(own).chain(theirs);
            let away = away.filter(|(_, status)| *status != Some(MeshStatus::Open));
            missing.extend(away.map(|(name, status)| (name, format!("{status:?}"))));
        }
        missing
    }

    /// Writes into the diary where every thread of every daemon stands in the kernel.
    pub fn note_threads(&self) {
        for person in &self.people {
            let Some(pid) = person.daemon.pid() else { continue };
            for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten() {
                let Ok(thread) = thread else { continue };
                let read = |file: &str| {
                    let text = std::fs::read_to_string(thread.path().join(file));
                    text.unwrap_or_default().trim().to_owned()
                };
                let (name, at, call) = (read("comm"), read("wchan"), read("syscall"));
                self.note(format_args!("{} {name}: {at} {call}", person.name));
            }
        }
    }

    /// Takes down the member key that a person's `config.json` says is in force; everybody writes to it from now on.
    pub fn learn_key(&mut self, person: usize) {
        let file = self.people[person].paths.membership_file();
        let key = Config::read(&file).unwrap().mesh(MESH).unwrap().keys.public().to_hex();
        let keys = &mut self.people[person].keys;
        if keys.last() != Some(&key) {
            keys.push(key.clone());
            self.addresses.lock()[person] = key;
        }
    }

    pub fn root(&self) -> &Path {
        self.root.as_ref().unwrap().path()
    }

    /// Writes into the diary of the run, with the time that logs show.
    pub fn note(&self, line: std::fmt::Arguments<'_>) {
        let now = chrono::Utc::now().format("%H:%M:%S%.3f");
        let path = self.root().join("diary");
        let file = std::fs::File::options().create(true).append(true).open(path);
        writeln!(file.unwrap(), "{now} {line}").unwrap();
    }

    /// An empty directory.
    pub fn scratch(&mut self) -> PathBuf {
        self.scratches += 1;
        let scratch = self.root().join("scratch").join(self.scratches.to_string());
        std::fs::create_dir(&scratch).unwrap();
        scratch
    }

    /// Looks at the databases of a daemon that is down.
    pub async fn check_daemon(&mut self, index: usize) -> Vec<String> {
        let scratch = self.scratch();
        let paths = &self.people[index].paths;
        let name = self.people[index].name;
        let mut faults = check_file(paths.outbox_file(), scratch.clone(), None).await;
        faults.extend(self.ladder.look(index, &scratch.join("outbox.db")).await);
        faults.extend(check_file(paths.inbox_file(), scratch.clone(), None).await);
        let _ = std::fs::remove_dir_all(scratch);
        faults.into_iter().map(|fault| format!("{name}: {fault}")).collect()
    }

    /// Looks at the broker's database as it was left.
    pub async fn check_broker(&mut self) -> Vec<String> {
        let scratch = self.scratch();
        let faults = self.engine.check(scratch.clone()).await;
        let _ = std::fs::remove_dir_all(scratch);
        faults.into_iter().map(|fault| format!("broker: {fault}")).collect()
    }

    /// Stops every process, to read what they left.
    pub fn stop(&mut self) {
        for person in &mut self.people {
            person.daemon.kill();
        }
        self.broker.kill();
        self.tracker.close();
    }

    /// Keeps everything that was written, for whoever looks for the cause.
    pub fn keep(&mut self) {
        if let Some(root) = self.root.take() {
            self.save_volumes(root.path());
            say(format_args!("kept for you: {}", root.keep().display()));
        }
    }

    /// Volumes go with the test: their files are copied beside them first.
    fn save_volumes(&mut self, root: &Path) {
        self.stop();
        if let Some(log) = self.engine.log() {
            let _ = std::fs::copy(log, root.join("server.log"));
        }
        let volumes = self.people.iter().map(|person| &person.disk).chain([&self.broker_disk]);
        for disk in volumes {
            if let Disk::Volume(at) = disk {
                let name = format!("{}-files", at.file_name().unwrap().to_string_lossy());
                let _ = std::process::Command::new("cp")
                    .arg("-a")
                    .arg(at)
                    .arg(root.join(name))
                    .status();
            }
        }
    }
}

fn sessions_of(person: usize, name: &str) -> Vec<Session> {
    let session = |number: usize| {
        let seed = u8::try_from(person * SESSIONS + number + 1).unwrap();
        Session {
            id: format!("00000000-0000-4000-8000-{seed:012}"),
            name: format!("{name}-{number}"),
            token: SessionToken::from_bytes(&[seed; 32]),
            pubkey: String::new(),
            agent: Arc::default(),
            groups: if number == 0 {
                vec![GroupSpec::Text(format!("@{GROUP}"))]
            } else {
                Vec::new()
            },
        }
    };
    (0..SESSIONS).map(session).collect()
}

fn provision(mut command: std::process::Command, dir: &Path) -> serde_json::Value {
    let roster = dir.join("members.json");
    let count = NAMES.len().to_string();
    let output = command.args(["--members", &count, "--out"]).arg(&roster).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(&roster).unwrap()).unwrap()
}

/// Joins without an invite: the roster was provisioned, only `config.json` is missing.
fn write_settings(paths: &Paths, mesh_id: &str, member: &serde_json::Value, url: &str) {
    let config = serde_json::json!({"version": 1, "meshes": [{
        "meshId": mesh_id, "memberId": member["member_id"], "slug": MESH, "name": MESH,
        "pubkey": member["pubkey"], "secretKey": member["secret_key"],
        "brokerUrl": url, "joinedAt": "2026-01-01T00:00:00.000Z",
    }]});
    for folder in [paths.root(), paths.daemon_dir()] {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder).unwrap();
    }
    for (path, text) in [
        (paths.membership_file(), config.to_string()),
        (paths.settings_file(), DAEMON_SETTINGS.to_owned()),
    ] {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}
