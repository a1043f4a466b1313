//! Pages of the machine that files belong to, and of keys that are changed (CLI spec §3.18, daemon spec §4.3, §19).

use super::page::Page;
use crate::home::{Home, until};

#[test]
fn a_machine_that_is_accepted() {
    let home = Home::new();
    let mut accept = Page::of("daemon accept-host");
    accept.success(&home, &["daemon", "accept-host"], || {});
    std::fs::write(home.file("daemon/config.toml"), "[clone]\npolicy = \"perhaps\"\n").unwrap();
    accept.case("bad settings", &home, &["daemon", "accept-host"]);
    accept.keep();
}

#[test]
fn a_key_that_is_changed() {
    let home = Home::new();
    let mut rotate = Page::of("daemon rotate-keypair");
    let mut cleanup = Page::of("daemon archive-cleanup");
    rotate.case("not running", &home, &["daemon", "rotate-keypair", "-y"]);
    cleanup.case("not running", &home, &["daemon", "archive-cleanup"]);
    home.up();
    rotate.case("nobody to ask", &home, &["daemon", "rotate-keypair"]);
    rotate.case("not joined", &home, &["daemon", "rotate-keypair", "--mesh", "nowhere", "-y"]);
    rotate.success(&home, &["daemon", "rotate-keypair", "--mesh", "home", "-y"], || {
        until("the mesh is open", || {
            home.json_ok(&["daemon", "status"])["brokers"]["home"] == "open"
        });
    });
    rotate.keep();
    cleanup.success(&home, &["daemon", "archive-cleanup"], || {});
    cleanup.keep();
}

#[test]
fn a_copied_home_that_becomes_a_member_of_its_own() {
    let ana = Home::new();
    let mut remint = Page::of("daemon remint");
    remint.case("no mesh", &ana, &["daemon", "remint"]);
    ana.up();
    let link = ana.invite(9);
    let words = ["daemon", "remint", "--invite", &link, "-y"];
    remint.case("daemon running", &ana, &words);
    let copy = crate::identity::copy_of(&ana);
    let bob = Home::new();
    bob.ok(&["--no-daemon", "join", &link, "--name", "Bob"]);
    remint.case("may not invite", &crate::identity::copy_of(&bob), &["daemon", "remint", "-y"]);
    remint.case("nobody to ask", &copy, &words[..4]);
    remint.case("not joined", &copy, &["daemon", "remint", "--mesh", "nowhere"]);
    remint.success(&copy, &words, || crate::identity::copy_files(&ana, &copy));
    remint.keep();
}

/// Another key was remembered of the broker than it has.
fn remember_another_key(home: &Home) {
    home.ok(&["daemon", "down"]);
    let path = home.file("daemon/mesh-state-home.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    state["broker_pubkey"] = "11".repeat(32).into();
    std::fs::write(&path, state.to_string()).unwrap();
    home.ok(&["daemon", "up"]);
    until("the mesh is open", || home.json_ok(&["daemon", "status"])["brokers"]["home"] == "open");
}

#[test]
fn a_broker_that_signs_with_another_key() {
    let home = Home::new();
    let mut trust = Page::of("daemon trust-broker");
    let words = ["daemon", "trust-broker", "--mesh", "home", "-y"];
    trust.case("not running", &home, &words);
    trust.case("no mesh named", &home, &["daemon", "trust-broker"]);
    home.up();
    until("the key is remembered", || home.file("daemon/mesh-state-home.json").exists());
    trust.case("the known key", &home, &words);
    remember_another_key(&home);
    trust.case("nobody to ask", &home, &words[..4]);
    trust.success(&home, &words, || remember_another_key(&home));
    trust.keep();
}
