//! Direct messages: `crypto_box` between two identities, with the agreed key kept for the next one (wire spec §5.3).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use claudemesh_protocol::PublicKey;
use claudemesh_protocol::encoding::{b64, b64_decode, b64_decode_array};
use dryoc::classic::crypto_secretbox::{crypto_secretbox_easy, crypto_secretbox_open_easy};
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::exchange::{BadPublicKey, ExchangePublic};
use crate::identity::KeyPair;
use crate::random;

/// Bytes a box is longer than its text.
pub const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;

/// A box could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nonce, key or ciphertext do not have their form or length.
    #[error("not a sealed text")]
    Format,
    /// Wrong key, wrong sender, or changed on the way.
    #[error("the sealed text does not open")]
    Authentication,
    /// The named sender's key cannot be used.
    #[error(transparent)]
    Key(#[from] BadPublicKey),
}

/// 24 bytes that may be used once per key. Wire form: base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; NONCE_BYTES]);

impl Nonce {
    /// A fresh one; 192 random bits never repeat.
    pub fn random() -> Self {
        Self(random::bytes())
    }

    /// Wraps given bytes.
    pub const fn from_bytes(bytes: [u8; NONCE_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads base64 of 24 bytes.
    ///
    /// # Errors
    /// [`OpenError::Format`].
    pub fn from_b64(text: &str) -> Result<Self, OpenError> {
        b64_decode_array(text).map(Self).map_err(|_| OpenError::Format)
    }

    /// The wire form.
    pub fn to_b64(self) -> String {
        b64(&self.0)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; NONCE_BYTES] {
        &self.0
    }
}

/// A sealed text with its nonce, as both stand in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The nonce.
    pub nonce: Nonce,
    /// Tag, then ciphertext.
    pub ciphertext: Vec<u8>,
}

impl Sealed {
    /// Reads the two base64 fields of a message.
    ///
    /// # Errors
    /// [`OpenError::Format`].
    pub fn from_b64(nonce: &str, ciphertext: &str) -> Result<Self, OpenError> {
        let ciphertext = b64_decode(ciphertext).map_err(|_| OpenError::Format)?;
        Ok(Self { nonce: Nonce::from_b64(nonce)?, ciphertext })
    }

    /// Base64 of the ciphertext.
    pub fn ciphertext_b64(&self) -> String {
        b64(&self.ciphertext)
    }
}

/// The key of every box between two X25519 keys (`crypto_box_beforenm`). No `Debug`, wiped on drop.
pub struct SharedKey(Zeroizing<[u8; 32]>);

impl SharedKey {
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Agrees on the key between one's own identity and a peer's.
    ///
    /// # Errors
    /// [`BadPublicKey`] when `peer` is no usable identity.
    pub fn between(own: &KeyPair, peer: PublicKey) -> Result<Self, BadPublicKey> {
        own.exchange().agree(&ExchangePublic::from_ed25519(peer)?)
    }

    /// Seals under a fresh nonce.
    pub fn seal(&self, text: &[u8]) -> Sealed {
        self.seal_with_nonce(text, Nonce::random())
    }

    /// Seals under a given nonce, which must never have been used with this key.
    pub fn seal_with_nonce(&self, text: &[u8], nonce: Nonce) -> Sealed {
        Sealed { nonce, ciphertext: seal_bytes(text, nonce, &self.0) }
    }

    /// Opens.
    ///
    /// # Errors
    /// [`OpenError::Format`] when it is shorter than a tag, [`OpenError::Authentication`] when it does not open.
    pub fn open(&self, sealed: &Sealed) -> Result<Vec<u8>, OpenError> {
        open_bytes(&sealed.ciphertext, sealed.nonce, &self.0)
    }
}

impl PartialEq for SharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for SharedKey {}

/// Seals `text` from `sender` to `recipient` under a fresh nonce.
///
/// # Errors
/// [`BadPublicKey`] when `recipient` is no usable identity.
pub fn seal(text: &[u8], sender: &KeyPair, recipient: PublicKey) -> Result<Sealed, BadPublicKey> {
    Ok(SharedKey::between(sender, recipient)?.seal(text))
}

/// Opens what `sender` sealed to `recipient`.
///
/// # Errors
/// [`OpenError`].
///
/// # Security
/// Success proves that whoever sealed holds `sender`'s secret or `recipient`'s own. Whose key `sender` is must be
/// shown separately (roster or attestation).
pub fn open(sealed: &Sealed, sender: PublicKey, recipient: &KeyPair) -> Result<Vec<u8>, OpenError> {
    SharedKey::between(recipient, sender)?.open(sealed)
}

/// Agreed keys of the pairs used last, at most a fixed number of them: agreeing costs twenty times a short box.
///
/// Shared by reference between tasks; the lock is held for a look-up, never for an agreement.
pub struct SharedKeyCache {
    capacity: usize,
    entries: Mutex<Entries>,
}

/// Own key and peer key.
type Pair = (PublicKey, PublicKey);

#[derive(Default)]
struct Entries {
    keys: HashMap<Pair, (Arc<SharedKey>, u64)>,
    by_last_use: BTreeMap<u64, Pair>,
    uses: u64,
}

impl SharedKeyCache {
    /// An empty cache for up to `capacity` pairs (about 250 bytes each); 0 caches nothing.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, entries: Mutex::new(Entries::default()) }
    }

    /// The key between `own` and `peer`, agreed now if it is not there.
    ///
    /// # Errors
    /// [`BadPublicKey`] when `peer` is no usable identity; nothing is kept then.
    pub fn between(&self, own: &KeyPair, peer: PublicKey) -> Result<Arc<SharedKey>, BadPublicKey> {
        let pair = (own.public(), peer);
        if let Some(key) = self.entries.lock().touch(pair) {
            return Ok(key);
        }
        let key = Arc::new(SharedKey::between(own, peer)?);
        self.entries.lock().insert(pair, Arc::clone(&key), self.capacity);
        Ok(key)
    }

    /// Pairs kept at the moment.
    pub fn len(&self) -> usize {
        self.entries.lock().keys.len()
    }

    /// True when nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every pair of `own`, when its secret is given up.
    pub fn forget(&self, own: PublicKey) {
        let mut entries = self.entries.lock();
        entries.keys.retain(|pair, _| pair.0 != own);
        entries.by_last_use.retain(|_, pair| pair.0 != own);
    }
}

impl Entries {
    fn touch(&mut self, pair: Pair) -> Option<Arc<SharedKey>> {
        let (key, last_use) = self.keys.get_mut(&pair)?;
        self.uses += 1;
        self.by_last_use.remove(last_use);
        self.by_last_use.insert(self.uses, pair);
        *last_use = self.uses;
        Some(Arc::clone(key))
    }

    fn insert(&mut self, pair: Pair, key: Arc<SharedKey>, capacity: usize) {
        if capacity == 0 {
            return;
        }
        self.uses += 1;
        if let Some((_, replaced)) = self.keys.insert(pair, (key, self.uses)) {
            self.by_last_use.remove(&replaced);
        }
        self.by_last_use.insert(self.uses, pair);
        while self.keys.len() > capacity {
            let Some((_, oldest)) = self.by_last_use.pop_first() else { return };
            self.keys.remove(&oldest);
        }
    }
}

/// XSalsa20-Poly1305 as libsodium's `easy` functions lay it out: tag, then ciphertext.
#[expect(
    clippy::expect_used,
    reason = "the only refusals are lengths, and these are right by construction"
)]
pub(crate) fn seal_bytes(text: &[u8], nonce: Nonce, key: &[u8; 32]) -> Vec<u8> {
    let mut ciphertext = vec![0; text.len() + TAG_BYTES];
    crypto_secretbox_easy(&mut ciphertext, text, &nonce.0, key).expect("lengths fit");
    ciphertext
}

/// Inverse of [`seal_bytes`].
pub(crate) fn open_bytes(
    ciphertext: &[u8],
    nonce: Nonce,
    key: &[u8; 32],
) -> Result<Vec<u8>, OpenError> {
    let text_len = ciphertext.len().checked_sub(TAG_BYTES).ok_or(OpenError::Format)?;
    let mut text = vec![0; text_len];
    crypto_secretbox_open_easy(&mut text, ciphertext, &nonce.0, key)
        .map_err(|_| OpenError::Authentication)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_never_holds_more_than_its_capacity_and_drops_the_oldest() {
        let cache = SharedKeyCache::new(2);
        let own = KeyPair::generate();
        let peers: Vec<PublicKey> = (0..3).map(|_| KeyPair::generate().public()).collect();
        let first = cache.between(&own, peers[0]).unwrap();
        cache.between(&own, peers[1]).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.between(&own, peers[0]).unwrap()));
        cache.between(&own, peers[2]).unwrap();
        assert_eq!(cache.len(), 2);
        assert!(Arc::ptr_eq(&first, &cache.between(&own, peers[0]).unwrap()));
    }

    #[test]
    fn a_cache_of_nothing_still_agrees() {
        let cache = SharedKeyCache::new(0);
        let (own, peer) = (KeyPair::generate(), KeyPair::generate());
        assert!(cache.between(&own, peer.public()).is_ok());
        assert!(cache.is_empty());
    }

    #[test]
    fn forgetting_an_identity_drops_only_its_pairs() {
        let cache = SharedKeyCache::new(8);
        let (a, b, peer) = (KeyPair::generate(), KeyPair::generate(), KeyPair::generate());
        cache.between(&a, peer.public()).unwrap();
        cache.between(&b, peer.public()).unwrap();
        cache.forget(a.public());
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_forged_sender_does_not_open() {
        let (alice, bob, eve) = (KeyPair::generate(), KeyPair::generate(), KeyPair::generate());
        let sealed = seal(b"hi", &eve, bob.public()).unwrap();
        assert_eq!(open(&sealed, alice.public(), &bob), Err(OpenError::Authentication));
        assert_eq!(open(&sealed, eve.public(), &bob), Ok(b"hi".to_vec()));
    }
}
