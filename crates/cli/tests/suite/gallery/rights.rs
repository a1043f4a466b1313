//! Pages of roles and permissions, and of a name that two members' sessions have (CLI spec §1.14, wire spec §2.7).

use super::administration::admin_of;
use super::page::Page;
use crate::home::{two_people, until};
use crate::sessions::Agent;

/// PRM-2, PRM-3 from a person's seat: who may changes what others may do, and sees it; nobody changes the owner.
#[test]
fn roles_and_permissions() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    let admin = admin_of(&ana);
    let mut list = Page::of("member permissions");
    list.success(&ana, &["member", "permissions"], || {});
    list.case("of one member", &ana, &["member", "permissions", "Bob"]);
    list.case("unknown peer", &ana, &["member", "permissions", "Bobb"]);
    let mut allow = Page::of("member allow");
    allow.success(&ana, &["member", "allow", "Bob", "canInvite"], || {});
    allow.case("everything", &ana, &["member", "allow", "Bob", "all"]);
    allow.case("back to the role", &ana, &["member", "allow", "Bob", "--reset"]);
    allow.case("unknown peer", &ana, &["member", "allow", "Bobb", "canInvite"]);
    allow.case("not allowed", &bob, &["member", "allow", "Bob", "canInvite"]);
    allow.case("more than one has", &admin, &["member", "allow", "Bob", "canDeleteMesh"]);
    let mut deny = Page::of("member deny");
    deny.success(&ana, &["member", "deny", "Bob", "canSend"], || {});
    deny.case("what is left", &bob, &["send", "ana", "are you there?"]);
    ana.ok(&["member", "deny", "Bob", "canWriteState"]);
    deny.case("what is left to write", &bob, &["state", "set", "sprint", "14"]);
    deny.case("unknown peer", &ana, &["member", "deny", "Bobb", "canSend"]);
    deny.case("not allowed", &bob, &["member", "deny", "ana", "canSend"]);
    deny.case("the owner", &admin, &["member", "deny", "ana", "canSend"]);
    ana.ok(&["member", "allow", "Bob", "--reset"]);
    let mut role = Page::of("member role");
    role.success(&ana, &["member", "role", "Bob", "admin"], || {});
    let said = bob.ok(&["member", "permissions", "Bob"]);
    assert!(said.contains("Bob, admin of home"), "{said}");
    ana.ok(&["member", "role", "Bob", "member"]);
    role.case("unknown peer", &ana, &["member", "role", "Bobb", "admin"]);
    role.case("not allowed", &bob, &["member", "role", "Bob", "admin"]);
    role.case("the owner", &admin, &["member", "role", "ana", "member"]);
    for page in [list, allow, deny, role] {
        page.keep();
    }
}

/// CLI spec §1.14: two members have a session of one name; nothing is sent and nothing done to either of them.
#[test]
fn a_name_that_means_two_peers() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let cleo = admin_of(&ana);
    let _of_bob = Agent::register(&bob, 1, "builder");
    let _of_cleo = Agent::register(&cleo, 2, "builder");
    until("Ana sees both", || ana.ok(&["peers"]).matches("● builder").count() == 2);
    for (verb, words) in [
        ("message send", &["send", "builder", "hello"][..]),
        ("grant add", &["grant", "builder", "dm"]),
        ("grant remove", &["revoke", "builder", "dm"]),
        ("grant block", &["block", "builder"]),
        ("peer verify", &["verify", "builder"]),
        ("member permissions", &["member", "permissions", "builder"]),
        ("member allow", &["member", "allow", "builder", "canInvite"]),
        ("member deny", &["member", "deny", "builder", "canSend"]),
        ("member role", &["member", "role", "builder", "admin"]),
    ] {
        let mut page = Page::of(verb);
        let ran = page.case("several peers", &ana, words);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert_eq!(ran.stderr.matches("builder ").count(), 2, "both candidates: {ran:?}");
        page.keep_as(&format!("{}-several-peers", verb.replace(' ', "-")));
    }
    let none = ana.json_ok(&["daemon", "outbox", "list"]);
    assert_eq!(none.as_array().map(Vec::len), Some(0), "{none}");
}
