//! Pages of the shared state (CLI spec §3.10).

use super::page::Page;
use crate::home::{Home, two_people};

#[test]
fn the_shared_state() {
    let home = Home::new();
    home.up();
    let mut list = Page::of("state list");
    list.case("empty", &home, &["state", "list"]);
    let mut set = Page::of("state set");
    set.success(&home, &["state", "set", "sprint", "14"], || {});
    set.case("text that looks like a number", &home, &["state", "set", "n", "5", "--string"]);
    set.case(
        "changed by somebody else",
        &home,
        &["state", "set", "sprint", "15", "--if-version", "1"],
    );
    set.case("value missing", &home, &["state", "set", "sprint"]);
    let long = "a fairly long value, as people write them when they want to say where things stand";
    home.ok(&["state", "set", "board", long]);
    let mut get = Page::of("state get");
    get.success(&home, &["state", "get", "sprint"], || {});
    get.success(&home, &["state", "get", "board"], || {});
    get.case("not there", &home, &["state", "get", "nope"]);
    list.success(&home, &["state", "list"], || {});
    list.case("projected", &home, &["state", "list", "--json=key,value"]);
    list.case("unknown field", &home, &["state", "list", "--json=nope"]);
    list.case("in an envelope", &home, &["state", "list", "--prefix", "sp", "--json-envelope"]);
    get.keep();
    list.keep();
    set.keep();
}

/// CLI spec §3.10, broker spec §4.24: who may not write is told which permission is missing.
#[test]
fn without_the_permission_to_write() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    ana.ok(&["member", "deny", "Bob", "canWriteState"]);
    let mut page = Page::of("state set");
    page.case("not allowed", &bob, &["state", "set", "sprint", "14"]);
    page.keep_as("state-set-without-permission");
}
