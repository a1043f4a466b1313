//! Calls that concern the daemon as a whole.

use bytes::Bytes;
use hyper::Method;
use serde_json::{Map, Value};

use super::Client;
use crate::api;
use crate::error::IpcError;

impl Client {
    /// `POST /v1/admin/reload`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn reload(&self) -> Result<api::system::ReloadReply, IpcError> {
        self.post("/v1/admin/reload", &Map::new()).await
    }

    /// `POST /v1/admin/rotate-token`: the new token stands in its file and is not answered.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn rotate_token(&self) -> Result<api::admin::RotateTokenReply, IpcError> {
        self.post("/v1/admin/rotate-token", &api::admin::RotateTokenRequest::default()).await
    }

    /// `GET /v1/metrics`: figures in the text form of Prometheus.
    ///
    /// # Errors
    /// [`IpcError`]; `not_found` when they are switched off.
    pub async fn metrics(&self) -> Result<String, IpcError> {
        let body = self.fetch(self.request(Method::GET, "/v1/metrics", Bytes::new())?).await?;
        String::from_utf8(body.into()).map_err(|error| IpcError::Malformed(error.to_string()))
    }

    /// `POST /v1/admin/shutdown`: the daemon answers, then stops.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn shutdown(&self) -> Result<(), IpcError> {
        let _: Value = self.post("/v1/admin/shutdown", &Map::new()).await?;
        Ok(())
    }
}
