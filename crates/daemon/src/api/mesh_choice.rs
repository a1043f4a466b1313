//! Which mesh a request is about (daemon spec §5).

use claudemesh_protocol::ErrorCode;

use super::Api;
use super::caller::Caller;
use super::failure::Failure;
use crate::mesh::{MeshHandle, Via};

impl Api {
    /// The mesh that was named: in the request, else by the session; `None` when neither names one.
    pub(crate) fn named_mesh(
        &self,
        explicit: Option<&str>,
        caller: &Caller,
    ) -> Result<Option<MeshHandle>, Failure> {
        let session = caller.session.as_ref().map(|session| session.mesh.as_str());
        let Some(slug) = explicit.or(session) else { return Ok(None) };
        match self.mesh(slug) {
            Some(mesh) => Ok(Some(mesh)),
            None => Err(not_attached(slug)),
        }
    }

    /// The mesh to write to: the named one, else the only one, else the default one.
    pub(crate) fn one_mesh(
        &self,
        explicit: Option<&str>,
        caller: &Caller,
    ) -> Result<MeshHandle, Failure> {
        if let Some(mesh) = self.named_mesh(explicit, caller)? {
            return Ok(mesh);
        }
        let all = self.daemon.meshes().all();
        if let [only] = all.as_slice() {
            return Ok(only.clone());
        }
        let default = self.daemon.default_mesh();
        default.and_then(|slug| self.mesh(&slug)).ok_or_else(|| mesh_required(&all))
    }

    /// The meshes to read from or to write to alike: the named one, else all.
    pub(crate) fn meshes(
        &self,
        explicit: Option<&str>,
        caller: &Caller,
    ) -> Result<Vec<MeshHandle>, Failure> {
        Ok(match self.named_mesh(explicit, caller)? {
            Some(mesh) => vec![mesh],
            None => self.daemon.meshes().all(),
        })
    }

    /// The presences that a caller speaks for: its session's in that mesh; without a session all own ones of the mesh,
    /// else the member's.
    pub(crate) fn presences(&self, mesh: &MeshHandle, caller: &Caller) -> Vec<Via> {
        if caller.session.is_some() {
            return vec![caller.key_in(mesh).map_or(Via::Member, Via::Session)];
        }
        let live = self.daemon.context().sessions.live(mesh.slug());
        let sessions: Vec<_> =
            live.iter().filter_map(|session| session.key()).map(Via::Session).collect();
        if sessions.is_empty() { vec![Via::Member] } else { sessions }
    }
}

pub(crate) fn not_attached(slug: &str) -> Failure {
    Failure::new(ErrorCode::MeshNotAttached, format!("the mesh \"{slug}\" is not joined here"))
        .hint("`claudemesh list` shows the meshes")
}

pub(crate) fn mesh_required(attached: &[MeshHandle]) -> Failure {
    let slugs: Vec<_> = attached.iter().map(MeshHandle::slug).collect();
    let message =
        if slugs.is_empty() { "no mesh is joined here" } else { "name one of the joined meshes" };
    Failure::new(ErrorCode::MeshRequired, message).with("attached", slugs)
}
