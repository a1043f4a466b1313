//! The audit chain: every entry's hash covers the one before it (wire spec §5.17).

use claudemesh_protocol::canonical::{self, AUDIT_GENESIS, CanonicalError};
use claudemesh_protocol::{MemberId, MeshId, Timestamp};
use serde_json::Value;

use crate::hash::{constant_time_eq, sha256_hex};

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
