//! An independent implementation of boxes as oracle: what one side seals the other opens, in both directions.

use claudemesh_crypto::exchange::{ExchangePublic, ExchangeSecret};
use claudemesh_crypto::{KeyPair, direct, sealed};
use crypto_box::aead::{Aead as _, OsRng};
use crypto_box::{PublicKey as OraclePublic, SalsaBox, SecretKey as OracleSecret};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn boxes_agree_with_the_oracle(a: [u8; 32], b: [u8; 32], text in vec(any::<u8>(), 0..300)) {
        let (alice, bob) = (KeyPair::from_seed(&a), KeyPair::from_seed(&b));
        let oracle_box = SalsaBox::new(
            &OraclePublic::from(*alice.exchange_public().as_bytes()),
            &OracleSecret::from(*bob.exchange().as_bytes()),
        );
        let ours = direct::seal(&text, &alice, bob.public()).unwrap();
        let opened = oracle_box.decrypt(ours.nonce.as_bytes().into(), ours.ciphertext.as_slice());
        prop_assert_eq!(opened.ok(), Some(text.clone()));
        let nonce = direct::Nonce::random();
        let theirs = oracle_box.encrypt(nonce.as_bytes().into(), text.as_slice()).unwrap();
        let theirs = direct::Sealed { nonce, ciphertext: theirs };
        prop_assert_eq!(direct::open(&theirs, bob.public(), &alice), Ok(text));
    }

    #[test]
    fn sealed_boxes_agree_with_the_oracle(secret: [u8; 32], text in vec(any::<u8>(), 0..300)) {
        let ours = ExchangeSecret::from_bytes(secret);
        let theirs = OracleSecret::from(secret);
        prop_assert!(theirs.public_key().as_bytes() == ours.public().as_bytes());
        let sealed_here = sealed::seal(&text, &ours.public()).unwrap();
        prop_assert_eq!(theirs.unseal(&sealed_here).ok(), Some(text.clone()));
        let sealed_there = theirs.public_key().seal(&mut OsRng, &text).unwrap();
        prop_assert_eq!(sealed::open(&sealed_there, &ours), Ok(text));
    }
}

#[test]
fn an_identity_converts_to_the_key_the_oracle_derives_from_its_secret() {
    for _ in 0..32 {
        let own = KeyPair::generate();
        let oracle = OracleSecret::from(*own.exchange().as_bytes()).public_key();
        let converted = ExchangePublic::from_ed25519(own.public()).unwrap();
        assert_eq!(converted.as_bytes(), oracle.as_bytes());
    }
}
