//! Pages of this machine: `up`, the daemon, the policy, and what needs neither (CLI spec §3.18, §3.19, §5.6).

use super::page::Page;
use crate::home::{Home, until};

#[test]
fn a_machine_from_nothing_to_nothing() {
    let home = Home::new();
    let mut status = Page::of("daemon status");
    status.case("not running", &home, &["daemon", "status"]);
    let mut logs = Page::of("daemon logs");
    logs.case("no log", &home, &["daemon", "logs"]);
    let mut who = Page::of("whoami");
    who.case("not signed in", &home, &["whoami"]);
    let mut up = Page::of("up");
    up.case("no address", &home, &["up", "--listen", "nowhere"]);
    up.case("open to everybody without TLS", &home, &["up", "--listen", "0.0.0.0"]);
    up.success(&home, &["up", "--listen", "127.0.0.1:0"], || {
        let _ = home.run(&["down"]);
    });
    up.keep();
    status.success(&home, &["daemon", "status"], || {});
    let mut glance = Page::of("status");
    glance.success(&home, &["status"], || {
        until("it is connected and has counted what is unread", || {
            let (code, status) = home.json(&["status"]);
            code == 0 && status["unread"].is_number()
        });
    });
    status.keep();
    who.success(&home, &["whoami"], || {});
    who.keep();
    let mut restart = Page::of("daemon restart");
    restart.success(&home, &["daemon", "restart"], || {});
    restart.keep();
    let mut daemon_down = Page::of("daemon down");
    daemon_down.success(&home, &["daemon", "down"], || {
        home.ok(&["daemon", "up"]);
    });
    daemon_down.case("not running", &home, &["daemon", "down"]);
    glance.case("no daemon", &home, &["status"]);
    daemon_down.keep();
    let mut daemon_up = Page::of("daemon up");
    daemon_up.success(&home, &["daemon", "up"], || {
        home.ok(&["daemon", "down"]);
    });
    daemon_up.case("runs already", &home, &["daemon", "up"]);
    daemon_up.keep();
    std::fs::write(
        home.file("daemon/daemon.log"),
        "{\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"level\":\"INFO\",\"message\":\"hello\"}\n",
    )
    .unwrap();
    logs.plain(&home, &["daemon", "logs", "--lines", "1"]);
    logs.keep();
    let mut down = Page::of("down");
    down.success(&home, &["down"], || {
        home.up();
    });
    down.case("nothing runs", &home, &["down"]);
    glance.case("a mesh that cannot be reached", &home, &["status"]);
    glance.keep();
    down.keep();
}

#[test]
fn what_needs_no_mesh() {
    let home = Home::new();
    let mut show = Page::of("policy show");
    let mut path = Page::of("policy path");
    path.success(&home, &["policy", "path"], || {});
    let mut check = Page::of("policy check");
    check.success(&home, &["policy", "check", "peer", "kick"], || {});
    check.case("unknown verb", &home, &["policy", "check", "peer", "nope"]);
    check.case("denied", &home, &["policy", "check", "state", "set", "--approval-mode", "plan"]);
    let mut init = Page::of("policy init");
    init.success(&home, &["policy", "init", "--force"], || {});
    init.case("there is one", &home, &["policy", "init"]);
    show.success(&home, &["policy", "show"], || {});
    let mut completions = Page::of("completions");
    completions.case("unknown shell", &home, &["completions", "tcsh"]);
    completions.first_line(&home, &["completions", "bash"]);
    let mut config = Page::of("mcp print-config");
    config.case("unknown client", &home, &["mcp", "print-config", "emacs"]);
    config.plain(&home, &["mcp", "print-config", "codex"]);
    let mut hook = Page::of("hook");
    hook.case("unknown event", &home, &["hook", "claude", "Nothing"]);
    hook.case("unknown flag", &home, &["hook", "claude", "Stop", "--no-such-flag"]);
    hook.plain(&home, &["hook", "claude", "Stop"]);
    let mut help = Page::of("help");
    help.case("unknown command", &home, &["help", "sned"]);
    help.plain(&home, &["help"]);
    let mut line = Page::of("status-line");
    line.plain(&home, &["status-line"]);
    for page in [show, path, check, init, completions, config, hook, line, help] {
        page.keep();
    }
}
