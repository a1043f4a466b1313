//! Pages of messages, the inbox and the outbox (CLI spec §3.6, §3.18).

use super::page::Page;
use crate::home::{Home, two_people, until};

#[test]
fn sending_and_reading() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let key = ana.member_key("Bob");
    until("Ana sees Bob", || ana.ok(&["peers"]).contains("Bob"));
    let mut send = Page::of("message send");
    send.success(&ana, &["send", "Bob", "the build is green"], || {});
    send.case("to a group", &ana, &["send", "@all", "the build is green"]);
    send.case("unknown peer", &ana, &["send", "Bobb", "hello"]);
    send.case("yourself", &ana, &["send", "ana", "hello"]);
    ana.ok(&["send", "Bob", "once", "--client-id", "only-once-1"]);
    send.case("twice under one id", &ana, &["send", "Bob", "once", "--client-id", "only-once-1"]);
    send.case(
        "another text under one id",
        &ana,
        &["send", "Bob", "twice", "--client-id", "only-once-1"],
    );
    let long = "x".repeat(70_000);
    let ran = ana.feed(&["send", "Bob", "-"], long.as_bytes());
    assert_eq!(ran.code, 3, "{ran:?}");
    send.given("too long", &["send", "Bob", "-"], ran);
    let id = ana.json_ok(&["send", "Bob", "followed", "--wait"])["client_message_id"].clone();
    let mut status = Page::of("message status");
    let question = ["message", "status", id.as_str().unwrap()];
    until("Bob's machine has it", || ana.ok(&question).contains("on device"));
    status.success(&ana, &question, || {});
    status.case("short id", &ana, &["message", "status", "abc"]);
    let unknown = "Zz00000000000000000000000000000z";
    status.case("unknown id", &ana, &["message", "status", unknown]);
    status.case("unknown prefix", &ana, &["message", "status", "Zz000000"]);
    status.keep();
    inbox(&bob);
    bob.ok(&["daemon", "down"]);
    until("Bob is gone", || !ana.ok(&["peers", "--online"]).contains("Bob"));
    send.case("to somebody away", &ana, &["send", "Bob", "for later"]);
    send.case(
        "nobody there and --require-online",
        &ana,
        &["send", "Bob", "now or never", "--require-online"],
    );
    outbox(&ana, &key);
    ana.ok(&["down", "--broker-only"]);
    until("the broker is away", || ana.json_ok(&["daemon", "status"])["brokers"]["home"] != "open");
    send.case("while the broker is away", &ana, &["send", "Bob", "for later"]);
    send.keep();
}

fn inbox(bob: &Home) {
    until("everything came", || bob.bodies().len() == 6);
    let mut inbox = Page::of("message inbox");
    inbox.success(bob, &["inbox", "--peek", "--limit", "2"], || {});
    inbox.case("bad time", bob, &["inbox", "--since", "yesterday"]);
    inbox.case("beyond the limit", bob, &["inbox", "--limit", "1001"]);
    inbox.case("nothing", bob, &["inbox", "--from", "Nobody"]);
    inbox.keep();
    let mut search = Page::of("message inbox search");
    search.success(bob, &["inbox", "search", "build", "green", "--limit", "1"], || {});
    search.case("no match", bob, &["daemon", "search", "submarine"]);
    search.case("nothing to search for", bob, &["inbox", "search", " "]);
    search.keep();
    let mut delete = Page::of("message inbox delete");
    let ids = || -> Vec<String> {
        let rows = bob.json_ok(&["inbox", "--peek"]);
        rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    for name in super::page::SUCCESS {
        let id = ids().remove(0);
        delete.form(name, bob, &["inbox", "delete", &id]);
    }
    delete.case("short id", bob, &["inbox", "delete", "abc"]);
    delete.case("unknown id", bob, &["inbox", "delete", "01JD2M7Q8Z3K5V6W9X0Y1A2B3C"]);
    delete.keep();
    let mut flush = Page::of("message inbox flush");
    flush.case("without a filter", bob, &["inbox", "flush"]);
    flush.case("bad time", bob, &["inbox", "flush", "--before", "soon"]);
    flush.success(bob, &["inbox", "flush", "--mesh", "home", "-y"], || {});
    flush.keep();
}

fn outbox(ana: &Home, key: &str) {
    ana.ok(&["down", "--broker-only"]);
    until("the broker is away", || ana.json_ok(&["daemon", "status"])["brokers"]["home"] != "open");
    let unknown = "01JD2M7Q8Z3K5V6W9X0Y1A2B3C";
    let mut number = 0;
    let mut waiting = || {
        number += 1;
        let id = format!("row-waits-{number}");
        ana.run(&["send", key, "waits", "--client-id", &id]);
        id
    };
    let id = waiting();
    let mut list = Page::of("daemon outbox list");
    list.success(ana, &["daemon", "outbox", "list", "--pending"], || {});
    list.keep();
    let mut inspect = Page::of("daemon outbox inspect");
    inspect.success(ana, &["daemon", "outbox", "inspect", &id], || {});
    inspect.case("unknown id", ana, &["daemon", "outbox", "inspect", unknown]);
    inspect.keep();
    for verb in ["requeue", "drop"] {
        let mut page = Page::of(&format!("daemon outbox {verb}"));
        for name in super::page::SUCCESS {
            let id = waiting();
            page.form(name, ana, &["daemon", "outbox", verb, &id]);
        }
        page.case("unknown id", ana, &["daemon", "outbox", verb, unknown]);
        page.case("done already", ana, &["daemon", "outbox", verb, "only-once-1"]);
        page.keep();
    }
    let mut prune = Page::of("daemon outbox prune");
    prune.case("without --confirm", ana, &["daemon", "outbox", "prune"]);
    prune.success(ana, &["daemon", "outbox", "prune", "--older-than", "7d", "--confirm"], || {});
    prune.keep();
    ana.up();
    until("the mesh is open", || ana.json_ok(&["daemon", "status"])["brokers"]["home"] == "open");
}

#[test]
fn lifting_a_loop_stop() {
    let home = Home::new();
    let mut page = Page::of("peer unblock-loop");
    page.case("without a terminal", &home, &["peer", "unblock-loop", "Bob"]);
    page.keep();
}
