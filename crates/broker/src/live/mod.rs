//! Live state: the meshes in memory, each behind a lock of its own, and how presences come, go and return.

mod arrive;
mod connection;
mod depart;
mod event;
mod listed;
mod mesh;
mod stored;
mod sweep;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use claudemesh_core::queue::KeyQueue;
use claudemesh_protocol::limits::BrokerLimits;
use claudemesh_protocol::{MeshId, PeerRole, PublicKey};
use claudemesh_store::{
    Backlog, DeliveryOutcome, DeliveryWrite, PeerState, PresenceRow, PreviousRun, Reroute,
    StoreError,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

use crate::state::Broker;

pub(crate) use arrive::{Arriving, Settled, Unsettled, give_way, reserve, settle};
pub(crate) use connection::{Close, Connection, Outgoing, Taken};
pub(crate) use depart::{drain, evict_member, leave, lose_socket, remove_all, settle_all};
pub(crate) use event::{Subject, event_id, peer_event};
pub(crate) use listed::{ListedMember, View};
pub(crate) use mesh::{Entry, InFlight, Mesh, MeshState, Unacked};
pub(crate) use stored::state_of;
pub(crate) use sweep::{
    count_presences, decay_statuses, end_leases, forget_quiet, heartbeat, next_lease_end,
    report_status, save_states, sweep_rows,
};

impl Broker {
    /// The mesh or its members were changed in the store by something else than this broker's routes; the next use reads
    /// them again.
    pub fn roster_changed(&self, mesh: &MeshId) {
        self.live().roster_changed(mesh);
    }
}

/// The least time a presence of the previous run keeps after a start (broker spec §6.2 step 6).
const RESTART_GRACE: std::time::Duration = std::time::Duration::from_secs(30);

/// The meshes in memory.
pub(crate) struct Live {
    meshes: RwLock<BTreeMap<MeshId, Arc<Mesh>>>,
    /// First reads that are under way, so that each mesh is read once however many ask.
    loadings: Mutex<HashMap<MeshId, Loading>>,
}

/// A first read of a mesh; `None` when it is unknown or archived.
type Loading = Arc<OnceCell<Option<Arc<Mesh>>>>;

impl Live {
    pub(crate) fn new(_limits: &BrokerLimits) -> Self {
        Self { meshes: RwLock::default(), loadings: Mutex::default() }
    }

    /// The mesh, if it is in memory.
    pub(crate) fn loaded(&self, id: &MeshId) -> Option<Arc<Mesh>> {
        self.meshes.read().get(id).cloned()
    }

    fn loading(&self, id: &MeshId) -> Loading {
        Arc::clone(self.loadings.lock().entry(id.clone()).or_default())
    }

    /// Every mesh in memory.
    pub(crate) fn all(&self) -> Vec<Arc<Mesh>> {
        self.meshes.read().values().cloned().collect()
    }

    /// The mesh or its members changed in the store; the next use reads them again.
    pub(crate) fn roster_changed(&self, id: &MeshId) {
        if let Some(mesh) = self.loaded(id) {
            mark_stale(&mesh);
        }
    }

    /// Members of the mesh with a live or leased presence.
    pub(crate) fn active_peers(&self, id: &MeshId) -> u64 {
        self.loaded(id).map_or(0, |mesh| mesh.lock().active_members() as u64)
    }

    /// Forgets a mesh that nobody uses and about which nothing needs to be remembered.
    pub(crate) fn drop_mesh_if(&self, id: &MeshId, is_unused: impl FnOnce(&MeshState) -> bool) {
        let mut meshes = self.meshes.write();
        let is_unused = meshes.get(id).is_some_and(|mesh| {
            // Nobody else may hold it, or two copies of one mesh could live side by side.
            Arc::strong_count(mesh) == 1 && is_unused(&mesh.lock())
        });
        if is_unused {
            meshes.remove(id);
        }
    }
}

/// The mesh, read from the store on first use and after changes. `None`: unknown or archived.
pub(crate) async fn open_mesh(
    broker: &Broker,
    id: &MeshId,
) -> Result<Option<Arc<Mesh>>, StoreError> {
    if let Some(mesh) = broker.live().loaded(id) {
        refresh(broker, &mesh).await?;
        let is_archived = mesh.lock().info.archived_at.is_some();
        return Ok((!is_archived).then_some(mesh));
    }
    // Thousands of clients come back at once after a restart; one of them reads, the others wait for it.
    let loading = broker.live().loading(id);
    let loaded = loading
        .get_or_try_init(|| async {
            let Some((mesh, backlog)) = load(broker, id).await? else { return Ok(None) };
            reroute_orphans(broker, &mesh, backlog).await?;
            Ok::<_, StoreError>(Some(keep(broker, mesh)))
        })
        .await
        .cloned();
    broker.live().loadings.lock().remove(id);
    if let Ok(Some(mesh)) = &loaded {
        refresh(broker, mesh).await?;
    }
    loaded
}

/// Reads a mesh and what waits in it from before, which is counted.
async fn load(
    broker: &Broker,
    id: &MeshId,
) -> Result<Option<(Arc<Mesh>, Vec<Backlog>)>, StoreError> {
    let store = broker.store();
    let Some(info) = store.mesh(id).await? else { return Ok(None) };
    if info.archived_at.is_some() {
        return Ok(None);
    }
    let mut state = MeshState::new(info, store.roster(id).await?);
    let backlog = store.backlog(id).await?;
    for row in &backlog {
        state.queues.insert(row.recipient_key, KeyQueue::with_held(row.held + row.claimed));
        state.add_open(&row.recipient_member_id, row.held + row.claimed);
    }
    Ok(Some((Arc::new(Mesh::new(id.clone(), state)), backlog)))
}

/// Makes a loaded mesh the one everybody uses, unless somebody was faster.
fn keep(broker: &Broker, mesh: Arc<Mesh>) -> Arc<Mesh> {
    Arc::clone(broker.live().meshes.write().entry(mesh.id.clone()).or_insert(mesh))
}

/// Reads the mesh row and the roster again when they changed.
pub(crate) async fn refresh(broker: &Broker, mesh: &Mesh) -> Result<(), StoreError> {
    if is_current(mesh) {
        return Ok(());
    }
    let _reading = mesh.reading.lock().await;
    if is_current(mesh) {
        return Ok(());
    }
    // Counted before the read: what changes during it is read once more.
    let changes = mesh.changes.load(Ordering::Acquire);
    let info = broker.store().mesh(&mesh.id).await?;
    let roster = broker.store().roster(&mesh.id).await?;
    let mut state = mesh.lock();
    if let Some(info) = info {
        state.info = info;
    }
    state.set_roster(roster);
    mesh.known_changes.store(changes, Ordering::Release);
    drop(state);
    Ok(())
}

fn is_current(mesh: &Mesh) -> bool {
    mesh.known_changes.load(Ordering::Acquire) == mesh.changes.load(Ordering::Acquire)
}

/// What a member is told that was removed from the mesh of this name (wire spec §1.5).
pub(crate) fn removed_sentence(mesh_name: &str) -> String {
    format!("You've been removed from \"{mesh_name}\". Contact the mesh owner to rejoin.")
}

/// Makes the next [`refresh`] read again; for a key that somebody else may have added to the store.
pub(crate) fn mark_stale(mesh: &Mesh) {
    mesh.changes.fetch_add(1, Ordering::AcqRel);
}

/// Takes over what the previous run left (broker spec §6.2 step 6): its presences are leased, its claims go back to
/// held, rows of sessions that did not survive move to their members' queues, and what banned members sent is given up.
pub(crate) async fn recover(broker: &Broker) -> Result<(), StoreError> {
    broker.store().drop_messages_of_banned().await?;
    let lease = std::time::Duration::from_millis(broker.limits().lease_ttl_ms);
    let rows = broker
        .store()
        .lease_previous_run(PreviousRun::EveryNode, broker.now(), lease, RESTART_GRACE.min(lease))
        .await?;
    // One question for all that was saved: a start with a thousand presences must not ask a thousand times.
    let mut saved: BTreeMap<_, PeerState> = BTreeMap::new();
    if !rows.is_empty() {
        for state in broker.store().peer_states_of_present().await? {
            saved.insert((state.member_id.clone(), state.session_pubkey), state);
        }
    }
    let mut by_mesh: BTreeMap<MeshId, Vec<PresenceRow>> = BTreeMap::new();
    for row in rows {
        by_mesh.entry(row.mesh_id.clone()).or_default().push(row);
    }
    for (id, rows) in by_mesh {
        let Some((mesh, backlog)) = load(broker, &id).await? else { continue };
        {
            let mut state = mesh.lock();
            for row in rows {
                let session_key = row.session_pubkey.filter(|_| row.role == PeerRole::Session);
                let member_key = state.member(&row.member_id).and_then(|entry| entry.member.pubkey);
                if let Some(member_key) = member_key {
                    let saved = saved.get(&(row.member_id.clone(), session_key)).cloned();
                    state.insert(stored::leased_entry(row, member_key, saved));
                }
            }
        }
        reroute_orphans(broker, &mesh, backlog).await?;
        keep(broker, mesh);
    }
    Ok(())
}

/// Rows for session keys that nobody can return to any more go to their members' queues. Nobody else uses the mesh yet.
async fn reroute_orphans(
    broker: &Broker,
    mesh: &Mesh,
    backlog: Vec<Backlog>,
) -> Result<(), StoreError> {
    let reroutes: Vec<DeliveryWrite> = {
        let state = mesh.lock();
        backlog
            .into_iter()
            .filter(|row| member_key_of(&state, row.recipient_key).is_none())
            .filter_map(|row| {
                Some(DeliveryWrite::Reroute(Reroute {
                    mesh_id: mesh.id.clone(),
                    session_key: row.recipient_key,
                    member_key: state.member(&row.recipient_member_id)?.member.pubkey?,
                    member_id: row.recipient_member_id,
                    at: broker.now(),
                }))
            })
            .collect()
    };
    if reroutes.is_empty() {
        return Ok(());
    }
    let outcomes = broker.store().commit(reroutes.clone()).await?;
    let mut state = mesh.lock();
    for (reroute, outcome) in reroutes.into_iter().zip(outcomes) {
        if let (DeliveryWrite::Reroute(reroute), DeliveryOutcome::Rerouted(moved)) =
            (reroute, outcome)
        {
            state.queues.remove(&reroute.session_key);
            state.sub_open(&reroute.member_id, moved.merged);
            state.queue(reroute.member_key).arrived_unknown(moved.moved);
        }
    }
    Ok(())
}

/// The member key behind a key that is a member's or a session's.
pub(crate) fn member_key_of(state: &MeshState, key: PublicKey) -> Option<PublicKey> {
    if state.member_by_key(key).is_some() {
        return Some(key);
    }
    state.session(key).map(|entry| entry.presence.member_key)
}
