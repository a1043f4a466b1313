//! `/v1/admin/…` about hosts and keys (daemon spec §4.3, §19).

use std::time::Duration;

use serde_json::Map;

use super::Client;
use crate::api::identity::{
    AcceptHostReply, ArchiveCleanupReply, RotateKeypairReply, RotateKeypairRequest,
    TrustBrokerReply, TrustBrokerRequest,
};
use crate::error::IpcError;

/// A rotation asks the broker, ends the connections and opens them again.
const ROTATION_TIMEOUT: Duration = Duration::from_secs(45);

impl Client {
    /// `POST /v1/admin/accept-host`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn accept_host(&self) -> Result<AcceptHostReply, IpcError> {
        self.post("/v1/admin/accept-host", &Map::new()).await
    }

    /// `POST /v1/admin/rotate-keypair`.
    ///
    /// # Errors
    /// [`IpcError`]; `key_rotation_failed`, `broker_unavailable`, `outcome_unknown`.
    pub async fn rotate_keypair(
        &self,
        request: &RotateKeypairRequest,
    ) -> Result<RotateKeypairReply, IpcError> {
        let patient = self.clone().with_timeout(ROTATION_TIMEOUT);
        patient.post("/v1/admin/rotate-keypair", request).await
    }

    /// `POST /v1/admin/trust-broker`.
    ///
    /// # Errors
    /// [`IpcError`]; `not_found` when the broker has not changed its key, `mesh_not_attached`.
    pub async fn trust_broker(
        &self,
        request: &TrustBrokerRequest,
    ) -> Result<TrustBrokerReply, IpcError> {
        self.post("/v1/admin/trust-broker", request).await
    }

    /// `POST /v1/admin/archive-cleanup`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn archive_cleanup(&self) -> Result<ArchiveCleanupReply, IpcError> {
        self.post("/v1/admin/archive-cleanup", &Map::new()).await
    }
}
