//! Rules for the documents: they are there, their links lead somewhere, and they name every setting.

use std::collections::BTreeSet;

use crate::check;
use crate::tree::{files, root};

/// Documents a contributor looks for.
const REQUIRED: [&str; 9] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/getting-started.md",
    "docs/glossary.md",
    "docs/performance.md",
    "docs/reference/environment.md",
];

#[test]
fn the_documents_are_there() {
    let faults: Vec<String> = REQUIRED
        .iter()
        .filter(|path| !root().join(path).is_file())
        .map(|path| (*path).to_owned())
        .collect();
    check("missing documents", &faults);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for file in files(&[".md"]) {
        let dir = root().join(&file.path).parent().unwrap().to_path_buf();
        for target in links(&file.text) {
            let path = target.split('#').next().unwrap_or_default();
            let is_elsewhere =
                path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !is_elsewhere && !dir.join(path).exists() {
                faults.push(format!("{}: {target}", file.path));
            }
        }
    }
    check("broken links", &faults);
}

#[test]
fn every_environment_variable_is_documented() {
    let page = std::fs::read_to_string(root().join("docs/reference/environment.md")).unwrap();
    let mut names = BTreeSet::new();
    for file in files(&[".rs"]) {
        if !file.path.contains("/src/") || file.is_test() {
            continue;
        }
        names.extend(quoted(file.code(), "CLAUDEMESH_"));
        // Settings of the broker: each field's doc begins with its variable.
        if file.path == "crates/protocol/src/limits.rs"
            || file.path == "crates/broker/src/settings/mod.rs"
        {
            names.extend(file.code().lines().filter_map(documented_variable).map(str::to_owned));
        }
    }
    assert!(names.len() > 40, "the search for variables finds too few: {names:?}");
    let faults: Vec<String> =
        names.into_iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    check("variables missing from docs/reference/environment.md", &faults);
}

#[test]
fn the_changelog_names_this_version() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version = manifest
        .split("[workspace.package]")
        .nth(1)
        .and_then(|text| text.split('"').nth(1))
        .unwrap();
    let changelog = std::fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(
        changelog.contains(&format!("## {version}")),
        "CHANGELOG.md has no heading for {version}"
    );
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<&str> {
    let outside_code = |part: &(usize, &str)| part.0.is_multiple_of(2);
    let blocks = text.split("```").enumerate().filter(outside_code).map(|(_, block)| block);
    blocks
        .flat_map(|block| block.split("](").skip(1))
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains(' '))
        .collect()
}

/// Text in double quotes that begins with `prefix` and goes on in capitals.
fn quoted(text: &str, prefix: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.split('"')
        .filter(|part| {
            part.starts_with(prefix) && part.len() > prefix.len() && part.chars().all(is_name)
        })
        .map(str::to_owned)
        .collect()
}

/// The variable a doc line begins with: `` /// `NAME` ``.
fn documented_variable(line: &str) -> Option<&str> {
    let name = line.trim_start().strip_prefix("/// `")?.split('`').next()?;
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    (name.contains('_') && name.chars().all(is_name)).then_some(name)
}
