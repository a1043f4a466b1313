//! `skill`: prints the bundled skill (CLI spec §3.14, appendix B).

use claudemesh_agents::install::{NAME, SKILL};
use serde_json::json;

use crate::context::Context;
use crate::output::{Document, Fields, Report, Screen};

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields { names: &["name", "content"], id: "name" };

/// Runs the verb: the text as it is, on any terminal.
pub(crate) fn run(context: &Context) -> Report {
    let document = if context.out.is_json() {
        Document::object(json!({ "name": NAME, "content": SKILL }))
    } else {
        Document::Raw(SKILL.to_owned())
    };
    Report::new(document, Screen::new())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::SKILL;
    use crate::grammar::classify::{Invocation, classify};
    use crate::grammar::tests::shell_words;
    use crate::grammar::{parse, words};

    /// Longest skill (MCP spec §10.5).
    const LINES_MAX: usize = 500;

    /// The commands of the fenced blocks, without the programs before and behind them.
    fn commands() -> Vec<&'static str> {
        let blocks = SKILL.split("\n```sh\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
        let lines = blocks.flat_map(|(block, _)| block.lines());
        lines
            .map(|line| {
                let ours = line.split(" | ").find(|part| part.starts_with("claudemesh "));
                ours.unwrap_or_else(|| panic!("no command of ours: {line}"))
            })
            .collect()
    }

    /// Commands that stand in a sentence.
    fn mentioned() -> impl Iterator<Item = &'static str> {
        SKILL.split('`').filter_map(|part| part.strip_prefix("claudemesh "))
    }

    fn canonical(line: &str) -> Option<&'static str> {
        let args: Vec<String> = shell_words(line).into_iter().skip(1).collect();
        match classify(&args).unwrap_or_else(|failure| panic!("{line}: {}", failure.message)) {
            Invocation::Command(words) => Some(words.canonical),
            Invocation::Help(_) => Some("help"),
            Invocation::Version | Invocation::Bare(_) => None,
        }
    }

    /// MCP spec §10.5, CLI spec appendix B: what the skill teaches is what the grammar takes.
    #[test]
    fn every_command_line_of_the_skill_is_one() {
        let commands = commands();
        assert!(commands.len() > 80, "{}", commands.len());
        for line in commands {
            let args: Vec<String> = shell_words(line).into_iter().skip(1).collect();
            let Ok(Invocation::Command(words)) = classify(&args) else {
                assert_eq!(canonical(line), Some("help"), "{line}");
                continue;
            };
            if let Err(failure) = parse(&words, false) {
                panic!("{line}: {}: {:?}", failure.message, failure.details);
            }
        }
        for words in mentioned() {
            assert!(canonical(&format!("claudemesh {words}")).is_some(), "{words}");
        }
    }

    #[test]
    fn every_verb_is_in_the_skill() {
        let lines = commands().into_iter().map(str::to_owned);
        let lines = lines.chain(mentioned().map(|words| format!("claudemesh {words}")));
        let found: BTreeSet<&str> = lines.filter_map(|line| canonical(&line)).collect();
        let missing: Vec<&str> = words::verbs()
            .map(|verb| verb.canonical)
            .filter(|verb| !found.contains(verb))
            .collect();
        assert!(missing.is_empty(), "the skill does not say a word of {missing:?}");
    }

    #[test]
    fn the_skill_has_the_form_that_agents_read() {
        assert!(SKILL.starts_with("---\nname: claudemesh\ndescription: "));
        assert!(SKILL.ends_with('\n') && !SKILL.ends_with("\n\n"));
        assert!(SKILL.lines().count() <= LINES_MAX);
        let description = SKILL.lines().nth(2).unwrap_or_default();
        // The client cuts it there.
        assert!(description.chars().count() <= 1536);
    }
}
