//! Invites: made, looked at, used.

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::tokens::SecretText;
use claudemesh_protocol::account::{
    InviteCreateReply, InviteCreateRequest, InvitesReply, JoinV1Reply, JoinV1Request,
};
use claudemesh_protocol::invite::{ClaimReply, ClaimRequest, InvitePreview};
use claudemesh_protocol::{MeshId, Timestamp};
use reqwest::Method;

use super::{BrokerHttp, HttpError, segment};

impl BrokerHttp {
    /// Makes an invite to a mesh as one of its members, by the member's own key: no account is needed.
    ///
    /// # Errors
    /// [`HttpError`]; `forbidden` without the right to invite, `unauthorized` and `revoked` for a key that is no member's
    /// any more, `missing_bearer_token` at an older broker.
    pub async fn invite_create(
        &self,
        mesh: &MeshId,
        key: &KeyPair,
        request: &InviteCreateRequest,
        now: Timestamp,
    ) -> Result<InviteCreateReply, HttpError> {
        let target = format!("/cli/mesh/{mesh}/invite");
        let body =
            serde_json::to_vec(request).map_err(|error| HttpError::Malformed(error.to_string()))?;
        let request = self.signed(&Method::POST, &target, body, key, now)?;
        self.call(request.header("content-type", "application/json")).await
    }

    /// The same as the account of a member.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn invite_create_by_account(
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
