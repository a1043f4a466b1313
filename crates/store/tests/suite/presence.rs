//! Presences over reconnects and restarts, saved states, session keys, replayed hellos.

use std::time::Duration;

use claudemesh_protocol::wire::presence::{SetProfile, Stats};
use claudemesh_protocol::{
    Group, MemberId, PeerRole, PeerStatus, PresenceId, PublicKey, StatusSource, Timestamp,
};
use claudemesh_store::{
    EndPresence, HelloSeen, OpenPresence, PeerState, PendingStatus, PendingStatusOf, PresenceRow,
    PresenceState, PreviousRun, PurgeBefore, Reroute, SessionKeySeen,
};

use crate::fixture::{
    Fixture, NOW, World, after, claim_of, fresh, fresh_key, holder, message, on_both_engines, send,
    to_member, to_session,
};

on_both_engines!(
    a_hello_is_accepted_once_even_after_a_restart,
    a_restart_leases_the_presences_of_the_previous_run,
    a_waiting_status_is_taken_once_by_its_program,
    rows_without_a_sign_of_life_are_found_unless_leased,
    counters_grow_when_a_presence_ends,
    ending_a_presence_releases_claims_and_moves_its_sessions_rows,
    a_heartbeat_moves_presence_session_key_and_member,
    a_session_key_stays_with_its_member_and_ages,
    a_saved_state_is_replaced_and_read_back,
    ended_rows_are_purged_after_their_time,
);

fn row(world: &World, session: Option<PublicKey>) -> PresenceRow {
    PresenceRow {
        id: PresenceId::new(fresh()),
        mesh_id: world.mesh.id.clone(),
        member_id: world.bob.id.clone(),
        session_id: "s1".to_owned(),
        session_pubkey: session,
        display_name: "Bob".to_owned(),
        role: if session.is_some() { PeerRole::Session } else { PeerRole::ControlPlane },
        pid: 42,
        cwd: Some("/tmp".to_owned()),
        hostname: None,
        host_fingerprint: None,
        peer_type: None,
        channel: None,
        model: None,
        capabilities: vec!["client_ack".to_owned()],
        attestation: None,
        state: PresenceState {
            status: PeerStatus::Idle,
            status_source: StatusSource::Jsonl,
            status_updated_at: NOW,
            summary: None,
            groups: vec![Group::parse_lenient("ops").unwrap()],
            is_visible: true,
            profile: SetProfile::default(),
            stats: None,
        },
        node_id: "node-1".to_owned(),
        connected_at: NOW,
        last_ping_at: NOW,
        lease_until: None,
    }
}

fn hello(at: Timestamp) -> HelloSeen {
    HelloSeen {
        pubkey: fresh_key(),
        timestamp: at,
        signature_hash: [3; 32],
        expires_at: at.plus(Duration::from_mins(2)),
    }
}

fn seen(world: &World, key: PublicKey, member: &MemberId, at: Timestamp) -> SessionKeySeen {
    SessionKeySeen {
        mesh_id: world.mesh.id.clone(),
        session_pubkey: key,
        member_id: member.clone(),
        attestation: None,
        last_seen_at: at,
    }
}

/// PRES-2.
async fn a_hello_is_accepted_once_even_after_a_restart(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let hello = hello(NOW);
    let open = |store: claudemesh_store::Store, hello: HelloSeen| {
        let row = row(&world, None);
        async move { store.open_presence(row, hello, None, None).await.unwrap() }
    };
    assert_eq!(open(fixture.store.clone(), hello.clone()).await, OpenPresence::Opened);
    assert_eq!(open(fixture.store.clone(), hello.clone()).await, OpenPresence::Replayed);
    let restarted = fixture.reopened().await;
    assert_eq!(open(restarted.clone(), hello.clone()).await, OpenPresence::Replayed);
    let bumped = HelloSeen { timestamp: after(1), ..hello };
    assert_eq!(open(restarted.clone(), bumped).await, OpenPresence::Opened);
    let live = restarted
        .lease_previous_run(PreviousRun::EveryNode, NOW, Duration::ZERO, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(live.len(), 2, "a refused hello leaves no presence");
    restarted.close().await;
}

/// LEASE-5.
async fn a_restart_leases_the_presences_of_the_previous_run(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (mut fresh_row, mut stale_row) = (row(&world, Some(fresh_key())), row(&world, None));
    fresh_row.last_ping_at = after(100);
    stale_row.last_ping_at = NOW;
    for presence in [&fresh_row, &stale_row] {
        let opened =
            store.open_presence(presence.clone(), hello(after(1)), None, None).await.unwrap();
        assert_eq!(opened, OpenPresence::Opened);
    }
    let state = PresenceState {
        status: PeerStatus::Dnd,
        status_source: StatusSource::Manual,
        summary: Some("reviewing".to_owned()),
        ..fresh_row.state.clone()
    };
    store.save_presence_states(vec![(fresh_row.id.clone(), state.clone())]).await.unwrap();
    send(store, world.message()).await;
    let mut claim = claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(110));
    claim.by = holder(stale_row.id.as_str());
    assert_eq!(store.claim(claim.clone()).await.unwrap().len(), 1);
    let (lease, grace) = (Duration::from_secs(90), Duration::from_secs(30));
    let other = PreviousRun::Node("node-2".to_owned());
    assert!(store.lease_previous_run(other, after(120), lease, grace).await.unwrap().is_empty());
    let mut leased =
        store.lease_previous_run(PreviousRun::EveryNode, after(120), lease, grace).await.unwrap();
    leased.sort_by_key(|presence| presence.id != fresh_row.id);
    assert_eq!(leased[0].lease_until, Some(after(190)), "last ping and lease");
    assert_eq!(leased[1].lease_until, Some(after(150)), "never shorter than the grace");
    assert_eq!(leased[0].state, state);
    // Its claims are free at once.
    claim.now = after(121);
    let again = store.claim(claim).await.unwrap();
    assert_eq!((again.len(), again[0].attempt), (1, 2));
    // The same id connects again: no lease, same row.
    let opened =
        store.open_presence(fresh_row.clone(), hello(after(130)), None, None).await.unwrap();
    assert_eq!(opened, OpenPresence::Opened);
    store.lease_presences(vec![stale_row.id.clone()], after(500)).await.unwrap();
    let node = PreviousRun::Node("node-1".to_owned());
    let rows = store.lease_previous_run(node, after(130), lease, grace).await.unwrap();
    assert_eq!(rows.len(), 2);
}

/// STAT-4.
async fn a_waiting_status_is_taken_once_by_its_program(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let keep = |pid: Option<i64>, session: &str, status, at| {
        let pending = PendingStatus {
            id: fresh(),
            pid,
            cwd: "/w".to_owned(),
            session_id: session.to_owned(),
            status,
            created_at: at,
        };
        store.keep_pending_status(pending)
    };
    let open = |pid: i64, session: &str, now: Timestamp| {
        let of = PendingStatusOf {
            pid,
            cwd: "/w".to_owned(),
            session_id: session.to_owned(),
            not_before: now.minus(Duration::from_secs(10)),
        };
        store.open_presence(row(&world, None), hello(now), None, Some(of))
    };
    keep(Some(1), "x", PeerStatus::Working, after(1)).await.unwrap();
    keep(Some(1), "x", PeerStatus::Dnd, NOW).await.unwrap();
    keep(None, "named", PeerStatus::Working, NOW).await.unwrap();
    assert_eq!(open(2, "x", after(2)).await.unwrap(), OpenPresence::Opened);
    let newest = OpenPresence::OpenedAs(PeerStatus::Working);
    assert_eq!(open(1, "y", after(2)).await.unwrap(), newest);
    assert_eq!(open(1, "y", after(3)).await.unwrap(), OpenPresence::Opened);
    assert_eq!(open(7, "named", after(10)).await.unwrap(), newest);
    keep(Some(1), "x", PeerStatus::Working, after(20)).await.unwrap();
    assert_eq!(open(1, "y", after(31)).await.unwrap(), OpenPresence::Opened, "it is too old");
    keep(Some(1), "x", PeerStatus::Working, after(40)).await.unwrap();
    assert_eq!(store.purge_short_lived(NOW, after(41)).await.unwrap(), (0, 1));
    assert_eq!(open(1, "y", after(41)).await.unwrap(), OpenPresence::Opened);
}

async fn rows_without_a_sign_of_life_are_found_unless_leased(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (silent, leased, ended) = (row(&world, None), row(&world, None), row(&world, None));
    let mut seen = row(&world, None);
    seen.last_ping_at = after(150);
    for (number, presence) in [&silent, &leased, &ended, &seen].into_iter().enumerate() {
        let at = after(u64::try_from(number).unwrap());
        store.open_presence(presence.clone(), hello(at), None, None).await.unwrap();
    }
    store.lease_presences(vec![leased.id.clone()], after(300)).await.unwrap();
    store.lease_presences(vec![silent.id.clone()], after(90)).await.unwrap();
    let end = EndPresence {
        id: ended.id.clone(),
        at: after(5),
        peer_state: None,
        counted: Stats::default(),
        claim_id: holder(ended.id.as_str()),
        reroute: None,
    };
    store.end_presence(end).await.unwrap();
    let found = store.stale_presences(after(20), after(200), 10).await.unwrap();
    assert_eq!(found.iter().map(|row| &row.id).collect::<Vec<_>>(), [&silent.id]);
    assert_eq!(store.stale_presences(after(20), after(300), 10).await.unwrap().len(), 2);
    assert_eq!(store.stale_presences(after(20), after(300), 1).await.unwrap().len(), 1);
    assert!(store.stale_presences(NOW, after(300), 10).await.unwrap().is_empty());
}

/// VIS-2.
async fn counters_grow_when_a_presence_ends(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let state = PeerState {
        mesh_id: world.mesh.id.clone(),
        member_id: world.bob.id.clone(),
        session_pubkey: None,
        groups: Vec::new(),
        profile: SetProfile::default(),
        is_visible: true,
        last_summary: None,
        last_display_name: None,
        stats: Stats::default(),
        last_seen_at: NOW,
    };
    for (number, counted) in [3, 4].into_iter().enumerate() {
        let presence = row(&world, None);
        let at = after(u64::try_from(number).unwrap());
        store.open_presence(presence.clone(), hello(at), None, None).await.unwrap();
        // A stopping broker writes what it knows, which adds nothing.
        store.save_peer_states(vec![state.clone()]).await.unwrap();
        let present = store.peer_states_of_present().await.unwrap();
        let of_bob = present.iter().filter(|one| one.member_id == world.bob.id).count();
        assert_eq!(of_bob, 1);
        let end = EndPresence {
            id: presence.id.clone(),
            at: after(9),
            peer_state: Some(state.clone()),
            counted: Stats { messages_in: Some(counted), ..Stats::default() },
            claim_id: holder(presence.id.as_str()),
            reroute: None,
        };
        store.end_presence(end.clone()).await.unwrap();
        store.end_presence(end).await.unwrap();
    }
    let stored = store.peer_state(&world.mesh.id, &world.bob.id, None).await.unwrap().unwrap();
    assert_eq!(stored.stats.messages_in, Some(7));
    let present = store.peer_states_of_present().await.unwrap();
    assert!(present.iter().all(|one| one.member_id != world.bob.id), "nobody is present any more");
}

/// TGT-2b.
async fn ending_a_presence_releases_claims_and_moves_its_sessions_rows(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (mesh, session) = (&world.mesh.id, fresh_key());
    let presence = row(&world, Some(session));
    store.open_presence(presence.clone(), hello(NOW), None, None).await.unwrap();
    let to_bob = to_session(&world.bob, session);
    let direct = message(mesh, &world.alice, vec![to_bob.clone()]);
    let direct_id = direct.message_id.clone();
    // A broadcast that stands in the member's queue as well must not reach the member twice.
    let both = message(mesh, &world.alice, vec![to_bob, to_member(&world.bob)]);
    send(store, direct).await;
    send(store, both).await;
    let mut claim = claim_of(mesh, session, after(1));
    claim.by = holder(presence.id.as_str());
    assert_eq!(store.claim(claim).await.unwrap().len(), 2);
    let member_key = world.bob.pubkey.unwrap();
    let end = EndPresence {
        id: presence.id.clone(),
        at: after(2),
        peer_state: None,
        counted: Stats::default(),
        claim_id: holder(presence.id.as_str()),
        reroute: Some(Reroute {
            mesh_id: mesh.clone(),
            session_key: session,
            member_key,
            member_id: world.bob.id.clone(),
            at: NOW,
        }),
    };
    let ended = store.end_presence(end.clone()).await.unwrap();
    assert_eq!((ended.released, ended.rerouted, ended.merged), (2, 1, 1));
    let ended = store.end_presence(end).await.unwrap();
    assert_eq!((ended.released, ended.rerouted, ended.merged), (0, 0, 0));
    let rows = store.claim(claim_of(mesh, member_key, after(3))).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].message.message_id, direct_id);
    assert_eq!(rows[0].rerouted_from, Some(session));
    assert!(store.claim(claim_of(mesh, session, after(3))).await.unwrap().is_empty());
}

async fn a_heartbeat_moves_presence_session_key_and_member(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = fresh_key();
    let presence = row(&world, Some(key));
    let session = seen(&world, key, &world.bob.id, NOW);
    store.open_presence(presence.clone(), hello(NOW), Some(session), None).await.unwrap();
    store.heartbeat(vec![presence.id.clone()], after(60)).await.unwrap();
    let session = store.session_key(&world.mesh.id, &key, after(60)).await.unwrap();
    assert_eq!(session.unwrap().last_seen_at, after(60));
    let member = store.member(&world.mesh.id, &world.bob.id).await.unwrap().unwrap();
    assert_eq!(member.last_seen_at, Some(after(60)));
    let lease = Duration::from_secs(90);
    let leased = store
        .lease_previous_run(PreviousRun::EveryNode, after(61), lease, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(leased[0].lease_until, Some(after(150)));
}

async fn a_session_key_stays_with_its_member_and_ages(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = fresh_key();
    let mut session = seen(&world, key, &world.bob.id, NOW);
    session.attestation = Some("{\"v\":1}".to_owned());
    store
        .open_presence(row(&world, Some(key)), hello(NOW), Some(session.clone()), None)
        .await
        .unwrap();
    let stolen = seen(&world, key, &world.alice.id, after(9));
    store.open_presence(row(&world, Some(key)), hello(after(9)), Some(stolen), None).await.unwrap();
    let found = store.session_key(&world.mesh.id, &key, NOW).await.unwrap();
    assert_eq!(found, Some(session), "another member takes nothing over");
    assert_eq!(store.session_key(&world.mesh.id, &key, after(1)).await.unwrap(), None);
    assert_eq!(store.session_key(&world.mesh.id, &fresh_key(), NOW).await.unwrap(), None);
}

async fn a_saved_state_is_replaced_and_read_back(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mut state = PeerState {
        mesh_id: world.mesh.id.clone(),
        member_id: world.bob.id.clone(),
        session_pubkey: None,
        groups: vec![Group::parse_lenient("ops").unwrap()],
        profile: SetProfile::default(),
        is_visible: false,
        last_summary: Some("it's \"quoted\"".to_owned()),
        last_display_name: Some("Bob".to_owned()),
        stats: Stats { messages_in: Some(3), ..Stats::default() },
        last_seen_at: NOW,
    };
    state.profile.title = Some("Lead".to_owned());
    let session = fresh_key();
    let of_session = PeerState { session_pubkey: Some(session), groups: vec![], ..state.clone() };
    store.save_peer_states(vec![state.clone(), of_session.clone()]).await.unwrap();
    state.last_seen_at = after(5);
    store.save_peer_states(vec![state.clone()]).await.unwrap();
    let (mesh, bob) = (&world.mesh.id, &world.bob.id);
    assert_eq!(store.peer_state(mesh, bob, None).await.unwrap(), Some(state));
    assert_eq!(store.peer_state(mesh, bob, Some(&session)).await.unwrap(), Some(of_session));
    assert_eq!(store.peer_state(mesh, &world.alice.id, None).await.unwrap(), None);
}

async fn ended_rows_are_purged_after_their_time(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = fresh_key();
    let ended = row(&world, Some(key));
    let session = seen(&world, key, &world.bob.id, NOW);
    store.open_presence(ended.clone(), hello(NOW), Some(session), None).await.unwrap();
    store.open_presence(row(&world, None), hello(after(500)), None, None).await.unwrap();
    let end = EndPresence {
        id: ended.id.clone(),
        at: after(10),
        peer_state: None,
        counted: Stats::default(),
        claim_id: holder(ended.id.as_str()),
        reroute: None,
    };
    store.end_presence(end).await.unwrap();
    let before = |seconds| PurgeBefore {
        presences: after(seconds),
        session_keys: after(seconds),
        peer_states: after(seconds),
    };
    let purged = store.purge(before(0)).await.unwrap();
    assert_eq!((purged.presences, purged.session_keys), (0, 0));
    assert_eq!(store.purge_short_lived(NOW, NOW).await.unwrap(), (0, 0));
    let purged = store.purge(before(121)).await.unwrap();
    assert_eq!((purged.presences, purged.session_keys), (1, 1));
    assert_eq!(store.purge_short_lived(after(121), NOW).await.unwrap(), (1, 0));
    let live = store
        .lease_previous_run(PreviousRun::EveryNode, NOW, Duration::ZERO, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(live.len(), 1, "the live one stays");
}
