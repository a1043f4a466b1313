//! Start, files, restart and end of the daemon (daemon spec §1, §2).

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use claudemesh_daemon::{BootError, Options};
use claudemesh_ipc::api::{MeshStatus, OutboxQuery};
use claudemesh_ipc::{Client, Paths};

use super::process::{DaemonProcess, command, ended};
use super::world::{Home, letter, some_key, until};

/// Daemon spec §1 Accept 1: two `daemon up --foreground` started within 1 ms of each other: exactly one serves, the other exits 1;
/// never two, never none.
#[tokio::test(flavor = "multi_thread")]
async fn of_simultaneous_starts_exactly_one_serves() {
    for _ in 0..10 {
        let home = Home::new();
        let mut children: Vec<_> = (0..3).map(|_| command(&home).spawn().unwrap()).collect();
        let client = Client::new(home.paths.default_socket());
        until("one answers", || async { client.version().await.is_ok() }).await;
        let serving = client.version().await.unwrap().pid;
        let mut codes = Vec::new();
        for child in children.iter_mut().filter(|child| child.id() != serving) {
            codes.push(ended(child).await.code());
        }
        assert_eq!(codes, [Some(1), Some(1)]);
        assert_eq!(client.version().await.unwrap().pid, serving);
        client.shutdown().await.unwrap();
        for child in children.iter_mut().filter(|child| child.id() == serving) {
            assert_eq!(ended(child).await.code(), Some(0));
        }
    }
}

/// Daemon spec §1 Accept 2: `kill -9` the daemon, start again immediately: boots without manual cleanup, stale socket removed.
#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_the_next_start_needs_no_clean_up() {
    let home = Home::new();
    home.join("dev");
    let mut first = DaemonProcess::start(&home, "").await;
    let sent = first.client().send(&letter(&some_key(), "kept")).await.unwrap();
    first.kill();
    assert!(home.paths.default_socket().exists());
    let second = DaemonProcess::start(&home, "").await;
    let rows = second.client().outbox(&OutboxQuery::default()).await.unwrap().items;
    assert_eq!(rows[0].client_message_id, sent.client_message_id);
}

/// Daemon spec §2 Accept 1: under `umask 000`, after first boot no file in the daemon dir is group/world readable except
/// `http.port`, `schema_version`.
#[tokio::test(flavor = "multi_thread")]
async fn under_umask_000_files_are_private() {
    let home = Home::new();
    home.join("dev");
    let mut daemon = DaemonProcess::start(&home, "").await;
    daemon.client().send(&letter(&some_key(), "x")).await.unwrap();
    until("the sessions file", || async { home.paths.sessions_file().exists() }).await;
    let dir = home.paths.daemon_dir();
    assert_eq!(std::fs::metadata(dir).unwrap().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !matches!(name.as_str(), "http.port" | "schema_version") {
            let mode = entry.metadata().unwrap().mode();
            assert_eq!(mode & 0o177, 0, "{name}: {mode:o}");
        }
        names.push(name);
    }
    for name in [
        "daemon.lock",
        "daemon.pid",
        "daemon.sock",
        "local-token",
        "outbox.db",
        "inbox.db",
        "daemon.log",
    ] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    daemon.terminate();
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(!home.paths.default_socket().exists() && !home.paths.pid_file().exists());
}

/// Daemon spec §1 Accept 6: SIGTERM during 50 in-flight sends: exit ≤ 8 s; no row lost.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_sends_loses_no_accepted_row() {
    let home = Home::new();
    home.join("dev");
    let mut daemon = DaemonProcess::start(&home, "").await;
    let to = some_key();
    let letters: Vec<_> = (0..50).map(|n| letter(&to, &n.to_string())).collect();
    let sends = letters.iter().map(|letter| daemon.client().send(letter));
    let (answers, ()) =
        tokio::join!(futures_util::future::join_all(sends), async { daemon.terminate() });
    let began = Instant::now();
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8));
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    let running = home.start().await;
    let query = OutboxQuery { limit: Some(500), ..OutboxQuery::default() };
    let rows = running.client().outbox(&query).await.unwrap().items.len();
    assert!(rows >= accepted, "{rows} rows for {accepted} accepted");
    running.shutdown().await;
}

/// Daemon spec §1 Accept 3: with no joined mesh the daemon runs; `claudemesh join` makes `/v1/health` list the mesh within 3 s
/// without restart.
#[tokio::test(flavor = "multi_thread")]
async fn meshes_attach_and_detach_as_the_config_changes() {
    let home = Home::new();
    let running = home.start().await;
    let client = running.client();
    assert!(client.health().await.unwrap().meshes.is_empty());
    home.join("dev");
    let began = Instant::now();
    client.reload().await.unwrap();
    until("attached", || async { client.health().await.unwrap().brokers.contains_key("dev") })
        .await;
    assert!(began.elapsed() < Duration::from_secs(3));
    client.send(&letter(&some_key(), "never sent")).await.unwrap();
    home.leave("dev");
    let reply = client.reload().await.unwrap();
    // The watcher may have been faster.
    assert!(reply.detached.len() <= 1);
    until("detached", || async { client.health().await.unwrap().meshes.is_empty() }).await;
    until("given up", || async {
        let rows = client.outbox(&OutboxQuery::default()).await.unwrap().items;
        rows[0].last_error_code.as_deref() == Some("mesh_left")
    })
    .await;
    running.shutdown().await;
}

/// Daemon spec §1 Accept 4: a broker that accepts TCP and never answers does not delay `/v1/version`.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_delays_nothing() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let home = Home::new();
    home.join_at("dev", &format!("ws://{}/ws", silent.local_addr().unwrap()));
    let began = Instant::now();
    let running = home.start().await;
    let version = running.client().version().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(version.broker["dev"].status, MeshStatus::Connecting);
    running.shutdown().await;
}

/// Daemon spec §13 Accept 9: corrupt `inbox.db` (flip 4 KiB): boots, quarantined file kept, new messages stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_inbox_is_moved_aside() {
    let home = Home::new();
    home.join("dev");
    home.start().await.shutdown().await;
    flip(&home.paths.inbox_file());
    let running = home.start().await;
    assert!(
        running
            .client()
            .inbox(&claudemesh_ipc::api::InboxQuery::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let kept = std::fs::read_dir(home.paths.daemon_dir()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("inbox.db.corrupt-")
    });
    assert!(kept.count() >= 1);
    running.shutdown().await;
}

/// Daemon §1.4: outbox corrupt: exit 5.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_outbox_ends_the_start_with_code_5() {
    let home = Home::new();
    home.start().await.shutdown().await;
    flip(&home.paths.outbox_file());
    let mut child = command(&home).spawn().unwrap();
    assert_eq!(ended(&mut child).await.code(), Some(5));
}

fn flip(path: &std::path::Path) {
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(std::io::SeekFrom::Start(64)).unwrap();
    file.write_all(&[0xa5; 4096]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_open_to_others_and_wrong_files_are_refused_with_their_code() {
    let home = Home::new();
    home.start().await.shutdown().await;
    let code_of = |paths: Paths| async {
        let started = Box::pin(claudemesh_daemon::start(Options::from_env(paths))).await;
        started
            .map(|_| ())
            .map_err(|error: BootError| (error.exit_code(), error.to_string()))
            .unwrap_err()
    };
    std::fs::write(home.paths.settings_file(), "[ipc]\nmax_inflight = \"x\"").unwrap();
    let (code, text) = code_of(home.paths.clone()).await;
    assert!(code == 3 && text.contains("config.toml:2"), "{text}");
    std::fs::remove_file(home.paths.settings_file()).unwrap();
    std::fs::write(home.paths.membership_file(), "{").unwrap();
    assert_eq!(code_of(home.paths.clone()).await.0, 3);
    std::fs::remove_file(home.paths.membership_file()).unwrap();
    std::fs::set_permissions(home.paths.daemon_dir(), std::fs::Permissions::from_mode(0o777))
        .unwrap();
    assert_eq!(code_of(home.paths.clone()).await.0, 3);
}

/// Daemon §9.1: a socket path over 100 bytes: bound elsewhere, the real path in `sock.path`.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_path_moves_the_socket() {
    let home = Home::new();
    let deep = home.path().join("d".repeat(60)).join("e".repeat(60));
    let paths = home.paths.clone().with_daemon_dir(&deep);
    let running = claudemesh_daemon::start(Options::from_env(paths.clone())).await.unwrap();
    assert!(paths.socket_path_file().exists());
    let client = Client::for_paths(&paths).unwrap();
    assert!(client.version().await.is_ok());
    assert_eq!(std::fs::metadata(running.socket()).unwrap().mode() & 0o777, 0o600);
    let socket = running.socket().to_owned();
    running.shutdown().await;
    assert!(!socket.exists());
}

/// Daemon spec §2 Accept 2: replacing `sessions.json` by a symlink to another file: daemon logs and starts with an empty registry,
/// target file untouched.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_place_of_the_sessions_file_is_not_followed() {
    let home = Home::new();
    home.start().await.shutdown().await;
    let victim = home.path().join("victim");
    std::fs::write(&victim, "{\"version\":2,\"sessions\":[]}").unwrap();
    std::fs::remove_file(home.paths.sessions_file()).unwrap();
    std::os::unix::fs::symlink(&victim, home.paths.sessions_file()).unwrap();
    let running = home.start().await;
    assert!(running.client().sessions().await.unwrap().is_empty());
    running.shutdown().await;
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "{\"version\":2,\"sessions\":[]}");
}
