//! Pages of kicks, bans and the audit log (CLI spec §3.4, §3.19).

use super::page::Page;
use crate::home::{Home, two_people, two_people_one_daemon, until};
use crate::sessions::Agent;

/// A session of Bob that Ana sees.
fn present(ana: &Home, bob: &Home, number: u8) -> Agent {
    let agent = Agent::register(bob, number, "builder");
    until("Ana sees the session", || ana.ok(&["peers"]).contains("builder"));
    agent
}

/// A second administrator of Ana's mesh, with a daemon.
pub(super) fn admin_of(ana: &Home) -> Home {
    let admin = Home::new();
    let share = ana.json_ok(&["share", "--role", "admin"]);
    admin.ok(&["join", share["url"].as_str().unwrap(), "--name", "Cleo"]);
    admin.ok(&["daemon", "up"]);
    admin
}

#[test]
fn ending_connections() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    let admin = admin_of(&ana);
    let mut kick = Page::of("peer kick");
    let mut number = 0;
    let mut next = || {
        number += 1;
        present(&ana, &bob, number);
    };
    kick.success(&ana, &["kick", "builder", "-y"], &mut next);
    until("only Bob's daemon is there", || !ana.ok(&["peers"]).contains("builder"));
    kick.case("only its daemon", &ana, &["kick", "Bob", "-y"]);
    kick.case("unknown peer", &ana, &["kick", "Bobb", "-y"]);
    kick.case("the owner", &admin, &["kick", "ana", "-y"]);
    kick.case("not allowed", &bob, &["kick", "--all", "-y"]);
    kick.case("nobody silent", &ana, &["kick", "--stale", "9h", "-y"]);
    let mut disconnect = Page::of("peer disconnect");
    disconnect.success(&ana, &["disconnect", "bob", "-y"], || {
        until("Bob is back", || {
            bob.json_ok(&["daemon", "status"])["brokers"]["home"] == "open"
                && ana.ok(&["peers"]).contains("Bob")
        });
    });
    until("Bob is back", || ana.ok(&["peers"]).contains("Bob"));
    disconnect.case("unknown peer", &ana, &["disconnect", "Bobb", "-y"]);
    until("Bob is back", || bob.json_ok(&["daemon", "status"])["brokers"]["home"] == "open");
    disconnect.case("the owner", &admin, &["disconnect", "ana", "-y"]);
    disconnect.case("not allowed", &bob, &["disconnect", "--all", "-y"]);
    kick.keep();
    disconnect.keep();
}

#[test]
fn banning_and_letting_in_again() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    let admin = admin_of(&ana);
    let mut bans = Page::of("peer bans");
    bans.case("empty", &ana, &["bans"]);
    let mut ban = Page::of("peer ban");
    ban.case("unknown peer", &ana, &["ban", "Bobb", "-y"]);
    ban.case("yourself", &ana, &["ban", "ana", "-y"]);
    ban.case("the owner", &admin, &["ban", "ana", "-y"]);
    ban.case("not allowed", &bob, &["ban", "Bob", "-y"]);
    let mut unban = Page::of("peer unban");
    unban.case("not allowed", &bob, &["unban", "ana"]);
    bans.case("not allowed", &bob, &["bans"]);
    ban.success(&ana, &["ban", "bob", "--reason", "lost laptop", "-y"], || {
        let _ = ana.run(&["unban", "Bob"]);
        ana.member_key("Bob");
    });
    bans.success(&ana, &["bans"], || {});
    unban.case("unknown peer", &ana, &["unban", "Bobb"]);
    unban.success(&ana, &["unban", "bob"], || {
        let _ = ana.run(&["ban", "Bob", "-y"]);
    });
    for page in [ban, unban, bans] {
        page.keep();
    }
}

#[test]
fn the_audit_log() {
    let (ana, bob) = two_people_one_daemon();
    ana.ok(&["state", "set", "sprint", "14"]);
    ana.member_key("Bob");
    ana.ok(&["ban", "Bob", "--reason", "lost laptop", "-y"]);
    ana.ok(&["unban", "Bob"]);
    ana.member_key("Bob");
    bob.ok(&["daemon", "up"]);
    let mut query = Page::of("audit query");
    until("every entry is written", || {
        let kinds = ana.ok(&["audit", "query", "--json=eventType"]);
        kinds.contains("state_set") && kinds.contains("member_unbanned")
    });
    query.success(&ana, &["audit", "query", "--type", "member_banned"], || {});
    query.success(&ana, &["audit", "query", "--type", "member_joined"], || {});
    query.case("empty", &ana, &["audit", "query", "--type", "grants_changed"]);
    query.case("beyond the limit", &ana, &["audit", "query", "--limit", "501"]);
    query.case("not allowed", &bob, &["audit", "query"]);
    query.keep();
    let mut verify = Page::of("audit verify");
    verify.case("not allowed", &bob, &["audit", "verify"]);
    verify.keep_as("audit-verify-as-a-member");
}

/// CLI spec §3.19: a changed entry is found, named, and no success.
#[test]
fn an_audit_log_that_was_changed() {
    let home = Home::new();
    home.up();
    // A log is verified once in a minute: as many meshes as runs.
    let meshes = ["home", "second", "third"];
    for mesh in &meshes[1..] {
        home.ok(&["create", mesh]);
    }
    let mut verify = Page::of("audit verify");
    for (mesh, form) in meshes.iter().zip(super::page::SUCCESS) {
        verify.form(form, &home, &["audit", "verify", "--mesh", mesh]);
    }
    verify.case("a moment ago", &home, &["audit", "verify", "--mesh", "home"]);
    home.ok(&["down", "--broker-only"]);
    home.changed_in_store(
        "UPDATE audit_log SET created_at = created_at + 1 \
         WHERE id IN (SELECT max(id) FROM audit_log GROUP BY mesh_id)",
    );
    home.up();
    until("the meshes are open", || {
        let status = home.json_ok(&["daemon", "status"]);
        meshes.iter().all(|mesh| status["brokers"][mesh] == "open")
    });
    verify.case("broken chain", &home, &["audit", "verify", "--mesh", "home"]);
    let words = ["audit", "verify", "--mesh", "second", "--json"];
    let broken = verify.case("broken chain as JSON", &home, &words);
    let said: serde_json::Value = serde_json::from_str(&broken.stdout).unwrap();
    assert_eq!((broken.code, said["error"].as_str()), (8, Some("audit_chain_broken")), "{said}");
    assert_eq!((&said["valid"], said["brokenAt"].is_i64()), (&false.into(), true), "{said}");
    verify.keep();
}
