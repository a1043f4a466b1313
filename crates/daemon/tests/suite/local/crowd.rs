//! Many clients at once (daemon spec §1.5, §9.5).

use std::time::{Duration, Instant};

use claudemesh_ipc::IpcError;
use claudemesh_ipc::api::{EventKind, EventsQuery, RecipientKind};
use futures_util::future::join_all;

use super::inbox::{item, put};
use super::world::Home;

/// Descriptors of both ends of so many connections, and of everything else.
const DESCRIPTORS: u64 = 2 * 1_000 + 200;

/// Every one of a thousand clients that ask at once gets its answer, at the latest when it asks again as it was told to;
/// meanwhile events go to whoever reads them, and afterwards nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_at_once_are_all_answered() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current.is_some_and(|most| most < DESCRIPTORS) {
        println!("skipped: this machine allows {:?} descriptors", limit.current);
        return;
    }
    let home = Home::new();
    let member = home.join("dev").public();
    let running = home.start().await;
    let client = running.client().with_timeout(Duration::from_secs(20));
    let mut events = client.events(&EventsQuery::default(), None).await.unwrap();
    let asking = (0..1_000).map(|_| async {
        let (began, mut refused) = (Instant::now(), 0_u32);
        loop {
            match client.sessions().await {
                Ok(_) => return refused,
                Err(IpcError::Api(error)) if error.body.error == "daemon_busy" => {
                    refused += 1;
                    assert!(error.retry_after.is_some(), "{error:?}");
                }
                // The queue of the socket itself was full.
                Err(IpcError::NotRunning(_)) => {}
                Err(other) => panic!("{other}"),
            }
            assert!(began.elapsed() < Duration::from_secs(20), "nobody answers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let telling = async {
        put(&running, item(member, RecipientKind::Member, "meanwhile")).await;
        loop {
            // Others tell of the mesh that cannot be reached.
            let event = events.next().await.unwrap().unwrap();
            if event.kind == EventKind::Message {
                return event;
            }
        }
    };
    let (refused, event) = tokio::join!(join_all(asking), telling);
    assert_eq!(
        (refused.len(), event.data["client_message_id"].as_str()),
        (1_000, Some("meanwhile"))
    );
    assert!(client.health().await.unwrap().ok);
    let figures = client.metrics().await.unwrap();
    assert!(!figures.contains("status=\"500\""), "{figures}");
    running.shutdown().await;
}
