//! Secrets of the broker: the key file, the sentinel that proves the key, and what is encrypted under it
//! (broker spec §6.2 step 5, §7.4; wire spec §5.12).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use claudemesh_crypto::at_rest::{AtRestError, AtRestKey, Binding};
use claudemesh_crypto::invite::RootKey;
use claudemesh_crypto::{KeyPair, random};
use claudemesh_protocol::id::random_row_id;
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};
use claudemesh_store::{BrokerSecret, Encrypted, MeshSecrets, Store, StoreError};
use zeroize::Zeroizing;

use crate::data_dir::NOT_OWNER_BITS;
use crate::edge::error::ApiError;
use crate::settings::{Settings, StorageProfile};

/// File of the generated encryption key.
const KEY_FILE: &str = "secret.key";
/// What the sentinel says when the key is right.
const SENTINEL_TEXT: &[u8] = b"claudemesh-broker-sentinel-v1";
/// Table of the broker's own secrets, as bound into their encryption.
const SECRET_TABLE: &str = "broker_secret";

/// A file that must be private could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// The disk or the permissions say no.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{} can be read by others; hint: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{} does not hold an encryption key (64 hexadecimal characters)", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// The broker's keys cannot be used; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The key file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The database was written under another encryption key.
    #[error(
        "wrong key: the database was written with another encryption key; hint: restore secret.key or BROKER_ENCRYPTION_KEY"
    )]
    WrongKey,
    /// The database was written under a key that is not here any more.
    #[error("the encryption key is missing: {} does not exist, but the database was written with one; hint: restore it from your backup", path.display())]
    KeyMissing {
        /// Where the key was expected.
        path: PathBuf,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The keys a broker runs with.
pub(crate) struct BrokerKeys {
    pub(crate) at_rest: AtRestKey,
    pub(crate) signing: KeyPair,
}

impl BrokerKeys {
    /// Finds or makes the encryption key, checks it against the sentinel, and finds or makes the signing key.
    pub(crate) async fn establish(
        settings: &Settings,
        store: &Store,
        now: Timestamp,
    ) -> Result<Self, SecretsError> {
        let sentinel = store.broker_secret(BrokerSecret::Sentinel).await?;
        let at_rest = encryption_key(settings, sentinel.is_some())?;
        let kept = if let Some(kept) = sentinel {
            kept
        } else {
            let fresh = seal_broker_secret(&at_rest, BrokerSecret::Sentinel, SENTINEL_TEXT);
            store.keep_broker_secret(BrokerSecret::Sentinel, fresh, now).await?
        };
        let opened = at_rest
            .open(kept.as_str(), broker_binding(BrokerSecret::Sentinel))
            .map_err(|_| SecretsError::WrongKey)?;
        if opened.as_slice() != SENTINEL_TEXT {
            return Err(SecretsError::WrongKey);
        }
        let signing = signing_key(settings, store, &at_rest, now).await?;
        Ok(Self { at_rest, signing })
    }
}

fn encryption_key(settings: &Settings, is_in_use: bool) -> Result<AtRestKey, SecretsError> {
    if let Some(key) = &settings.encryption_key {
        return Ok(AtRestKey::clone(key));
    }
    let path = settings.data_dir.join(KEY_FILE);
    match read_key_file(&path) {
        Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            if is_in_use || settings.profile == StorageProfile::Server {
                return Err(SecretsError::KeyMissing { path });
            }
            let key = AtRestKey::generate();
            replace_secret_file(&path, &key.to_hex())?;
            tracing::warn!(
                path = %path.display(),
                "a new encryption key was made; back this file up: without it the stored keys of all meshes are lost"
            );
            Ok(key)
        }
        read => Ok(read?),
    }
}

fn read_key_file(path: &Path) -> Result<AtRestKey, SecretFileError> {
    let failed = |source| SecretFileError::Io { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & NOT_OWNER_BITS != 0 {
        return Err(SecretFileError::Exposed { path: path.to_owned() });
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    AtRestKey::from_hex(text.trim()).map_err(|_| SecretFileError::Content { path: path.to_owned() })
}

async fn signing_key(
    settings: &Settings,
    store: &Store,
    at_rest: &AtRestKey,
    now: Timestamp,
) -> Result<KeyPair, SecretsError> {
    if let Some(key) = &settings.signing_key {
        return KeyPair::from_hex(&key.to_hex()).map_err(|_| SecretsError::WrongKey);
    }
    let kept = if let Some(kept) = store.broker_secret(BrokerSecret::SigningKey).await? {
        kept
    } else {
        let text = KeyPair::generate().to_hex();
        let fresh = seal_broker_secret(at_rest, BrokerSecret::SigningKey, text.as_bytes());
        store.keep_broker_secret(BrokerSecret::SigningKey, fresh, now).await?
    };
    let binding = broker_binding(BrokerSecret::SigningKey);
    let text = open_text(at_rest, &kept, binding).map_err(|_| SecretsError::WrongKey)?;
    KeyPair::from_hex(&text).map_err(|_| SecretsError::WrongKey)
}

fn seal_broker_secret(key: &AtRestKey, secret: BrokerSecret, plaintext: &[u8]) -> Encrypted {
    Encrypted::new(key.seal(plaintext, broker_binding(secret)))
}

fn broker_binding(secret: BrokerSecret) -> Binding<'static> {
    Binding::Row { table: SECRET_TABLE, column: "value", id: secret.name() }
}

fn mesh_binding<'a>(column: &'a str, mesh: &'a MeshId) -> Binding<'a> {
    Binding::Row { table: "mesh", column, id: mesh.as_str() }
}

/// Encrypts the two secrets of a mesh, each bound to its column and row.
pub(crate) fn new_mesh_secrets(
    key: &AtRestKey,
    mesh: &MeshId,
    owner: &KeyPair,
    root_key: &RootKey,
) -> (PublicKey, MeshSecrets) {
    let owner_secret = key.seal(owner.to_hex().as_bytes(), mesh_binding("owner_secret_key", mesh));
    let root_secret = key.seal(root_key.to_b64url().as_bytes(), mesh_binding("root_key", mesh));
    let secrets = MeshSecrets {
        owner_secret_key: Some(Encrypted::new(owner_secret)),
        root_key: Encrypted::new(root_secret),
    };
    (owner.public(), secrets)
}

/// Opens the key that signs a mesh's invites.
pub(crate) fn open_owner_key(
    key: &AtRestKey,
    mesh: &MeshId,
    secrets: &MeshSecrets,
) -> Result<KeyPair, AtRestError> {
    let sealed = secrets.owner_secret_key.as_ref().ok_or(AtRestError::Format)?;
    let text = open_text(key, sealed, mesh_binding("owner_secret_key", mesh))?;
    KeyPair::from_hex(&text).map_err(|_| AtRestError::Format)
}

/// Opens the root key of a mesh, to seal it to a joiner.
pub(crate) fn open_root_key(
    key: &AtRestKey,
    mesh: &MeshId,
    secrets: &MeshSecrets,
) -> Result<RootKey, AtRestError> {
    let text = open_text(key, &secrets.root_key, mesh_binding("root_key", mesh))?;
    RootKey::from_b64url(&text).map_err(|_| AtRestError::Format)
}

fn open_text(
    key: &AtRestKey,
    sealed: &Encrypted,
    binding: Binding<'_>,
) -> Result<Zeroizing<String>, AtRestError> {
    let bytes = key.open(sealed.as_str(), binding)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| AtRestError::Format)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The answer when a stored secret does not open: the operator must look, the caller learns nothing.
pub(crate) fn unreadable(error: AtRestError) -> ApiError {
    tracing::error!(%error, "a stored mesh secret cannot be opened");
    ApiError::internal()
}

/// Writes a private file whole or not at all: a new file of mode 0600 beside it, synced, then renamed over it.
pub(crate) fn replace_secret_file(path: &Path, text: &str) -> Result<(), SecretFileError> {
    let failed = |source| SecretFileError::Io { path: path.to_owned(), source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", random_row_id(random::fill)));
    let temporary = dir.join(name);
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // Nothing more can be done about a left-over temporary file; the error that counts is the first.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_is_private_from_its_creation_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("code");
        replace_secret_file(&path, "one").unwrap();
        replace_secret_file(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_file_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        replace_secret_file(&path, &AtRestKey::generate().to_hex()).unwrap();
        assert!(read_key_file(&path).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_key_file(&path), Err(SecretFileError::Exposed { .. })));
    }

    #[test]
    fn a_missing_key_is_made_once_and_never_over_a_database_that_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::embedded(dir.path());
        assert!(matches!(encryption_key(&settings, true), Err(SecretsError::KeyMissing { .. })));
        let first = encryption_key(&settings, false).unwrap();
        assert_eq!(encryption_key(&settings, true).unwrap().to_hex(), first.to_hex());
    }

    #[test]
    fn mesh_secrets_open_only_in_their_own_row() {
        let key = AtRestKey::generate();
        let (mesh, other) = (MeshId::new("m1"), MeshId::new("m2"));
        let (owner, root_key) = (KeyPair::generate(), RootKey::generate());
        let (public, secrets) = new_mesh_secrets(&key, &mesh, &owner, &root_key);
        assert_eq!(open_owner_key(&key, &mesh, &secrets).unwrap().public(), public);
        assert!(open_root_key(&key, &mesh, &secrets).unwrap() == root_key);
        assert!(open_owner_key(&key, &other, &secrets).is_err());
        assert!(open_root_key(&AtRestKey::generate(), &mesh, &secrets).is_err());
    }
}
