//! Tools mode: the operations of the table as MCP tools (MCP spec §1, §6).
//!
//! Nothing here knows an operation by name. Which tools there are, what they take and answer, and what they may change is
//! declared in [`claudemesh_protocol::ops`]; the daemon does the work.

mod call;
mod failure;
mod gate;
mod listing;
mod outcome;
mod question;
mod select;
mod tally;
mod text;

pub(crate) use call::{Call, Runner};
pub(crate) use failure::Failure;
pub(crate) use gate::Gate;
pub use gate::Rules;
pub use listing::entry;
pub(crate) use listing::{Revision, listing};
pub(crate) use outcome::{Outcome, busy};
pub(crate) use question::Questions;
pub use select::{Toolset, UnknownTools};
pub(crate) use tally::Tally;
pub use text::{Render, Shown, ToolText};
