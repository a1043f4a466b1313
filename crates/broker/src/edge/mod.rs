//! The edge: WebSocket and HTTP. It translates, authenticates and bounds; rules live further in.

pub(crate) mod error;
pub(crate) mod handshake;
pub(crate) mod health;
pub(crate) mod hook;
pub(crate) mod http;
pub(crate) mod limit;
pub(crate) mod listener;
pub(crate) mod request;
pub(crate) mod upgrade;
pub(crate) mod ws;
