//! Shared by the tests: the list of verbs, and snapshots without what differs from run to run.

use claudemesh_protocol::ops::OperationKind;

/// Every verb: those drawn by hand in their short form, and those of the operation table.
pub fn every_verb() -> Vec<&'static str> {
    let operations = OperationKind::ALL.iter().filter_map(|kind| kind.spec().verb);
    let generic = operations.filter(|verb| !verb.is_drawn_by_hand).map(|verb| verb.words);
    DRAWN.iter().copied().chain(generic).collect()
}

/// Every verb that is drawn by hand, in its short form.
const DRAWN: &[&str] = &[
    "up",
    "down",
    "create",
    "join",
    "list",
    "leave",
    "share",
    "peers",
    "members",
    "peer unblock-loop",
    "send",
    "inbox",
    "inbox flush",
    "inbox delete",
    "msg-status",
    "policy show",
    "policy path",
    "policy check",
    "policy init",
    "daemon up",
    "daemon down",
    "daemon restart",
    "daemon status",
    "daemon logs",
    "daemon outbox list",
    "daemon outbox inspect",
    "daemon outbox requeue",
    "daemon outbox drop",
    "daemon outbox prune",
    "whoami",
    "completions",
    "mcp",
    "broker",
];

/// Compares with the stored text; ids, keys, times, ports and paths are replaced first.
pub fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        prepend_module_to_snapshot => false,
        omit_expression => true,
        filters => vec![
            (r"message [0-9A-Za-z-]{12}…", "message [id12]…"),
            (r"( · [a-z ]+ )\d+[smhd]( \()", "${1}[age]$2"),
            (r"\(\d+[smhd] ago\)", "([age] ago)"),
            (r"\bin \d+ s\b", "in [n] s"),
            (r"requeue [0-9A-HJKMNP-TV-Z]{26}\b", "requeue [ulid]"),
            (r"/tmp/[^\s/]+", "[home]"),
            (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
            (r"\bpid \d+", "pid [pid]"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[time]"),
            (r"\b\d\d:\d\d:\d\d\b", "[clock]"),
            (r"/i/[A-Za-z0-9]{6,16}", "/i/[code]"),
            (r"/i/[A-Za-z0-9]{2}\*\*\*", "/i/[co]***"),
            (r"\b[0-9a-f]{64}\b", "[key]"),
            (r"\b[0-9a-f]{16}…", "[key16]…"),
            (r"\b[0-9a-f]{12}\b", "[key12]"),
            (r"\([0-9a-f]{8}\)", "([key8])"),
            (r"\b[0-9A-Za-z]{32}\b", "[id]"),
            (r"(member +)[0-9A-Za-z]{8}\b", "${1}[id8]"),
            (r"(\(online\)|member|admin)  [0-9A-Za-z]{8}\n", "$1  [id8]\n"),
            (r"sid:[0-9a-z-]+", "sid:[sid]"),
        ],
    }, {
        insta::assert_snapshot!(name, text);
    });
}
