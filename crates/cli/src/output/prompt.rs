//! Questions. They go to stderr, and only when [`Output::may_prompt`] allows one (CLI spec §1.11, §8.4).

mod hidden;

use std::time::Instant;

use claudemesh_protocol::error::ErrorCode;
use inquire::ui::{RenderConfig, Styled};
use inquire::{Confirm, InquireError, Select, Text};

use super::style::cells;
use super::{Icon, Line, Output, Screen, Token};
use crate::failure::{Failure, Outcome};

/// Rows of a list that are visible at once.
const PAGE: usize = 7;

/// Cells around a question: its sign before it, ` (y/N) ` and the answer after it.
const AROUND_QUESTION: usize = 12;

/// What Enter alone answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Default {
    Yes,
    No,
}

impl Output {
    /// Asks a yes/no question. Without a terminal it fails closed: exit 7, naming `-y`.
    ///
    /// # Errors
    /// `confirmation required` without a terminal; cancelled when the person breaks off.
    pub(crate) fn confirm(&self, question: &str, default: Default) -> Outcome<bool> {
        if !self.may_prompt() {
            return Err(Failure::new(ErrorCode::Forbidden, "confirmation required")
                .detail(question.rsplit_once(". ").map_or(question, |(about, _)| about).to_owned())
                .action("pass -y"));
        }
        let question = self.stderr.characters(question);
        let (about, question) = split_to_fit(&question, self.stderr.width);
        if let Some(about) = about {
            let mut screen = Screen::new();
            screen.line(Line::new().indent(0).icon(Icon::Attention).put(Token::Plain, about));
            self.aside(&screen);
        }
        self.ask(|config| {
            Confirm::new(question)
                .with_default(default == Default::Yes)
                .with_render_config(config)
                .prompt()
        })
    }

    /// Lets the person choose one of several; the caller has checked [`Output::may_prompt`].
    ///
    /// # Errors
    /// Cancelled when the person breaks off.
    pub(crate) fn choose(&self, question: &str, options: Vec<String>) -> Outcome<String> {
        self.ask(|config| {
            Select::new(question, options)
                .with_page_size(PAGE)
                .with_render_config(config)
                .with_help_message(self.stderr.pick_help())
                .prompt()
        })
    }

    /// Asks for a line of text; the caller has checked [`Output::may_prompt`].
    ///
    /// # Errors
    /// Cancelled when the person breaks off.
    pub(crate) fn ask_text(&self, question: &str) -> Outcome<String> {
        let (about, question) = split_to_fit(question, self.stderr.width);
        if let Some(about) = about {
            let mut screen = Screen::new();
            screen.line(Line::new().indent(0).icon(Icon::Attention).put(Token::Plain, about));
            self.aside(&screen);
        }
        self.ask(|config| Text::new(question).with_render_config(config).prompt())
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(RenderConfig<'static>) -> Result<T, InquireError>,
    ) -> Outcome<T> {
        let began = Instant::now();
        let answer = question(self.question_style());
        *self.asked.lock() += began.elapsed();
        answer.map_err(|error| cancelled(&error))
    }

    /// Our signs, and ASCII where nothing else can be shown.
    fn question_style(&self) -> RenderConfig<'static> {
        let config = if self.stderr.colour {
            RenderConfig::default_colored()
        } else {
            RenderConfig::empty()
        };
        let unicode = self.stderr.unicode;
        let sign = |icon: Icon| Styled::new(icon.text(unicode));
        config
            .with_prompt_prefix(sign(Icon::Attention))
            .with_answered_prompt_prefix(sign(Icon::Done))
            .with_highlighted_option_prefix(sign(Icon::Next))
            .with_scroll_up_prefix(Styled::new("^"))
            .with_scroll_down_prefix(Styled::new("v"))
    }
}

/// A question that is too wide for the terminal becomes a text, which we wrap between words, and its last sentence: the
/// library breaks lines anywhere.
fn split_to_fit(question: &str, width: Option<usize>) -> (Option<&str>, &str) {
    let fits = width.is_none_or(|width| cells(question) + AROUND_QUESTION <= width);
    match question.rsplit_once(". ") {
        Some((about, asked)) if !fits => (Some(about), asked),
        _ => (None, question),
    }
}

fn cancelled(error: &InquireError) -> Failure {
    let mut failure = Failure::of_word("cancelled", "cancelled");
    failure.exit = claudemesh_protocol::error::ExitCode::Cancelled as u8;
    match error {
        InquireError::OperationCanceled | InquireError::OperationInterrupted => failure,
        other => failure.caused_by(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_does_not_fit_is_asked_in_two_parts() {
        let long = "peer ban Bob on home — affects another member's membership. Continue?";
        assert_eq!(split_to_fit(long, Some(100)), (None, long));
        assert_eq!(split_to_fit(long, None), (None, long));
        let about = "peer ban Bob on home — affects another member's membership";
        assert_eq!(split_to_fit(long, Some(80)), (Some(about), "Continue?"));
        let short = "Join through broker.example.org?";
        assert_eq!(split_to_fit(short, Some(30)), (None, short), "one sentence stays whole");
    }
}
