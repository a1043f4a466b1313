//! The walk: over every verb and everything it can answer, looking for a stored run of it (issue 4, X1).

use std::collections::BTreeSet;
use std::path::Path;

use claudemesh_protocol::ops::policy::TARGET_FIELDS;
use claudemesh_protocol::ops::{Class, Run, Shape};
use claudemesh_protocol::wire::Right;

use super::page::SUCCESS;
use super::refusals;
use crate::lineup::{self, Specimen};

/// Errors of single verbs beyond those that follow from the tables: rows of CLI spec §3 and sentences of its text.
const OWN: &[(&str, &[&str])] = &[
    ("up", &["no address", "open to everybody without TLS"]),
    ("mesh create", &["name too short"]),
    ("mesh join", &["no invite", "unknown invite", "already a member"]),
    ("mesh leave", &["not joined"]),
    ("mesh share", &["bad time", "may not"]),
    ("peer kick", &["only its daemon", "the owner"]),
    ("peer disconnect", &["the owner"]),
    ("peer ban", &["yourself", "the owner"]),
    ("member allow", &["not allowed", "more than one has"]),
    ("member deny", &["not allowed", "the owner"]),
    ("member role", &["not allowed", "the owner"]),
    ("grant add", &["unknown capability"]),
    ("grant block", &["yourself"]),
    ("audit query", &["beyond the limit"]),
    ("audit verify", &["broken chain"]),
    (
        "message send",
        &["nobody there and --require-online", "another text under one id", "yourself", "too long"],
    ),
    ("message inbox", &["bad time", "beyond the limit"]),
    ("message inbox search", &["no match", "nothing to search for"]),
    ("message inbox flush", &["without a filter", "bad time"]),
    ("message inbox delete", &["short id", "unknown id"]),
    ("message status", &["short id", "unknown id", "unknown prefix"]),
    ("peer unblock-loop", &["without a terminal"]),
    ("policy check", &["unknown verb", "denied"]),
    ("policy init", &["there is one"]),
    ("daemon status", &["not running"]),
    ("daemon accept-host", &["bad settings"]),
    (
        "daemon remint",
        &["no mesh", "may not invite", "daemon running", "nobody to ask", "not joined"],
    ),
    ("daemon rotate-keypair", &["not running", "nobody to ask", "not joined"]),
    ("daemon trust-broker", &["not running", "no mesh named", "the known key", "nobody to ask"]),
    ("daemon archive-cleanup", &["not running"]),
    ("daemon version", &["not running"]),
    ("daemon sessions", &["not running", "nobody"]),
    ("daemon events", &["not running"]),
    ("daemon metrics", &["not running", "switched off"]),
    ("daemon reload", &["not running", "bad settings", "after a restart"]),
    ("daemon rotate-token", &["not running"]),
    ("daemon logs", &["no log"]),
    ("daemon install-service", &["in an automated build", "no service manager"]),
    ("daemon uninstall-service", &["none installed"]),
    ("daemon recover", &["damaged outbox", "salvage", "nobody to confirm", "daemon running"]),
    ("daemon reset", &["nobody to confirm"]),
    ("daemon uninstall", &["nobody to confirm", "keys without a person"]),
    ("daemon outbox inspect", &["unknown id"]),
    ("daemon outbox requeue", &["unknown id", "done already"]),
    ("daemon outbox drop", &["unknown id", "done already"]),
    ("daemon outbox prune", &["without --confirm"]),
    ("backup", &["the file exists", "nobody to ask", "nothing to back up", "short passphrase"]),
    (
        "restore",
        &[
            "nobody to confirm",
            "nothing to add",
            "no such file",
            "no backup",
            "wrong passphrase or damaged file",
            "daemon running",
        ],
    ),
    (
        "install",
        &[
            "everything there already",
            "nobody to ask",
            "bad tools",
            "unknown agent",
            "a file that cannot be read",
            "dry run",
        ],
    ),
    ("uninstall", &["nothing installed", "nobody to ask"]),
    ("status", &["no daemon", "a mesh that cannot be reached"]),
    ("whoami", &["not signed in"]),
    ("completions", &["unknown shell"]),
    ("mcp print-config", &["unknown client"]),
    ("hook", &["unknown event", "unknown flag"]),
    ("help", &["unknown command"]),
];

/// Verbs whose output is no document: a script, a log, a page. They have no JSON, or the same text in it.
const PLAIN: [&str; 8] = [
    "completions",
    "daemon logs",
    "daemon metrics",
    "mcp print-config",
    "skill",
    "hook",
    "status-line",
    "help",
];

/// Servers, and a stream without an end: what they write is tested with a client, and in `events`.
const SERVERS: [&str; 3] = ["mcp", "broker", "daemon events"];

/// Headings that must be there.
fn required(one: &Specimen) -> BTreeSet<&'static str> {
    let mut names: BTreeSet<&'static str> = refusals::ALL
        .iter()
        .filter(|refusal| (refusal.applies)(one))
        .map(|refusal| refusal.name)
        .collect();
    let forms = match one.verb.as_str() {
        verb if SERVERS.contains(&verb) => &[],
        verb if PLAIN.contains(&verb) => &SUCCESS[..2],
        // Only a person at a terminal sees it; its tests hold one.
        _ if one.is_for_a_person() => &[],
        _ => &SUCCESS[..],
    };
    names.extend(forms);
    names.extend(OWN.iter().filter(|(verb, _)| *verb == one.verb).flat_map(|(_, own)| own.iter()));
    let Some(kind) = one.operation.filter(|_| !one.is_for_a_person()) else { return names };
    let spec = kind.spec();
    let fields = kind.fields();
    let has = |name: &str| fields.iter().any(|field| field.name == name);
    if TARGET_FIELDS.iter().any(|name| has(name)) {
        names.insert("unknown peer");
        // The broker itself compares a target, and takes every session of that name.
        if matches!(spec.run, Run::Daemon(_)) {
            names.insert("several peers");
        }
    }
    if has("ifVersion") {
        names.insert("changed by somebody else");
    }
    if let Shape::RecordUnlessEmpty(_) = spec.shape {
        names.insert("not there");
    }
    if let (Class::Read, Shape::List(_), Some(verb)) = (spec.class, spec.shape, spec.verb)
        && !verb.is_drawn_by_hand
        // Whoever asks is a member.
        && verb.words != "member permissions"
    {
        names.insert("empty");
    }
    if let Run::Forward(frame) = spec.run
        && frame.spec().right != Right::Member
    {
        names.insert("not allowed");
    }
    names
}

/// Every stored run: verb and heading.
fn stored() -> BTreeSet<(String, String)> {
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/snapshots");
    let mut found = BTreeSet::new();
    for folder in ["verbs", "refusals"] {
        for file in std::fs::read_dir(snapshots.join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "snap") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
            found.extend(headings.filter_map(|heading| {
                let (verb, name) = heading.split_once(": ")?;
                Some((verb.to_owned(), name.to_owned()))
            }));
        }
    }
    found
}

/// Issue 4: snapshots of stdout, stderr and exit code for success and each error of each verb.
#[test]
fn every_verb_and_every_error_has_been_looked_at() {
    let (stored, verbs) = (stored(), lineup::every());
    let mut missing = Vec::new();
    for one in &verbs {
        for name in required(one) {
            if !stored.contains(&(one.verb.clone(), name.to_owned())) {
                missing.push(format!("{}: {name}", one.verb));
            }
        }
    }
    assert!(missing.is_empty(), "nobody has looked at\n{}", missing.join("\n"));
    let gone: Vec<_> =
        stored.iter().filter(|(verb, _)| !verbs.iter().any(|one| one.verb == *verb)).collect();
    assert!(gone.is_empty(), "stored for verbs that are gone: {gone:?}");
    for (verb, _) in OWN {
        assert!(verbs.iter().any(|one| one.verb == *verb), "{verb} is no verb");
    }
}
