//! The broker's use of the receipt ladder (wire spec §3.1, Receipts): the rule itself stands in `protocol`, because the
//! sender's daemon keeps the newest state of each recipient by the same one.

pub use claudemesh_protocol::receipt::{Progress, asserted_by, is_of_recipient, rank};
