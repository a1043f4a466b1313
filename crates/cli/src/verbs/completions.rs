//! `completions`: scripts generated from the declared grammar, with every alias (CLI spec §6.7).

use clap_complete::{Shell as Generator, generate};

use crate::grammar::args::Shell;
use crate::grammar::{self, words};
use crate::output::{Document, Report, Screen};

/// Runs the verb.
pub(crate) fn run(shell: Shell) -> Report {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
        Shell::Powershell => Generator::PowerShell,
    };
    let mut script = Vec::new();
    generate(generator, &mut tree(), "claudemesh", &mut script);
    Report::new(Document::Raw(String::from_utf8_lossy(&script).into_owned()), Screen::new())
}

/// The command tree as people may type it: canonical words and aliases of one or two words.
pub(crate) fn tree() -> clap::Command {
    let canonical = grammar::whole();
    let aliases = |words: usize| {
        words::verbs()
            .flat_map(|verb| verb.aliases.iter().map(move |alias| (verb.canonical, *alias)))
            .filter(move |(_, alias)| alias.split(' ').count() == words)
    };
    let mut tree = canonical.clone();
    // Those of one word first: `members` lists, and has `members list` below it.
    for (target, alias) in aliases(1) {
        if let (Some(command), None) = (find(&canonical, target), tree.find_subcommand(alias)) {
            tree = tree.subcommand(command.clone().name(alias).display_name(alias));
        }
    }
    for (target, alias) in aliases(2) {
        let (Some(command), Some((first, second))) =
            (find(&canonical, target), alias.split_once(' '))
        else {
            continue;
        };
        if tree.find_subcommand(first).is_none() {
            tree = tree.subcommand(clap::Command::new(first));
        }
        tree = tree.mut_subcommand(first, |parent| {
            if parent.find_subcommand(second).is_some() {
                return parent;
            }
            parent.subcommand(command.clone().name(second).display_name(second))
        });
    }
    tree.subcommand(clap::Command::new("help").about("Show help"))
}

fn find<'a>(root: &'a clap::Command, canonical: &str) -> Option<&'a clap::Command> {
    canonical.split(' ').try_fold(root, |command, word| command.find_subcommand(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::words::first_words;

    #[test]
    fn every_first_word_can_be_completed() {
        let tree = tree();
        for word in first_words() {
            assert!(tree.find_subcommand(word).is_some(), "{word}");
        }
        tree.debug_assert();
    }

    #[test]
    fn every_shell_gets_a_script_with_nested_words_and_dashes() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Powershell] {
            let Document::Raw(script) = run(shell).document else { panic!() };
            for word in ["msg-status", "flush", "state", "if-version", "unban", "workspace"] {
                assert!(script.contains(word), "{shell:?}: {word}");
            }
        }
    }
}
