//! `completions`: scripts generated from the declared grammar, with every alias (CLI spec §6.7).

use clap::CommandFactory as _;
use clap_complete::{Shell as Generator, generate};

use crate::grammar::args::{Cli, Shell};
use crate::grammar::words::VERBS;
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
    let canonical = Cli::command();
    let mut tree = canonical.clone();
    for verb in VERBS {
        let Some(command) = find(&canonical, verb.canonical) else { continue };
        for alias in verb.aliases {
            tree = match alias.split_once(' ') {
                None if tree.find_subcommand(alias).is_none() => {
                    tree.subcommand(command.clone().name(*alias).display_name(*alias))
                }
                Some((first, second))
                    if !second.contains(' ') && tree.find_subcommand(first).is_some() =>
                {
                    tree.mut_subcommand(first, |parent| {
                        if parent.find_subcommand(second).is_some() {
                            return parent;
                        }
                        parent.subcommand(command.clone().name(second).display_name(second))
                    })
                }
                _ => tree,
            };
        }
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
        for word in
            first_words().into_iter().filter(|word| !matches!(*word, "workspace" | "members"))
        {
            assert!(tree.find_subcommand(word).is_some(), "{word}");
        }
        tree.debug_assert();
    }

    #[test]
    fn every_shell_gets_a_script_with_nested_words_and_dashes() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Powershell] {
            let Document::Raw(script) = run(shell).document else { panic!() };
            assert!(script.contains("msg-status") && script.contains("flush"));
        }
    }
}
