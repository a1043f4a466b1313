//! Processes are killed at random while messages flow: nothing acknowledged is lost, nothing is shown twice.
//!
//! Ten kills here; `make chaos` sets `CLAUDEMESH_TEST_KILLS=200`. Half of the kills come from outside (`SIGKILL` at a
//! random moment), half from inside, at a named point before or after a commit, a push or an acknowledgement.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claudemesh_ipc::api::{InboxQuery, SendRequest};
use claudemesh_ipc::{Client, Paths};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Points at which a process takes its own life; `return` at such a point aborts (see `claudemesh_sqlite`).
const BROKER_POINTS: &[&str] = &[
    "broker.accept.before_commit",
    "broker.after_commit_before_push",
    "broker.after_push_before_ack",
    "broker.client_ack.before_commit",
    "commit.before_fsync",
    "commit.after_fsync_before_reply",
];
const DAEMON_POINTS: &[&str] = &[
    "accept.before_commit",
    "accept.after_commit_before_reply",
    "drain.after_inflight_before_write",
    "drain.after_write_before_ack",
    "drain.after_ack_before_done",
    "inbox.after_insert_before_ack",
    "commit.before_fsync",
    "commit.after_fsync_before_reply",
];

/// How long everything may take to settle after the last kill.
const SETTLE: Duration = Duration::from_mins(2);

/// What a failed run needs to be repeated and understood.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Broker,
    Ana,
    Ben,
}

struct System {
    binary: PathBuf,
    root: tempfile::TempDir,
    port: u16,
    broker: Child,
    daemons: [Child; 2],
}

impl Drop for System {
    fn drop(&mut self) {
        for child in [&mut self.broker].into_iter().chain(&mut self.daemons) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl System {
    /// A broker, and Ana and Ben joined to one mesh with a daemon each.
    fn start() -> Self {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_claudemesh"));
        let root = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for name in ["ana", "ben"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let roster = root.path().join("members.json");
        let output = broker_command(&binary, root.path(), port)
            .args(["provision", "--mesh", "chaos", "--members", "2", "--out"])
            .arg(&roster)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let provisioned: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&roster).unwrap()).unwrap();
        for (index, name) in ["ana", "ben"].into_iter().enumerate() {
            write_config(&root.path().join(name), &provisioned, index, port);
        }
        let broker =
            spawn(broker_command(&binary, root.path(), port).arg("serve"), root.path(), "broker");
        let daemons = ["ana", "ben"].map(|name| {
            spawn(&mut daemon_command(&binary, &root.path().join(name)), root.path(), name)
        });
        Self { binary, root, port, broker, daemons }
    }

    fn home(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn client(&self, name: &str) -> Client {
        Client::for_paths(&Paths::for_home(&self.home(name))).unwrap()
    }

    /// Kills `victim`, or lets it kill itself at `point`, and starts it again.
    fn kill(&mut self, victim: Victim, point: Option<&str>) {
        let failpoints = point.map(|name| format!("{name}=3*off->1*return->off"));
        let root = self.root.path().to_owned();
        let (child, mut command, name) = match victim {
            Victim::Broker => {
                let mut command = broker_command(&self.binary, &root, self.port);
                command.arg("serve");
                (&mut self.broker, command, "broker")
            }
            Victim::Ana => {
                (&mut self.daemons[0], daemon_command(&self.binary, &root.join("ana")), "ana")
            }
            Victim::Ben => {
                (&mut self.daemons[1], daemon_command(&self.binary, &root.join("ben")), "ben")
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        if let Some(failpoints) = failpoints {
            command.env("FAILPOINTS", failpoints);
        }
        *child = spawn(&mut command, &root, name);
    }

    /// Starts again whatever ended at a failpoint.
    fn revive(&mut self) {
        for victim in [Victim::Broker, Victim::Ana, Victim::Ben] {
            let child = match victim {
                Victim::Broker => &mut self.broker,
                Victim::Ana => &mut self.daemons[0],
                Victim::Ben => &mut self.daemons[1],
            };
            if child.try_wait().unwrap().is_some() {
                self.kill(victim, None);
            }
        }
    }
}

fn broker_command(binary: &Path, root: &Path, port: u16) -> Command {
    let mut command = clean_command(binary, root);
    command
        .arg("broker")
        .env("DATA_DIR", root.join("broker"))
        .env("BROKER_BIND", "127.0.0.1")
        .env("BROKER_PORT", port.to_string())
        .env("SEND_BURST", "1000000")
        .env("SEND_PER_MIN", "6000000");
    command
}

fn daemon_command(binary: &Path, home: &Path) -> Command {
    let mut command = clean_command(binary, home);
    command.args(["daemon", "up", "--foreground"]).env("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1");
    command
}

fn clean_command(binary: &Path, home: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env_clear().env("HOME", home).stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

fn spawn(command: &mut Command, root: &Path, name: &str) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(root.join(format!("{name}.log")))
        .unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Joins without an invite: the roster was provisioned, only `config.json` is missing.
fn write_config(home: &Path, provisioned: &serde_json::Value, index: usize, port: u16) {
    let member = &provisioned["members"][index];
    let folder = home.join(".claudemesh");
    std::fs::create_dir(&folder).unwrap();
    let config = serde_json::json!({"version": 1, "meshes": [{
        "meshId": provisioned["mesh_id"], "memberId": member["member_id"], "slug": "chaos", "name": "chaos",
        "pubkey": member["pubkey"], "secretKey": member["secret_key"],
        "brokerUrl": format!("ws://127.0.0.1:{port}/ws"), "joinedAt": "2026-01-01T00:00:00.000Z",
    }]});
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The member key of `name`, read from its own configuration.
fn key_of(home: &Path) -> String {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.join(".claudemesh/config.json")).unwrap())
            .unwrap();
    config["meshes"][0]["pubkey"].as_str().unwrap().to_owned()
}

/// Sends until the daemon says yes; the id makes the repeats harmless.
async fn send_until_accepted(client: &Client, to: &str, id: &str) {
    let deadline = Instant::now() + SETTLE;
    let request = SendRequest {
        to: to.to_owned(),
        message: format!("body of {id}"),
        client_message_id: Some(id.to_owned()),
        ..SendRequest::default()
    };
    loop {
        match client.send(&request).await {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "{id} is never accepted: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How often each body of `sender` stands in the inbox.
async fn inbox_counts(client: &Client, prefix: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut cursor = None;
    loop {
        let query = InboxQuery {
            limit: Some(1000),
            cursor: cursor.take(),
            mark_seen: Some(false),
            ..InboxQuery::default()
        };
        let Ok(page) = client.inbox(&query).await else { return BTreeMap::new() };
        for item in page.items {
            if item.client_message_id.starts_with(prefix) {
                assert_eq!(
                    item.body.as_deref(),
                    Some(format!("body of {}", item.client_message_id).as_str())
                );
                *counts.entry(item.client_message_id).or_default() += 1;
            }
        }
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return counts,
        }
    }
}

/// Issue: random `kill -9` of broker and daemons during a run of sends with reconnecting daemons.
#[test]
fn random_kills_lose_nothing_and_repeat_nothing() {
    let kills: u32 =
        std::env::var("CLAUDEMESH_TEST_KILLS").map_or(10, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("CLAUDEMESH_TEST_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    say(format_args!("CLAUDEMESH_TEST_SEED={seed} CLAUDEMESH_TEST_KILLS={kills}"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(kills, StdRng::seed_from_u64(seed)));
}

async fn run(kills: u32, mut random: StdRng) {
    let mut system = System::start();
    let (ana, ben) = (system.client("ana"), system.client("ben"));
    let (to_ben, to_ana) = (key_of(&system.home("ben")), key_of(&system.home("ana")));
    let stop = tokio_util::sync::CancellationToken::new();
    let flow = |client: Client,
                to: String,
                prefix: &'static str,
                stop: tokio_util::sync::CancellationToken| async move {
        let mut number = 0_usize;
        while !stop.is_cancelled() {
            send_until_accepted(&client, &to, &format!("{prefix}-{number}")).await;
            number += 1;
            // Slower than a daemon drains one conversation, so that what is left at the end is what the kills left.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        number
    };
    let tracker = tokio_util::task::TaskTracker::new();
    let from_ana = tracker.spawn(flow(ana.clone(), to_ben, "ana", stop.clone()));
    let from_ben = tracker.spawn(flow(ben.clone(), to_ana, "ben", stop.clone()));
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..700))).await;
        system.revive();
        let victim = [Victim::Broker, Victim::Ana, Victim::Ben][random.random_range(0..3)];
        let points = if victim == Victim::Broker { BROKER_POINTS } else { DAEMON_POINTS };
        let point = random.random_bool(0.5).then(|| points[random.random_range(0..points.len())]);
        say(format_args!("kill {victim:?} {}", point.unwrap_or("from outside")));
        system.kill(victim, point);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for victim in [Victim::Broker, Victim::Ana, Victim::Ben] {
        system.kill(victim, None);
    }
    stop.cancel();
    let (sent_by_ana, sent_by_ben) = (from_ana.await.unwrap(), from_ben.await.unwrap());
    say(format_args!("{sent_by_ana} messages one way, {sent_by_ben} the other"));
    for (client, prefix, sent) in [(&ben, "ana", sent_by_ana), (&ana, "ben", sent_by_ben)] {
        let deadline = Instant::now() + SETTLE;
        loop {
            let counts = inbox_counts(client, prefix).await;
            assert!(counts.values().all(|count| *count == 1), "shown twice: {counts:?}");
            if counts.len() == sent {
                break;
            }
            let missing: Vec<_> = (0..sent)
                .map(|number| format!("{prefix}-{number}"))
                .filter(|id| !counts.contains_key(id))
                .take(10)
                .collect();
            assert!(
                Instant::now() < deadline,
                "lost: {} of {sent}, first {missing:?}",
                sent - counts.len()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
