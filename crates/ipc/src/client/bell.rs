//! `/v1/sessions/bell` (agents spec §1.6b).

use std::time::Duration;

use bytes::Bytes;
use claudemesh_protocol::limits::BELL_WAIT_MAX;
use hyper::Method;

use super::Client;
use super::query::with_query;
use crate::api::session::{BellQuery, BellReply};
use crate::error::IpcError;

impl Client {
    /// `GET /v1/sessions/bell`: waits until something waits for an idle session, at most as long as the query says; `None`
    /// when that time is over.
    ///
    /// # Errors
    /// [`IpcError`]; `too_many_streams`.
    pub async fn bell(&self, query: &BellQuery) -> Result<Option<BellReply>, IpcError> {
        let wait = query.wait.map_or(BELL_WAIT_MAX, Duration::from_secs);
        let patient = self.clone().with_timeout(wait + self.timeout);
        let path = with_query("/v1/sessions/bell", query)?;
        let body = patient.fetch(patient.request(Method::GET, &path, Bytes::new())?).await?;
        if body.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| IpcError::Malformed(error.to_string()))
    }
}
