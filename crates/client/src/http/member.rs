//! Members of a mesh: what a member's own key signs (wire spec appendix A).

use std::collections::BTreeMap;

use claudemesh_crypto::KeyPair;
use claudemesh_protocol::account::PermissionsReply;
use claudemesh_protocol::permission::Permission;
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{MemberId, MeshId, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use super::{BrokerHttp, HttpError};

impl BrokerHttp {
    /// Gives up a membership.
    ///
    /// # Errors
    /// [`HttpError`]; `owner_cannot_leave` for the owner of the mesh.
    pub async fn leave(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        key: &KeyPair,
        now: Timestamp,
    ) -> Result<(), HttpError> {
        let target = format!("/mesh/{mesh}/member/{member}");
        let request = self.signed(&Method::DELETE, &target, Vec::new(), key, now)?;
        let _answer: Value = self.call(request).await?;
        Ok(())
    }

    /// Gives a member another name.
    ///
    /// # Errors
    /// [`HttpError`]; `admin_managed` where members may not name themselves.
    pub async fn rename_member(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        key: &KeyPair,
        display_name: &str,
        now: Timestamp,
    ) -> Result<(), HttpError> {
        let change = json!({ "displayName": display_name });
        self.edit_member(mesh, member, key, &change, now).await
    }

    /// Makes a member an admin, or an admin a member again.
    ///
    /// # Errors
    /// [`HttpError`]; `admin_managed` for those who are no admins, `forbidden` about the owner.
    pub async fn change_role(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        key: &KeyPair,
        role: MemberRole,
        now: Timestamp,
    ) -> Result<(), HttpError> {
        self.edit_member(mesh, member, key, &json!({ "permission": role }), now).await
    }

    /// What every member may do.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn permissions(
        &self,
        mesh: &MeshId,
        key: &KeyPair,
        now: Timestamp,
    ) -> Result<PermissionsReply, HttpError> {
        let target = format!("/cli/mesh/{mesh}/permissions");
        self.call(self.signed(&Method::GET, &target, Vec::new(), key, now)?).await
    }

    /// Gives and takes permissions; `None` goes back to what the role has.
    ///
    /// # Errors
    /// [`HttpError`]; `forbidden` without the right, and about the owner.
    pub async fn change_permissions(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        key: &KeyPair,
        changes: &BTreeMap<Permission, Option<bool>>,
        now: Timestamp,
    ) -> Result<(), HttpError> {
        let target = format!("/cli/mesh/{mesh}/permissions");
        let body = json!({ "member_id": member, "permissions": changes }).to_string().into_bytes();
        let request = self.signed(&Method::POST, &target, body, key, now)?;
        let _answer: Value = self.call(request.header("content-type", "application/json")).await?;
        Ok(())
    }

    async fn edit_member(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        key: &KeyPair,
        change: &Value,
        now: Timestamp,
    ) -> Result<(), HttpError> {
        let target = format!("/mesh/{mesh}/member/{member}");
        let body = change.to_string().into_bytes();
        let request = self.signed(&Method::PATCH, &target, body, key, now)?;
        let _answer: Value = self.call(request.header("content-type", "application/json")).await?;
        Ok(())
    }
}
