//! The page that says which test shows which line of the daemon's specification: its second column is written from the
//! doc comments of the tests (`UPDATE_REFERENCE=1` rewrites it), and a line without a test is a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::check;
use crate::tree::{File, files, root};

const PAGE: &str = "docs/reference/acceptance.md";

/// Section and number of a line.
type Line = (u32, u32);

/// Daemon spec §26 Accept 1: a statement of coverage is generated and has no gaps.
#[test]
fn every_line_of_the_daemons_specification_is_named_by_a_test() {
    let tests = named();
    let path = root().join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap();
    let (written, known) = written(&page, &tests);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let mut faults: Vec<String> = known
        .iter()
        .filter(|line| !tests.contains_key(line))
        .map(|(section, number)| format!("§{section} Accept {number}: no test names it"))
        .collect();
    for ((section, number), names) in &tests {
        if !known.contains(&(*section, *number)) {
            faults.push(format!("{}: §{section} has no Accept {number}", names.join(", ")));
        }
    }
    check("lines and tests that do not meet", &faults);
    let is_current = std::env::var_os("UPDATE_REFERENCE").is_some() || written == page;
    assert!(is_current, "{PAGE} is stale: run `make reference`");
}

/// The page with its second column, and the lines it lists.
fn written(page: &str, tests: &BTreeMap<Line, Vec<String>>) -> (String, BTreeSet<Line>) {
    let (mut written, mut known) = (String::new(), BTreeSet::new());
    for row in page.lines() {
        let line = row.strip_prefix("| ").and_then(|cells| lines_of(cells).first().copied());
        let Some(line) = line else {
            let _ = writeln!(written, "{row}");
            continue;
        };
        known.insert(line);
        let words = row.split(" | ").nth(1).unwrap_or_default();
        let names = tests.get(&line).map(|names| names.join("<br>")).unwrap_or_default();
        let _ = writeln!(written, "| §{} Accept {} | {words} | {names} |", line.0, line.1);
    }
    (written, known)
}

/// The tests that name a line, by line.
fn named() -> BTreeMap<Line, Vec<String>> {
    let mut tests = BTreeMap::<_, Vec<_>>::new();
    for file in files(&[".rs"]) {
        if !file.path.starts_with("crates/") {
            continue;
        }
        for (line, name) in of_file(&file) {
            let names = tests.entry(line).or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    tests
}

fn of_file(file: &File) -> Vec<(Line, String)> {
    let (mut found, mut comment) = (Vec::new(), String::new());
    let header: Vec<&str> = file.text.lines().map_while(|line| line.strip_prefix("//!")).collect();
    found.extend(lines_of(&header.concat()).into_iter().map(|line| (line, file.path.clone())));
    for line in file.text.lines() {
        let code = line.trim_start();
        if let Some(text) = code.strip_prefix("///") {
            comment.push_str(text);
        } else if let Some((_, rest)) = code.split_once("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            let name = format!("`{}::{name}`", module(&file.path));
            found.extend(lines_of(&comment).into_iter().map(|line| (line, name.clone())));
            comment.clear();
        } else if !code.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

/// `crates/daemon/tests/suite/local/boot.rs` as `daemon: local::boot`.
fn module(path: &str) -> String {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let inner = parts.get(3..).unwrap_or_default();
    let inner = inner.strip_prefix(&["suite"]).unwrap_or(inner);
    format!("{}: {}", parts.get(1).unwrap_or(&""), inner.join("::"))
}

/// Every `§n Accept m` of a text that speaks of the daemon's specification, which is the one that is meant where none is
/// named.
fn lines_of(text: &str) -> Vec<Line> {
    const OTHERS: [&str; 4] = ["MCP spec ", "CLI ", "CLI spec ", "wire spec "];
    let mut found = Vec::new();
    for (at, _) in text.match_indices('§') {
        let (before, after) = text.split_at(at);
        let is_of_another = OTHERS.iter().any(|other| before.ends_with(other));
        let Some((section, rest)) = after['§'.len_utf8()..].split_once(" Accept ") else {
            continue;
        };
        let digits = rest.split(|character: char| !character.is_ascii_digit()).next();
        let number = digits.and_then(|digits| digits.parse().ok());
        if let (Ok(section), Some(number), false) = (section.parse(), number, is_of_another) {
            found.push((section, number));
        }
    }
    found
}
