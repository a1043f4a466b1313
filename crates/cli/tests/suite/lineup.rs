//! Every verb with a command line that it understands: what the generated tests walk over. The verbs come from the
//! binary itself, the lines from the operation table, or from [`LINES`] for verbs that are no operation.

use claudemesh_protocol::ops::{Class, FieldKind, Operation, OperationKind};

use crate::home::Home;

/// A verb in use.
#[derive(Debug, Clone)]
pub struct Specimen {
    /// Canonical words.
    pub verb: String,
    /// Words that its grammar accepts.
    pub line: Vec<String>,
    /// What it runs, when it runs an operation.
    pub operation: Option<OperationKind>,
    /// What follows the verb in its usage line.
    pub usage: String,
}

/// Lines for verbs that are drawn by hand. None of them starts a process or needs one to be understood.
const LINES: &[(&str, &str)] = &[
    ("up", "up --listen 127.0.0.1:0"),
    ("down", "down"),
    ("mesh create", "create Third"),
    ("mesh join", "join http://127.0.0.1:9/i/abcdefgh"),
    ("mesh list", "list"),
    ("mesh leave", "leave home"),
    ("mesh share", "share"),
    ("peer list", "peers"),
    ("peer unblock-loop", "peer unblock-loop Mou"),
    ("member list", "members"),
    ("message send", "send Mou hello"),
    ("message inbox flush", "inbox flush --all"),
    ("message inbox search", "inbox search build red"),
    ("message inbox delete", "inbox delete 01JD2M7Q8Z3K5V6W9X0Y1A2B3C"),
    ("message inbox", "inbox"),
    ("message status", "message status 3fK29dLa"),
    ("policy show", "policy show"),
    ("policy path", "policy path"),
    ("policy check", "policy check peer kick"),
    ("policy init", "policy init"),
    ("daemon up", "daemon up"),
    ("daemon down", "daemon down"),
    ("daemon restart", "daemon restart"),
    ("daemon status", "daemon status"),
    ("daemon accept-host", "daemon accept-host"),
    ("daemon remint", "daemon remint --invite https://mesh.example/i/AbCdEfGh -y"),
    ("daemon rotate-keypair", "daemon rotate-keypair -y"),
    ("daemon trust-broker", "daemon trust-broker --mesh home -y"),
    ("daemon archive-cleanup", "daemon archive-cleanup"),
    ("daemon version", "daemon version"),
    ("daemon sessions", "daemon sessions"),
    ("daemon events", "daemon events --kind message"),
    ("daemon metrics", "daemon metrics"),
    ("daemon reload", "daemon reload"),
    ("daemon rotate-token", "daemon rotate-token"),
    ("daemon logs", "daemon logs"),
    ("daemon install-service", "daemon install-service"),
    ("daemon uninstall-service", "daemon uninstall-service"),
    ("daemon recover", "daemon recover"),
    ("daemon reset", "daemon reset"),
    ("daemon uninstall", "daemon uninstall"),
    ("daemon outbox list", "daemon outbox list"),
    ("daemon outbox inspect", "daemon outbox inspect 01JD2M7Q8Z3K5V6W9X0Y1A2B3C"),
    ("daemon outbox requeue", "daemon outbox requeue 01JD2M7Q8Z3K5V6W9X0Y1A2B3C"),
    ("daemon outbox drop", "daemon outbox drop 01JD2M7Q8Z3K5V6W9X0Y1A2B3C"),
    ("daemon outbox prune", "daemon outbox prune --confirm"),
    ("backup", "backup --out copy.cmb"),
    ("restore", "restore --in copy.cmb"),
    ("install", "install"),
    ("uninstall", "uninstall"),
    ("skill", "skill"),
    ("status", "status"),
    ("status-line", "status-line"),
    ("whoami", "whoami"),
    ("completions", "completions bash"),
    ("mcp", "mcp"),
    ("mcp print-config", "mcp print-config cursor"),
    ("hook", "hook claude Stop"),
    ("broker", "broker check-config"),
    ("help", "help"),
];

/// Verbs of the policy gate that are no operation: words, class, whether somebody is asked first (CLI spec §1.17).
const GATED: &[(&str, Class, bool)] = &[
    ("mesh create", Class::Write, false),
    ("mesh join", Class::Write, false),
    ("mesh list", Class::Read, false),
    ("mesh leave", Class::Destructive, true),
    ("mesh share", Class::Write, false),
    ("message inbox flush", Class::Destructive, true),
    ("message inbox delete", Class::Write, false),
    ("message inbox search", Class::Read, false),
];

/// Every verb that `help all` lists.
pub fn every() -> Vec<Specimen> {
    let home = Home::new();
    let all = home.ok(&["help", "all"]);
    all.lines().map(|line| specimen(&home, &canonical(line))).collect()
}

/// The words in front of the sentence.
fn canonical(line: &str) -> String {
    let words = line.trim_start().split("  ").next().unwrap();
    let is_verb = |word: &&str| word.chars().all(|letter| letter.is_lowercase() || letter == '-');
    words.split(' ').take_while(is_verb).collect::<Vec<_>>().join(" ")
}

fn specimen(home: &Home, verb: &str) -> Specimen {
    let operation = OperationKind::ALL
        .iter()
        .find(|kind| kind.spec().verb.is_some_and(|own| own.words == verb));
    let drawn = LINES.iter().find(|(words, _)| *words == verb).map(|(_, line)| *line);
    let example = operation.and_then(|kind| Some(kind.spec().verb?.examples.first()?.0));
    let line = drawn.or(example).unwrap_or_else(|| panic!("no line for {verb}"));
    let mut help: Vec<&str> = vec!["help"];
    help.extend(verb.split(' '));
    let page = home.ok(&help);
    let usage = page.lines().find_map(|line| line.trim_start().strip_prefix("Usage: claudemesh "));
    let usage = usage.and_then(|usage| usage.strip_prefix(verb)).unwrap_or_default();
    Specimen {
        verb: verb.to_owned(),
        line: shell_words(line),
        operation: operation.copied(),
        usage: usage.trim().to_owned(),
    }
}

/// `ifVersion` and `display_name` as `if-version` and `display-name`.
fn flag(name: &str) -> String {
    let mut flag = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            flag.push('-');
        }
        flag.push(if letter == '_' { '-' } else { letter.to_ascii_lowercase() });
    }
    flag
}

/// Words of an example, which quotes as shells do.
pub fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in line.chars() {
        match (character, quote) {
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (mark, Some(open)) if mark == open => quote = None,
            (' ', None) => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

impl Specimen {
    /// The words without arguments: as many as the verb, or its alias, has.
    pub fn bare(&self) -> Vec<&str> {
        self.verb.split(' ').collect()
    }

    pub fn spec(&self) -> Option<Operation> {
        self.operation.map(OperationKind::spec)
    }

    /// Something must be given by position.
    pub fn needs_arguments(&self) -> bool {
        self.usage.contains('<')
    }

    /// Class and whether somebody is asked; `None` for what the gate lets through unseen.
    pub fn gated(&self) -> Option<(Class, bool)> {
        let drawn = GATED.iter().find(|(verb, ..)| *verb == self.verb);
        let drawn = drawn.map(|(_, class, asks)| (*class, *asks));
        let table = self.spec().map(|spec| {
            let gated = spec.gated();
            (gated.class, !gated.reason_to_ask.is_empty())
        });
        drawn.or(table)
    }

    /// Works on a mesh that is chosen by `--mesh`.
    pub fn has_mesh(&self) -> bool {
        self.operation.is_some() || self.verb == "mesh share"
    }

    /// With several meshes and nobody to ask it takes all of them: lists, and verbs whose target or id says which.
    pub fn takes_every_mesh(&self) -> bool {
        let is_found_by_its_argument = ["message send", "message status", "message inbox"];
        is_found_by_its_argument.contains(&self.verb.as_str())
            || self.verb != "member list" && self.spec().is_some_and(|spec| spec.is_aggregating())
    }

    /// Nobody but a person at a terminal may run it (CLI spec §3.4).
    pub fn is_for_a_person(&self) -> bool {
        self.verb == "peer unblock-loop"
    }

    /// A flag or argument with a value that cannot be right, if the operation has one.
    pub fn misfit(&self) -> Option<Vec<String>> {
        let kind = self.operation?;
        let verb = kind.spec().verb.filter(|verb| !verb.is_drawn_by_hand)?;
        let fields = kind.fields();
        let is_bounded = |kind: &FieldKind| match kind {
            FieldKind::Text | FieldKind::Json | FieldKind::Structured => false,
            FieldKind::Words(words) => !words.is_empty(),
            _ => true,
        };
        let field = fields.iter().find(|field| is_bounded(&field.kind))?;
        let mut words: Vec<String> = verb.words.split(' ').map(str::to_owned).collect();
        let odd = "no!such".to_owned();
        if let Some(at) = verb.positional.iter().position(|name| *name == field.name) {
            words.extend(std::iter::repeat_n("x".to_owned(), at));
            words.push(odd);
            return Some(words);
        }
        let mut words = self.line.clone();
        words.push(format!("--{}={odd}", flag(&field.name)));
        Some(words)
    }
}

/// X1: every verb of the binary has a line here, and no line is for a verb that is gone.
#[test]
fn every_verb_has_a_line_and_every_line_a_verb() {
    let every = every();
    assert!(every.len() > 50, "{}", every.len());
    for (verb, _) in LINES {
        assert!(every.iter().any(|one| one.verb == *verb), "{verb} is no verb");
    }
    for kind in OperationKind::ALL {
        let Some(verb) = kind.spec().verb else { continue };
        assert!(every.iter().any(|one| one.operation == Some(*kind)), "{}", verb.words);
    }
}
