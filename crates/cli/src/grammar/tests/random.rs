//! X9: whatever is typed, the grammar answers; it never panics, and refuses only with exit codes of the table.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::classify::{Invocation, VALUE_FLAGS, classify};
use super::super::{Parsed, outlined, output_flags, parse, refusal, scanned_flags, words};

/// Vectors of one run.
const VECTORS: usize = 2_000;

/// Words that are no words.
const ODD: [&str; 26] = [
    "",
    " ",
    "-",
    "--",
    "---",
    "=",
    "--=",
    "--=x",
    "-=",
    "--json=",
    "--json=,",
    "--json=a.b.c,d",
    "-é",
    "😀",
    "\u{202e}",
    "@",
    "@all",
    "#x",
    "*",
    "~",
    "a\nb",
    "\u{0}",
    "-yq",
    "-yqx",
    "9999999999999999999999",
    "--flag=false",
];

/// Every flag of the grammar drawn by hand, and of operations.
fn flags() -> Vec<String> {
    fn collect(command: &clap::Command, into: &mut Vec<String>) {
        into.extend(
            command.get_arguments().filter_map(clap::Arg::get_long).map(|long| format!("--{long}")),
        );
        command.get_subcommands().for_each(|sub| collect(sub, into));
    }
    let mut flags: Vec<String> = VALUE_FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    collect(&super::super::whole(), &mut flags);
    flags.sort_unstable();
    flags.dedup();
    flags
}

#[test]
fn no_vector_of_arguments_makes_the_grammar_panic() {
    let seed = 20_261_121;
    let mut random = StdRng::seed_from_u64(seed);
    let forms: Vec<&str> = words::verbs().flat_map(words::Verb::forms).collect();
    let flags = flags();
    assert!(forms.len() > 80 && flags.len() > 50 && outlined().get_subcommands().count() > 10);
    for _ in 0..VECTORS {
        let mut args: Vec<String> = Vec::new();
        if random.random_ratio(9, 10) {
            let form = forms[random.random_range(0..forms.len())];
            args.extend(form.split(' ').map(str::to_owned));
        }
        for _ in 0..random.random_range(0..6) {
            let word = match random.random_range(0..5) {
                0 => flags[random.random_range(0..flags.len())].clone(),
                1 => format!(
                    "{}={}",
                    flags[random.random_range(0..flags.len())],
                    ODD[random.random_range(0..ODD.len())]
                ),
                2 => ODD[random.random_range(0..ODD.len())].to_owned(),
                3 => forms[random.random_range(0..forms.len())].to_owned(),
                _ => ["Mou", "home", "5", "-5", "2h", "true", "no", "a,b", "{}"]
                    [random.random_range(0..9)]
                .to_owned(),
            };
            let at = random.random_range(0..=args.len());
            args.insert(at, word);
        }
        // A value from stdin would wait for one.
        args.retain(|word| word != "-" && !word.ends_with("=-"));
        let _ = scanned_flags(&args);
        let exit = match classify(&args) {
            Ok(Invocation::Command(words)) if words.canonical != "broker" => {
                match parse(&words, false) {
                    Ok(Parsed::Run(cli)) => {
                        output_flags(&cli.global).err().map(|failure| failure.exit)
                    }
                    Ok(Parsed::Operation(invoked)) => {
                        output_flags(&invoked.global).err().map(|failure| failure.exit)
                    }
                    Ok(Parsed::Help(_)) => None,
                    Err(failure) => {
                        assert!(!failure.message.is_empty(), "{args:?}");
                        let _ = refusal::usage(&words);
                        Some(failure.exit)
                    }
                }
            }
            Ok(_) => None,
            Err(failure) => Some(failure.exit),
        };
        assert!(exit.is_none_or(|exit| exit == 3), "{args:?}: {exit:?} (seed {seed})");
    }
}
