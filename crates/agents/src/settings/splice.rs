//! The smallest change of a text, which can be taken back.

use serde::{Deserialize, Serialize};

/// At one place some text goes and other text comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Byte in the text before the step.
    pub at: usize,
    /// What goes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cut: String,
    /// What comes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub put: String,
}

impl Step {
    /// The step that leads back.
    #[must_use]
    pub fn back(&self) -> Self {
        Self { at: self.at, cut: self.put.clone(), put: self.cut.clone() }
    }

    /// The text after the step; `None` when what should go does not stand there.
    pub fn apply(&self, text: &str) -> Option<String> {
        let (before, rest) = text.split_at_checked(self.at)?;
        let after = rest.strip_prefix(self.cut.as_str())?;
        Some([before, &self.put, after].concat())
    }
}

/// A text on its way, with every step so far.
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) steps: Vec<Step>,
}

impl Draft {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), steps: Vec::new() }
    }

    /// Replaces what stands in a range of the text as it is now; outside of it nothing happens.
    pub(super) fn replace(&mut self, range: std::ops::Range<usize>, put: &str) {
        let cut = self.text.get(range.clone()).unwrap_or_default().to_owned();
        if cut == put {
            return;
        }
        let step = Step { at: range.start, cut, put: put.to_owned() };
        if let Some(text) = step.apply(&self.text) {
            self.text = text;
            self.steps.push(step);
        }
    }
}
