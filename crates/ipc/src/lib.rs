//! The daemon's local API as its clients see it: where things lie ([`paths`]), what is said ([`api`]), and a small
//! client over the Unix socket ([`Client`]). The server side lives in the daemon; nothing here knows the broker.

pub mod api;
pub mod client;
pub mod env;
pub mod error;
pub mod events;
pub mod paths;
pub mod policy;
pub mod token;

pub use client::{Client, StandIn};
pub use error::{ApiError, IpcError};
pub use events::EventStream;
pub use paths::Paths;
pub use token::SessionToken;
