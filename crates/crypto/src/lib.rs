//! Cryptography of claudemesh: identities, boxes, sealed keys, signed statements, tokens, secrets at rest.
//!
//! This crate composes audited primitives and invents none. It does no I/O besides asking the operating system for
//! randomness, and keeps no state besides [`direct::SharedKeyCache`]. Formats are those of wire spec §5, checked
//! against the vectors in `vectors/crypto.json`.

pub mod at_rest;
pub mod attestation;
pub mod audit;
pub mod backup;
pub mod direct;
pub mod envelope;
pub mod exchange;
pub mod fingerprint;
pub mod group;
pub mod hash;
pub mod hello;
pub mod host;
pub mod identity;
pub mod invite;
pub mod jwt;
pub mod key_box;
pub mod p2p;
pub mod proof;
pub mod random;
pub mod receipt;
pub mod resume;
pub mod rotation;
pub mod safety;
pub mod sealed;
pub mod secretbox;
pub mod service;
pub mod signed_http;
pub mod statement;
pub mod tokens;
pub mod topic;
pub mod webhook;

pub use identity::{BadSignature, KeyPair, SecretKeyError, verify_strict};
