//! Pages of a running daemon: its version, its sessions, its figures, what a reload does (CLI spec §3.18).

use super::page::Page;
use crate::home::{Home, until};
use crate::sessions::Agent;

/// Verbs that ask about a running daemon and start none.
const ASKING: [&str; 6] = ["version", "sessions", "events", "metrics", "reload", "rotate-token"];

#[test]
fn asking_a_daemon_about_itself() {
    let home = Home::new();
    let mut pages: Vec<Page> =
        ASKING.iter().map(|verb| Page::of(&format!("daemon {verb}"))).collect();
    for (page, verb) in pages.iter_mut().zip(ASKING) {
        page.case("not running", &home, &["daemon", verb]);
    }
    home.up();
    until("the mesh is open", || home.json_ok(&["daemon", "status"])["brokers"]["home"] == "open");
    for (page, verb) in pages.iter_mut().zip(ASKING) {
        match verb {
            "sessions" => {
                page.case("nobody", &home, &["daemon", "sessions"]);
                let _agent = Agent::register(&home, 1, "builder");
                until("it is connected", || {
                    home.json_ok(&["daemon", "sessions"])[0]["broker_status"] == "open"
                });
                page.success(&home, &["daemon", "sessions"], || {});
            }
            // It has no end.
            "events" => {}
            "metrics" => page.first_line(&home, &["daemon", "metrics"]),
            _ => page.success(&home, &["daemon", verb], || {}),
        }
    }
    let settings = home.file("daemon/config.toml");
    std::fs::write(&settings, "[ipc]\nmax_sse = 5\n[metrics]\nprometheus = false\n").unwrap();
    pages[4].case("after a restart", &home, &["daemon", "reload"]);
    home.ok(&["daemon", "restart"]);
    pages[3].case("switched off", &home, &["daemon", "metrics"]);
    std::fs::write(&settings, "[ipc]\nmax_sse = \"many\"\n").unwrap();
    pages[4].case("bad settings", &home, &["daemon", "reload"]);
    for page in pages {
        page.keep();
    }
}
