//! Files as people have them: what comes goes without a trace, and what cannot be edited is left alone and said why.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use super::{FILES, INSTALL, UNINSTALL, read, write};
use crate::home::Home;

/// JSON files of all kinds.
const JSON_FILES: [(&str, &str); 17] = [
    ("empty", ""),
    ("blank lines", "\n\n"),
    ("an empty object", "{}"),
    ("one line", "{\"a\":1,\"hooks\":{},\"mcpServers\":{\"x\":{\"command\":\"y\"}}}"),
    ("two blanks", "{\n  \"a\": [1, 2],\n  \"z\": null\n}\n"),
    ("tabs", "{\n\t\"a\": {\n\t\t\"b\": 1\n\t}\n}\n"),
    ("four blanks and no line end", "{\n    \"a\": {\n        \"b\": \"ü\"\n    }\n}"),
    ("odd indentation", "{\n \"a\": 1,\n       \"b\": {\n  \"c\":2}\n  }\n"),
    ("line ends of Windows", "{\r\n  \"a\": 1,\r\n  \"mcpServers\": {\r\n  }\r\n}\r\n"),
    ("byte order mark", "\u{feff}{\n  \"a\": 1\n}\n"),
    (
        "comments and trailing commas",
        "// mine\n{\n  // one\n  \"a\": 1, /* two */\n  \"mcpServers\": {\n    \"x\": {}, // last\n  },\n}\n// end\n",
    ),
    ("nothing but a comment", "// later\n"),
    (
        "hooks of others at the same events",
        "{\n  \"hooks\": {\n    \"Stop\": [\n      { \"matcher\": \"\", \"hooks\": [ { \"type\": \"command\", \"command\": \"say done\" } ] }\n    ],\n    \"PreCompact\": []\n  },\n  \"permissions\": { \"deny\": [\"Bash(rm:*)\"] }\n}\n",
    ),
    (
        "ours by hand, out of date",
        "{\n  \"mcpServers\": { \"claudemesh\": { \"command\": \"/old/claudemesh\", \"args\": [\"mcp\"], \"env\": { \"A\": \"1\" } } },\n  \"hooks\": {\n    \"Stop\": [\n      { \"hooks\": [ { \"command\": \"lint\" }, { \"command\": \"claudemesh hook idle\" } ] },\n      { \"hooks\": [ { \"command\": \"/old/claudemesh hook claude Stop\" } ] }\n    ]\n  },\n  \"permissions\": { \"allow\": [\"Bash(claudemesh send:*)\"] }\n}\n",
    ),
    (
        "a status line",
        "{ \"statusLine\": { \"type\": \"command\", \"command\": \"mine\" }, \"model\": \"x\" }\n",
    ),
    ("doubled keys", "{\"mcpServers\": {\"x\": 1}, \"mcpServers\": {\"y\": 2}}"),
    ("escapes", "{\"\\u0061\": \"\\ud83d\\ude00 \\\" \\\\\", \"n\": 1e400}"),
];

const TOML_FILES: [(&str, &str); 6] = [
    ("empty", ""),
    ("comments", "# mine\nmodel = \"x\" # why\n\n[mcp_servers.other]\ncommand = \"y\"\n"),
    ("line ends of Windows", "model = \"x\"\r\n[projects.\"/p\"]\r\ntrust_level = \"trusted\"\r\n"),
    ("no line end", "a = 1\n[b]\nc = [1,\n  2]"),
    ("byte order mark", "\u{feff}a = 1\n"),
    (
        "ours by hand, out of date",
        "[mcp_servers.claudemesh]\ncommand = \"/old/claudemesh\"\nargs = [\"mcp\"]\nstartup_timeout_sec = 9\n\n[tui]\nx = 1\n",
    ),
];

/// CLI spec §6.1–6.3 Accept 1, 2; MCP spec §10 Accept 2: three times in, once out, and every byte is back.
#[test]
fn plain_files_are_again_what_they_were() {
    come_and_go(&JSON_FILES[..6]);
}

/// The same.
#[test]
fn odd_files_are_again_what_they_were() {
    come_and_go(&JSON_FILES[6..12]);
}

/// The same.
#[test]
fn files_with_much_in_them_are_again_what_they_were() {
    come_and_go(&JSON_FILES[12..]);
}

/// The client's own file may have a long history in it.
#[test]
fn a_huge_file_is_again_what_it_was() {
    let mut huge = String::from("{\n  \"projects\": {");
    for number in 0..4_000 {
        let comma = if number > 0 { "," } else { "" };
        write!(huge, "{comma}\n    \"/p/{number}\": {{ \"history\": [\"x\", {number}] }}").unwrap();
    }
    huge.push_str("\n  }\n}\n");
    let home = Home::new();
    write(&home, ".claude.json", &huge);
    assert_eq!(home.json_ok(&INSTALL)["mcp"], "added");
    home.ok(&UNINSTALL);
    assert!(read(&home, ".claude.json") == huge);
}

fn come_and_go(files: &[(&str, &str)]) {
    let toml = TOML_FILES.iter().cycle();
    for ((name, text), (toml_name, toml)) in files.iter().zip(toml) {
        let what = format!("{name}, {toml_name}");
        let home = Home::new();
        for file in FILES {
            let before = if file == FILES[2] { *toml } else { *text };
            let path = write(&home, file, before);
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        let first = home.json_ok(&INSTALL);
        assert_eq!(first["ok"], true, "{what}: {first}");
        let installed = FILES.map(|file| read(&home, file));
        for (text, file) in installed.iter().zip(FILES) {
            assert!(text.contains("claudemesh"), "{what}: {file}");
            let mode = fs::metadata(home.path().join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o640, "{what}: {file}");
        }
        for _ in 0..2 {
            let again = home.json_ok(&INSTALL);
            let outcomes: Vec<&Value> = [&again["mcp"], &again["codex"]["mcp"], &again["skill"]]
                .into_iter()
                .chain(again["hooks"].as_object().unwrap().values())
                .collect();
            assert!(outcomes.iter().all(|one| **one == "unchanged"), "{what}: {again}");
            assert_eq!(again["backups"], json!([]), "{what}");
            assert_eq!(FILES.map(|file| read(&home, file)), installed, "{what}");
        }
        home.ok(&UNINSTALL);
        for file in FILES {
            let before = if file == FILES[2] { *toml } else { *text };
            assert!(read(&home, file) == before, "{what}: {file}:\n{}", read(&home, file));
        }
        assert!(!home.path().join(".claude/skills").exists(), "{what}");
        // A copy of each file from before, for its owner alone.
        let copies = fs::read_dir(home.path().join(".claude/backups")).unwrap();
        let copies: Vec<_> = copies.flatten().map(|entry| entry.path()).collect();
        assert!(copies.iter().any(|copy| fs::read_to_string(copy).unwrap() == *text), "{what}");
        for copy in copies {
            let mode = fs::metadata(copy).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{what}");
        }
    }
}

/// CLI spec §6.1–6.3 Accept 3; MCP spec §10 Accept 1: what cannot be edited stays, is explained, and stops nothing else.
#[test]
fn what_cannot_be_edited_is_left_alone_and_said_why() {
    let unreadable = [
        ("{\n  \"a\": 1\n  \"b\": 2\n}\n", "line "),
        ("{\"a\": 1", "line 1"),
        ("[]", "the document is an array, not an object"),
        ("{\"hooks\": {\"Stop\": {}}}", "hooks.Stop is an object, not an array"),
        ("{\"hooks\": null}", "hooks is null, not an object"),
        ("settings = \"toml\"", "line 1"),
    ];
    for (text, why) in unreadable {
        let home = Home::new();
        write(&home, ".claude/settings.json", text);
        write(&home, ".codex/config.toml", "a = [\n");
        let (code, done) = home.json(&INSTALL);
        assert_eq!((code, &done["ok"]), (10, &json!(false)), "{text}: {done}");
        assert_eq!(read(&home, ".claude/settings.json"), text);
        assert_eq!(read(&home, ".codex/config.toml"), "a = [\n");
        assert_eq!((&done["mcp"], &done["skill"]), (&json!("added"), &json!("added")), "{text}");
        assert_eq!(done["codex"]["hooks"]["Stop"], "added", "{text}");
        let failed = done["failed"].as_array().unwrap();
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert_eq!(failed[0]["path"], "~/.claude/settings.json");
        assert!(failed[0]["reason"].as_str().unwrap().contains(why), "{failed:?}");
        assert!(failed[0]["fix"].as_str().unwrap().contains("settings.json"), "{failed:?}");
        // What was done all the same can be taken back, and what is broken stays broken.
        let (code, _) = home.json(&UNINSTALL);
        assert_eq!(code, 10, "it cannot be known what is in there");
        assert_eq!(read(&home, ".claude/settings.json"), text);
        assert!(!home.path().join(".claude.json").exists());
    }
}

#[test]
fn what_may_not_be_written_is_not_written() {
    let home = Home::new();
    let settings = write(&home, ".claude/settings.json", "{}\n");
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o444)).unwrap();
    fs::create_dir(home.path().join(".claude.json")).unwrap();
    let toml = home.path().join(".codex/config.toml");
    fs::create_dir(home.path().join(".codex")).unwrap();
    fs::write(&toml, [b'a', b'=', 0xff]).unwrap();
    symlink("hooks.json", home.path().join(".codex/hooks.json")).unwrap();
    let (code, done) = home.json(&INSTALL);
    assert_eq!(code, 10, "{done}");
    let failed = done["failed"].as_array().unwrap();
    let reasons: Vec<&str> = failed.iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons[..3],
        ["it is no file", "it is read-only", "it is not UTF-8 text"],
        "{reasons:?}"
    );
    assert_eq!(reasons.len(), 4, "a circle of links: {reasons:?}");
    let fix = failed[1]["fix"].as_str().unwrap();
    assert_eq!(fix, format!("chmod u+w {}", settings.display()));
    assert_eq!(read(&home, ".claude/settings.json"), "{}\n");
    assert_eq!(fs::read(&toml).unwrap(), [b'a', b'=', 0xff]);
    let ran = home.run(&INSTALL);
    assert!(ran.stdout.contains("→ chmod u+w "), "{ran:?}");
}

/// CLI spec §2.4: links stay, and what they lead to is edited, also where that is not there yet.
#[test]
fn links_are_followed_and_kept() {
    let home = Home::new();
    let real = write(&home, "dotfiles/settings.json", "{ \"a\": 1 }\n");
    fs::create_dir(home.path().join(".claude")).unwrap();
    let link = home.path().join(".claude/settings.json");
    symlink("../dotfiles/settings.json", &link).unwrap();
    let nowhere = home.path().join(".claude.json");
    symlink("dotfiles/claude.json", &nowhere).unwrap();
    home.ok(&INSTALL);
    assert!(link.is_symlink() && nowhere.is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("claudemesh hook "));
    assert!(read(&home, "dotfiles/claude.json").contains("mcpServers"));
    home.ok(&UNINSTALL);
    assert!(link.is_symlink() && nowhere.is_symlink());
    assert_eq!(fs::read_to_string(&real).unwrap(), "{ \"a\": 1 }\n");
    assert!(!home.path().join("dotfiles/claude.json").exists());
}

/// MCP spec §10 Accept 2: a foreign edit in between is kept, and only our spans go.
#[test]
fn what_others_change_meanwhile_stays() {
    let home = Home::new();
    let settings = "{\n    // mine\n    \"model\": \"x\"\n}\n";
    write(&home, ".claude/settings.json", settings);
    write(&home, ".codex/config.toml", "a = 1\n");
    home.ok(&INSTALL);
    let edited = read(&home, ".claude/settings.json").replace("\"x\"", "\"y\"");
    write(&home, ".claude/settings.json", &edited);
    let server = read(&home, ".claude.json").replacen('{', "{\n  \"numStartups\": 3,", 1);
    write(&home, ".claude.json", &server);
    let toml = read(&home, ".codex/config.toml") + "\n[tui]\nx = true\n";
    write(&home, ".codex/config.toml", &toml);
    home.ok(&UNINSTALL);
    assert_eq!(read(&home, ".claude/settings.json"), settings.replace("\"x\"", "\"y\""));
    assert_eq!(read(&home, ".claude.json"), "{\n  \"numStartups\": 3\n}\n");
    assert_eq!(read(&home, ".codex/config.toml"), "a = 1\n\n[tui]\nx = true\n");
}

/// CLI spec §6.1 step 2, MCP spec §10.6: what is dead goes, and does not come back with the rest.
#[test]
fn dead_entries_of_earlier_programs_go_for_good() {
    let home = Home::new();
    let dead = "{\n  \"allowedTools\": [\"Bash\", \"mcp__claudemesh__send_message\"],\n  \"mcpServers\": {\n    \"mesh:db:1\": { \"_meshSession\": { \"pid\": 2147483000 } },\n    \"mine\": {}\n  }\n}\n";
    write(&home, ".claude.json", dead);
    home.ok(&INSTALL);
    assert!(!read(&home, ".claude.json").contains("mesh:db"));
    home.ok(&UNINSTALL);
    let left =
        "{\n  \"allowedTools\": [\"Bash\"],\n  \"mcpServers\": {\n    \"mine\": {}\n  }\n}\n";
    assert_eq!(read(&home, ".claude.json"), left);
}

/// Without its record, too, what is ours is found and taken away.
#[test]
fn a_lost_record_keeps_nobody_from_leaving() {
    let home = Home::new();
    write(&home, ".claude.json", "{\n  \"a\": 1\n}\n");
    home.ok(&INSTALL);
    fs::remove_file(home.file("install.json")).unwrap();
    home.ok(&UNINSTALL);
    for file in FILES {
        let text = fs::read_to_string(home.path().join(file)).unwrap_or_default();
        assert!(!text.contains("claudemesh"), "{file}: {text}");
    }
    home.ok(&INSTALL);
    write(&home, ".claudemesh/install.json", "no json");
    let (code, done) = home.json(&UNINSTALL);
    assert_eq!(code, 10, "{done}");
    assert!(done["failed"][0]["fix"].as_str().unwrap().starts_with("mv "), "{done}");
}
