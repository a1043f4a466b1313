//! Names of members are taken within their mesh (ruling 51).

use claudemesh_protocol::{MemberId, MeshId};
use serde_json::{Value, json};

use crate::peers::{Person, Session};
use crate::world::{Joiner, World};

/// The effective name and the warnings of a greeting.
fn told(hello_ack: &Value) -> (&str, bool) {
    let warnings = hello_ack["warnings"].as_array();
    let is_warned = warnings.is_some_and(|list| list.contains(&json!("display_name_taken")));
    (hello_ack["memberDisplayName"].as_str().unwrap(), is_warned)
}

fn named(mut hello: Value, name: &str) -> Value {
    hello["displayName"] = json!(name);
    hello
}

/// Ruling 51: a second joiner of a taken name gets it with a number, whatever its letter case or width, and is told;
/// asking again gives the same answer.
#[tokio::test]
async fn a_joiner_never_gets_the_name_of_another_member() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 5 })).await;
    let mut names = Vec::new();
    for wish in ["bob", "ANA", "\u{ff41}na", "Ana-2", "Straße"] {
        let newcomer = Joiner { name: Some(wish), ..Joiner::new() };
        let joined = world.claim(&host.code, &newcomer).await.ok();
        names.push(joined["display_name"].as_str().unwrap().to_owned());
        let again = world.claim(&host.code, &newcomer).await.ok();
        assert_eq!(
            (&again["display_name"], &again["already_member"]),
            (&joined["display_name"], &json!(true))
        );
    }
    assert_eq!(names, ["bob", "ANA-2", "\u{ff41}na-3", "Ana-2-2", "Straße"]);
}

/// Ruling 51, for many claims in one moment and names as long as they may be.
#[tokio::test]
async fn claims_at_the_same_time_get_different_names_that_fit() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 12 })).await;
    let long = "ü".repeat(64).leak();
    let joiners: Vec<Joiner> =
        (0..12).map(|_| Joiner { name: Some(&*long), ..Joiner::new() }).collect();
    let claims = joiners.iter().map(|joiner| world.claim(&host.code, joiner));
    let answers = futures_util::future::join_all(claims).await;
    let mut names: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.ok()["display_name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.iter().all(|name| name.chars().count() <= 64), "{names:?}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 12, "{names:?}");
    assert!(names.contains(&format!("{}-12", "ü".repeat(61))), "{names:?}");
}

/// A member that left gives its name free, and who comes back is asked like everybody else.
#[tokio::test]
async fn a_name_is_free_again_when_its_member_left() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 5 })).await;
    let (first, second) = (Joiner::new(), Joiner::new());
    world.claim(&host.code, &first).await.ok();
    world.signed_delete(&first.member, "/cli/mesh/alpha/member/me").await.ok();
    assert_eq!(world.claim(&host.code, &second).await.ok()["display_name"], "bob");
    assert_eq!(world.claim(&host.code, &first).await.ok()["display_name"], "bob-2");
}

/// Ruling 51: no session of somebody else catches messages meant for an absent member.
#[tokio::test]
async fn a_session_cannot_take_the_name_of_another_member() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "bob-2"]).await;
    let hello = |name: &str| named(world.session_hello(&people[0], &Session::new()), name);
    for (wish, expected, is_warned) in [
        ("Bob", "Bob-3", true),
        (" BOB\u{200b} ", "BOB-3", true),
        ("alice", "alice", false),
        ("bobby", "bobby", false),
    ] {
        let socket = world.connect(hello(wish)).await;
        assert_eq!(told(&socket.hello_ack), (expected, is_warned), "{wish}");
    }
    let mut bob = world.daemon(&people[1]).await;
    let mut shown: Vec<String> = bob
        .peers()
        .await
        .iter()
        .filter(|peer| peer["memberId"] == json!(people[0].id))
        .map(|peer| peer["displayName"].as_str().unwrap().to_owned())
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, ["BOB-3", "Bob-3", "alice", "bobby"]);
    // A session returning under the same key is asked again.
    let session = Session::new();
    let first = world.connect(named(world.session_hello(&people[0], &session), "carol")).await;
    first.cut();
    let again = world.connect(named(world.session_hello(&people[0], &session), "bob")).await;
    assert_eq!(told(&again.hello_ack), ("bob-3", true));
}

/// The same for the connection of a daemon, whose own member's name is its own.
#[tokio::test]
async fn a_daemon_cannot_take_the_name_of_another_member() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let taken = world.connect(named(world.daemon_hello(&people[0]), "BOB")).await;
    assert_eq!(told(&taken.hello_ack), ("BOB-2", true));
    taken.leave().await;
    let own = world.connect(named(world.daemon_hello(&people[0]), "Alice")).await;
    assert_eq!(told(&own.hello_ack), ("Alice", false));
}

/// A presence that was away while somebody joined under its name does not come back under it.
#[tokio::test]
async fn a_returning_session_without_a_wish_gives_way_to_a_new_member() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 5 })).await;
    let owner = Person {
        mesh: MeshId::new(host.mesh["id"].as_str().unwrap()),
        id: MemberId::new(host.mesh["member_id"].as_str().unwrap()),
        key: claudemesh_crypto::KeyPair::from_hex(&host.owner.to_hex()).unwrap(),
        name: "ana".to_owned(),
    };
    let session = Session::new();
    let first = world.connect(named(world.session_hello(&owner, &session), "bob")).await;
    assert_eq!(told(&first.hello_ack), ("bob", false));
    first.cut();
    assert_eq!(world.claim(&host.code, &Joiner::new()).await.ok()["display_name"], "bob");
    let mut hello = world.session_hello(&owner, &session);
    hello.as_object_mut().unwrap().remove("displayName");
    let again = world.connect(hello).await;
    assert_eq!(told(&again.hello_ack), ("bob-2", true));
}
