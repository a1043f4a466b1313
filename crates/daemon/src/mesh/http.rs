//! The broker's HTTP side, for what our member signs itself: its name, permissions and roles of members.

use std::collections::BTreeMap;

use claudemesh_client::http::{BrokerHttp, HttpError};
use claudemesh_protocol::account::MemberPermissions;
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::permission::Permission;
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{ErrorCode, MemberId, MeshId};

use super::{MemberIdentity, RequestError, banned};
use crate::clock::now;

/// One mesh over HTTP, as our member.
pub(crate) struct MemberHttp {
    http: BrokerHttp,
    slug: String,
    mesh: MeshId,
    own: MemberIdentity,
}

impl MemberHttp {
    pub(super) fn new(
        broker_url: &str,
        plain: PlainHttp,
        (slug, mesh): (&str, &MeshId),
        own: &MemberIdentity,
    ) -> Result<Self, RequestError> {
        let http = BrokerHttp::new(broker_url, plain).map_err(|error| failed(slug, &error))?;
        Ok(Self { http, slug: slug.to_owned(), mesh: mesh.clone(), own: own.clone() })
    }

    /// Gives our member another name.
    pub(super) async fn rename(&self, name: &str) -> Result<(), RequestError> {
        let MemberIdentity { member_id, keys, .. } = &self.own;
        let renamed = self.http.rename_member(&self.mesh, member_id, keys, name, now()).await;
        renamed.map_err(|error| failed(&self.slug, &error))
    }

    /// What every member may do.
    pub(crate) async fn permissions(&self) -> Result<Vec<MemberPermissions>, RequestError> {
        let listed = self.http.permissions(&self.mesh, &self.own.keys, now()).await;
        listed.map(|reply| reply.members).map_err(|error| failed(&self.slug, &error))
    }

    /// Gives and takes permissions of a member.
    pub(crate) async fn change_permissions(
        &self,
        member: &MemberId,
        changes: &BTreeMap<Permission, Option<bool>>,
    ) -> Result<(), RequestError> {
        let keys = &self.own.keys;
        let done = self.http.change_permissions(&self.mesh, member, keys, changes, now()).await;
        done.map_err(|error| failed(&self.slug, &error))
    }

    /// Gives a member another role.
    pub(crate) async fn change_role(
        &self,
        member: &MemberId,
        role: MemberRole,
    ) -> Result<(), RequestError> {
        let changed = self.http.change_role(&self.mesh, member, &self.own.keys, role, now()).await;
        changed.map_err(|error| failed(&self.slug, &error))
    }
}

fn failed(slug: &str, error: &HttpError) -> RequestError {
    if error.is(ErrorCode::Revoked) {
        return banned(slug);
    }
    let message = match error {
        // Why is a matter of the log.
        HttpError::Network(why) => {
            tracing::debug!(mesh = slug, why, "broker_http_unreachable");
            format!("no connection to the broker of {slug}")
        }
        other => other.body().map_or_else(|| other.to_string(), |body| body.message.clone()),
    };
    RequestError {
        message,
        code: error
            .body()
            .map_or_else(|| error.code().as_str().to_owned(), |body| body.error.clone()),
        retry_after_ms: None,
        may_have_run: matches!(error, HttpError::TimedOut),
    }
}
