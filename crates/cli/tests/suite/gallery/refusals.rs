//! Errors that every verb has to which they apply: what they say, and with which exit code (X2, X3, X4, X5).

use std::fmt::Write as _;
use std::process::Command;

use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::ops::Class;
use claudemesh_protocol::wire::Access;
use serde_json::Value;

use super::page::{entry, heading};
use crate::home::{Home, Ran, until, with_another};
use crate::lineup::{self, Specimen};
use crate::sessions::Agent;
use crate::words::stored;

/// Verbs that do their work while the broker is away: from the outbox, the inbox and the roster, or to tell that it is.
const WITHOUT_A_BROKER: [&str; 5] =
    ["message send", "message inbox", "message status", "mesh ping", "peer verify"];

/// Verbs that a member who was banned still has: the own inbox, what is known already, and how the connection stands.
const WHILE_BANNED: [&str; 3] = ["message inbox", "mesh ping", "peer verify"];

/// An error that many verbs share.
pub struct Refusal {
    /// Its heading.
    pub name: &'static str,
    /// Whether a verb can answer it.
    pub applies: fn(&Specimen) -> bool,
    exit: i32,
    /// Part of what it says; `[verb]` is what was typed.
    says: &'static str,
}

const UNKNOWN_FLAG: Refusal = Refusal {
    name: "unknown flag",
    // `help` shows help whatever comes behind it; the broker has a grammar of its own; a hook never refuses anything.
    applies: |one| !["help", "broker", "hook", "status-line"].contains(&one.verb.as_str()),
    exit: 3,
    says: "unknown flag --no-such-flag",
};

const MISSING_ARGUMENT: Refusal = Refusal {
    name: "missing argument",
    applies: |one| {
        one.needs_arguments() && !one.verb.starts_with("mcp") || one.verb == "mcp print-config"
    },
    exit: 3,
    says: "missing ",
};

const BAD_VALUE: Refusal = Refusal {
    name: "value that does not fit",
    applies: |one| one.misfit().is_some(),
    exit: 3,
    says: "expected: ",
};

const NO_MESH: Refusal = Refusal {
    name: "no mesh joined",
    applies: |one| one.has_mesh() && !one.is_for_a_person(),
    exit: 5,
    says: "no mesh joined",
};

const NOT_JOINED: Refusal = Refusal {
    name: "mesh not joined",
    applies: |one| one.has_mesh() && !one.is_for_a_person(),
    exit: 5,
    says: "joined: home, second",
};

const SEVERAL_MESHES: Refusal = Refusal {
    name: "several meshes",
    applies: |one| one.has_mesh() && !one.is_for_a_person() && !one.takes_every_mesh(),
    exit: 3,
    says: "missing --mesh (2 meshes joined: home, second)",
};

const DENIED: Refusal = Refusal {
    name: "denied by policy",
    applies: |one| one.gated().is_some() && !one.is_for_a_person(),
    exit: 7,
    says: "(rule 1)",
};

const READ_ONLY: Refusal = Refusal {
    name: "denied by approval mode",
    applies: |one| {
        one.gated().is_some_and(|(class, _)| class != Class::Read) && !one.is_for_a_person()
    },
    exit: 7,
    says: "denied by approval mode read-only",
};

const UNCONFIRMED: Refusal = Refusal {
    name: "nobody to confirm",
    applies: |one| one.gated().is_some_and(|(_, asks)| asks),
    exit: 7,
    says: "confirmation required",
};

const NO_DAEMON: Refusal = Refusal {
    name: "daemon required and absent",
    applies: |one| one.operation.is_some() && !one.is_for_a_person(),
    exit: 4,
    says: "needs the daemon",
};

const NO_BROKER: Refusal = Refusal {
    name: "broker away",
    applies: |one| {
        one.operation.is_some()
            && !one.is_for_a_person()
            && !WITHOUT_A_BROKER.contains(&one.verb.as_str())
    },
    exit: 4,
    says: "broker",
};

const BANNED: Refusal = Refusal {
    name: "banned member",
    applies: |one| {
        one.operation.is_some()
            && !one.is_for_a_person()
            && !WHILE_BANNED.contains(&one.verb.as_str())
    },
    exit: 2,
    says: "this member was banned from \"home\"",
};

const NO_CAPABILITY: Refusal = Refusal {
    name: "session without the capability",
    applies: |one| {
        let needs = |spec: claudemesh_protocol::ops::Operation| {
            matches!(spec.access, Access::Needs(_) | Access::ByTarget)
        };
        one.spec().is_some_and(needs) && !one.is_for_a_person()
    },
    exit: 7,
    says: "this session lacks the \"",
};

/// All of them, for the walk.
pub const ALL: [&Refusal; 13] = [
    &UNKNOWN_FLAG,
    &MISSING_ARGUMENT,
    &BAD_VALUE,
    &NO_MESH,
    &NOT_JOINED,
    &SEVERAL_MESHES,
    &DENIED,
    &READ_ONLY,
    &UNCONFIRMED,
    &NO_DAEMON,
    &NO_BROKER,
    &BANNED,
    &NO_CAPABILITY,
];

impl Refusal {
    /// Provokes it with every verb to which it applies, for people and for programs, and keeps what was said.
    fn provoke(
        &self,
        verbs: &[Specimen],
        words_of: impl Fn(&Specimen) -> Vec<String>,
        command: impl Fn(&[&str]) -> Command,
    ) {
        let mut text = String::new();
        for specimen in verbs.iter().filter(|specimen| (self.applies)(specimen)) {
            let words = words_of(specimen);
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ran = Ran::from(command(&words).output().unwrap());
            assert_eq!(ran.code, self.exit, "{words:?}: {ran:?}");
            assert!(ran.stdout.is_empty(), "{words:?}: {ran:?}");
            assert!(ran.stderr.contains(self.says), "{words:?}: {ran:?}");
            heading(&mut text, &specimen.verb, self.name);
            entry(&mut text, &words, &ran);
            words.push("--json");
            let ran = Ran::from(command(&words).output().unwrap());
            let read: Value = serde_json::from_str(&ran.stdout)
                .unwrap_or_else(|error| panic!("{words:?}: {error}: {ran:?}"));
            assert_eq!((ran.code, &read["exit_code"]), (self.exit, &self.exit.into()), "{read}");
            assert_eq!((&read["schema_version"], &read["ok"]), (&"1.0".into(), &false.into()));
            text.truncate(text.trim_end().len());
            writeln!(text, "\nas JSON {}\n", read["error"]).unwrap();
        }
        stored("refusals", &self.name.replace(' ', "-"), &text);
    }
}

fn line(specimen: &Specimen) -> Vec<String> {
    specimen.line.clone()
}

fn with(specimen: &Specimen, more: &[&str]) -> Vec<String> {
    let mut line = specimen.line.clone();
    line.extend(more.iter().map(|word| (*word).to_owned()));
    line
}

/// Two meshes, and neither daemon nor broker.
fn two_meshes_at_rest() -> Home {
    let home = Home::new();
    home.up();
    home.ok(&["create", "Second"]);
    home.ok(&["down"]);
    home.with("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1")
}

/// X2, CLI spec §1.2.
#[test]
fn what_the_grammar_refuses() {
    let home = Home::new().with("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1");
    let verbs = lineup::every();
    UNKNOWN_FLAG.provoke(&verbs, |one| with(one, &["--no-such-flag"]), |words| home.command(words));
    MISSING_ARGUMENT.provoke(
        &verbs,
        |one| one.bare().into_iter().map(str::to_owned).collect(),
        |words| home.command(words),
    );
    BAD_VALUE.provoke(&verbs, |one| one.misfit().unwrap(), |words| home.command(words));
    NO_MESH.provoke(&verbs, line, |words| home.command(words));
}

/// X3, CLI spec §1.13.
#[test]
fn which_mesh_is_meant() {
    let home = two_meshes_at_rest();
    let verbs = lineup::every();
    NOT_JOINED.provoke(&verbs, |one| with(one, &["--mesh", "thrid"]), |words| home.command(words));
    SEVERAL_MESHES.provoke(&verbs, line, |words| home.command(words));
    let near = home.run(&["peers", "--mesh", "secnod"]);
    assert!(near.stderr.contains("did you mean: second"), "{near:?}");
}

/// CLI spec §1.11, §1.17.
#[test]
fn what_the_gate_refuses() {
    let home = two_meshes_at_rest();
    let verbs = lineup::every();
    let mesh = |one: &Specimen| {
        let is_on_one = one.has_mesh() || one.verb == "message inbox flush";
        if is_on_one { vec!["--mesh", "home"] } else { Vec::new() }
    };
    let strict = |one: &Specimen, more: &[&str]| {
        let mut words = mesh(one);
        words.extend(more);
        with(one, &words)
    };
    READ_ONLY.provoke(
        &verbs,
        |one| strict(one, &["--approval-mode", "read-only"]),
        |words| home.command(words),
    );
    std::fs::write(home.file("policy.yaml"), "rules: []\n").unwrap();
    UNCONFIRMED.provoke(&verbs, |one| strict(one, &[]), |words| home.command(words));
    let rules = "rules:\n  - {resource: \"*\", verb: \"*\", decision: deny, reason: frozen}\n";
    std::fs::write(home.file("policy.yaml"), rules).unwrap();
    DENIED.provoke(&verbs, |one| strict(one, &["-y"]), |words| home.command(words));
}

/// X5, CLI spec §1.15: with `--strict` nothing takes another way.
#[test]
fn without_a_daemon() {
    let home = two_meshes_at_rest();
    NO_DAEMON.provoke(
        &lineup::every(),
        |one| with(one, &["--mesh", "home", "--strict", "-y"]),
        |words| home.command(words),
    );
}

/// X5: the daemon runs, and its broker does not.
#[test]
fn without_a_broker() {
    let (home, _mou) = with_another("Mou");
    home.member_key("Mou");
    home.ok(&["down", "--broker-only"]);
    until("the broker is away", || {
        home.json_ok(&["daemon", "status"])["brokers"]["home"] != "open"
    });
    NO_BROKER.provoke(
        &lineup::every(),
        |one| with(one, &["--mesh", "home", "-y"]),
        |words| home.command(words),
    );
}

/// KCK-3, CLI spec §3.4: whatever a banned member asks for, it is told that it was banned, and what to do.
#[test]
fn after_a_ban() {
    let (ana, _mou) = with_another("Mou");
    let bob = Home::new();
    bob.ok(&["join", &ana.invite(1), "--name", "Bob"]);
    bob.ok(&["daemon", "up"]);
    bob.member_key("Mou");
    ana.member_key("Bob");
    ana.ok(&["ban", "Bob", "-y"]);
    until("Bob's daemon knows", || {
        bob.json_ok(&["daemon", "status"])["brokers"]["home"] == "disabled"
    });
    BANNED.provoke(
        &lineup::every(),
        |one| with(one, &["--mesh", "home", "-y"]),
        |words| bob.command(words),
    );
}

/// CLI spec §4.6: a session that may only receive.
#[test]
fn inside_a_session_without_capabilities() {
    let (ana, _mou) = with_another("Mou");
    ana.member_key("Mou");
    let nothing = Agent::restricted(&ana, 1, "listener", CapabilitySet::EMPTY);
    NO_CAPABILITY.provoke(
        &lineup::every(),
        |one| with(one, &["-y"]),
        |words| nothing.command(&ana, words),
    );
}
