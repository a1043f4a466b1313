//! Backup files: one document under a passphrase, `CMB2` (wire spec §5.14).

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use claudemesh_protocol::limits::{BACKUP_PASSES_MAX, BACKUP_PASSPHRASE_MIN_CHARS};
use zeroize::Zeroizing;

use crate::random;

/// First bytes of a backup file.
const MAGIC: &[u8; 4] = b"CMB2";
/// Magic and the three parameters; authenticated with the content.
const AAD_BYTES: usize = 16;
/// Bytes of the salt.
const SALT_BYTES: usize = 16;
/// Bytes of the nonce.
const NONCE_BYTES: usize = 24;
/// Most memory a file may ask for, in KiB: 1 GiB.
const MEMORY_MAX_KIB: u32 = 1024 * 1024;
/// Most lanes a file may ask for.
const LANES_MAX: u32 = 16;

/// A backup cannot be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The passphrase is too short to protect anything.
    #[error("a passphrase has at least {BACKUP_PASSPHRASE_MIN_CHARS} characters")]
    WeakPassphrase,
    /// Not a backup file, or one of another version.
    #[error("not a backup file this version can read")]
    Format,
    /// The file asks for more time or memory than any backup of ours.
    #[error("the backup file asks for unreasonable key derivation costs")]
    Costs,
    /// Wrong passphrase or a damaged file.
    #[error("wrong passphrase, or the file is damaged")]
    Authentication,
}

/// Costs of deriving the key from the passphrase (Argon2id 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCosts {
    /// Passes over the memory.
    pub passes: u32,
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for KdfCosts {
    fn default() -> Self {
        Self { passes: 3, memory_kib: 256 * 1024, lanes: 1 }
    }
}

/// What stands before the ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Costs of the key.
    pub costs: KdfCosts,
    /// Salt of the key.
    pub salt: [u8; SALT_BYTES],
    /// Nonce of the content.
    pub nonce: [u8; NONCE_BYTES],
}

impl Header {
    /// Splits a file into header and ciphertext.
    ///
    /// # Errors
    /// [`BackupError::Format`], and [`BackupError::Costs`] before any work is done for such a file.
    pub fn read(file: &[u8]) -> Result<(Self, &[u8]), BackupError> {
        let rest = file.strip_prefix(MAGIC).ok_or(BackupError::Format)?;
        let (passes, rest) = read_u32(rest)?;
        let (memory_kib, rest) = read_u32(rest)?;
        let (lanes, rest) = read_u32(rest)?;
        let (salt, rest) = rest.split_first_chunk().ok_or(BackupError::Format)?;
        let (nonce, ciphertext) = rest.split_first_chunk().ok_or(BackupError::Format)?;
        let costs = KdfCosts { passes, memory_kib, lanes };
        costs.check()?;
        Ok((Self { costs, salt: *salt, nonce: *nonce }, ciphertext))
    }

    fn associated_data(&self) -> [u8; AAD_BYTES] {
        let mut bytes = [0; AAD_BYTES];
        let parts = [
            *MAGIC,
            self.costs.passes.to_le_bytes(),
            self.costs.memory_kib.to_le_bytes(),
            self.costs.lanes.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(parts.iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

impl KdfCosts {
    fn check(&self) -> Result<(), BackupError> {
        let is_reasonable = self.passes <= BACKUP_PASSES_MAX
            && self.memory_kib <= MEMORY_MAX_KIB
            && self.lanes <= LANES_MAX
            && self.params().is_ok();
        if is_reasonable { Ok(()) } else { Err(BackupError::Costs) }
    }

    fn params(&self) -> Result<Params, BackupError> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|_| BackupError::Costs)
    }
}

/// Derives the 32-byte key of a passphrase. Takes about a second and the memory it says: call it off the async threads.
///
/// # Errors
/// [`BackupError::Costs`].
pub fn derive_key(
    passphrase: &str,
    salt: &[u8; SALT_BYTES],
    costs: KdfCosts,
) -> Result<Zeroizing<[u8; 32]>, BackupError> {
    costs.check()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, costs.params()?)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .map_err(|_| BackupError::Costs)?;
    Ok(key)
}

/// Writes a backup file with fresh salt and nonce at the default costs. Slow, see [`derive_key`].
///
/// # Errors
/// [`BackupError::WeakPassphrase`].
pub fn seal(document: &[u8], passphrase: &str) -> Result<Vec<u8>, BackupError> {
    let header =
        Header { costs: KdfCosts::default(), salt: random::bytes(), nonce: random::bytes() };
    seal_with_header(document, passphrase, &header)
}

/// Writes a backup file under a given header, whose salt and nonce must be fresh.
///
/// # Errors
/// [`BackupError::WeakPassphrase`], [`BackupError::Costs`].
pub fn seal_with_header(
    document: &[u8],
    passphrase: &str,
    header: &Header,
) -> Result<Vec<u8>, BackupError> {
    if passphrase.chars().count() < BACKUP_PASSPHRASE_MIN_CHARS {
        return Err(BackupError::WeakPassphrase);
    }
    let key = derive_key(passphrase, &header.salt, header.costs)?;
    let aad = header.associated_data();
    let payload = Payload { msg: document, aad: &aad };
    let ciphertext = XChaCha20Poly1305::new((&*key).into())
        .encrypt(&XNonce::from(header.nonce), payload)
        .map_err(|_| BackupError::Format)?;
    let mut file = aad.to_vec();
    file.extend_from_slice(&header.salt);
    file.extend_from_slice(&header.nonce);
    file.extend_from_slice(&ciphertext);
    Ok(file)
}

/// Reads a backup file. Slow, see [`derive_key`].
///
/// # Errors
/// [`BackupError`].
pub fn open(file: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    let (header, ciphertext) = Header::read(file)?;
    let key = derive_key(passphrase, &header.salt, header.costs)?;
    let aad = header.associated_data();
    let payload = Payload { msg: ciphertext, aad: &aad };
    XChaCha20Poly1305::new((&*key).into())
        .decrypt(&XNonce::from(header.nonce), payload)
        .map(Zeroizing::new)
        .map_err(|_| BackupError::Authentication)
}

fn read_u32(bytes: &[u8]) -> Result<(u32, &[u8]), BackupError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(BackupError::Format)?;
    Ok((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Header = Header {
        costs: KdfCosts { passes: 1, memory_kib: 8, lanes: 1 },
        salt: [1; SALT_BYTES],
        nonce: [2; NONCE_BYTES],
    };

    #[test]
    fn a_wrong_passphrase_and_every_changed_byte_are_noticed() {
        let file = seal_with_header(b"doc", "twelve chars", &CHEAP).unwrap();
        assert_eq!(open(&file, "twelve chars").unwrap().as_slice(), b"doc");
        assert_eq!(open(&file, "twelve chart"), Err(BackupError::Authentication));
        for position in 0..file.len() {
            let mut changed = file.clone();
            changed[position] ^= 1;
            assert!(open(&changed, "twelve chars").is_err(), "{position}");
        }
    }

    #[test]
    fn a_passphrase_has_at_least_twelve_characters() {
        assert_eq!(seal_with_header(b"", "eleven char", &CHEAP), Err(BackupError::WeakPassphrase));
        assert!(seal_with_header(b"", "twelve chars", &CHEAP).is_ok());
    }

    #[test]
    fn costs_are_checked_before_any_work() {
        let at = |costs| Header { costs, ..CHEAP }.associated_data();
        for (costs, accepted) in [
            (KdfCosts { passes: 3, memory_kib: MEMORY_MAX_KIB, lanes: 1 }, true),
            (KdfCosts { passes: 3, memory_kib: MEMORY_MAX_KIB + 1, lanes: 1 }, false),
            (KdfCosts { passes: BACKUP_PASSES_MAX, memory_kib: 8, lanes: 1 }, true),
            (KdfCosts { passes: BACKUP_PASSES_MAX + 1, memory_kib: 8, lanes: 1 }, false),
            (KdfCosts { passes: 1, memory_kib: 8 * LANES_MAX, lanes: LANES_MAX }, true),
            (KdfCosts { passes: 1, memory_kib: 1024, lanes: LANES_MAX + 1 }, false),
            (KdfCosts { passes: 0, memory_kib: 8, lanes: 1 }, false),
        ] {
            let mut file = at(costs).to_vec();
            file.extend([0; SALT_BYTES + NONCE_BYTES]);
            assert_eq!(Header::read(&file).is_ok(), accepted, "{costs:?}");
        }
        assert_eq!(open(b"CMB1", ""), Err(BackupError::Format));
    }
}
