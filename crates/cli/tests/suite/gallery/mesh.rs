//! Pages of meshes, their members and peers (CLI spec §3.1, §3.4).

use super::page::Page;
use crate::home::{Home, two_people, until};
use crate::sessions::Agent;

#[test]
fn looking_at_a_mesh() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    let mut peers = Page::of("peer list");
    let agent = Agent::register(&bob, 1, "builder");
    agent.ok(&bob, &["group", "join", "@eng/core", "--role", "lead"]);
    agent.ok(&bob, &["summary", "reviewing the parser, then the printer, then everything else"]);
    until("Ana sees all of it", || {
        let text = ana.ok(&["peers"]);
        text.contains("reviewing") && text.contains("@eng/core:lead")
    });
    peers.success(&ana, &["peers"], || {});
    peers.case("unknown field", &ana, &["peers", "--json=nope"]);
    let mut members = Page::of("member list");
    members.success(&ana, &["members"], || {});
    let mut info = Page::of("mesh info");
    info.success(&ana, &["mesh", "info"], || {});
    let mut stats = Page::of("mesh stats");
    stats.success(&ana, &["mesh", "stats"], || {});
    let mut ping = Page::of("mesh ping");
    let inside = || agent.command(&bob, &["mesh", "ping"]);
    ping.success_within(&["mesh", "ping"], inside, || {});
    ping.case("without a session", &ana, &["mesh", "ping"]);
    let mut list = Page::of("mesh list");
    list.success(&ana, &["list"], || {});
    for page in [peers, members, info, stats, ping, list] {
        page.keep();
    }
    let alone = Home::new();
    alone.up();
    let mut stats = Page::of("mesh stats");
    stats.case("empty", &alone, &["mesh", "stats"]);
    stats.keep_as("mesh-stats-of-nobody");
}

#[test]
fn making_joining_and_leaving_a_mesh() {
    let ana = Home::new();
    let mut join = Page::of("mesh join");
    join.case("no invite", &ana, &["join", "nonsense!"]);
    ana.up();
    let mut create = Page::of("mesh create");
    for (form, name) in super::page::SUCCESS.into_iter().zip(["Second", "Third", "Fourth"]) {
        create.form(form, &ana, &["create", name]);
    }
    create.case("joined already", &ana, &["create", "Second"]);
    create.case("name too short", &ana, &["create", "x"]);
    create.keep();
    let mut share = Page::of("mesh share");
    share.success(&ana, &["share", "--mesh", "home", "--no-qr"], || {});
    share.case("bad time", &ana, &["share", "--mesh", "home", "--expires", "1s"]);
    let links: Vec<String> = (0..3).map(|_| ana.invite_to("home", 1)).collect();
    let homes: Vec<Home> = (0..3).map(|_| Home::new()).collect();
    for ((home, link), name) in homes.iter().zip(&links).zip(["a", "b", "c"]) {
        join.joined(name, home, link);
    }
    let bob = &homes[0];
    join.case("already a member", bob, &["join", &ana.invite_to("home", 1)]);
    let unknown = links[0].rsplit_once('/').map(|(start, _)| format!("{start}/zzzzzzzz")).unwrap();
    join.case("unknown invite", bob, &["join", &unknown]);
    share.case("may not", bob, &["share"]);
    join.keep();
    share.keep();
    let mut leave = Page::of("mesh leave");
    leave.case("not joined", bob, &["leave", "hoem", "-y"]);
    leave.success(bob, &["leave", "home", "-y"], || {
        if !bob.ok(&["list"]).contains("home") {
            bob.ok(&["join", &ana.invite_to("home", 1), "--name", "Bob"]);
        }
    });
    leave.keep();
}
