//! Starting, stopping and what must not start.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claudemesh_broker::data_dir::BrokerRecord;
use claudemesh_broker::{Settings, StartError, StartOptions, start};
use claudemesh_crypto::at_rest::AtRestKey;
use serde_json::json;

use crate::world::{Answer, PATIENCE, World};

fn failed(outcome: Result<claudemesh_broker::RunningBroker, StartError>) -> StartError {
    match outcome {
        Ok(_) => panic!("the broker started"),
        Err(error) => error,
    }
}

/// CFG-1: a fresh embedded start serves /health within two seconds.
#[tokio::test]
async fn a_fresh_start_serves_soon_and_leaves_private_files() {
    let started = Instant::now();
    let world = World::start().await;
    world.get("/health").await.ok();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(world.data_dir()), 0o700);
    for name in ["broker.db", "secret.key", "setup-code", "broker.json", "broker.lock"] {
        assert_eq!(mode(&world.data_dir().join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn the_record_names_the_running_broker_and_goes_with_it() {
    let mut world = World::start().await;
    let path = world.settings.record_path();
    let record = BrokerRecord::read(&path).unwrap();
    assert_eq!(record.pid, std::process::id());
    assert_eq!(
        (record.url.as_str(), record.ws_url.as_str()),
        (world.broker().http_url(), world.broker().ws_url())
    );
    let health = world.get("/health").await.ok();
    assert_eq!(health["brokerPubkey"], record.broker_pubkey);
    world.stop().await;
    assert!(!path.exists());
    world.resume().await;
    assert_eq!(
        BrokerRecord::read(&path).unwrap().broker_pubkey,
        record.broker_pubkey,
        "the key is kept"
    );
    world.kill().await;
    assert!(path.exists());
}

/// OPS-3.
#[tokio::test]
async fn a_second_broker_on_the_same_data_is_refused_at_once() {
    let world = World::start().await;
    let asked = Instant::now();
    let error = failed(start(StartOptions::new(world.settings.clone())).await);
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert_eq!(error.exit_code(), 75);
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    world.get("/health").await.ok();
}

/// OPS-2.
#[tokio::test]
async fn another_key_is_refused_and_nothing_is_changed() {
    let mut world = World::start().await;
    let host = world.with_invite(json!({})).await;
    world.stop().await;
    let database = world.settings.database_path();
    let before = std::fs::read(&database).unwrap();
    let mut settings = world.settings.clone();
    settings.encryption_key = Some(Arc::new(AtRestKey::generate()));
    let error = failed(start(StartOptions::new(settings)).await);
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains("wrong key"), "{error}");
    assert!(std::fs::read(&database).unwrap() == before, "the database was touched");
    let key_file = world.data_dir().join("secret.key");
    let hidden = world.data_dir().join("secret.key.away");
    std::fs::rename(&key_file, &hidden).unwrap();
    let error = failed(start(StartOptions::new(world.settings.clone())).await);
    assert_eq!(error.exit_code(), 78);
    assert!(!key_file.exists(), "a new key was made over a database that has one");
    std::fs::rename(&hidden, &key_file).unwrap();
    world.resume().await;
    world.get_as(&host.token, "/cli/meshes").await.ok();
}

#[tokio::test]
async fn a_key_file_others_can_read_is_refused() {
    let mut world = World::start().await;
    world.stop().await;
    let path = world.data_dir().join("secret.key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = failed(start(StartOptions::new(world.settings.clone())).await);
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_said() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let settings =
        Settings { port: world.broker().address().port(), ..Settings::embedded(dir.path()) };
    let error = failed(start(StartOptions::new(settings)).await);
    assert_eq!(error.exit_code(), 98);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut world = World::start().await;
    let host = world.with_invite(json!({})).await;
    world.kill().await;
    world.resume().await;
    let meshes = world.get_as(&host.token, "/cli/meshes").await.ok();
    assert_eq!(meshes["meshes"][0]["id"], host.mesh["id"]);
    assert_eq!(world.use_count(&host.token, &host.code).await, 0);
}

#[tokio::test]
async fn a_stop_is_quick_also_with_a_request_that_never_ends() {
    use tokio::io::AsyncWriteExt as _;
    let mut world = World::start().await;
    let mut stream = tokio::net::TcpStream::connect(world.broker().address()).await.unwrap();
    stream
        .write_all(b"POST /join HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    world.get("/health").await.ok();
    let asked = Instant::now();
    world.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}

/// HLT-1: draining is said while a request still runs; new work is refused meanwhile.
#[tokio::test]
async fn a_draining_broker_says_so_until_its_last_request_is_done() {
    use tokio::io::AsyncWriteExt as _;
    let mut world = World::start().await;
    let base = world.broker().http_url().to_owned();
    let mut stream = tokio::net::TcpStream::connect(world.broker().address()).await.unwrap();
    stream.write_all(b"POST /join HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n").await.unwrap();
    world.get("/health").await.ok();
    let http = world.http.clone();
    let watch = async {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ready = Answer::of(http.get(format!("{base}/health/ready"))).await;
            if ready.status.as_u16() == 503 {
                assert_eq!(ready.body["reason"], "draining");
                break;
            }
            assert!(Instant::now() < deadline);
        }
        Answer::of(http.get(format!("{base}/cli/me"))).await.refused(503, "unavailable");
        Answer::of(http.get(format!("{base}/health"))).await.ok();
        stream.write_all(b"{}").await.unwrap();
    };
    tokio::join!(world.stop(), watch);
    assert!(http.get(format!("{base}/health")).send().await.is_err());
}

/// HLT-1: the process lives on without its database and says what is wrong.
#[tokio::test]
async fn a_lost_database_is_told_apart_from_a_lost_broker() {
    let world = World::start().await;
    world.broker().broker().store().close().await;
    assert_eq!(world.get("/health").await.ok()["db"], "down");
    let ready = world.get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.body["reason"]), (503, &"db_down".into()));
    let body = json!({ "setup_code": "x", "display_name": "Ana" });
    world.post("/cli/setup", &body).await.refused(503, "unavailable");
    let metrics = world.get("/metrics").await.ok();
    assert!(metrics.as_str().unwrap().contains("broker_db_healthy 0"));
}

/// The HTTP part of OPS-5.
#[tokio::test]
async fn a_full_disk_refuses_writes_whole_and_space_brings_them_back() {
    let mut world = World::start().await;
    let host = world.with_invite(json!({})).await;
    world.stop().await;
    let pages = std::fs::metadata(world.settings.database_path()).unwrap().len() / 4096;
    world.max_database_pages = Some(u32::try_from(pages).unwrap() + 8);
    world.resume().await;
    let terms = json!({ "preset": { "groups": (0..32).map(|n| json!({ "name": format!("{n}{}", "x".repeat(60)) })).collect::<Vec<_>>() } });
    let mut made = 0;
    let refused = loop {
        let answer = world.post_as(&host.token, "/cli/mesh/alpha/invite", &terms).await;
        if !answer.status.is_success() {
            break answer;
        }
        made += 1;
        assert!(made < 1_000, "the page limit has no effect");
    };
    refused.refused(503, "unavailable");
    world.get("/health").await.ok();
    world.stop().await;
    world.max_database_pages = None;
    world.resume().await;
    world.post_as(&host.token, "/cli/mesh/alpha/invite", &terms).await.ok();
    let listed = world.get_as(&host.token, "/cli/mesh/alpha/invites").await.ok();
    assert_eq!(listed["invites"].as_array().unwrap().len(), made + 2);
}

#[tokio::test]
async fn a_broker_on_every_address_is_reached_on_loopback() {
    let world = World::start_with(|settings| settings.bind = "0.0.0.0".parse().unwrap()).await;
    assert!(world.broker().http_url().starts_with("http://127.0.0.1:"));
    world.get("/health").await.ok();
}

/// On a machine with a network: the broker stands on that address and on loopback beside it.
#[tokio::test]
async fn a_broker_on_one_network_address_is_reached_on_loopback_too() {
    let everywhere = World::start_with(|settings| settings.bind = "0.0.0.0".parse().unwrap()).await;
    let share = everywhere.broker().broker().links().share_urls.first().cloned();
    let Some(address) =
        share.and_then(|url| url.strip_prefix("http://")?.parse::<std::net::SocketAddr>().ok())
    else {
        return;
    };
    let world = World::start_with(|settings| settings.bind = address.ip()).await;
    assert!(world.broker().http_url().starts_with("http://127.0.0.1:"));
    world.get("/metrics").await.ok();
    let from_network =
        |path: &str| world.http.post(format!("http://{}{path}", world.broker().address()));
    let setup = json!({ "setup_code": world.setup_code(), "display_name": "Ana" });
    Answer::of(from_network("/cli/setup").json(&setup)).await.refused(403, "forbidden");
    world.post("/cli/setup", &setup).await.ok();
}
