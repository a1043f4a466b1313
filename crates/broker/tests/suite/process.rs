//! The server as a process of its own: signals, exit codes, log lines. The process is this test binary, started again
//! with one ignored test as its entry.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use claudemesh_broker::command::{BrokerArgs, BrokerCommand, execute};
use claudemesh_broker::data_dir::BrokerRecord;
use claudemesh_broker::settings::Sources;
use tokio::process::Child;

use crate::world::{PATIENCE, client};

/// Runs the command that the environment names and exits with its code.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "entry of the child processes, not a test"]
async fn entry() {
    let Some(word) = std::env::var_os("TEST_BROKER_COMMAND") else { return };
    let command = match word.to_str() {
        Some("serve") => BrokerCommand::Serve,
        Some("check-config") => BrokerCommand::CheckConfig,
        Some("setup-code") => BrokerCommand::SetupCode,
        Some("healthcheck") => BrokerCommand::Healthcheck { address: None },
        Some("dry-run") => BrokerCommand::Migrate { dry_run: true },
        Some("migrate") => BrokerCommand::Migrate { dry_run: false },
        Some("provision") => BrokerCommand::Provision {
            mesh: "load".parse().unwrap(),
            members: 3,
            out: std::env::var_os("TEST_PROVISION_OUT").unwrap().into(),
        },
        other => panic!("{other:?}"),
    };
    let args = BrokerArgs { config: None, command: Some(command) };
    let code = execute(args, Sources::of_process()).await;
    #[expect(clippy::exit, reason = "the exit code is what the parent looks at")]
    std::process::exit(i32::from(code));
}

fn command(word: &str, dir: &std::path::Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["process::entry", "--exact", "--ignored", "--nocapture"])
        .env_clear()
        .env("TEST_BROKER_COMMAND", word)
        .env("HOME", dir)
        .env("DATA_DIR", dir.join("data"))
        .env("BROKER_PORT", "0")
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    command
}

fn output(
    word: &str,
    dir: &std::path::Path,
    variables: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let output = command(word, dir, variables).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A serving process of its own, on the folder `data` of a directory.
pub struct Server {
    child: Child,
    pub record: BrokerRecord,
}

impl Server {
    pub async fn start(dir: &std::path::Path, variables: &[(&str, &str)]) -> Self {
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = tokio::process::Command::from(command("serve", dir, variables));
        let mut child =
            command.stderr(log).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let path = dir.join("data/broker.json");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(record) =
                BrokerRecord::read(&path).filter(|record| Some(record.pid) == child.id())
            {
                return Self { child, record };
            }
            assert!(child.try_wait().unwrap().is_none(), "{}", read_log(dir));
            assert!(Instant::now() < deadline, "not ready: {}", read_log(dir));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal)
            .unwrap();
    }

    /// Ends it without a word.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// The signal that ended it.
    pub async fn end_signal(mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().signal()
    }

    async fn exit_code(mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().code()
    }
}

fn read_log(dir: &std::path::Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap()
}

#[tokio::test]
async fn a_server_logs_json_and_stops_on_sigterm_with_success() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let code = std::fs::read_to_string(dir.path().join("data/setup-code")).unwrap();
    let (status, printed, _) = output("setup-code", dir.path(), &[]);
    assert_eq!(status, Some(0));
    assert!(printed.contains(code.trim()));
    assert_eq!(output("healthcheck", dir.path(), &[]).0, Some(0));
    client().get(format!("{}/health", server.record.url)).send().await.unwrap();
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.exit_code().await, Some(0));
    assert!(!dir.path().join("data/broker.json").exists());
    assert_eq!(output("healthcheck", dir.path(), &[]).0, Some(1));
    let log = read_log(dir.path());
    assert!(!log.contains(code.trim()), "the setup code is in the log");
    for line in log.lines() {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        for key in ["ts", "level", "component", "msg"] {
            assert!(object[key].is_string(), "{key} is missing in {line}");
        }
    }
    assert!(log.contains("\"route\":\"/health\""), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_at_once_with_130() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let address = server.record.listen.clone();
    // A request that never ends keeps the drain busy.
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(
        &mut stream,
        b"POST /join HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{",
    )
    .await
    .unwrap();
    client().get(format!("http://{address}/health")).send().await.unwrap();
    server.signal(rustix::process::Signal::INT);
    let deadline = Instant::now() + PATIENCE;
    while !read_log(dir.path()).contains("draining") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.signal(rustix::process::Signal::INT);
    assert_eq!(server.exit_code().await, Some(130));
}

/// OPS-3.
#[tokio::test]
async fn a_second_process_on_the_same_data_exits_75_with_the_pid() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let asked = Instant::now();
    let (status, _, log) = output("serve", dir.path(), &[]);
    assert_eq!(status, Some(75));
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert!(log.contains(&format!("pid {}", server.record.pid)), "{log}");
    client().get(format!("{}/health", server.record.url)).send().await.unwrap();
}

/// CFG-1.
#[test]
fn one_wrong_value_exits_78_naming_its_variable() {
    let dir = tempfile::tempdir().unwrap();
    for word in ["serve", "check-config"] {
        let (status, _, complaint) = output(word, dir.path(), &[("SEND_BURST", "lots")]);
        assert_eq!(status, Some(78));
        assert!(
            complaint.contains("SEND_BURST") && complaint.contains("whole number"),
            "{complaint}"
        );
    }
    assert!(!dir.path().join("data").exists(), "nothing was made");
}

/// CFG-1.
#[test]
fn check_config_prints_every_value_with_its_source_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let key = "5".repeat(64);
    let (status, printed, _) = output(
        "check-config",
        dir.path(),
        &[("BROKER_ENCRYPTION_KEY", &key), ("MAX_MESSAGE_BYTES", "1000")],
    );
    assert_eq!(status, Some(0));
    for line in [
        "BROKER_ENCRYPTION_KEY = (set)  (environment)",
        "MAX_MESSAGE_BYTES = 1000  (environment)",
        "LOG_LEVEL = info  (default)",
        "METRICS_TOKEN = (not set)  (default)",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is missing in\n{printed}");
    }
    assert!(!printed.contains(&key));
}

/// CFG-1: what is open to others is refused before anything is served.
#[tokio::test]
async fn a_readable_key_file_exits_78() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    server.signal(rustix::process::Signal::KILL);
    assert_eq!(server.exit_code().await, None);
    let key = dir.path().join("data/secret.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o604)).unwrap();
    let (status, _, log) = output("serve", dir.path(), &[]);
    assert_eq!(status, Some(78));
    assert!(log.contains("chmod 600"), "{log}");
}

#[test]
fn migrations_are_listed_then_applied_then_done() {
    let dir = tempfile::tempdir().unwrap();
    let (status, printed, complaint) = output("dry-run", dir.path(), &[]);
    assert_eq!(status, Some(0), "{complaint}");
    assert!(printed.contains("pending "), "{printed}");
    let (refused, _, log) = output("serve", dir.path(), &[("BROKER_SKIP_MIGRATE", "1")]);
    assert_eq!(refused, Some(1));
    assert!(log.contains("migrations are pending"), "{log}");
    assert!(output("migrate", dir.path(), &[]).1.contains("applied "));
    assert!(output("migrate", dir.path(), &[]).1.contains("the database is up to date"));
}

#[test]
fn provisioned_keys_stand_in_a_private_file_and_nowhere_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("members.json");
    let variables =
        [("TEST_PROVISION_OUT", out.to_str().unwrap()), ("BROKER_WS_URL", "wss://mesh.example/ws")];
    let (status, printed, complaint) = output("provision", dir.path(), &variables);
    assert_eq!(status, Some(0), "{complaint}");
    assert!(printed.contains(&format!("3 members written to {}", out.display())), "{printed}");
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let made: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(made["url"], "wss://mesh.example/ws");
    assert!(made["mesh_id"].is_string());
    let members = made["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    for member in members {
        let secret = member["secret_key"].as_str().unwrap();
        let pair = claudemesh_crypto::KeyPair::from_hex(secret).unwrap();
        assert_eq!(member["pubkey"], pair.public().to_hex());
        assert!(member["member_id"].is_string());
        assert!(!printed.contains(secret) && !complaint.contains(secret));
    }
    // A second call adds to the same mesh and replaces the file.
    let again = output("provision", dir.path(), &variables);
    assert_eq!(again.0, Some(0), "{}", again.2);
    let more: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(more["mesh_id"], made["mesh_id"]);
    assert_ne!(more["members"], made["members"]);
}
