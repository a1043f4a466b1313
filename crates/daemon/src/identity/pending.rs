//! `rotation-pending-<slug>.json`: the key that a rotation is about to put in place of another one, kept from before the
//! broker hears of it until everything here goes by it (daemon spec §19.1).

use std::io;
use std::path::{Path, PathBuf};

use claudemesh_crypto::KeyPair;
use claudemesh_protocol::{MemberId, MeshId, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::home::config::MeshEntry;
use crate::home::file::{self, Symlinks};

/// Version of the file.
const VERSION: u32 = 1;
/// In front of the slug.
const PREFIX: &str = "rotation-pending-";
/// Behind it.
const SUFFIX: &str = ".json";

/// A rotation that has begun and not ended.
///
/// # Security
/// Holds a secret; no `Debug`.
#[derive(Clone)]
pub(crate) struct Pending {
    path: PathBuf,
    /// Slug of the mesh.
    pub slug: String,
    /// The mesh.
    pub mesh_id: MeshId,
    /// The member.
    pub member_id: MemberId,
    /// The key that is to go.
    pub old: PublicKey,
    /// The key that is to come.
    pub new: KeyPair,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    mesh_id: MeshId,
    member_id: MemberId,
    old_pubkey: PublicKey,
    new_pubkey: PublicKey,
    new_secret_key: String,
    started_at: String,
}

impl Drop for Document {
    fn drop(&mut self) {
        self.new_secret_key.zeroize();
    }
}

impl Pending {
    /// A rotation of this member to a fresh key, on disk when this returns.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn begin(dir: &Path, entry: &MeshEntry, now: Timestamp) -> io::Result<Self> {
        let pending = Self {
            path: path(dir, &entry.slug),
            slug: entry.slug.clone(),
            mesh_id: entry.mesh_id.clone(),
            member_id: entry.member_id.clone(),
            old: entry.keys.public(),
            new: KeyPair::generate(),
        };
        let document = Document {
            version: VERSION,
            mesh_id: pending.mesh_id.clone(),
            member_id: pending.member_id.clone(),
            old_pubkey: pending.old,
            new_pubkey: pending.new.public(),
            new_secret_key: pending.new.to_hex().to_string(),
            started_at: now.to_iso(),
        };
        let json = Zeroizing::new(serde_json::to_vec_pretty(&document)?);
        file::replace(&pending.path, &json, file::SECRET, Symlinks::Refuse)?;
        Ok(pending)
    }

    /// The rotation of a mesh that has begun, if one has.
    ///
    /// # Errors
    /// Any I/O error; a file that is no record of a rotation.
    pub(crate) fn read(dir: &Path, slug: &str) -> io::Result<Option<Self>> {
        let path = path(dir, slug);
        let Some(content) = file::read(&path, Symlinks::Refuse)? else { return Ok(None) };
        let document: Document = serde_json::from_slice(&content.bytes)?;
        if document.version != VERSION {
            return Err(io::Error::other("written by another version"));
        }
        let new = KeyPair::from_hex(&document.new_secret_key).map_err(io::Error::other)?;
        if new.public() != document.new_pubkey {
            return Err(io::Error::other("the new key and its secret do not belong together"));
        }
        Ok(Some(Self {
            path,
            slug: slug.to_owned(),
            mesh_id: document.mesh_id.clone(),
            member_id: document.member_id.clone(),
            old: document.old_pubkey,
            new,
        }))
    }

    /// Every rotation that has begun. A record that cannot be read is told and left alone: it may hold the only key that the
    /// broker takes.
    pub(crate) fn all(dir: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut all: Vec<_> = names
            .filter_map(|name| {
                let slug = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
                Self::read(dir, slug).unwrap_or_else(|error| {
                    tracing::error!(mesh = slug, %error, "rotation_record_unreadable");
                    None
                })
            })
            .collect();
        all.sort_by(|left, right| left.slug.cmp(&right.slug));
        all
    }

    /// True when it is about this member.
    pub(crate) fn is_of(&self, entry: &MeshEntry) -> bool {
        self.mesh_id == entry.mesh_id && self.member_id == entry.member_id
    }

    /// Ends it: whatever was to be done has been, or is not wanted.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn end(&self) -> io::Result<()> {
        file::remove_for_good(&self.path)
    }
}

fn path(dir: &Path, slug: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{slug}{SUFFIX}"))
}
