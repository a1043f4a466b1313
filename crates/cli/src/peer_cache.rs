//! The small file about each mesh that the daemon keeps for whoever may not ask it (CLI spec §6.5).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use claudemesh_protocol::limits::PEER_CACHE_MAX_BYTES;
use serde::Deserialize;

/// What the daemon wrote about a mesh.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Entry {
    /// Members.
    pub(crate) total: u64,
    /// Those of them who have a session there.
    pub(crate) online: u64,
    /// Our name there.
    #[serde(default)]
    pub(crate) you: String,
    /// Messages nobody has read.
    #[serde(default)]
    pub(crate) unread: u64,
    /// Of the connection: `open`, `reconnecting` and so on.
    pub(crate) status: String,
    /// RFC 3339.
    pub(crate) updated_at: String,
    /// Agent sessions there.
    #[serde(default)]
    pub(crate) sessions: Vec<String>,
}

/// What the daemon wrote; of what cannot be read, nothing. One bad entry does not take the others with it.
pub(crate) fn read(path: &Path) -> BTreeMap<String, Entry> {
    let mut bytes = Vec::new();
    let is_read = File::open(path)
        .and_then(|file| file.take(PEER_CACHE_MAX_BYTES + 1).read_to_end(&mut bytes))
        .is_ok_and(|count| count as u64 <= PEER_CACHE_MAX_BYTES);
    if !is_read {
        return BTreeMap::new();
    }
    let entries: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&bytes).unwrap_or_default();
    let entry = |(slug, value)| Some((slug, serde_json::from_value(value).ok()?));
    entries.into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_entry_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer-cache.json");
        assert!(read(&path).is_empty());
        std::fs::write(&path, "{\"a\": 3, \"b\": {\"total\": 1, \"online\": 1, \"status\": \"open\", \"updated_at\": \"x\"}}")
            .unwrap();
        assert_eq!(read(&path).into_keys().collect::<Vec<_>>(), ["b"]);
        for garbage in ["", "[]", "{", "\u{0}"] {
            std::fs::write(&path, garbage).unwrap();
            assert!(read(&path).is_empty());
        }
        std::fs::File::create(&path).unwrap().set_len(PEER_CACHE_MAX_BYTES + 1).unwrap();
        assert!(read(&path).is_empty());
    }
}
