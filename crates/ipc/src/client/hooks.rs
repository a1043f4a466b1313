//! `/v1/admin/hooks-test` (daemon spec §16).

use claudemesh_protocol::limits::{HOOK_KILL_AFTER, HOOK_TIMEOUT_MAX};

use super::Client;
use crate::api::hooks::{HooksTestReply, HooksTestRequest};
use crate::error::IpcError;

impl Client {
    /// `POST /v1/admin/hooks-test`: runs one hook now, and waits as long as a hook may take.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn hooks_test(&self, request: &HooksTestRequest) -> Result<HooksTestReply, IpcError> {
        let patience = HOOK_TIMEOUT_MAX + HOOK_KILL_AFTER * 3;
        self.clone().with_timeout(patience).post("/v1/admin/hooks-test", request).await
    }
}
