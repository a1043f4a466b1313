//! Real parts for tests: a throwaway PostgreSQL now, brokers, daemons and peers beside it.

pub mod postgres;
pub mod way;
