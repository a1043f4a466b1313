//! The session registry over the socket and across restarts (daemon spec §8).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_crypto::{KeyPair, attestation};
use claudemesh_daemon::clock::now;
use claudemesh_daemon::sessions::{Processes, SystemProcesses};
use claudemesh_ipc::api::session::{PresenceOffer, SecretHex};
use claudemesh_ipc::api::{EventKind, EventsQuery, RegisterRequest, StatusReport};
use claudemesh_protocol::capability::CapabilitySet;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::process::DaemonProcess;
use super::world::{Home, UUID, code, register, token, until};

/// A change to a good registration, and the code it is refused with.
type Case = (fn(&mut RegisterRequest), &'static str);

/// Processes whose start time a test can change.
struct Shifted {
    real: SystemProcesses,
    suffix: Mutex<String>,
}

impl Processes for Shifted {
    fn is_alive(&self, pid: u32) -> bool {
        self.real.is_alive(pid)
    }

    fn is_ours(&self, pid: u32) -> bool {
        self.real.is_ours(pid)
    }

    fn start_time(&self, pid: u32) -> Option<String> {
        Some(format!("{}{}", self.real.start_time(pid)?, self.suffix.lock()))
    }

    fn watch(&self, _pid: u32) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// Daemon spec §8 Accept 1: daemon restart with live sessions: all have their mesh and pubkey again.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_survive_a_restart_with_their_keys() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let caps = CapabilitySet::parse(["dm", "read"]).ok();
    let mut before = Vec::new();
    for byte in 1..=5 {
        let (client, _) = register(&running, "dev", byte, |request| request.caps = caps).await;
        before.push(client.session().await.unwrap());
    }
    running.shutdown().await;
    let text = std::fs::read_to_string(home.paths.sessions_file()).unwrap();
    assert!(!text.contains(token(1).reveal()), "no token on disk");
    let running = home.start().await;
    for (byte, before) in (1..=5).zip(before) {
        let client = running.client().with_token(Some(token(byte)));
        let after = client.session().await.unwrap();
        assert_eq!(after.session_pubkey, before.session_pubkey);
        assert_eq!(
            (after.mesh, after.caps, after.registered_at),
            (before.mesh, caps, before.registered_at)
        );
    }
    running.shutdown().await;
    home.leave("dev");
    let running = home.start().await;
    assert!(running.client().sessions().await.unwrap().is_empty());
    running.shutdown().await;
}

/// Daemon spec §8 Accept 2: pid-reuse simulation (fake start_time change): entry gone within one sweep; another session with the
/// same pid number registers cleanly.
#[tokio::test(flavor = "multi_thread")]
async fn a_reused_pid_is_not_taken_for_the_session() {
    let home = Home::new();
    home.join("dev");
    let processes = Arc::new(Shifted { real: SystemProcesses::new(), suffix: Mutex::default() });
    let running = home.start_with(Arc::clone(&processes) as Arc<dyn Processes>).await;
    register(&running, "dev", 1, |_| {}).await;
    let sessions = running.daemon().context().sessions.clone();
    assert!(sessions.dead(now()).is_empty());
    *processes.suffix.lock() = "0".to_owned();
    assert_eq!(sessions.dead(now()).len(), 1);
    register(&running, "dev", 2, |_| {}).await;
    assert_eq!(sessions.dead(now()).len(), 1);
    running.shutdown().await;
    *processes.suffix.lock() = "00".to_owned();
    let running = home.start_with(processes).await;
    assert!(running.client().sessions().await.unwrap().is_empty(), "not revived either");
    running.shutdown().await;
}

/// Daemon §8.4: the end of a session's process drops the entry at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_process() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    register(&running, "dev", 1, |request| request.pid = child.id()).await;
    let client = running.client();
    assert_eq!(client.sessions().await.unwrap().len(), 1);
    let mut events = client.events(&EventsQuery::default(), None).await.unwrap();
    child.kill().unwrap();
    until("the entry is gone", || async { client.sessions().await.unwrap().is_empty() }).await;
    child.wait().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if event.kind == EventKind::SessionEnded {
                return event;
            }
        }
    });
    let ended = ended.await.unwrap();
    assert_eq!(
        (ended.data["reason"].as_str(), ended.data["mesh"].as_str()),
        (Some("process_ended"), Some("dev"))
    );
    assert!(ended.data["session_id"].is_string());
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_registration_repeats_and_another_makes_way() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let (client, first) = register(&running, "dev", 1, |_| {}).await;
    let (_, again) = register(&running, "dev", 1, |_| {}).await;
    assert_eq!((again.replaced, &again.registered_at), (false, &first.registered_at));
    let (_, renamed) =
        register(&running, "dev", 1, |request| request.display_name = "other".to_owned()).await;
    assert!(renamed.replaced);
    assert_eq!(renamed.session_pubkey, first.session_pubkey);
    // The same agent session under a new token.
    let (_, moved) = register(&running, "dev", 1, |request| request.token = token(9)).await;
    assert!(moved.replaced);
    assert_eq!(code(client.session().await), "unknown_session");
    let owner = running.client().with_token(Some(token(9)));
    assert_eq!(owner.sessions().await.unwrap().len(), 1);
    owner.deregister_session().await.unwrap();
    assert_eq!(code(owner.session().await), "unknown_session");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_checked_field_by_field() {
    let home = Home::new();
    home.join("dev");
    home.settings("[sessions]\nmax = 1\n");
    let running = home.start().await;
    let attempt = |change: fn(&mut RegisterRequest)| {
        let client = running.client();
        let mut request = RegisterRequest::stored(
            token(1),
            UUID.to_owned(),
            "dev".to_owned(),
            "s".to_owned(),
            std::process::id(),
        );
        change(&mut request);
        async move { client.register_session(&request).await }
    };
    let cases: [Case; 8] = [
        (|request| request.session_id = "../../x".to_owned(), "invalid_field"),
        (|request| request.session_id = String::new(), "invalid_field"),
        (|request| request.display_name = "  ".to_owned(), "invalid_field"),
        (|request| request.display_name = "a\u{7}".to_owned(), "invalid_field"),
        (|request| request.display_name = "x".repeat(65), "invalid_field"),
        (|request| request.pid = 0, "invalid_field"),
        (|request| request.mesh = "other".to_owned(), "mesh_not_attached"),
        (|request| request.pid = u32::MAX / 2, "pid_not_ours"),
    ];
    for (change, expected) in cases {
        assert_eq!(code(attempt(change).await), expected);
    }
    assert!(!home.path().join("x.json").exists());
    attempt(|_| {}).await.unwrap();
    let more = attempt(|request| {
        request.token = token(2);
        request.session_id = "another".to_owned();
    });
    assert_eq!(code(more.await), "too_many_sessions");
    running.shutdown().await;
}

/// Daemon §8.3: `presence` is checked; a wrong one registers without a presence and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_given_key_needs_a_good_attestation() {
    let home = Home::new();
    let member = home.join("dev");
    let running = home.start().await;
    let keys = KeyPair::generate();
    let offer = |parent: &KeyPair, hours: u64, secret: &KeyPair| PresenceOffer {
        session_pubkey: keys.public(),
        session_secret_key: SecretHex::new(secret.to_hex()),
        parent_attestation: attestation::mint(
            parent,
            keys.public(),
            now().plus(Duration::from_secs(hours * 3600)),
            None,
        ),
    };
    let stranger = KeyPair::generate();
    for (offer, expected) in [
        (offer(&member, 12, &keys), None),
        (offer(&stranger, 12, &keys), Some("attestation_mismatch")),
        (offer(&member, 0, &keys), Some("expired")),
        (offer(&member, 25, &keys), Some("ttl_too_long")),
        (offer(&member, 12, &stranger), Some("bad_session_pubkey")),
    ] {
        let (client, reply) = register(&running, "dev", 1, |request| {
            request.use_stored_key = false;
            request.presence = Some(offer);
        })
        .await;
        assert_eq!(reply.presence_error.as_deref(), expected);
        assert_eq!(reply.presence_accepted, expected.is_none());
        let view = serde_json::to_string(&client.session().await.unwrap()).unwrap();
        assert!(!view.contains(keys.to_hex().as_str()) && !view.contains(token(1).reveal()));
    }
    running.shutdown().await;
}

/// Daemon §8.7: matching order: token; session id; a registered pid; sole session with that cwd.
#[tokio::test(flavor = "multi_thread")]
async fn hook_reports_find_their_session() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    register(&running, "dev", 1, |request| request.cwd = Some("/a".to_owned())).await;
    register(&running, "dev", 2, |request| request.cwd = Some("/b".to_owned())).await;
    register(&running, "dev", 3, |request| request.cwd = Some("/b".to_owned())).await;
    let client = running.client();
    let report = |change: fn(&mut StatusReport)| {
        let mut report = StatusReport::default();
        change(&mut report);
        report
    };
    for (report, matched) in [
        (
            report(|report| {
                report.session_id = Some("6f1b2c3d-0000-4000-8000-012345678901".to_owned());
            }),
            1,
        ),
        (report(|report| report.pids = vec![std::process::id()]), 3),
        (report(|report| report.cwd = Some("/a".to_owned())), 1),
        (
            report(|report| {
                report.cwd = Some("/a".to_owned());
                report.session_id = Some("another".to_owned());
            }),
            0,
        ),
        (report(|report| report.cwd = Some("/b".to_owned())), 0),
        (report(|_| {}), 0),
    ] {
        assert_eq!(client.session_status(&report).await.unwrap().matched, matched, "{report:?}");
    }
    let own = client.with_token(Some(token(2)));
    let end = StatusReport {
        event: Some(claudemesh_ipc::api::session::HookEvent::End),
        ..StatusReport::default()
    };
    assert_eq!(own.session_status(&end).await.unwrap().matched, 1);
    assert_eq!(running.client().sessions().await.unwrap().len(), 2);
    running.shutdown().await;
}

/// Daemon spec §8 Accept 4: `GET /v1/sessions`, `/v1/sessions/me`, logs, and core dumps' env contain no 128-hex secret and no
/// full token.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_appear_nowhere() {
    let home = Home::new();
    let member = home.join("dev");
    home.settings("[daemon]\nlog_level = \"debug\"\n");
    let daemon = DaemonProcess::start(&home, "").await;
    let keys = KeyPair::generate();
    let expires_at = now().plus(Duration::from_hours(1));
    let offer = PresenceOffer {
        session_pubkey: keys.public(),
        session_secret_key: SecretHex::new(keys.to_hex()),
        parent_attestation: attestation::mint(&member, keys.public(), expires_at, None),
    };
    let id = |byte: u8| format!("6f1b2c3d-0000-4000-8000-0123456789{byte:02x}");
    let request = |byte| {
        RegisterRequest::stored(
            token(byte),
            id(byte),
            "dev".to_owned(),
            "s".to_owned(),
            std::process::id(),
        )
    };
    let given = RegisterRequest { use_stored_key: false, presence: Some(offer), ..request(1) };
    let client = daemon.client().clone();
    assert!(client.register_session(&given).await.unwrap().presence_accepted);
    client.register_session(&request(2)).await.unwrap();
    let stored_file = home.paths.sessions_dir().join("dev").join(format!("{}.json", id(2)));
    let stored: serde_json::Value =
        serde_json::from_slice(&std::fs::read(stored_file).unwrap()).unwrap();
    let own = client.with_token(Some(token(1)));
    let pid = own.version().await.unwrap().pid;
    until("the sessions are on disk", || async { home.paths.sessions_file().exists() }).await;
    let said = [
        serde_json::to_string(&own.sessions().await.unwrap()).unwrap(),
        serde_json::to_string(&own.session().await.unwrap()).unwrap(),
        serde_json::to_string(&own.health().await.unwrap()).unwrap(),
        std::fs::read_to_string(home.paths.log_file()).unwrap(),
        std::fs::read_to_string(home.paths.sessions_file()).unwrap(),
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap())
            .into_owned(),
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap())
            .into_owned(),
    ]
    .join("\n");
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
    let longest = said.as_bytes().split(|byte| !is_hex(byte)).map(<[u8]>::len).max().unwrap();
    assert!(longest < 128, "{longest} hex digits in a row");
    let secret = stored.to_string();
    let stored_secret = secret.split('"').find(|text| text.len() == 128);
    for secret in [token(1).reveal(), token(2).reveal(), keys.to_hex().as_str()]
        .into_iter()
        .chain(stored_secret)
    {
        assert!(!said.contains(secret));
    }
}

/// Daemon spec §8 Accept 3: 100 sessions registered: a sweep costs < 5 ms CPU; it reads one small file for each and forks
/// nothing.
#[tokio::test]
async fn a_sweep_of_a_hundred_sessions_is_cheap() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    for byte in 1..=100 {
        register(&running, "dev", byte, |_| {}).await;
    }
    let sessions = &running.daemon().context().sessions;
    let cpu_nanos = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let mut best = u64::MAX;
    for _ in 0..5 {
        let before = cpu_nanos();
        assert!(sessions.dead(now()).is_empty());
        best = best.min(cpu_nanos() - before);
    }
    assert!(best < 5_000_000, "{best} ns");
    running.shutdown().await;
}

/// daemon §8.4: `EPERM` from signal 0 means alive: a process of somebody else is not taken for dead.
#[test]
fn a_process_of_somebody_else_is_alive() {
    // Process 1 belongs to the system; as root it takes our signals, as anybody else it refuses them.
    assert!(SystemProcesses::new().is_alive(1));
}
