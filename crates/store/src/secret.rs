//! Secrets of the broker itself: the sentinel that proves the encryption key, and the signing key. Values come in and
//! go out encrypted (broker spec §7.4); the store cannot read them.

use claudemesh_protocol::Timestamp;

use crate::engine::Conn;
use crate::{Result, Store, StoreError};

/// A value encrypted by the caller (`b64(iv ‖ tag ‖ ciphertext)`, wire spec §5.12), opaque to the store.
///
/// It has no `Debug` output of its content: what it encrypts should not even stand in a log as ciphertext.
#[derive(Clone, PartialEq, Eq)]
pub struct Encrypted(String);

impl Encrypted {
    /// Takes an encrypted text as it stands.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encrypted(…)")
    }
}

/// Which secret of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BrokerSecret {
    /// A known text under the encryption key; if it does not open, the key is wrong (broker spec §6.2 step 5).
    Sentinel,
    /// The broker's ed25519 seed.
    SigningKey,
}

impl BrokerSecret {
    /// The row's name, which is also the row id its encryption is bound to.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sentinel => "sentinel",
            Self::SigningKey => "signing_key",
        }
    }
}

impl Store {
    /// Reads a secret; `None` before the first start.
    pub async fn broker_secret(&self, secret: BrokerSecret) -> Result<Option<Encrypted>> {
        let mut reader = self.reader().await?;
        read_secret(&mut reader.conn(), secret).await
    }

    /// Stores a secret unless one stands there already, and returns the one that stands there now. Replicas that
    /// start at the same time all get the same.
    pub async fn keep_broker_secret(
        &self,
        secret: BrokerSecret,
        value: Encrypted,
        now: Timestamp,
    ) -> Result<Encrypted> {
        self.write(move |mut conn| {
            Box::pin(async move {
                conn.execute(
                    "INSERT INTO broker_secret (name, value, created_at) VALUES ($1, $2, $3)
                     ON CONFLICT (name) DO NOTHING",
                    &[secret.name().into(), value.as_str().into(), now.into()],
                )
                .await?;
                read_secret(&mut conn, secret)
                    .await?
                    .ok_or_else(|| StoreError::corrupt("broker_secret.value"))
            })
        })
        .await
    }
}

async fn read_secret(conn: &mut Conn<'_>, secret: BrokerSecret) -> Result<Option<Encrypted>> {
    let row = conn
        .first("SELECT value FROM broker_secret WHERE name = $1", &[secret.name().into()])
        .await?;
    row.map(|row| row.get("value").map(Encrypted)).transpose()
}
