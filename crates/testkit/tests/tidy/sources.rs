//! Rules for source files and dependencies.

use crate::check;
use crate::tree::{File, files, root};

/// Longest source file, in lines, and longest test file.
const SOURCE_MAX: usize = 600;
const TEST_MAX: usize = 800;
/// Names that say nothing about what a file holds.
const REFUSED_NAMES: [&str; 8] =
    ["utils", "util", "helpers", "helper", "common", "manager", "misc", "types"];
/// Crates that must not come in by any way.
const BANNED: [&str; 5] = ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys"];
/// Lowest floors: no async, no sockets.
const PURE: [&str; 3] = ["protocol", "crypto", "core"];

fn rust() -> Vec<File> {
    files(&[".rs"])
}

#[test]
fn every_file_says_what_it_is_for() {
    let faults: Vec<String> = rust()
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path.clone())
        .collect();
    check("a Rust file begins with a `//!` sentence", &faults);
}

#[test]
fn files_keep_their_size() {
    let limit = |file: &File| if file.is_test() { TEST_MAX } else { SOURCE_MAX };
    let faults: Vec<String> = rust()
        .iter()
        .filter(|file| file.lines() > limit(file))
        .map(|file| format!("{}: {} lines, at most {}", file.path, file.lines(), limit(file)))
        .collect();
    check("split by responsibility", &faults);
}

#[test]
fn file_names_say_what_is_inside() {
    let faults: Vec<String> = files(&[".rs", ".mjs"])
        .iter()
        .map(|file| file.path.clone())
        .filter(|path| {
            let stem =
                path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
            let dirs = path.split('/').rev().skip(1);
            REFUSED_NAMES.contains(&stem)
                || dirs.into_iter().any(|dir| REFUSED_NAMES.contains(&dir))
        })
        .collect();
    check("refused names", &faults);
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not fall over its own words.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let mut faults = Vec::new();
    for file in files(&[".rs", ".mjs", ".toml", ".md", "Makefile"]) {
        for (index, line) in file.text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                faults.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    check("unfinished work belongs into an issue", &faults);
}

/// Clippy refuses the macros; this refuses lifting the lint anywhere but in the one place that prints.
#[test]
fn only_the_output_module_prints() {
    let faults: Vec<String> = rust()
        .iter()
        .filter(|file| file.path.contains("/src/") && !file.is_test())
        .filter(|file| {
            !file.path.starts_with("crates/cli/src/output/")
                && !file.path.starts_with("crates/bench/")
        })
        .filter(|file| file.code().contains("clippy::print_std"))
        .map(|file| file.path.clone())
        .collect();
    check("printing belongs to crates/cli/src/output", &faults);
}

/// `deny.toml` says the same for those who have the tool.
#[test]
fn banned_crates_stay_out() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let faults: Vec<String> = BANNED
        .iter()
        .filter(|name| lock.contains(&format!("name = \"{name}\"\n")))
        .map(|name| (*name).to_owned())
        .collect();
    check("banned crates in Cargo.lock", &faults);
}

#[test]
fn dependencies_come_from_the_registry_and_versions_from_the_workspace() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut faults: Vec<String> = lock
        .lines()
        .filter(|line| line.starts_with("source = ") && !line.starts_with("source = \"registry+"))
        .map(str::to_owned)
        .collect();
    for file in files(&["Cargo.toml"]) {
        if !file.path.starts_with("crates/") {
            continue;
        }
        for (index, line) in file.text.lines().enumerate() {
            if line.contains("version = \"") || line.contains("git = \"") {
                faults.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    check("versions stand in [workspace.dependencies]", &faults);
}

#[test]
fn the_lowest_floors_do_no_io() {
    let mut faults = Vec::new();
    for name in PURE {
        let manifest =
            std::fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
        for banned in ["tokio", "hyper", "axum", "reqwest", "sqlx"] {
            if dependencies.lines().any(|line| line.starts_with(banned)) {
                faults.push(format!("{name} depends on {banned}"));
            }
        }
    }
    for file in rust() {
        let is_pure = PURE.iter().any(|name| file.path.starts_with(&format!("crates/{name}/src/")));
        if is_pure
            && !file.is_test()
            && ["std::fs::", "TcpStream", "UdpSocket", "async fn"]
                .iter()
                .any(|word| file.code().contains(word))
        {
            faults.push(file.path.clone());
        }
    }
    check("protocol, crypto and core are pure", &faults);
}

#[test]
fn every_limit_is_documented() {
    let text = std::fs::read_to_string(root().join("crates/protocol/src/limits.rs")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut faults = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if !line.starts_with("pub const ") {
            continue;
        }
        let doc = lines[..index]
            .iter()
            .rev()
            .take_while(|line| line.starts_with("///"))
            .copied()
            .collect::<String>();
        // A source in the specification, another limit it belongs to, or a reason in words.
        if doc.len() < 40 && !doc.contains("spec") && !doc.contains("[`") {
            faults.push((*line).to_owned());
        }
    }
    check("a limit says what it limits, in which unit, and why", &faults);
}
