//! What a second use of a client's message id means (wire spec §4.7).

use claudemesh_protocol::MemberId;

/// Who used an id first, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstUse<'a> {
    /// The sending member.
    pub sender: &'a MemberId,
    /// What it stands for.
    pub fingerprint: &'a [u8; 32],
}

/// The outcome of using an id again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reuse {
    /// The same request again: answered with the first one's message id, delivered to nobody.
    Duplicate,
    /// Another request or another sender: refused.
    Conflict {
        /// First eight bytes of the first use's fingerprint, hex.
        fingerprint_prefix: String,
    },
}

/// Compares a use with the first one.
pub fn compare(first: FirstUse<'_>, again: FirstUse<'_>) -> Reuse {
    if first == again {
        return Reuse::Duplicate;
    }
    let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = *first.fingerprint;
    let prefix = u64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    Reuse::Conflict { fingerprint_prefix: format!("{prefix:016x}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_and_fingerprint_must_both_agree() {
        let (alice, bob) = (MemberId::new("a"), MemberId::new("b"));
        let (one, two) = ([1; 32], [2; 32]);
        let first = FirstUse { sender: &alice, fingerprint: &one };
        let conflict = Reuse::Conflict { fingerprint_prefix: "01".repeat(8) };
        assert_eq!(compare(first, first), Reuse::Duplicate);
        assert_eq!(compare(first, FirstUse { sender: &bob, fingerprint: &one }), conflict);
        assert_eq!(compare(first, FirstUse { sender: &alice, fingerprint: &two }), conflict);
    }
}
