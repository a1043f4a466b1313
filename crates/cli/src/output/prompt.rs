//! Questions. They go to stderr, and only when [`Output::may_prompt`] allows one (CLI spec §1.11, §8.4).

use claudemesh_protocol::error::ErrorCode;
use inquire::{Confirm, InquireError, Select};

use super::Output;
use crate::failure::{Failure, Outcome};

/// Rows of a list that are visible at once.
const PAGE: usize = 7;

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
                .detail(question.to_owned())
                .action("pass -y"));
        }
        let answer = Confirm::new(question).with_default(default == Default::Yes).prompt();
        answer.map_err(|error| cancelled(&error))
    }
}

/// Lets the person choose one of several; the caller has checked [`Output::may_prompt`].
///
/// # Errors
/// Cancelled when the person breaks off.
pub(crate) fn choose(question: &str, options: Vec<String>) -> Outcome<String> {
    let answer = Select::new(question, options).with_page_size(PAGE).prompt();
    answer.map_err(|error| cancelled(&error))
}

fn cancelled(error: &InquireError) -> Failure {
    let mut failure = Failure::of_word("cancelled", "cancelled");
    failure.exit = claudemesh_protocol::error::ExitCode::Cancelled as u8;
    match error {
        InquireError::OperationCanceled | InquireError::OperationInterrupted => failure,
        other => failure.caused_by(other),
    }
}
