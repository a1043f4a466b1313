//! Snapshots without what differs from run to run.

/// Compares with the stored text; ids, keys, times, ports and paths are replaced first.
pub fn snapshot(name: &str, text: &str) {
    stored("", name, text);
}

/// The same in a folder of the snapshots.
pub fn stored(folder: &str, name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => format!("snapshots/{folder}"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
        filters => vec![
            (r"message [0-9A-Za-z-]{12}…", "message [id12]…"),
            (r"( · [a-z ]+ )\d+[smhd]( \()", "${1}[age]$2"),
            (r"until \d{4}-\d{2}-\d{2}\b", "until [date]"),
            (r"\(\d+[smhd] ago\)", "([age] ago)"),
            (r"\bin \d+ s\b", "in [n] s"),
            (r"requeue [0-9A-HJKMNP-TV-Z]{26}\b", "requeue [ulid]"),
            (r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", "[ulid]"),
            (r"\b\d{5}( \d{5}){5}\b", "[safety number]"),
            (r"\b[0-9a-f]{128}\b", "[signature]"),
            (r#""code": "[A-Z0-9]{8}""#, r#""code": "[code]""#),
            (r"\b1[0-9]{12}\b", "[time in ms]"),
            (r#""rank": -?[0-9.e-]+"#, r#""rank": [rank]"#),
            (r"name +mesh +pid +directory +age\n", "name  mesh  pid  directory  age\n"),
            (r"(builder +home) +\d+ +\d+[smhd]\n", "$1  [pid]  [age]\n"),
            (r"\(\d+ ms\)", "([n] ms)"),
            (r", up \d+[smhd]\n", ", up [age]\n"),
            (r"\((\d+ms )?→ ", "(→ "),
            (r#"\n +"latencyMs": \d+,"#, ""),
            (r#""uptime_s": \d+"#, r#""uptime_s": [age]"#),
            (r#"/[^\s"]+/(debug|release)/claudemesh\b"#, "[claudemesh]"),
            (r"/tmp/[^\s/]+", "[home]"),
            (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
            (r"\bpid \d+", "pid [pid]"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[time]"),
            (r"\b\d\d:\d\d:\d\d\b", "[clock]"),
            (r"/i/[A-Za-z0-9]{6,16}", "/i/[code]"),
            (r"/i/[A-Za-z0-9]{2}\*\*\*", "/i/[co]***"),
            (r"\b[0-9a-f]{64}\b", "[key]"),
            (r"\b[0-9a-f]{16}…", "[key16]…"),
            (r"\b[0-9a-f]{16}\b", "[hex16]"),
            (r"(now|next|low) +yes +\d+ +\d+\n", "$1  yes  [ms]  [ms]\n"),
            (r#""bytes": \d+"#, r#""bytes": [n]"#),
            (r#"_ms": \d+"#, r#"_ms": [ms]"#),
            (r#"pid": \d+"#, r#"pid": [pid]"#),
            (r"\b[0-9a-f]{12}\b", "[key12]"),
            (r"\b[0-9a-f]{3,15}…", "[key]…"),
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
