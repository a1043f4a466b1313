//! Accounts and their meshes.

use claudemesh_crypto::tokens::SecretText;
use claudemesh_protocol::account::{
    MeReply, MeshCreateReply, MeshCreateRequest, MeshesReply, SessionRevokeReply,
    SessionRevokeRequest, SetupReply, SetupRequest,
};
use reqwest::Method;

use super::{BrokerHttp, HttpError};

impl BrokerHttp {
    /// Makes the first account of a server, from this machine only.
    ///
    /// # Errors
    /// [`HttpError`]; `setup_done` and `invalid_setup_code` among them.
    pub async fn setup(&self, request: &SetupRequest) -> Result<SetupReply, HttpError> {
        self.call(self.with_json(Method::POST, "/cli/setup", request)).await
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`HttpError`]; `invalid_or_revoked_token` when it is nobody's.
    pub async fn me(&self, token: &SecretText) -> Result<MeReply, HttpError> {
        self.call(self.request(Method::GET, "/cli/me").bearer_auth(token.expose())).await
    }

    /// The meshes of an account.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn meshes(&self, token: &SecretText) -> Result<MeshesReply, HttpError> {
        self.call(self.request(Method::GET, "/cli/meshes").bearer_auth(token.expose())).await
    }

    /// Makes a mesh whose first member is the key in `request`.
    ///
    /// # Errors
    /// [`HttpError`]; `slug_taken` with a `suggestion` among them.
    pub async fn mesh_create(
        &self,
        token: &SecretText,
        request: &MeshCreateRequest,
    ) -> Result<MeshCreateReply, HttpError> {
        self.call(
            self.with_json(Method::POST, "/cli/mesh/create", request).bearer_auth(token.expose()),
        )
        .await
    }

    /// Ends the session of a token; possession is enough.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn session_revoke(
        &self,
        token: &SecretText,
    ) -> Result<SessionRevokeReply, HttpError> {
        let body = SessionRevokeRequest { token: Some(token.expose().to_owned()), id: None };
        self.call(self.with_json(Method::POST, "/cli/session/revoke", &body)).await
    }
}
