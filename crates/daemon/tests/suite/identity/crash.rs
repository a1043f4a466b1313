//! The daemon process dies between any two steps of a rotation (daemon spec §19.1, §26); the broker is real and lives on.

use claudemesh_ipc::api::Decrypt;

use super::rotation::{EVERYTHING, has_record, home_of, opened, own_key, received, rotate};
use crate::local::process::DaemonProcess;
use crate::local::world::letter;
use crate::mesh::node::{Node, SLUG, World, until};

const ROUNDS: usize = 5;

/// The daemon dies right after a step, and is started again.
async fn dies_at(point: &str) {
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = home_of(&world);
    let old = own_key(&home);
    let mut daemon = DaemonProcess::start(&home, &format!("{point}=kill")).await;
    opened(daemon.client()).await;
    bob.send_to_key(old, "before").await;
    received(daemon.client(), 1).await;
    assert!(daemon.client().rotate_keypair(&EVERYTHING).await.is_err());
    assert!(!daemon.ended().await.success(), "{point}");
    assert!(has_record(&home));
    bob.send_to_key(old, "meanwhile").await;
    let daemon = DaemonProcess::start(&home, "").await;
    let client = daemon.client();
    let is_registered = point != "rotate.after_archive";
    if is_registered {
        until("the rotation is finished", async || own_key(&home) != old && !has_record(&home))
            .await;
    }
    opened(client).await;
    let own = own_key(&home);
    assert_eq!(own != old, is_registered, "{point}");
    until("bob knows the key", async || bob.mesh().is_member(own)).await;
    bob.send("bot-0", "afterwards").await;
    bob.send_to_key(old, "to the old key").await;
    let items = received(client, 4).await;
    assert!(
        items.iter().all(|item| item.decrypt.is_readable() && item.recipient_pubkey == Some(own))
    );
    // Who we are is what the broker and the peers take us for.
    client.send(&letter(&world.key(1).to_hex(), "mine")).await.unwrap();
    let mine = bob.receives(1).await;
    assert!(mine[0].sender_verified && mine[0].sender_member_pubkey == own.to_hex(), "{point}");
    if !is_registered {
        // Asked again, the same rotation goes on.
        let record = home.paths.daemon_dir().join(format!("rotation-pending-{SLUG}.json"));
        let begun = std::fs::read_to_string(record).unwrap();
        let new = rotate(client).await.rotated[0].pubkey;
        assert!(begun.contains(&new.to_hex()));
        assert!(!has_record(&home));
        assert_eq!(own_key(&home), new);
    }
}

/// Daemon spec §19 Accept 2: kill -9 after step 2: the next start has one valid identity, and peers can write to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_after_the_archive_is_written_keeps_the_old_key() {
    for _ in 0..ROUNDS {
        dies_at("rotate.after_archive").await;
    }
}

/// Daemon spec §19 Accept 2: kill -9 after step 3: the next start finds out that the new key counts and puts it in place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_after_the_broker_knows_the_new_key_is_made_up_for() {
    for _ in 0..ROUNDS {
        dies_at("rotate.after_register").await;
    }
}

/// Daemon spec §19 Accept 2: kill -9 after step 4: what the inbox holds follows the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_after_the_config_is_written_is_made_up_for() {
    for _ in 0..ROUNDS {
        dies_at("rotate.after_config").await;
    }
}

/// Daemon spec §19.1: a rotation that the broker never heard of is given up when it cannot be on its way any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn a_rotation_that_nobody_heard_of_is_given_up() {
    const LONG_ENOUGH: std::time::Duration = std::time::Duration::from_mins(4);
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = home_of(&world);
    let old = own_key(&home);
    let mut daemon = DaemonProcess::start(&home, "rotate.after_archive=kill").await;
    opened(daemon.client()).await;
    assert!(daemon.client().rotate_keypair(&EVERYTHING).await.is_err());
    daemon.ended().await;
    let daemon = DaemonProcess::start(&home, "").await;
    let began = std::time::Instant::now();
    while has_record(&home) {
        assert!(began.elapsed() < LONG_ENOUGH, "the record is still there");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert!(began.elapsed() > std::time::Duration::from_mins(1), "it could still have arrived");
    assert!(!home.paths.daemon_dir().join("keypair-archive.json").exists());
    assert_eq!(own_key(&home), old);
    bob.send_to_key(old, "as before").await;
    assert_eq!(received(daemon.client(), 1).await[0].decrypt, Decrypt::Ok);
}
