//! Coding agents, seen from outside: which files of theirs say that they work with us, how a stranger's words are put
//! before their models, and what their own records prove about it. Knows no network, starts nothing, and touches no file:
//! it turns text into text.

pub mod agent;
pub mod answer;
pub mod event;
pub mod install;
pub mod record;
pub mod render;
pub mod settings;
