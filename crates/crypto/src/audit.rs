//! The audit chain: every entry's hash covers the one before it (wire spec §5.17), and the broker signs its newest entry
//! now and then, so that entries cannot disappear from its end unnoticed (broker spec §4.19).

use claudemesh_protocol::canonical::{self, AUDIT_GENESIS, CanonicalError};
use claudemesh_protocol::{MemberId, MeshId, PublicKey, SignatureBytes, Timestamp};
use serde_json::Value;

use crate::hash::{constant_time_eq, sha256_hex};
use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// A payload cannot be part of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// A fraction: databases do not give it back as it was written.
    #[error("an audit payload has no fractions")]
    Float,
    /// No canonical form.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

/// One entry without its hash.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// Event word.
    pub event: &'a str,
    /// Who did it; `None` for the broker itself.
    pub actor: Option<&'a MemberId>,
    /// [`canonical_payload`], as stored.
    pub payload: &'a str,
    /// When; stored with milliseconds.
    pub created_at: Timestamp,
}

/// The text of a payload that is hashed and stored beside the JSON.
///
/// # Errors
/// [`PayloadError::Float`] when a number is no integer.
pub fn canonical_payload(payload: &Value) -> Result<String, PayloadError> {
    if has_float(payload) {
        return Err(PayloadError::Float);
    }
    Ok(canonical::jcs(payload)?)
}

/// The hash of an entry, as hex; `prev` is the hash of the mesh's entry before it, `None` for the first.
pub fn link(prev: Option<&str>, entry: &Entry<'_>) -> String {
    let Entry { mesh, event, actor, payload, created_at } = *entry;
    let prev = prev.unwrap_or(AUDIT_GENESIS);
    let preimage = canonical::audit_entry(prev, mesh, event, actor, payload, created_at);
    sha256_hex(preimage.as_bytes())
}

/// A chain that is checked entry by entry, in ascending order of id, from the first of the mesh.
#[derive(Debug, Default)]
pub struct Chain {
    before: Option<String>,
}

impl Chain {
    /// A chain whose first entry to be checked comes right after the entry with this hash.
    pub fn after(hash: impl Into<String>) -> Self {
        Self { before: Some(hash.into()) }
    }

    /// True when an entry with its stored `prev` and hash follows from the one checked before it. After a false the
    /// chain is no use any more.
    pub fn follows(&mut self, entry: &Entry<'_>, prev: &str, hash: &str) -> bool {
        let before = self.before.as_deref();
        let is_linked = prev == before.unwrap_or(AUDIT_GENESIS);
        let is_whole = constant_time_eq(link(before, entry).as_bytes(), hash.as_bytes());
        self.before = Some(hash.to_owned());
        is_linked && is_whole
    }
}

/// Checks all entries of a mesh as [`Chain`] does. Returns the position of the first that does not fit, or `None` when
/// all do.
pub fn first_broken<'a>(
    entries: impl IntoIterator<Item = (Entry<'a>, &'a str, &'a str)>,
) -> Option<usize> {
    let mut chain = Chain::default();
    entries.into_iter().position(|(entry, prev, hash)| !chain.follows(&entry, prev, hash))
}

/// The newest entry of a chain at some time.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// Number of the entry.
    pub entry: i64,
    /// Entries up to and with it.
    pub entries: u64,
    /// Its hash, 64 lowercase hexadecimal characters.
    pub hash: &'a str,
    /// When it is signed; stored with milliseconds.
    pub at: Timestamp,
}

impl Head<'_> {
    fn canonical(&self) -> Result<String, CanonicalError> {
        canonical::audit_head(self.mesh, self.entry, self.entries, self.hash, self.at)
    }

    /// Signs with the broker key.
    ///
    /// # Errors
    /// [`CanonicalError`] when a text contains `|`.
    pub fn sign(&self, broker: &KeyPair) -> Result<SignatureBytes, CanonicalError> {
        statement::sign(self.canonical(), broker)
    }

    /// Checks a signature of the broker.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        &self,
        broker: PublicKey,
        signature: &SignatureBytes,
    ) -> Result<(), StatementError> {
        statement::verify(self.canonical(), broker, signature)
    }
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(fields) => fields.values().any(has_float),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fractions_are_refused_wherever_they_stand() {
        assert_eq!(canonical_payload(&json!({"a": [{"b": 1.5}]})), Err(PayloadError::Float));
        assert_eq!(
            canonical_payload(&json!({"b": 1, "a": null})),
            Ok(r#"{"a":null,"b":1}"#.into())
        );
    }

    #[test]
    fn a_head_is_signed_over_all_its_fields() {
        let (mesh, other) = (MeshId::new("M1"), MeshId::new("M2"));
        let hash = "ab".repeat(32);
        let at = Timestamp::from_millis(1_767_225_600_123);
        let head = Head { mesh: &mesh, entry: 42, entries: 7, hash: &hash, at };
        let text = format!("claudemesh-audit-head|M1|42|7|{hash}|1767225600123");
        assert_eq!(head.canonical(), Ok(text.clone()));
        let broker = KeyPair::generate();
        let signature = head.sign(&broker).unwrap();
        assert_eq!(signature, broker.sign(text.as_bytes()));
        assert_eq!(head.verify(broker.public(), &signature), Ok(()));
        assert!(head.verify(KeyPair::generate().public(), &signature).is_err());
        let changed = "cd".repeat(32);
        for wrong in [
            Head { mesh: &other, ..head },
            Head { entry: 41, ..head },
            Head { entries: 8, ..head },
            Head { hash: &changed, ..head },
            Head { at: Timestamp::ZERO, ..head },
        ] {
            assert!(wrong.verify(broker.public(), &signature).is_err(), "{wrong:?}");
        }
        assert!(Head { hash: "a|b", ..head }.sign(&broker).is_err());
    }

    #[test]
    fn a_chain_can_be_checked_from_its_middle() {
        let mesh = MeshId::new("M");
        let at = Timestamp::ZERO;
        let entry = Entry { mesh: &mesh, event: "b", actor: None, payload: "{}", created_at: at };
        let hash = link(Some("first"), &entry);
        assert!(Chain::after("first").follows(&entry, "first", &hash));
        assert!(!Chain::after("other").follows(&entry, "first", &hash));
    }

    #[test]
    fn a_changed_or_missing_entry_is_found() {
        let mesh = MeshId::new("M");
        let entry = |event| Entry {
            mesh: &mesh,
            event,
            actor: None,
            payload: "{}",
            created_at: Timestamp::ZERO,
        };
        let first = link(None, &entry("a"));
        let second = link(Some(&first), &entry("b"));
        let good = [(entry("a"), "genesis", &*first), (entry("b"), &*first, &*second)];
        assert_eq!(first_broken(good), None);
        assert_eq!(first_broken([good[0], (entry("c"), &*first, &*second)]), Some(1));
        assert_eq!(first_broken([good[1]]), Some(0));
        assert_eq!(first_broken([(entry("a"), "other", &*first)]), Some(0));
    }
}
