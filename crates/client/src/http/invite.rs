//! Invites: made, looked at, used.

use claudemesh_crypto::tokens::SecretText;
use claudemesh_protocol::account::{
    InviteCreateReply, InviteCreateRequest, InvitesReply, JoinV1Reply, JoinV1Request,
};
use claudemesh_protocol::invite::{ClaimReply, ClaimRequest, InvitePreview};
use reqwest::Method;

use super::{BrokerHttp, HttpError, segment};

impl BrokerHttp {
    /// Makes an invite to a mesh.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn invite_create(
        &self,
        token: &SecretText,
        slug: &str,
        request: &InviteCreateRequest,
    ) -> Result<InviteCreateReply, HttpError> {
        let path = format!("/cli/mesh/{}/invite", segment(slug));
        self.call(self.with_json(Method::POST, &path, request).bearer_auth(token.expose())).await
    }

    /// The invites of a mesh, newest first.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn invite_list(
        &self,
        token: &SecretText,
        slug: &str,
    ) -> Result<InvitesReply, HttpError> {
        let path = format!("/cli/mesh/{}/invites", segment(slug));
        self.call(self.request(Method::GET, &path).bearer_auth(token.expose())).await
    }

    /// Revokes an invite; members it made stay.
    ///
    /// # Errors
    /// [`HttpError`]; `not_found` for an unknown code.
    pub async fn invite_revoke(
        &self,
        token: &SecretText,
        slug: &str,
        code: &str,
    ) -> Result<(), HttpError> {
        let path = format!("/cli/mesh/{}/invites/{}", segment(slug), segment(code));
        let request = self.request(Method::DELETE, &path).bearer_auth(token.expose());
        let _answer: serde_json::Value = self.call(request).await?;
        Ok(())
    }

    /// What an invite leads to; uses nothing up.
    ///
    /// # Errors
    /// [`HttpError`]; `not_found` for an unknown code.
    pub async fn preview(&self, code: &str) -> Result<InvitePreview, HttpError> {
        let path = format!("/api/public/invites/{}", segment(code));
        self.call(self.request(Method::GET, &path)).await
    }

    /// Uses an invite. Repeating it with the same key uses nothing up.
    ///
    /// # Errors
    /// [`HttpError`]; `expired`, `revoked`, `exhausted`, `banned` among them.
    pub async fn claim(&self, code: &str, request: &ClaimRequest) -> Result<ClaimReply, HttpError> {
        let path = format!("/invites/{}/claim", segment(code));
        self.call(self.with_json(Method::POST, &path, request)).await
    }

    /// Uses an old-style invite.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn join_v1(&self, request: &JoinV1Request) -> Result<JoinV1Reply, HttpError> {
        self.call(self.with_json(Method::POST, "/join", request)).await
    }
}
