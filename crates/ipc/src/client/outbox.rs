//! `/v1/outbox` and below: what waits to be sent, and what an operator does about it (daemon spec §11).

use super::Client;
use super::query::encoded;
use crate::api;
use crate::error::IpcError;

impl Client {
    /// `GET /v1/outbox`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn outbox(&self, query: &api::OutboxQuery) -> Result<api::OutboxPage, IpcError> {
        self.get("/v1/outbox", query).await
    }

    /// `GET /v1/outbox/<id>`: row id, client id, broker id, or a prefix of at least 8 characters.
    ///
    /// # Errors
    /// [`IpcError`]; `not_found`, `ambiguous_prefix`.
    pub async fn outbox_row(&self, id: &str) -> Result<api::OutboxRowReply, IpcError> {
        self.get(&format!("/v1/outbox/{}", encoded(id)), &()).await
    }

    /// `POST /v1/outbox/requeue`.
    ///
    /// # Errors
    /// [`IpcError`]; `not_found`, `row_inflight`, `row_finished`, `idempotency_conflict`, and what a send can say.
    pub async fn outbox_requeue(
        &self,
        request: &api::RequeueRequest,
    ) -> Result<api::RequeueReply, IpcError> {
        self.post("/v1/outbox/requeue", request).await
    }

    /// `POST /v1/outbox/drop`.
    ///
    /// # Errors
    /// [`IpcError`]; `not_found`, `row_inflight`, `row_finished`.
    pub async fn outbox_drop(&self, id: &str) -> Result<api::DropReply, IpcError> {
        self.post("/v1/outbox/drop", &api::DropRequest { id: id.to_owned() }).await
    }

    /// `POST /v1/outbox/prune`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn outbox_prune(
        &self,
        request: &api::OutboxPruneRequest,
    ) -> Result<api::OutboxPruneReply, IpcError> {
        self.post("/v1/outbox/prune", request).await
    }
}
