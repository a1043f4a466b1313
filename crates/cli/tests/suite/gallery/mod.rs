//! What each verb shows: stdout, stderr and exit code of its success, at two widths and as JSON, and of every error it
//! can answer. [`walk`] finds the verbs and the errors that nobody has looked at.

mod administration;
mod agents;
mod care;
mod daemon;
mod identity;
mod machine;
mod mesh;
mod messages;
mod page;
mod presence;
mod refusals;
mod rights;
mod state;
mod trust;
mod walk;
