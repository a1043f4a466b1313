//! Rows of sessions that have ended: sent over a short-lived connection while the session's key pair is stored, given
//! up when it is gone for good (daemon spec §11.3).

use std::collections::HashMap;
use std::sync::Arc;

use claudemesh_client::hello::PresenceInfo;
use claudemesh_protocol::PublicKey;
use tokio::time::Instant;

use super::Mesh;
use super::session::{Purpose, SessionPresence};
use crate::storage::StorageError;

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct Flush {
    missing_since: HashMap<PublicKey, Instant>,
}

impl Flush {
    /// Looks after the rows of sessions that are not connected.
    pub(super) async fn tend(&mut self, mesh: &Arc<Mesh>) -> Result<(), StorageError> {
        let waiting: Vec<PublicKey> = mesh.context.outbox.waiting_senders(&mesh.slug).await?;
        self.missing_since.retain(|key, _| waiting.contains(key));
        mesh.close_flushed(&waiting);
        for key in waiting {
            let is_connected = mesh.sessions.lock().contains(&key);
            if is_connected || mesh.context.sessions.by_key(&mesh.slug, &key).is_some() {
                self.missing_since.remove(&key);
                continue;
            }
            if mesh.open_flush(key) {
                continue;
            }
            let since = *self.missing_since.entry(key).or_insert_with(Instant::now);
            if since.elapsed() >= mesh.context.settings.max_age.sender_gone {
                let text = "the session that sent this has ended and its key is gone";
                let dead = mesh
                    .context
                    .outbox
                    .dead_sender(&mesh.slug, &key, "sender_session_gone", text)
                    .await?;
                mesh.announce_dead(dead);
            }
        }
        Ok(())
    }
}

impl Mesh {
    /// Connects as an ended session whose key pair is stored; false when there is none.
    fn open_flush(self: &Arc<Self>, key: PublicKey) -> bool {
        let stored = match self.context.sessions.key_store().load_by_key(&self.slug, &key) {
            Ok(Some(stored)) => stored,
            Ok(None) => return false,
            Err(error) => {
                // The store may be readable the next time; nothing is given up over this.
                tracing::warn!(mesh = %self.slug, %error, "session_key_store_unreadable");
                return true;
            }
        };
        self.open_presence(SessionPresence {
            counted: None,
            keys: Arc::new(stored.keys),
            caps: stored.allowed_caps,
            info: PresenceInfo {
                session_id: stored.session_id,
                pid: self.context.settings.pid,
                hostname: self.context.settings.hostname.clone(),
                ..PresenceInfo::default()
            },
            purpose: Purpose::Flush,
        });
        true
    }

    /// Closes the connections that were opened for waiting rows and have none left.
    fn close_flushed(&self, waiting: &[PublicKey]) {
        let mut sessions = self.sessions.lock();
        for key in sessions.flushing() {
            if !waiting.contains(&key) && self.in_flight.is_idle(Some(key)) {
                self.end_link(&mut sessions, &key);
            }
        }
    }
}
