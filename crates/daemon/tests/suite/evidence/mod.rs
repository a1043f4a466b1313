//! What agents' own records prove: read from real files, written down, said to the senders (agents spec §1.8, daemon spec
//! §10.7).

mod crash;
mod dialog;
mod files;
mod ladder;
mod lost;
mod stage;
