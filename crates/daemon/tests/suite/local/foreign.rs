//! Who may not talk to the daemon, and who takes too long for it (daemon spec §9.1).

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::world::{Home, until};

/// Names the socket in the stranger's process.
const SOCKET: &str = "CLAUDEMESH_TEST_SOCKET";
/// A user who owns nothing.
const NOBODY: &str = "65534";
/// What the stranger ends with when it was heard.
const WAS_HEARD: i32 = 7;
/// What it ends with when it was not.
const WAS_REFUSED: i32 = 8;

/// The stranger's main; skipped in an ordinary run.
#[test]
fn stranger() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let mut answer = Vec::new();
    // It may be closed before this is written.
    let _ = stream
        .write_all(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let _ = stream.read_to_end(&mut answer);
    #[expect(clippy::exit, reason = "what it met is told by its exit code")]
    std::process::exit(if answer.is_empty() { WAS_REFUSED } else { WAS_HEARD });
}

/// This test program as another user, if this one may become him.
fn as_nobody(socket: &std::path::Path) -> Option<Command> {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "local::foreign::stranger", "--nocapture"])
        .env(SOCKET, socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    rustix::process::geteuid().is_root().then_some(command)
}

/// Daemon spec §9 Accept 2: a process of another uid connecting to the socket (perms loosened for the test) is closed before
/// a byte is processed.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_not_heard() {
    let home = Home::new();
    let running = home.start().await;
    let open = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for dir in [home.path(), home.paths.root(), home.paths.daemon_dir()] {
        open(dir, 0o755);
    }
    open(running.socket(), 0o666);
    let Some(mut stranger) = as_nobody(running.socket()) else {
        println!("skipped: only root can become somebody else");
        return running.shutdown().await;
    };
    let Ok(status) = stranger.status() else {
        println!("skipped: there is no setpriv");
        return running.shutdown().await;
    };
    match status.code() {
        Some(WAS_REFUSED) => {}
        // The test program, or the way to it, is closed to that user.
        Some(126 | 127 | 101 | 1) => println!("skipped: {NOBODY} cannot run the test"),
        code => panic!("a stranger was heard: {code:?}"),
    }
    assert!(running.client().health().await.unwrap().ok, "its owner is");
    running.shutdown().await;
}

/// Daemon §9.1: the head of a request has 5 s, and 16 KiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let home = Home::new();
    let running = home.start().await;
    let began = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: local").await.unwrap();
        slow.push(stream);
    }
    assert!(running.client().health().await.unwrap().ok, "others are answered meanwhile");
    for mut stream in slow {
        let mut answer = String::new();
        let limit = Duration::from_secs(9);
        let read = tokio::time::timeout(limit, stream.read_to_string(&mut answer)).await;
        assert!(read.is_ok(), "still open after {:?}", began.elapsed());
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    let long =
        format!("GET /v1/health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n", "y".repeat(40_000));
    let _ = stream.write_all(long.as_bytes()).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    running.shutdown().await;
}

/// Daemon §9.1: a body that does not go on for 30 s is given up, and holds no place any more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute; make test-all"]
async fn a_body_that_does_not_go_on_is_given_up() {
    let home = Home::new();
    home.settings("[ipc]\nmax_inflight = 1\n");
    let running = home.start().await;
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    let head = "POST /v1/inbox/seen HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 20\r\n\r\n{\"ids\"";
    stream.write_all(head.as_bytes()).await.unwrap();
    let client = running.client();
    until("its place is taken", || async { client.sessions().await.is_err() }).await;
    let mut answer = String::new();
    let limit = Duration::from_secs(40);
    tokio::time::timeout(limit, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.contains(" 408 ") && answer.contains("body_timeout"), "{answer}");
    until("its place is free", || async { client.sessions().await.is_ok() }).await;
    running.shutdown().await;
}
