//! An authenticated hello finds its place: capacity, durable row, then presence and `hello_ack` in one step under the
//! mesh's lock (broker spec §2.1).
//!
//! The row is written before anything changes in memory: a repeated hello is found out by the store and must not have
//! moved anybody aside. Between the two steps the place is reserved by a count.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use claudemesh_core::presence::{
    Arrival, ClientInfo, Handshake, Lease, Placement, Presence, place,
};
use claudemesh_core::status::StatusRecord;
use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::limits::{GROUPS_PER_PRESENCE, HELLO_MEMORY, PENDING_STATUS_TTL};
use claudemesh_protocol::wire::Profile;
use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::{
    Group, MemberId, PeerRole, PresenceId, PublicKey, StatusSource, Timestamp,
};
use claudemesh_store::{
    AuditPayload, ClonePolicy, HelloSeen, NewAuditEntry, OpenPresence, PeerState, PendingStatusOf,
    SessionKeySeen, StoreError,
};

use super::depart::{self, Ending};
use super::event::announce_arrival;
use super::listed::ListedPresence;
use super::{Close, Connection, Entry, Mesh, MeshState, stored};
use crate::audit::peer_joined;
use crate::state::Broker;

/// A hello whose signatures and membership are verified.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) handshake: Handshake,
    pub(crate) member_id: MemberId,
    pub(crate) member_key: PublicKey,
    pub(crate) member_name: String,
    pub(crate) session_key: Option<PublicKey>,
    pub(crate) role: PeerRole,
    pub(crate) display_name: Option<String>,
    pub(crate) client: ClientInfo,
    /// Groups the hello names; `None` when it says nothing about them.
    pub(crate) groups: Option<Vec<Group>>,
    pub(crate) default_groups: Vec<Group>,
    pub(crate) role_label: Option<String>,
    pub(crate) session_caps: Option<CapabilitySet>,
    pub(crate) attestation: Option<ParentAttestation>,
    pub(crate) hello_key: PublicKey,
    pub(crate) hello_timestamp: Timestamp,
    pub(crate) signature_hash: [u8; 32],
    /// What an earlier connection left.
    pub(crate) saved: Option<PeerState>,
}

/// Why an arrival found no place.
#[derive(Debug)]
pub(crate) enum Unsettled {
    /// The mesh is full.
    Capacity,
    /// The member is connected from another machine, and the older connection counts. The audit log is to be told this.
    AlreadyConnected(Box<NewAuditEntry>),
    /// This very hello was accepted before.
    Replayed,
    /// A newer hello of the same session is connected: this one was late on its way.
    Superseded,
    /// Its member was removed from the mesh while it was being judged.
    Removed,
    /// Its member took another key while it was being judged.
    Rotated,
    /// The store cannot keep it now.
    Store(StoreError),
}

/// A place in the mesh's count, given back when dropped.
pub(crate) struct Reservation {
    mesh: Arc<Mesh>,
    target: PresenceId,
    is_counted: bool,
    is_over: bool,
}

impl Reservation {
    /// The presence to be.
    pub(crate) const fn presence_id(&self) -> &PresenceId {
        &self.target
    }
}

impl Reservation {
    /// Gives the place back, because it is taken or not wanted any more. Once.
    fn end(&mut self, state: &mut MeshState) {
        if !std::mem::replace(&mut self.is_over, true) {
            state.joining = state.joining.saturating_sub(usize::from(self.is_counted));
            state.joining_devices.remove(&self.target);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.is_over {
            let mesh = Arc::clone(&self.mesh);
            self.end(&mut mesh.lock());
        }
    }
}

/// The outcome of an arrival.
pub(crate) struct Settled {
    pub(crate) presence_id: PresenceId,
    pub(crate) display_name: String,
    /// What was restored into a new presence, or for a new process.
    pub(crate) restored: Option<PeerState>,
    pub(crate) has_restored_groups: bool,
    /// What a killed process had said and counted, to be written: the row of the presence speaks of its successor.
    kept: Option<PeerState>,
    endings: Vec<depart::Departed>,
    /// What the audit log is told.
    audited: Vec<NewAuditEntry>,
    reattached_rows: Vec<(claudemesh_store::DeliverySeq, super::InFlight)>,
}

fn arrival(arriving: &Arriving) -> Arrival<'_> {
    Arrival {
        handshake: arriving.handshake,
        member_id: &arriving.member_id,
        session_key: arriving.session_key,
        session_id: &arriving.client.session_id,
        host_fingerprint: arriving.client.host_fingerprint.as_deref(),
        role: arriving.role,
        channel: arriving.client.channel.as_deref(),
        is_transient: arriving.client.has(capability::TRANSIENT),
    }
}

fn placement(state: &MeshState, arriving: &Arriving) -> Placement {
    let mine = state.of_member(&arriving.member_id).map(|entry| (&entry.presence, entry.lease));
    place(&arrival(arriving), mine)
}

/// The machine of an arriving daemon; the clone policy is about nobody else. One-shot calls come and go beside it.
fn device_host(arriving: &Arriving) -> Option<&String> {
    let is_daemon = arriving.handshake == Handshake::Member
        && arriving.role == PeerRole::ControlPlane
        && arriving.session_key.is_none()
        && !arriving.client.has(capability::TRANSIENT);
    arriving.client.host_fingerprint.as_ref().filter(|_| is_daemon)
}

/// Live daemons of the same member on other machines.
fn rivals(state: &MeshState, arriving: &Arriving) -> Vec<PresenceId> {
    let Some(host) = device_host(arriving) else { return Vec::new() };
    state
        .of_member(&arriving.member_id)
        .filter(|entry| entry.connection.is_some() && entry.presence.is_device())
        .filter(|entry| {
            entry.presence.client.host_fingerprint.as_ref().is_some_and(|other| other != host)
        })
        .map(|entry| entry.presence.id.clone())
        .collect()
}

/// Gives the arrival another name when the one it wants, or comes back with, is another member's. True when it did.
pub(crate) fn give_way(mesh: &Mesh, arriving: &mut Arriving) -> bool {
    let state = mesh.lock();
    let wish = match (&arriving.display_name, placement(&state, arriving)) {
        (Some(name), _) => Some(name.as_str()),
        (None, Placement::Reattach(id)) => {
            state.presence(&id).map(|entry| entry.presence.display_name.as_str())
        }
        // It gets its member's name.
        (None, Placement::New { .. }) => None,
    };
    let instead = wish.and_then(|wish| state.name_instead(&arriving.member_id, wish));
    drop(state);
    let is_other = instead.is_some();
    arriving.display_name = instead.or_else(|| arriving.display_name.take());
    is_other
}

/// Finds the place and counts it.
///
/// # Errors
/// [`Unsettled::Superseded`], [`Unsettled::Capacity`], [`Unsettled::AlreadyConnected`].
pub(crate) fn reserve(
    broker: &Broker,
    mesh: &Arc<Mesh>,
    arriving: &Arriving,
) -> Result<Reservation, Unsettled> {
    let mut state = mesh.lock();
    if is_superseded(&state, arriving) {
        return Err(Unsettled::Superseded);
    }
    let device = device_host(arriving).map(|host| (arriving.member_id.clone(), host.clone()));
    if state.info.settings.clone_policy == ClonePolicy::PreferOldest {
        // One that is about to be here counts as well: of two that come at once, one stays.
        let is_joining = device.as_ref().is_some_and(|(member, host)| {
            state.joining_devices.values().any(|(other, its)| other == member && its != host)
        });
        if is_joining || !rivals(&state, arriving).is_empty() {
            drop(state);
            let entry = note_concurrent(broker, mesh, arriving, "refused");
            return Err(Unsettled::AlreadyConnected(Box::new(entry)));
        }
    }
    let (target, is_counted) = match placement(&state, arriving) {
        Placement::Reattach(id) => (id, false),
        Placement::New { replaces } => {
            let mesh_limit = state.info.settings.max_peers.map_or(usize::MAX, |max| max as usize);
            let limit = broker.limits().max_connections_per_mesh.min(mesh_limit);
            if state.presence_count() + state.joining >= limit + replaces.len() {
                return Err(Unsettled::Capacity);
            }
            state.joining += 1;
            (PresenceId::random(claudemesh_crypto::random::fill), true)
        }
    };
    if let Some(device) = device {
        state.joining_devices.insert(target.clone(), device);
    }
    drop(state);
    Ok(Reservation { mesh: Arc::clone(mesh), target, is_counted, is_over: false })
}

/// True when a connected socket stands for the same session by a hello that was signed later. The packets of a process
/// that was killed may arrive after the hello of its successor, which must not lose its place to them. Only hellos of the
/// last minute can be that late; their age was checked.
fn is_superseded(state: &MeshState, arriving: &Arriving) -> bool {
    let same_session = match placement(state, arriving) {
        Placement::Reattach(id) => vec![id],
        Placement::New { replaces } => replaces,
    };
    same_session
        .iter()
        .filter_map(|id| state.presence(id))
        .any(|entry| entry.connection.is_some() && entry.hello_timestamp > arriving.hello_timestamp)
}

/// True when two processes came to continue what a killed one left behind, and the other one was first. This one finds a
/// place of its own when it comes again.
fn is_continued_by_another(state: &MeshState, id: &PresenceId, arriving: &Arriving) -> bool {
    state.presence(id).is_some_and(|entry| {
        entry.connection.is_some() && is_another_process(&entry.presence, arriving)
    })
}

/// Keeps account of a member that is connected from two machines (broker spec §2.6): a copied key shows like this.
#[must_use = "the audit log is told"]
fn note_concurrent(
    broker: &Broker,
    mesh: &Mesh,
    arriving: &Arriving,
    outcome: &'static str,
) -> NewAuditEntry {
    broker.metrics().concurrent_connections.inc(outcome);
    let member = arriving.member_key.short(12);
    tracing::warn!(
        mesh_id = %mesh.id, member, outcome,
        "member_concurrent_connection: a member is connected from two machines"
    );
    NewAuditEntry {
        mesh_id: mesh.id.clone(),
        event: AuditEvent::MemberConcurrentConnection,
        actor: Some(arriving.member_id.clone()),
        payload: AuditPayload::new()
            .with("pubkey", arriving.member_key.to_hex())
            .with("outcome", outcome),
        at: broker.now(),
    }
}

/// What a live presence of the same session would leave behind: whoever takes its place goes on with that, not with what
/// was saved when an earlier connection ended.
fn state_of_replaced(
    broker: &Broker,
    mesh: &Mesh,
    state: &MeshState,
    arriving: &Arriving,
) -> Option<PeerState> {
    let Placement::New { replaces } = placement(state, arriving) else { return None };
    let entry = replaces
        .iter()
        .filter_map(|id| state.presence(id))
        .find(|entry| entry.presence.handshake == arriving.handshake)?;
    let mut saved = stored::peer_state_of(entry, &mesh.id, broker.now())?;
    saved.stats = saved.stats.plus(stored::counted_by(entry));
    Some(saved)
}

fn new_presence(arriving: &Arriving, id: PresenceId, now: Timestamp) -> (Presence, bool) {
    let saved = arriving.saved.as_ref();
    let hello_groups = match arriving.handshake {
        Handshake::Session => arriving.groups.clone(),
        Handshake::Member => arriving.groups.clone().filter(|groups| !groups.is_empty()),
    };
    let has_restored_groups = hello_groups.is_none() && saved.is_some();
    let mut groups = hello_groups
        .or_else(|| saved.map(|saved| saved.groups.clone()))
        .unwrap_or_else(|| arriving.default_groups.clone());
    groups.truncate(GROUPS_PER_PRESENCE);
    let is_member = arriving.handshake == Handshake::Member;
    let mut profile = saved
        .filter(|_| is_member)
        .map(|saved| stored::profile_of(saved.profile.clone()))
        .unwrap_or_default();
    if arriving.role_label.is_some() {
        profile = Profile { role: arriving.role_label.clone(), ..profile };
    }
    let presence = Presence {
        id,
        member_id: arriving.member_id.clone(),
        member_key: arriving.member_key,
        session_key: arriving.session_key,
        handshake: arriving.handshake,
        role: arriving.role,
        display_name: arriving.display_name.clone().unwrap_or_else(|| arriving.member_name.clone()),
        client: arriving.client.clone(),
        status: StatusRecord::initial(now),
        summary: saved.and_then(|saved| saved.last_summary.clone()),
        groups,
        is_visible: saved.filter(|_| is_member).is_none_or(|saved| saved.is_visible),
        profile,
        stats: None,
        session_caps: arriving.session_caps,
        attestation: arriving.attestation.clone(),
        connected_at: now,
    };
    (presence, has_restored_groups)
}

/// True when the presence was another process's: its daemon was killed and started again.
fn is_another_process(presence: &Presence, arriving: &Arriving) -> bool {
    arriving.session_key.is_none() && presence.client.session_id != arriving.client.session_id
}

/// The presence a reattachment continues, with what the new hello says afresh.
fn continued(presence: &Presence, arriving: &Arriving) -> Presence {
    let is_restart = is_another_process(presence, arriving);
    let named = arriving.groups.clone().filter(|groups| is_restart && !groups.is_empty());
    Presence {
        groups: named.unwrap_or_else(|| presence.groups.clone()),
        // A process counts from nothing; what the earlier one counted is kept beside the presence.
        stats: presence.stats.filter(|_| !is_restart),
        member_key: arriving.member_key,
        client: arriving.client.clone(),
        display_name: arriving
            .display_name
            .clone()
            .unwrap_or_else(|| presence.display_name.clone()),
        session_caps: arriving.session_caps,
        profile: Profile {
            role: arriving.role_label.clone().or_else(|| presence.profile.role.clone()),
            ..presence.profile.clone()
        },
        attestation: arriving.attestation.clone().or_else(|| presence.attestation.clone()),
        role: arriving.role,
        ..presence.clone()
    }
}

/// Writes the row, takes the place and queues `hello_ack` as the first frame of the socket.
///
/// # Errors
/// [`Unsettled::Replayed`], [`Unsettled::Superseded`], [`Unsettled::Removed`], [`Unsettled::Rotated`],
/// [`Unsettled::Store`]; nobody was moved aside then.
pub(crate) async fn settle(
    broker: &Broker,
    mut reservation: Reservation,
    mut arriving: Arriving,
    connection: &Arc<Connection>,
    greet: impl FnOnce(&Settled, &MeshState),
) -> Result<Settled, Unsettled> {
    let mesh = Arc::clone(&reservation.mesh);
    let now = broker.now();
    connection.touch(now);
    let (mut fresh, row) = {
        let state = mesh.lock();
        if let Some(replaced) = state_of_replaced(broker, &mesh, &state, &arriving) {
            arriving.saved = Some(replaced);
        }
        let fresh = new_presence(&arriving, reservation.target.clone(), now);
        let old = state.presence(&reservation.target).map(|entry| &entry.presence);
        let presence = old.map_or_else(|| fresh.0.clone(), |old| continued(old, &arriving));
        let row = stored::row_of(&presence, &mesh.id, broker.node_id(), now);
        (fresh, row)
    };
    let pending = pending_status(broker, &reservation, &arriving, now);
    let hello = HelloSeen {
        pubkey: arriving.hello_key,
        timestamp: arriving.hello_timestamp,
        signature_hash: arriving.signature_hash,
        expires_at: now.plus(HELLO_MEMORY),
    };
    let session_key = arriving.session_key.map(|session_pubkey| SessionKeySeen {
        mesh_id: mesh.id.clone(),
        session_pubkey,
        member_id: arriving.member_id.clone(),
        attestation: arriving.attestation.as_ref().and_then(stored::attestation_text),
        last_seen_at: now,
    });
    match broker.store().open_presence(row, hello, session_key, pending).await {
        Ok(OpenPresence::Opened) => {}
        Ok(OpenPresence::OpenedAs(status)) => {
            fresh.0.status = StatusRecord { status, source: StatusSource::Hook, updated_at: now };
        }
        Ok(OpenPresence::Replayed) => return Err(Unsettled::Replayed),
        Err(error) => return Err(Unsettled::Store(error)),
    }
    let placed = {
        let mut state = mesh.lock();
        let refused = match state.member(&arriving.member_id) {
            None => Some(Unsettled::Removed),
            // Whoever rotates closes the connections that are here by then, and this one would come after that.
            Some(entry) if entry.member.pubkey != Some(arriving.member_key) => {
                Some(Unsettled::Rotated)
            }
            Some(_) => {
                let is_late = is_superseded(&state, &arriving)
                    || is_continued_by_another(&state, &reservation.target, &arriving);
                is_late.then_some(Unsettled::Superseded)
            }
        };
        if let Some(reason) = refused {
            Err((reason, state.presence(&reservation.target).is_none()))
        } else {
            let settled = take_place(broker, &mesh, &mut state, &arriving, connection, fresh);
            // Before the lock goes: a younger row could be pushed to it already.
            state.owe_to_new_device(&settled.presence_id);
            greet(&settled, &state);
            reservation.end(&mut state);
            Ok(settled)
        }
    };
    match placed {
        Ok(settled) => Ok(settled),
        Err((reason, has_row_of_its_own)) => {
            if has_row_of_its_own {
                depart::end_unplaced(broker, reservation.target.clone()).await;
            }
            Err(reason)
        }
    }
}

/// Which report of a hook a new presence begins with, where hooks report to the broker at all.
fn pending_status(
    broker: &Broker,
    reservation: &Reservation,
    arriving: &Arriving,
    now: Timestamp,
) -> Option<PendingStatusOf> {
    (broker.settings().hook_endpoint && reservation.is_counted).then(|| PendingStatusOf {
        pid: arriving.client.pid,
        cwd: arriving.client.cwd.clone(),
        session_id: arriving.client.session_id.clone(),
        not_before: now.minus(PENDING_STATUS_TTL),
    })
}

/// Under the lock: moves aside whoever stands for the same session and inserts or continues the presence.
fn take_place(
    broker: &Broker,
    mesh: &Arc<Mesh>,
    state: &mut MeshState,
    arriving: &Arriving,
    connection: &Arc<Connection>,
    (fresh, has_restored_groups): (Presence, bool),
) -> Settled {
    let now = broker.now();
    let presence_id = fresh.id.clone();
    let (mut endings, mut audited) = (Vec::new(), Vec::new());
    for rival in rivals(state, arriving) {
        if state.info.settings.clone_policy == ClonePolicy::PreferNewest {
            audited.push(note_concurrent(broker, mesh, arriving, "replaced"));
            let ending = Ending::Closed(Close::REPLACED_BY_NEWER);
            endings.extend(depart::remove(broker, mesh, state, &rival, ending));
        } else {
            audited.push(note_concurrent(broker, mesh, arriving, "allowed"));
        }
    }
    // Whoever else stands for this session: a racing socket may have come first.
    let same_session: Vec<PresenceId> = match placement(state, arriving) {
        Placement::Reattach(id) if id != presence_id => vec![id],
        Placement::Reattach(_) => Vec::new(),
        Placement::New { replaces } => {
            replaces.into_iter().filter(|id| *id != presence_id).collect()
        }
    };
    // Nobody was told that the older one left, so nobody is told that this one came.
    let is_known = same_session.iter().filter_map(|id| state.presence(id)).any(|entry| {
        let older = &entry.presence;
        older.recipient_key() == fresh.recipient_key() && older.is_visible && !older.is_transient()
    });
    for id in same_session {
        let ending = Ending::Replaced { by_key: arriving.session_key };
        endings.extend(depart::remove(broker, mesh, state, &id, ending));
    }
    if state.presence(&presence_id).is_some() {
        let reattached_rows = state.take_unacked(&presence_id);
        for (_, row) in &reattached_rows {
            state.queue(row.key).releasing(row.priority);
        }
        let (display_name, restored) = reattach(mesh, state, &presence_id, arriving, connection);
        let has_restored_groups =
            restored.is_some() && arriving.groups.as_ref().is_none_or(Vec::is_empty);
        return Settled {
            presence_id,
            display_name,
            kept: restored.clone(),
            restored,
            has_restored_groups,
            endings,
            audited,
            reattached_rows,
        };
    }
    let restored = arriving.saved.clone();
    let display_name = fresh.display_name.clone();
    if !is_known {
        announce_arrival(mesh, state, &fresh, restored.as_ref(), now);
    }
    audited.push(peer_joined(&mesh.id, &fresh, restored.is_some(), now));
    state.note_seen(&fresh.member_id, now);
    state.insert(Entry {
        presence: fresh,
        lease: Lease::Online,
        connection: Some(Arc::clone(connection)),
        lost_seen_at: now,
        hello_timestamp: arriving.hello_timestamp,
        is_unsaved: false,
        unacked: VecDeque::new(),
        owed: BTreeMap::new(),
        is_copying: false,
        known_senders: HashSet::new(),
        is_pulling: false,
        pulled_at: None,
        earlier_stats: restored.as_ref().map(|saved| saved.stats).unwrap_or_default(),
        listed: ListedPresence::default(),
    });
    Settled {
        presence_id,
        display_name,
        restored,
        has_restored_groups,
        kept: None,
        endings,
        audited,
        reattached_rows: Vec::new(),
    }
}

/// Gives a presence its new socket. Answers its name, and for another process than the one that left it, which knows
/// nothing, what that one had said.
fn reattach(
    mesh: &Mesh,
    state: &mut MeshState,
    id: &PresenceId,
    arriving: &Arriving,
    connection: &Arc<Connection>,
) -> (String, Option<PeerState>) {
    state.set_lease(id, Lease::Online);
    let Some(entry) = state.presence_mut(id) else { return (String::new(), None) };
    let mut restored = None;
    if is_another_process(&entry.presence, arriving) {
        entry.earlier_stats = entry.earlier_stats.plus(stored::counted_by(entry));
        restored = stored::peer_state_of(entry, &mesh.id, entry.last_seen());
    }
    entry.presence = continued(&entry.presence, arriving);
    entry.hello_timestamp = arriving.hello_timestamp;
    if let Some(older) = entry.connection.replace(Arc::clone(connection)) {
        older.close(Close::SESSION_REPLACED);
    }
    (entry.presence.display_name.clone(), restored)
}

impl Settled {
    /// Does what must follow outside of the lock: rows of replaced presences, held messages.
    pub(crate) async fn follow_up(mut self, broker: &Broker, mesh: &Arc<Mesh>) -> PresenceId {
        for ending in self.endings.drain(..) {
            ending.settle(broker, mesh).await;
        }
        if let Some(kept) = self.kept.take()
            && let Err(error) = broker.store().save_peer_states(vec![kept]).await
        {
            tracing::warn!(%error, mesh_id = %mesh.id, "cannot write what a killed daemon had counted");
        }
        broker.record_all(std::mem::take(&mut self.audited)).await;
        let rows = std::mem::take(&mut self.reattached_rows);
        broker.delivery().release(mesh, rows).await;
        crate::delivery::wake_presence(broker, mesh, &self.presence_id);
        self.presence_id
    }
}
