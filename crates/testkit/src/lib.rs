//! Real parts for tests: a throwaway PostgreSQL, ways that go silent, a model that is none, and the real coding agents that
//! talk to it.

#[cfg(feature = "agents")]
pub mod agents;
#[cfg(feature = "agents")]
pub mod model;
pub mod postgres;
pub mod way;
