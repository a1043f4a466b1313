//! A daemon of another version on the socket (daemon spec §9.6): replaced, left alone, or done without.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use claudemesh_daemon::home::file::FileLock;
use serde_json::{Value, json};

use crate::home::Home;

/// Something that says it is a daemon of another version: a process of its own for the pid, the lock, the socket.
struct Impostor {
    process: Child,
    asked_to_stop: Arc<AtomicUsize>,
}

/// What it says about itself.
struct Says {
    version: &'static str,
    features: &'static [&'static str],
    inflight: u64,
    /// Its process has left its terminal, as one in the background has.
    is_detached: bool,
    is_ephemeral: bool,
}

const OLD: Says = Says {
    version: "0.0.1",
    features: &["version", "health", "send", "inbox", "outbox", "peers", "ops", "sessions"],
    inflight: 0,
    is_detached: true,
    is_ephemeral: false,
};

impl Impostor {
    fn listen(home: &Home, says: &Says) -> Self {
        std::fs::create_dir_all(home.file("daemon")).unwrap();
        let mut command = Command::new(if says.is_detached { "setsid" } else { "sleep" });
        if says.is_detached {
            command.arg("sleep");
        }
        let process = command.arg("600").stdin(Stdio::null()).spawn().unwrap();
        let lock = FileLock::try_take(&home.file("daemon/daemon.lock")).unwrap().unwrap();
        let socket = home.file("daemon/daemon.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let version = json!({
            "daemon_version": says.version, "ipc_api": "v1", "ipc_minor": 1, "ipc_features": says.features,
            "pid": process.id(), "started_at": "2026-01-01T00:00:00.000Z", "ephemeral": says.is_ephemeral,
        });
        let mesh = json!({
            "slug": "home", "status": "open", "lag_ms": null, "member_pubkey": "0".repeat(64), "queue_depth": 0,
            "inflight": says.inflight, "dead": 0, "sessions": 0,
        });
        let health = json!({
            "ok": true, "pid": process.id(), "uptime_s": 1, "daemon_version": says.version, "degraded": false,
            "degraded_reasons": [], "brokers": {"home": "open"}, "meshes": [mesh], "schema_version": 1,
        });
        let asked_to_stop = Arc::new(AtomicUsize::new(0));
        let (asked, mut lock) = (Arc::clone(&asked_to_stop), Some(lock));
        let is_over = AtomicBool::new(false);
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let request = head(&mut stream);
                let body = if request.contains("/v1/admin/shutdown") {
                    asked.fetch_add(1, Ordering::SeqCst);
                    is_over.store(true, Ordering::SeqCst);
                    json!({"ok": true})
                } else if request.contains("/v1/version") {
                    version.clone()
                } else if request.contains("/v1/health") {
                    health.clone()
                } else if request.contains("/v1/inbox") {
                    json!({"items": [], "marked_seen": 0})
                } else {
                    json!({"rows": [], "items": [], "peers": []})
                };
                answer(&mut stream, &body);
                if is_over.load(Ordering::SeqCst) {
                    std::fs::remove_file(&socket).unwrap();
                    lock.take();
                    return;
                }
            }
        });
        Self { process, asked_to_stop }
    }

    fn was_asked_to_stop(&self) -> usize {
        self.asked_to_stop.load(Ordering::SeqCst)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The request, body included: whoever closes a socket with unread bytes breaks the answer.
fn head(stream: &mut UnixStream) -> String {
    let (mut text, mut chunk) = (String::new(), [0; 4096]);
    loop {
        let end = text.find("\r\n\r\n");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        if end.is_some_and(|end| text.len() >= end + 4 + length) {
            return text;
        }
        let bytes = stream.read(&mut chunk).unwrap();
        if bytes == 0 {
            return text;
        }
        text.push_str(std::str::from_utf8(&chunk[..bytes]).unwrap());
    }
}

fn answer(stream: &mut UnixStream, body: &Value) {
    let body = body.to_string();
    let text = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // A caller may have asked for the version alone and gone.
    let _ = stream.write_all(text.as_bytes());
}

/// A HOME with a mesh and no daemon.
fn joined() -> Home {
    let home = Home::new();
    home.up();
    home.ok(&["daemon", "down"]);
    home
}

fn daemon_version(home: &Home) -> Value {
    home.json_ok(&["daemon", "version"])["daemon_version"].clone()
}

/// An older daemon in the background that sends nothing is replaced, with one notice; the next verb says nothing.
#[test]
fn an_older_daemon_is_replaced_once() {
    let home = joined();
    let old = Impostor::listen(&home, &OLD);
    let ran = home.run(&["inbox"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(old.was_asked_to_stop(), 1);
    assert_eq!(ran.stderr.matches("daemon restarted: it was v0.0.1").count(), 1, "{ran:?}");
    assert_eq!(ran.stderr.trim().lines().count(), 1, "{ran:?}");
    assert_eq!(daemon_version(&home), env!("CARGO_PKG_VERSION"));
    assert_eq!(home.run(&["inbox"]).stderr, "");
}

/// Whoever asks at the same time finds the new one.
#[test]
fn of_many_verbs_at_once_one_replaces_it() {
    let home = joined();
    let old = Impostor::listen(&home, &OLD);
    home.ok_at_once(8, &["inbox", "-q"]);
    assert_eq!(old.was_asked_to_stop(), 1);
    assert_eq!(daemon_version(&home), env!("CARGO_PKG_VERSION"));
}

/// What somebody looks after, what is sending, and what is newer, is left alone, with one sentence.
#[test]
fn a_daemon_that_is_somebodys_is_left_alone() {
    let newer = Says { version: "99.0.0", ..OLD };
    let sending = Says { inflight: 3, ..OLD };
    let in_a_terminal = Says { is_detached: false, ..OLD };
    let ephemeral = Says { is_ephemeral: true, ..OLD };
    for (says, sentence) in [
        (ephemeral, "it is ephemeral"),
        (newer, "newer than this program"),
        (sending, "it is sending"),
        (in_a_terminal, "somebody else started it"),
    ] {
        let home = joined();
        let other = Impostor::listen(&home, &says);
        let ran = home.run(&["inbox"]);
        assert_eq!((ran.code, other.was_asked_to_stop()), (0, 0), "{sentence}: {ran:?}");
        assert_eq!(ran.stderr.matches(sentence).count(), 1, "{ran:?}");
        assert_eq!(ran.stderr.trim().lines().count(), 1, "{ran:?}");
        let quiet = home.run(&["inbox", "--json"]);
        assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""), "{quiet:?}");
    }
}

/// Under a service manager's unit, and inside of a session, it is never restarted by a verb.
#[test]
fn a_managed_daemon_is_never_restarted() {
    let home = joined();
    let units = home.path().join(".config/systemd/user");
    std::fs::create_dir_all(&units).unwrap();
    std::fs::write(units.join("claudemesh-daemon.service"), "[Service]\n").unwrap();
    let old = Impostor::listen(&home, &OLD);
    let ran = home.run(&["inbox"]);
    assert_eq!((ran.code, old.was_asked_to_stop()), (0, 0), "{ran:?}");
    assert!(ran.stderr.contains("restart its service"), "{ran:?}");
    std::fs::remove_dir_all(home.path().join(".config")).unwrap();
    let token = "a".repeat(64);
    let mut command = home.command(&["inbox"]);
    let output = command.env("CLAUDEMESH_IPC_TOKEN", token).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(old.was_asked_to_stop(), 0, "{stderr}");
    assert!(stderr.contains("outside of this session"), "{stderr}");
}

/// A verb that needs what an older daemon cannot do says so, or does without the daemon.
#[test]
fn a_missing_feature_is_told_by_verb() {
    let home = joined();
    let bare = Says { features: &["version", "health"], inflight: 1, ..OLD };
    let _old = Impostor::listen(&home, &bare);
    for (words, feature) in [
        (&["inbox", "search", "x"][..], "search"),
        (&["daemon", "metrics"], "metrics"),
        (&["daemon", "outbox", "list"], "outbox"),
        (&["daemon", "sessions"], "sessions"),
    ] {
        let ran = home.run(words);
        assert_eq!(ran.code, 4, "{words:?}: {ran:?}");
        assert!(ran.stderr.contains(&format!("it lacks \"{feature}\"")), "{words:?}: {ran:?}");
        assert!(ran.stderr.contains("claudemesh daemon restart"), "{words:?}: {ran:?}");
    }
    // What can be done without a daemon is, unless it must not be.
    let ran = home.run(&["state", "list"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("using the slower direct path"), "{ran:?}");
    let ran = home.run(&["state", "list", "--strict"]);
    assert_eq!(ran.code, 4, "{ran:?}");
}
