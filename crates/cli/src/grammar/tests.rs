//! Table tests of the grammar: aliases, places of flags, booleans, refusals.

use serde_json::json;

use super::args::{Cli, Command, InboxVerb, MeshVerb, MessageVerb, PriorityWord};
use super::classify::{Invocation, Words, classify};
use super::{Invoked, Parsed, operations, parse};
use crate::failure::Failure;

mod random;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn command_words(line: &str) -> Words {
    match classify(&words(line)) {
        Ok(Invocation::Command(words)) => words,
        other => panic!("{line}: {other:?}"),
    }
}

fn parsed(line: &str) -> Cli {
    match parse(&command_words(line), false) {
        Ok(Parsed::Run(cli)) => *cli,
        Ok(_) => panic!("{line}: help or an operation"),
        Err(failure) => panic!("{line}: {failure:?}"),
    }
}

/// Words as a shell reads them: quotes group, and nothing else is special.
pub(crate) fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for sign in line.chars() {
        match (sign, quote) {
            ('"' | '\'', None) => {
                quote = Some(sign);
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

/// A line that the grammar accepts, drawn by hand or not.
fn reads(line: &str) -> Parsed {
    match classify(&shell_words(line)) {
        Ok(Invocation::Command(words)) => match parse(&words, false) {
            Ok(parsed @ (Parsed::Run(_) | Parsed::Operation(_))) => parsed,
            Ok(Parsed::Help(_)) => panic!("{line}: help"),
            Err(failure) => panic!("{line}: {failure:?}"),
        },
        other => panic!("{line}: {other:?}"),
    }
}

fn invoked(line: &str) -> Invoked {
    match reads(line) {
        Parsed::Operation(invoked) => *invoked,
        _ => panic!("{line}: drawn by hand"),
    }
}

/// Arguments of the operation as JSON.
fn arguments(line: &str) -> serde_json::Value {
    let invoked = invoked(line);
    invoked.kind.arguments(invoked.arguments).unwrap().into()
}

fn refused(line: &str) -> Failure {
    match classify(&words(line)) {
        Err(failure) => failure,
        Ok(Invocation::Command(words)) => match parse(&words, false) {
            Err(failure) => failure,
            Ok(_) => panic!("{line}: accepted"),
        },
        Ok(other) => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_declared_grammar_is_consistent() {
    super::whole().debug_assert();
}

#[test]
fn every_verb_of_the_word_table_is_declared() {
    let mut root = super::whole();
    root.build();
    for verb in super::words::verbs().filter(|verb| verb.canonical != "help") {
        let mut command = &root;
        for word in verb.canonical.split(' ') {
            command = command.find_subcommand(word).unwrap_or_else(|| panic!("{}", verb.canonical));
        }
        assert!(command.get_about().is_some(), "{}", verb.canonical);
    }
}

#[test]
fn value_flags_before_the_command_are_those_of_the_grammar() {
    let root = super::whole();
    let declared: Vec<String> = root
        .get_arguments()
        .filter(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set())
        .filter_map(clap::Arg::get_long)
        .map(|long| format!("--{long}"))
        .collect();
    assert_eq!(declared, super::classify::VALUE_FLAGS);
}

#[test]
fn aliases_read_as_their_canonical_form() {
    for (alias, canonical) in [
        ("send Mou hi", "message send Mou hi"),
        ("inbox --unread", "message inbox --unread"),
        ("inbox flush --all", "message inbox flush --all"),
        ("inbox rm x", "message inbox delete x"),
        ("msg-status abcdefgh", "message status abcdefgh"),
        ("new dev", "mesh create dev"),
        ("workspace new dev", "mesh create dev"),
        ("add ABCD2345", "mesh join ABCD2345"),
        ("ls", "mesh list"),
        ("leave dev", "mesh leave dev"),
        ("invite --uses 2", "mesh share --uses 2"),
        ("peers", "peer list"),
        ("peer", "peer list"),
        ("members", "member list"),
        ("daemon start", "daemon up"),
        ("daemon stop", "daemon down"),
        ("daemon ps", "daemon status"),
        ("--mesh dev send Mou hi", "message send --mesh dev Mou hi"),
        ("--json ls", "mesh list --json"),
    ] {
        assert_eq!(command_words(alias).args, words(canonical), "{alias}");
        parsed(alias);
    }
}

#[test]
fn flags_stand_anywhere() {
    let cli = parsed("--mesh dev send --priority now Mou hello there -q");
    let Command::Message(MessageVerb::Send(send)) = &cli.command else { panic!() };
    assert_eq!((send.to.as_str(), send.text.join(" ").as_str()), ("Mou", "hello there"));
    assert_eq!((send.priority, cli.global.quiet), (PriorityWord::Now, true));
    assert_eq!(cli.global.mesh.as_deref(), Some("dev"));
}

#[test]
fn a_flag_that_takes_no_value_never_swallows_a_word() {
    let cli = parsed("send --self abcdef hi");
    let Command::Message(MessageVerb::Send(send)) = &cli.command else { panic!() };
    assert_eq!((send.to_self, send.to.as_str()), (true, "abcdef"));
}

#[test]
fn booleans_take_a_written_value() {
    for (line, expected) in
        [("peers --all=true", true), ("peers --all=false", false), ("peers --all=no", false)]
    {
        let Command::Peer(super::args::PeerVerb::List(list)) = parsed(line).command else {
            panic!()
        };
        assert_eq!(list.all, expected, "{line}");
    }
}

#[test]
fn the_last_value_wins_for_values_given_twice() {
    // A flag with one value given twice is read as its last one.
    let cli = parsed("list --mesh a --mesh b");
    assert_eq!(cli.global.mesh.as_deref(), Some("b"));
}

#[test]
fn field_lists_in_both_forms_are_the_same() {
    for line in [
        "peer list --json=name,status",
        "peer list --json name,status",
        "peers --fields name,status",
    ] {
        assert_eq!(parsed(line).global.requested_fields(), ["name", "status"], "{line}");
    }
    let cli = parsed("send --json Mou hi");
    assert!(cli.global.wants_json() && cli.global.requested_fields().is_empty());
}

#[test]
fn stdin_dash_and_negative_numbers_are_words() {
    let Command::Message(MessageVerb::Send(send)) = parsed("send Mou -").command else { panic!() };
    assert_eq!(send.text, ["-"]);
    let Command::Message(MessageVerb::Send(send)) = parsed("send Mou -5 degrees").command else {
        panic!()
    };
    assert_eq!(send.text, ["-5", "degrees"]);
    let failure = refused("inbox --limit -5");
    assert_eq!((failure.exit, failure.message.as_str()), (3, "inbox: --limit \"-5\""));
}

#[test]
fn optional_waits() {
    let wait = |line: &str| match parsed(line).command {
        Command::Message(MessageVerb::Inbox(inbox)) => inbox.wait,
        _ => panic!(),
    };
    assert_eq!(wait("inbox"), None);
    assert_eq!(wait("inbox --wait").map(|wait| wait.as_secs()), Some(30));
    assert_eq!(wait("inbox --wait=5s").map(|wait| wait.as_secs()), Some(5));
}

#[test]
fn inbox_has_verbs_of_its_own() {
    let Command::Message(MessageVerb::Inbox(inbox)) = parsed("inbox flush --mesh dev").command
    else {
        panic!()
    };
    assert!(matches!(inbox.verb, Some(InboxVerb::Flush(_))));
}

#[test]
fn versions_and_help_are_found_anywhere() {
    assert_eq!(classify(&words("send Mou -V")).unwrap(), Invocation::Version);
    assert_eq!(classify(&words("--version")).unwrap(), Invocation::Version);
    assert_eq!(classify(&words("--help")).unwrap(), Invocation::Help(None));
    assert_eq!(classify(&words("help")).unwrap(), Invocation::Help(None));
    assert_eq!(classify(&words("help all")).unwrap(), Invocation::Help(Some("all".into())));
    assert!(
        matches!(parse(&command_words("help send"), false), Ok(Parsed::Help(text)) if text.contains("--reply-to"))
    );
    assert!(matches!(parse(&command_words("mesh --help"), false), Ok(Parsed::Help(_))));
    assert!(matches!(parse(&command_words("daemon"), false), Ok(Parsed::Help(_))));
}

#[test]
fn a_bare_invite_link_joins_and_a_bare_code_does_not() {
    let words = command_words("https://mesh.example.org/i/ABCD2345 -y");
    assert_eq!(
        (words.canonical, words.args.join(" ").as_str()),
        ("mesh join", "mesh join https://mesh.example.org/i/ABCD2345 -y")
    );
    assert_eq!(refused("ABCD2345").code, "unknown_command");
}

#[test]
fn nothing_but_flags_is_a_bare_call() {
    assert_eq!(classify(&[]).unwrap(), Invocation::Bare(vec![]));
    assert_eq!(classify(&words("--json")).unwrap(), Invocation::Bare(words("--json")));
}

#[test]
fn the_error_catalogue() {
    for (line, message, detail) in [
        ("sned Mou hi", "unknown command \"sned\"", "did you mean: send"),
        (
            "send Mou hi --form-stdin",
            "send: unknown flag --form-stdin",
            "did you mean: --from-stdin",
        ),
        ("send Mou hi --priority", "send: flag --priority needs a value", ""),
        (
            "send Mou hi --priority urgent",
            "send: --priority \"urgent\"",
            "expected: now, next, low",
        ),
        ("send", "send: missing <to>", "usage: claudemesh send <to> <text…>"),
        ("leave", "leave: missing <slug>", "usage: claudemesh leave <slug>"),
        ("list extra", "list: unexpected argument \"extra\"", "usage: claudemesh list"),
        ("list -- extra", "unexpected arguments after --", "usage: claudemesh list"),
        (
            "mesh",
            "mesh: missing <verb>",
            "expected: create, join, list, leave, share, info, stats, ping",
        ),
        ("daemon bogus", "daemon: unknown verb \"bogus\"", "did you mean: daemon logs"),
        ("mesh lst", "mesh: unknown verb \"lst\"", "did you mean: mesh list"),
        (
            "completions",
            "completions: missing <shell>",
            "usage: claudemesh completions <bash|zsh|fish|powershell>",
        ),
        (
            "completions tcsh",
            "completions: <shell> \"tcsh\"",
            "expected: bash, zsh, fish, powershell",
        ),
        ("share --uses 0", "share: --uses \"0\"", ""),
        (
            "share --expires soon",
            "share: --expires \"soon\"",
            "expected: a duration such as 30s, 10m, 2h or 7d",
        ),
        ("inbox --limit 1001", "inbox: --limit \"1001\"", "expected: 1 to 1000"),
    ] {
        let failure = refused(line);
        assert_eq!((failure.exit, failure.message.as_str()), (3, message), "{line}");
        assert!(
            detail.is_empty() || failure.details.iter().any(|line| line == detail),
            "{line}: {:?}",
            failure.details
        );
    }
}

#[test]
fn every_example_in_help_text_parses() {
    fn walk(command: &clap::Command, examples: &mut Vec<String>) {
        if let Some(text) = command.get_after_help() {
            let text = text.to_string();
            examples.extend(
                text.lines()
                    .filter_map(|line| line.trim().strip_prefix("claudemesh ").map(str::to_owned)),
            );
        }
        for sub in command.get_subcommands() {
            walk(sub, examples);
        }
    }
    let mut root = super::whole();
    root.build();
    let mut examples = Vec::new();
    walk(&root, &mut examples);
    assert!(examples.len() > 40);
    for example in examples {
        reads(example.split(" >").next().unwrap());
    }
}

#[test]
fn create_with_all_its_flags() {
    let Command::Mesh(MeshVerb::Create(create)) =
        parsed("create dev --slug d2 --description x").command
    else {
        panic!()
    };
    assert_eq!((create.name.as_str(), create.slug.as_deref()), ("dev", Some("d2")));
}

/// X1: every example of the table is a command line that works.
#[test]
fn every_example_of_the_operation_table_parses() {
    for (kind, verb) in operations::kinds() {
        assert!(!verb.examples.is_empty(), "{}", verb.words);
        for (line, what) in verb.examples {
            assert!(!what.is_empty());
            let invoked = invoked(line);
            assert_eq!(invoked.kind, kind, "{line}");
            invoked.kind.arguments(invoked.arguments).unwrap_or_else(|why| panic!("{line}: {why}"));
        }
    }
}

/// X1, CLI spec §1.3: an alias is its canonical form, to the byte.
#[test]
fn every_alias_of_the_operation_table_reads_as_its_canonical_words() {
    for verb in super::words::verbs().filter(|verb| !matches!(verb.canonical, "help" | "broker")) {
        let rest = verb.generic().and_then(|kind| kind.spec().verb).map_or("", |declared| {
            let line = declared.examples[0].0;
            let form =
                verb.forms().filter(|form| line.starts_with(form)).max_by_key(|form| form.len());
            line.strip_prefix(form.unwrap()).unwrap()
        });
        let canonical = classify(&shell_words(&format!("{}{rest}", verb.canonical)));
        for alias in verb.aliases {
            let read = classify(&shell_words(&format!("{alias}{rest}")));
            let (Ok(Invocation::Command(alias_words)), Ok(Invocation::Command(words))) =
                (read, &canonical)
            else {
                panic!("{alias}");
            };
            assert_eq!((&alias_words.args, alias_words.canonical), (&words.args, words.canonical));
            assert_eq!(alias_words.operation, words.operation, "{alias}");
        }
    }
}

/// X2.
#[test]
fn every_operation_refuses_an_unknown_flag_and_a_missing_argument() {
    for (_, verb) in operations::kinds() {
        let failure = refused(&format!("{} --no-such-flag", verb.words));
        assert_eq!(failure.exit, 3, "{}", verb.words);
        assert!(failure.message.contains("unknown flag --no-such-flag"), "{}", failure.message);
        let needs =
            operations::usage(super::words::of_canonical(verb.words).unwrap().operation.unwrap());
        if needs.contains('<') && !needs.starts_with('[') {
            let failure = refused(verb.words);
            assert_eq!(failure.exit, 3, "{}", verb.words);
            assert!(failure.message.contains("missing"), "{}", failure.message);
            assert!(failure.details.iter().any(|line| line.starts_with("usage: claudemesh ")));
        }
    }
}

/// CLI spec §3.10.
#[test]
fn a_value_is_json_when_it_reads_as_json() {
    for (line, expected) in [
        ("state set k 5", json!({ "key": "k", "value": 5 })),
        ("state set k -5", json!({ "key": "k", "value": -5 })),
        ("state set k 5 --string", json!({ "key": "k", "value": "5" })),
        ("state set k five", json!({ "key": "k", "value": "five" })),
        ("state set k null", json!({ "key": "k", "value": null })),
        ("state set --mesh dev k '{\"a\":[1]}'", json!({ "key": "k", "value": { "a": [1] } })),
        ("state set k 5 --if-version 3", json!({ "key": "k", "value": 5, "ifVersion": 3 })),
        ("state list", json!({})),
        ("state list --prefix=deploy/", json!({ "prefix": "deploy/" })),
    ] {
        assert_eq!(arguments(line), expected, "{line}");
    }
    let failure = refused("state set k");
    assert_eq!(
        (failure.message.as_str(), failure.details[0].as_str()),
        ("state set: missing <value>", "usage: claudemesh state set <key> <value>")
    );
    let failure = refused("state set k 5 --if-version soon");
    assert_eq!(failure.message, "state set: --if-version \"soon\"");
    assert_eq!(failure.details, ["expected: a whole number"]);
}

/// CLI spec §3.4: exactly one of a peer, `--stale`, `--all`.
#[test]
fn a_kick_names_whom_in_exactly_one_way() {
    assert_eq!(arguments("kick Mou"), json!({ "target": "Mou" }));
    assert_eq!(arguments("peer kick --stale 30m"), json!({ "stale": 1_800_000 }));
    assert_eq!(arguments("kick --all"), json!({ "all": true }));
    assert_eq!(arguments("disconnect Mou --all=false"), json!({ "target": "Mou" }));
    for (line, message) in [
        ("kick", "kick: missing <target> or --stale or --all"),
        ("kick --all=no", "kick: missing <target> or --stale or --all"),
        ("kick Mou --all", "kick: --all cannot be used with <target>"),
        ("disconnect Mou --stale 5s", "disconnect: --stale cannot be used with <target>"),
        ("kick --stale soon", "kick: --stale \"soon\""),
    ] {
        let failure = refused(line);
        assert_eq!((failure.exit, failure.message.as_str()), (3, message));
    }
}

/// CLI spec §3.5.
#[test]
fn capabilities_are_words_of_a_closed_list() {
    for (line, expected) in [
        ("grant Mou file-read", json!({ "peer": "Mou", "capabilities": ["file-read"] })),
        ("grant Mou dm read", json!({ "peer": "Mou", "capabilities": ["dm", "read"] })),
        ("revoke Mou dm,read", json!({ "peer": "Mou", "capabilities": ["dm", "read"] })),
        ("grant Mou all", json!({ "peer": "Mou" })),
        ("grant Mou --reset", json!({ "peer": "Mou", "reset": true })),
    ] {
        assert_eq!(arguments(line), expected, "{line}");
    }
    assert_eq!(refused("grant Mou").exit, 3, "forgetting the word does not give everything");
    let failure = refused("grant Mou flymode");
    assert_eq!(failure.message, "grant: <capabilities> \"flymode\"");
    assert!(failure.details.concat().contains("state-write"), "{:?}", failure.details);
    assert_eq!(refused("grant Mou dm --reset").exit, 3);
}

/// CLI spec §3.7.
#[test]
fn profile_verbs_read_words_and_answers() {
    for (line, expected) in [
        ("visible yes", json!({ "visible": true })),
        ("visible off", json!({ "visible": false })),
        ("profile visible 0", json!({ "visible": false })),
        ("summary reviewing the parser", json!({ "summary": "reviewing the parser" })),
        ("summary --clear", json!({ "summary": "" })),
        ("status set dnd", json!({ "status": "dnd" })),
        ("group join @eng/core --role lead", json!({ "name": "eng/core", "role": "lead" })),
        (
            "profile edit --capabilities rust,ci --capabilities sql",
            json!({ "capabilities": ["rust", "ci", "sql"] }),
        ),
    ] {
        assert_eq!(arguments(line), expected, "{line}");
    }
    for (line, message, detail) in [
        ("status set busy", "status set: <status> \"busy\"", "expected: idle, working, dnd"),
        ("visible maybe", "visible: <visible> \"maybe\"", "expected: yes or no"),
        ("summary", "summary: missing <summary>", "usage: claudemesh summary <summary…> | --clear"),
        (
            "group join a@b",
            "group join: <name> \"a@b\"",
            "expected: a name such as eng, eng/core or @eng",
        ),
    ] {
        let failure = refused(line);
        assert_eq!((failure.exit, failure.message.as_str()), (3, message));
        assert_eq!(failure.details, [detail], "{line}");
    }
    assert_eq!(refused("summary busy --clear").exit, 3);
}

#[test]
fn a_resource_has_a_page_and_a_wrong_verb_a_suggestion() {
    for resource in ["state", "grant", "audit", "profile", "policy", "workspace"] {
        let words = command_words(&format!("{resource} --help"));
        assert!(matches!(parse(&words, false), Ok(Parsed::Help(_))), "{resource}");
        assert_eq!(refused(resource).exit, 3, "{resource}");
    }
    let failure = refused("state gett k");
    assert_eq!(failure.message, "state: unknown verb \"gett\"");
    assert!(failure.details.contains(&"did you mean: state get".to_owned()));
    let failure = refused("peer kik Mou");
    assert!(failure.details.contains(&"did you mean: peer kick".to_owned()), "{failure:?}");
}
