//! The daemon as a place where operations are done: its meshes, its sessions, its outbox.

use claudemesh_ipc::api::{OutboxItem, SendReply};
use claudemesh_protocol::PublicKey;
use tokio::sync::MutexGuard;

use super::Api;
use super::caller::Caller;
use super::failure::Failure;
use super::send::{self, Addressed, Letter};
use crate::mesh::{MeshHandle, Resolved};
use crate::ops::Place;
use crate::outbox::ExistingRow;

impl Place for Api {
    type Line = MeshHandle;

    fn mesh(&self, slug: &str) -> Option<MeshHandle> {
        Self::mesh(self, slug)
    }

    fn all(&self) -> Vec<MeshHandle> {
        self.daemon.meshes().all()
    }

    fn default_mesh(&self) -> Option<String> {
        self.daemon.default_mesh()
    }

    fn sessions(&self, mesh: &MeshHandle) -> Vec<PublicKey> {
        let live = self.daemon.context().sessions.live(mesh.slug());
        live.iter().filter_map(|session| session.key()).collect()
    }

    fn as_daemon(&self) -> Option<&Api> {
        Some(self)
    }

    async fn changing_grants(&self) -> MutexGuard<'_, ()> {
        self.grants.lock().await
    }

    async fn sent_from_here(&self, id: &str) -> Result<Vec<OutboxItem>, Failure> {
        Ok(self.daemon.context().outbox.by_id(id).await?)
    }

    async fn address(
        &self,
        caller: &Caller,
        letter: &Letter,
    ) -> Result<Addressed<MeshHandle>, Failure> {
        if let Some((mesh, row)) = self.row_to_reuse(caller, letter).await? {
            return Ok(Addressed::Again(mesh, Box::new(row)));
        }
        send::destination(self, caller, letter).await
    }

    async fn accept_one(
        &self,
        caller: &Caller,
        letter: &Letter,
        mesh: &MeshHandle,
        resolved: &Resolved,
        stored: Option<&ExistingRow>,
    ) -> Result<SendReply, Failure> {
        Self::accept_one(self, caller, letter, mesh, resolved, stored).await
    }

    async fn deliver(
        &self,
        caller: &Caller,
        letter: &Letter,
        addressed: Addressed<MeshHandle>,
    ) -> Result<SendReply, Failure> {
        self.accept_letter(caller, letter, addressed).await
    }
}
