//! Kick, disconnect, ban: who may, whom it meets, what everybody sees (broker spec §4.25).

use claudemesh_protocol::status::MemberRole;
use claudemesh_store::{EditMember, MemberChange};
use serde_json::{Value, json};

use crate::peers::{Person, Session};
use crate::world::{Joiner, World};

impl World {
    /// Makes this person an admin of its mesh.
    pub async fn promote(&self, person: &Person) {
        let broker = self.broker().broker();
        let change = MemberChange { role: Some(MemberRole::Admin), ..MemberChange::default() };
        let (mesh, now) = (&person.mesh, self.clock_now());
        let edited = broker.store().edit_member(mesh, &person.id, change, None, now).await.unwrap();
        assert!(matches!(edited, EditMember::Edited(_)));
        broker.roster_changed(mesh);
    }
}

fn error(answer: &Value) -> &str {
    assert_eq!(answer["type"], "error", "{answer}");
    answer["code"].as_str().unwrap()
}

/// KCK-1, LEASE-6.
#[tokio::test]
async fn who_is_kicked_is_gone_at_once_and_everybody_is_told_once() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut carol = world.daemon(&people[2]).await;
    let mut bob = world.session(&people[1], &Session::new()).await;
    alice.until_peers(3).await;
    let before = std::time::Instant::now();
    let answer = alice.ask(json!({"type": "kick", "target": "bob"})).await;
    assert_eq!(answer["type"], "kick_ack", "{answer}");
    assert_eq!(answer["kicked"], json!(["bob session"]));
    assert_eq!(answer["affected"], answer["kicked"]);
    assert!(answer.get("skipped_control_plane").is_none());
    assert_eq!(bob.close_reason().await, (4001, "kicked".to_owned()));
    assert!(before.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!(carol.event("peer_left").await["name"], "bob session");
    assert_eq!(alice.peers().await.len(), 2);
    assert_eq!(carol.events_so_far("peer_left").await.len(), 0);
    let log = alice.ask(json!({"type": "audit_query", "eventType": "member_kicked"})).await;
    assert_eq!(log["entries"][0]["payload"]["names"], json!(["bob session"]), "{log}");
}

/// KCK-2.
#[tokio::test]
async fn all_keeps_the_caller_and_the_daemons() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut own_session = world.session(&people[0], &Session::new()).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut session = world.session(&people[1], &Session::new()).await;
    let answer = alice.ask(json!({"type": "kick", "all": true})).await;
    assert_eq!(answer["kicked"], json!(["alice session", "bob session"]));
    assert_eq!(answer["skipped_control_plane"], json!(["bob"]));
    assert!(answer.get("hint").is_none());
    assert_eq!(own_session.close_reason().await.0, 4001);
    assert_eq!(session.close_reason().await.0, 4001);
    assert_eq!(bob.peers().await.len(), 2);
    let again = alice.ask(json!({"type": "kick", "target": "bob"})).await;
    assert_eq!((&again["kicked"], &again["skipped_control_plane"]), (&json!([]), &json!(["bob"])));
    assert!(again["hint"].as_str().unwrap().contains("disconnect"), "{again}");
    let answer = alice.ask(json!({"type": "disconnect", "target": "bob"})).await;
    assert_eq!((&answer["type"], &answer["kicked"]), (&json!("disconnect_ack"), &json!(["bob"])));
    assert_eq!(bob.close_reason().await, (1000, "disconnected".to_owned()));
    // It may come back at once.
    world.daemon(&people[1]).await;
}

#[tokio::test]
async fn a_target_is_an_exact_name_a_key_or_a_unique_prefix() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let (first, second) = (Session::new(), Session::new());
    let mut one = world.session(&people[1], &first).await;
    let mut other = world.session(&people[1], &second).await;
    let kick = |target: &str| json!({"type": "kick", "target": target});
    let key = first.pubkey();
    for (target, code) in
        [("", "invalid"), ("alice", "invalid"), ("nobody", "not_found"), ("BOB", "not_found")]
    {
        assert_eq!(error(&alice.ask(kick(target)).await), code, "{target:?}");
    }
    assert_eq!(error(&alice.ask(kick(&key[..7])).await), "ambiguous_prefix");
    for frame in [
        json!({"type": "kick"}),
        json!({"type": "kick", "all": false}),
        json!({"type": "kick", "target": "bob", "all": true}),
        json!({"type": "kick", "target": "bob", "stale": 5}),
    ] {
        assert_eq!(error(&alice.ask(frame).await), "invalid");
    }
    // A session's key, or its beginning, means that session alone.
    let answer = alice.ask(kick(&key[..8])).await;
    assert_eq!(answer["kicked"], json!(["bob session"]), "{answer}");
    assert_eq!(one.close_reason().await.0, 4001);
    assert_eq!(alice.peers().await.len(), 2);
    // The member's key means all of it.
    let answer = alice.ask(kick(&people[1].key.public().to_hex())).await;
    assert_eq!(answer["kicked"], json!(["bob session"]), "{answer}");
    assert_eq!(other.close_reason().await.0, 4001);
}

#[tokio::test]
async fn who_is_silent_for_long_is_stale() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &Session::new()).await;
    bob.peers().await;
    world.clock.advance(std::time::Duration::from_mins(1));
    let mut carol = world.session(&people[1], &Session::new()).await;
    let answer = alice.ask(json!({"type": "kick", "stale": 30_000})).await;
    assert_eq!(answer["kicked"], json!(["bob session"]), "{answer}");
    assert_eq!(bob.close_reason().await, (4001, "kicked_stale".to_owned()));
    assert_eq!(carol.peers().await.len(), 2);
}

/// KCK-4, and nobody touches the owner, nor an admin another admin.
#[tokio::test]
async fn members_may_not_and_admins_not_everybody() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol", "dave"]).await;
    world.promote(&people[1]).await;
    world.promote(&people[2]).await;
    let mut owner = world.session(&people[0], &Session::new()).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut carol = world.session(&people[2], &Session::new()).await;
    let mut dave = world.daemon(&people[3]).await;
    for frame in [
        json!({"type": "kick", "target": "carol"}),
        json!({"type": "disconnect", "target": "carol"}),
        json!({"type": "ban", "target": "carol"}),
        json!({"type": "unban", "target": "carol"}),
        json!({"type": "list_bans"}),
    ] {
        assert_eq!(error(&dave.ask(frame).await), "forbidden");
    }
    for word in ["kick", "disconnect", "ban"] {
        for target in ["alice", "carol"] {
            let answer = bob.ask(json!({"type": word, "target": target})).await;
            assert_eq!(error(&answer), "forbidden", "{word} {target}");
        }
    }
    assert_eq!(error(&bob.ask(json!({"type": "ban", "target": "bob"})).await), "invalid");
    let answer = bob.ask(json!({"type": "kick", "all": true})).await;
    assert_eq!(answer["kicked"], json!([]), "{answer}");
    assert_eq!(carol.peers().await.len(), 4);
    let answer = owner.ask(json!({"type": "kick", "target": "carol"})).await;
    assert_eq!(answer["kicked"], json!(["carol session"]), "{answer}");
}

/// KCK-3 without API keys, PRES-5.
#[tokio::test]
async fn who_is_banned_is_out_on_every_path() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 5 })).await;
    let joiner = Joiner::new();
    let claimed = world.claim(&host.code, &joiner).await.ok();
    let owner = Person {
        mesh: claudemesh_protocol::MeshId::new(host.mesh["id"].as_str().unwrap()),
        id: claudemesh_protocol::MemberId::new(host.mesh["member_id"].as_str().unwrap()),
        key: host.owner,
        name: "ana".to_owned(),
    };
    let bob = Person {
        mesh: owner.mesh.clone(),
        id: claudemesh_protocol::MemberId::new(claimed["member_id"].as_str().unwrap()),
        key: joiner.member.clone(),
        name: "bob".to_owned(),
    };
    let mut ana = world.daemon(&owner).await;
    let mut daemon = world.daemon(&bob).await;
    let mut session = world.session(&bob, &Session::new()).await;
    let ban = json!({"type": "ban", "target": "bob", "reason": "lost  laptop"});
    let answer = ana.ask(ban).await;
    assert_eq!((&answer["type"], &answer["banned"]), (&json!("ban_ack"), &json!("bob")));
    for socket in [&mut daemon, &mut session] {
        let said = socket.next_where(|frame| frame["code"] == "revoked").await;
        assert!(said["message"].as_str().unwrap().contains("removed from \"Alpha\""), "{said}");
        assert_eq!(socket.close_reason().await, (4002, "banned".to_owned()));
    }
    let event = ana.event("member_revoked").await;
    assert_eq!((&event["pubkey"], &event["seq"]), (&json!(bob.key.public()), &json!(1)));
    for hello in [world.daemon_hello(&bob), world.session_hello(&bob, &Session::new())] {
        let (refusal, code, _) = world.refused(hello).await;
        assert_eq!((error(&refusal), code), ("revoked", 4002));
    }
    world.claim(&host.code, &joiner).await.refused(403, "banned");
    let bans = ana.ask(json!({"type": "list_bans"})).await["bans"].clone();
    assert_eq!(bans[0]["name"], "bob");
    assert_eq!(
        (&bans[0]["revokedBy"], &bans[0]["reason"]),
        (&json!("ana"), &json!("lost  laptop"))
    );
    assert_eq!(error(&ana.ask(json!({"type": "ban", "target": "bob"})).await), "not_found");
    assert_eq!(error(&ana.ask(json!({"type": "unban", "target": "carol"})).await), "not_found");
    let answer = ana.ask(json!({"type": "unban", "target": bob.key.public()})).await;
    assert_eq!(answer["unbanned"], "bob", "{answer}");
    world.daemon(&bob).await;
    assert_eq!(world.claim(&host.code, &joiner).await.ok()["already_member"], true);
}

#[tokio::test]
async fn what_a_banned_member_wrote_is_not_delivered_any_more() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let to_carol = json!({"targetSpec": people[2].key.public()});
    assert_eq!(bob.message(to_carol.clone()).await["queued"], true);
    assert_eq!(alice.message(to_carol).await["queued"], true);
    alice.ask(json!({"type": "ban", "target": "bob"})).await;
    let mut carol = world.daemon(&people[2]).await;
    let push = carol.push().await;
    assert_eq!(push["senderMemberId"], json!(people[0].id), "{push}");
    assert_eq!(carol.pushes_so_far().await.len(), 0);
}

#[tokio::test]
async fn what_a_banned_member_had_just_sent_is_given_up() {
    let world = World::start_with(without_rates).await;
    Box::pin(what_a_banned_member_had_just_sent_is_given_up_on(&world)).await;
}

#[tokio::test]
async fn what_a_banned_member_had_just_sent_is_given_up_on_postgres() {
    let Some(world) = World::on_postgres_with(without_rates).await else { return };
    Box::pin(what_a_banned_member_had_just_sent_is_given_up_on(&world)).await;
}

fn without_rates(settings: &mut claudemesh_broker::Settings) {
    settings.limits.send_burst = 1_000_000;
    settings.limits.send_per_min = 1_000_000;
}

/// "Held messages from it dropped" (broker spec §4.25) holds for what is on its way to the disk, too: once the ban is
/// answered, nothing of the member is delivered any more.
async fn what_a_banned_member_had_just_sent_is_given_up_on(world: &World) {
    for round in 0..8 {
        let people = world.mesh_of(&["alice", "bob", "carol", "dave"]).await;
        let mut alice = world.daemon(&people[0]).await;
        let mut bob = world.daemon(&people[1]).await;
        let mut dave = world.daemon(&people[3]).await;
        let mut frames = Vec::new();
        for number in 0..60 {
            let to = if number % 3 == 0 { &people[3] } else { &people[2] };
            frames.push((format!("{number}"), json!({"targetSpec": to.key.public()})));
        }
        for (id, message) in frames {
            bob.post(&id, message).await;
        }
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let answer = alice.ask(json!({"type": "ban", "target": "bob"})).await;
        assert_eq!(answer["banned"], "bob", "{answer}");
        let store = world.broker().broker().store();
        let open = store.backlog(&people[0].mesh).await.unwrap();
        let waiting: u64 = open.iter().map(|row| row.held + row.claimed).sum();
        assert_eq!(waiting, 0, "round {round}: {open:?}");
        let mut carol = world.daemon(&people[2]).await;
        assert_eq!(carol.pushes_so_far().await.len(), 0);
        // What was handed over before is confirmed too late, and nobody's account suffers.
        for push in dave.pushes_so_far().await {
            dave.confirm(&push).await;
        }
        let ack = alice.message(json!({"targetSpec": people[3].key.public()})).await;
        assert_eq!(ack["queued"], true, "{ack}");
        let push = dave.push().await;
        assert_eq!(push["messageId"], ack["messageId"]);
    }
}

/// EV-3: by the number a client knows, or by the time it was last heard of.
#[tokio::test]
async fn who_was_away_during_a_revocation_is_told_after_its_hello() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol", "dave"]).await;
    let mut alice = world.daemon(&people[0]).await;
    world.daemon(&people[2]).await.leave().await;
    let session = Session::new();
    world.session(&people[2], &session).await.cut();
    alice.until_peers(2).await;
    world.clock.advance(std::time::Duration::from_secs(5));
    for target in ["bob", "dave"] {
        let answer = alice.ask(json!({"type": "ban", "target": target})).await;
        assert_eq!(answer["banned"], target, "{answer}");
    }
    let mut carol = world.daemon(&people[2]).await;
    for (person, seq) in [(&people[1], 1), (&people[3], 2)] {
        let event = carol.event("member_revoked").await;
        assert_eq!((&event["memberId"], &event["seq"]), (&json!(person.id), &json!(seq)));
    }
    // The reattached session, which says what it knows, gets the rest.
    let mut hello = world.session_hello(&people[2], &session);
    hello["meshSeq"] = json!(1);
    let mut session = world.connect(hello).await;
    let news = session.next_where(|frame| frame["type"] == "mesh_state").await;
    assert_eq!((&news["seq"], news["events"].as_array().unwrap().len()), (&json!(2), 1));
    assert_eq!(news["events"][0]["event"], "member_revoked");
    assert_eq!(news["events"][0]["eventData"]["memberId"], json!(people[3].id));
    // Who knows all of it is told nothing.
    carol.leave().await;
    let mut hello = world.daemon_hello(&people[2]);
    hello["meshSeq"] = json!(2);
    let mut carol = world.connect(hello).await;
    assert_eq!(carol.events_so_far("member_revoked").await.len(), 0);
    assert_eq!(carol.frames_so_far("mesh_state").await.len(), 0);
}
