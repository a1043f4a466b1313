//! Files that turn up on another machine (daemon spec §4.3).

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use claudemesh_daemon::identity::{HostSources, accept_host};
use claudemesh_daemon::settings::Settings;
use claudemesh_daemon::{BootError, Options, clock};

use crate::local::process::{command, ended};
use crate::local::world::{Home, until};

/// A machine made of files.
fn machine(dir: &Path, id: &str) -> HostSources {
    let sources = HostSources {
        machine_id_files: vec![dir.join("machine-id")],
        interfaces_dir: dir.join("net"),
    };
    std::fs::write(&sources.machine_id_files[0], id).unwrap();
    plug_in(&sources, "eth1", "a8:00:00:00:00:01");
    sources
}

fn plug_in(sources: &HostSources, name: &str, address: &str) {
    let card = sources.interfaces_dir.join(name);
    std::fs::create_dir_all(&card).unwrap();
    std::fs::write(card.join("address"), address).unwrap();
}

fn options(home: &Home, host: &HostSources) -> Options {
    let mut options = Options::from_env(home.paths.clone());
    options.host = host.clone();
    options
}

fn record(home: &Home) -> String {
    std::fs::read_to_string(home.paths.daemon_dir().join("host_fingerprint.json")).unwrap()
}

/// Counts the connections of a broker that never answers.
struct Doorbell(TcpListener);

impl Doorbell {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn url(&self) -> String {
        format!("ws://{}/ws", self.0.local_addr().unwrap())
    }

    /// Connections since the last look.
    fn rings(&self) -> usize {
        std::iter::from_fn(|| self.0.accept().ok()).count()
    }
}

/// Daemon spec §4 Accept 3: files of a machine with another id: exit 4, no broker connection attempted, both ids and both
/// remedies are named; starts that follow at once log one line each. After `accept-host` a start works.
#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_refused_before_anything_is_dialled() {
    let (home, bell) = (Home::new(), Doorbell::new());
    home.join_at("dev", &bell.url());
    home.settings("[clone]\nid_override = \"here\"\n");
    let running = home.start().await;
    until("at home it dials", async || bell.rings() > 0).await;
    running.shutdown().await;
    bell.rings();
    home.settings("[clone]\nid_override = \"there\"\n");
    let log_lines = || {
        let text = std::fs::read_to_string(home.paths.log_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for attempt in 0..3 {
        let before = log_lines().len();
        let mut child = command(&home).stderr(Stdio::piped()).spawn().unwrap();
        assert_eq!(ended(&mut child).await.code(), Some(4));
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        if attempt == 0 {
            for word in ["override:here", "override:there", "daemon accept-host", "daemon remint"] {
                assert!(said.contains(word), "{word} in {said}");
            }
        } else {
            assert!(said.lines().count() <= 1, "beside the line of the log: {said}");
        }
        let logged = log_lines().split_off(before);
        assert_eq!(logged.len(), 1, "{logged:?}");
        assert!(logged[0].contains("host_fingerprint_mismatch"), "{logged:?}");
    }
    assert_eq!(bell.rings(), 0, "nothing was dialled");
    let settings = Settings::read(&home.paths.settings_file()).unwrap();
    let host = HostSources::default();
    accept_host(home.paths.daemon_dir(), &settings.clone, &host, clock::now()).unwrap();
    home.start().await.shutdown().await;
    assert!(record(&home).contains("override:there"));
}

/// Daemon spec §4 Accept 2: adding a network card that sorts first does not make the next start refuse, and rewrites the file
/// once.
#[tokio::test(flavor = "multi_thread")]
async fn another_card_is_the_same_machine() {
    let (home, dir) = (Home::new(), tempfile::tempdir().unwrap());
    let host = machine(dir.path(), "aaaa");
    let boot =
        async || claudemesh_daemon::start(options(&home, &host)).await.unwrap().shutdown().await;
    boot().await;
    let first = record(&home);
    plug_in(&host, "dummy0", "a8:00:00:00:00:00");
    boot().await;
    let second = record(&home);
    assert_ne!(second, first);
    assert!(second.contains("a8:00:00:00:00:00"));
    boot().await;
    assert_eq!(record(&home), second);
}

/// The route does for a running daemon what the verb does without one.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_that_was_only_warned_accepts_its_machine() {
    let (home, dir) = (Home::new(), tempfile::tempdir().unwrap());
    let host = machine(dir.path(), "aaaa");
    claudemesh_daemon::start(options(&home, &host)).await.unwrap().shutdown().await;
    let host = machine(dir.path(), "bbbb");
    let refused = claudemesh_daemon::start(options(&home, &host)).await.map(|_| ());
    let Err(BootError::ForeignHost(foreign)) = refused else { panic!("it started") };
    assert_eq!((foreign.stored.as_str(), foreign.current.as_str()), ("linux:aaaa", "linux:bbbb"));
    home.settings("[clone]\npolicy = \"warn\"\n");
    let running = claudemesh_daemon::start(options(&home, &host)).await.unwrap();
    assert!(record(&home).contains("linux:aaaa"), "a warning changes nothing");
    let reply = running.client().accept_host().await.unwrap();
    assert!(record(&home).contains(&format!("\"fingerprint\": \"{}", reply.fingerprint_prefix)));
    running.shutdown().await;
    home.settings("");
    claudemesh_daemon::start(options(&home, &host)).await.unwrap().shutdown().await;
}
