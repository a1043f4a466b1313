//! Messages that were received under a member key that has been rotated out belong to the member's next key: sessions, receipts
//! and read marks go by the present one (daemon spec §19.1).

use claudemesh_protocol::PublicKey;

use super::Inbox;
use crate::storage::StorageError;

impl Inbox {
    /// Moves the rows of `old` in a mesh to `new`, in one transaction. A row that `new` has already is the same message and
    /// goes. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`StorageError`]; nothing is moved then.
    pub async fn rekey(
        &self,
        mesh: &str,
        old: PublicKey,
        new: PublicKey,
    ) -> Result<(), StorageError> {
        let (mesh, old, new) = (mesh.to_owned(), old.to_hex(), new.to_hex());
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let moving = "UPDATE OR IGNORE inbox SET recipient_pubkey=$3 \
                                  WHERE recipient_pubkey=$2 AND +mesh=$1";
                    sqlx::query(moving)
                        .bind(&mesh)
                        .bind(&old)
                        .bind(&new)
                        .execute(&mut *conn)
                        .await?;
                    let left = "DELETE FROM inbox WHERE recipient_pubkey=$2 AND +mesh=$1";
                    sqlx::query(left).bind(&mesh).bind(&old).execute(&mut *conn).await?;
                    Ok::<_, StorageError>(())
                })
            })
            .await
    }
}
