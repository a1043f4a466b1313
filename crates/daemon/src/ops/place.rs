//! Where an operation is done: in the daemon, over connections that last, or in a program that opens one for a single
//! call (CLI spec §1.15). What differs between the two is required of a [`Place`]; how a mesh is chosen and whom a name
//! means is the same in both and stands here (daemon spec §5).

use claudemesh_ipc::api::{OutboxItem, SendReply};
use claudemesh_protocol::{ErrorCode, PublicKey};
use tokio::sync::MutexGuard;

use crate::api::send::{Addressed, Letter, put_together, searched};
use crate::api::{Api, Caller, Failure};
use crate::mesh::{Line, Resolved, Via};
use crate::outbox::ExistingRow;

/// The surroundings of operations.
pub(crate) trait Place: Sync {
    /// Its meshes.
    type Line: Line;

    /// The mesh with this slug.
    fn mesh(&self, slug: &str) -> Option<Self::Line>;

    /// All joined meshes.
    fn all(&self) -> Vec<Self::Line>;

    /// The mesh that is meant where none is named.
    fn default_mesh(&self) -> Option<String>;

    /// Keys of the sessions that are registered here for a mesh.
    fn sessions(&self, mesh: &Self::Line) -> Vec<PublicKey>;

    /// The daemon, where there is one.
    fn as_daemon(&self) -> Option<&Api>;

    /// Waits until nobody else here changes grants.
    fn changing_grants(&self) -> impl Future<Output = MutexGuard<'_, ()>> + Send;

    /// Messages sent from here whose id is this one or begins with it.
    fn sent_from_here(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<Vec<OutboxItem>, Failure>> + Send;

    /// Whom a letter means.
    fn address(
        &self,
        caller: &Caller,
        letter: &Letter,
    ) -> impl Future<Output = Result<Addressed<Self::Line>, Failure>> + Send;

    /// Accepts one message: durably in the daemon, else the broker has it. `stored` is what the daemon accepted under this id
    /// before.
    fn accept_one(
        &self,
        caller: &Caller,
        letter: &Letter,
        mesh: &Self::Line,
        resolved: &Resolved,
        stored: Option<&ExistingRow>,
    ) -> impl Future<Output = Result<SendReply, Failure>> + Send;

    /// Accepts a letter, if there is room for it.
    fn deliver(
        &self,
        caller: &Caller,
        letter: &Letter,
        addressed: Addressed<Self::Line>,
    ) -> impl Future<Output = Result<SendReply, Failure>> + Send;

    /// The mesh that was named: in the request, else by the session; `None` when neither names one.
    fn named_mesh(
        &self,
        explicit: Option<&str>,
        caller: &Caller,
    ) -> Result<Option<Self::Line>, Failure> {
        let session = caller.session.as_ref().map(|session| session.mesh.as_str());
        let Some(slug) = explicit.or(session) else { return Ok(None) };
        match self.mesh(slug) {
            Some(mesh) => Ok(Some(mesh)),
            None => Err(not_attached(slug)),
        }
    }

    /// The mesh to write to: the named one, else the only one, else the default one.
    fn one_mesh(&self, explicit: Option<&str>, caller: &Caller) -> Result<Self::Line, Failure> {
        if let Some(mesh) = self.named_mesh(explicit, caller)? {
            return Ok(mesh);
        }
        let all = self.all();
        if let [only] = all.as_slice() {
            return Ok(only.clone());
        }
        let default = self.default_mesh();
        default.and_then(|slug| self.mesh(&slug)).ok_or_else(|| mesh_required(&all))
    }

    /// The meshes to read from or to write to alike: the named one, else all.
    fn meshes(&self, explicit: Option<&str>, caller: &Caller) -> Result<Vec<Self::Line>, Failure> {
        Ok(match self.named_mesh(explicit, caller)? {
            Some(mesh) => vec![mesh],
            None => self.all(),
        })
    }

    /// The presences that a caller speaks for: its session's in that mesh; without a session all own ones of the mesh,
    /// else the member's.
    fn presences(&self, mesh: &Self::Line, caller: &Caller) -> Vec<Via> {
        if caller.session.is_some() {
            return vec![caller.key_in(mesh).map_or(Via::Member, Via::Session)];
        }
        let sessions: Vec<_> = self.sessions(mesh).into_iter().map(Via::Session).collect();
        if sessions.is_empty() { vec![Via::Member] } else { sessions }
    }

    /// Whom `text` means, in the mesh it names, in `mesh`, or in whichever knows it.
    fn peer(
        &self,
        caller: &Caller,
        mesh: Option<&str>,
        text: &str,
    ) -> impl Future<Output = Result<(Self::Line, Resolved), Failure>> + Send {
        async move {
            let (meshes, text) = searched(self, caller, mesh, text)?;
            let looks = meshes.iter().map(Line::look);
            let looked = futures_util::future::join_all(looks).await;
            let (mut answers, mut unseen) = (Vec::with_capacity(meshes.len()), None);
            for (mesh, looked) in meshes.into_iter().zip(looked) {
                match looked {
                    Ok(()) => {
                        let answer = mesh.resolve(&text, caller.key_in(&mesh));
                        answers.push((mesh, answer));
                    }
                    Err(error) => unseen = Some(Failure::new(error.code, error.message)),
                }
            }
            match unseen {
                // A name that could also be somebody in a mesh that cannot be asked is not taken for somebody else's.
                Some(failure) => Err(failure),
                None => put_together(self, &text, answers),
            }
        }
    }
}

/// No mesh of that slug is joined.
pub(crate) fn not_attached(slug: &str) -> Failure {
    Failure::new(ErrorCode::MeshNotAttached, format!("the mesh \"{slug}\" is not joined here"))
        .hint("`claudemesh list` shows the meshes")
}

/// A mesh must be named.
pub(crate) fn mesh_required(attached: &[impl Line]) -> Failure {
    let slugs: Vec<_> = attached.iter().map(Line::slug).collect();
    let message =
        if slugs.is_empty() { "no mesh is joined here" } else { "name one of the joined meshes" };
    Failure::new(ErrorCode::MeshRequired, message).with("attached", slugs)
}
