//! What the broker keeps in memory about one mesh: roster, presences, queues and pushes that wait for their ack.
//!
//! Everything here is synchronous and happens under the mesh's lock, which is never held over an await.

mod roster;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use claudemesh_core::gate::{self, Priorities};
use claudemesh_core::lease::LeaseBook;
use claudemesh_core::loop_guard::LoopGuard;
use claudemesh_core::presence::{Lease, Presence};
use claudemesh_core::queue::{KeyQueue, Route};
use claudemesh_core::rate::TokenBucket;
use claudemesh_protocol::limits::UNACKED_MAX;
use claudemesh_protocol::wire::{Push, ServerFrame};
use claudemesh_protocol::{MemberId, MeshId, PresenceId, Priority, PublicKey, Timestamp};
use claudemesh_store::{DeliverySeq, RosterEntry};
use indexmap::IndexMap;
use parking_lot::{Mutex, MutexGuard};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use self::roster::Known;
use super::connection::Connection;
use super::listed::ListedPresence;

/// One mesh in memory.
pub(crate) struct Mesh {
    pub(crate) id: MeshId,
    state: Mutex<MeshState>,
    /// How often mesh and roster were changed in the store.
    pub(super) changes: AtomicU64,
    /// Of these, how many memory knows.
    pub(super) known_changes: AtomicU64,
    /// Held while mesh and roster are read, so that many who want them read once.
    pub(super) reading: tokio::sync::Mutex<()>,
}

impl Mesh {
    pub(super) fn new(id: MeshId, state: MeshState) -> Self {
        // A change between the first read and now went unnoticed, because nobody held the mesh yet: it is read again.
        let changes = AtomicU64::new(1);
        let known_changes = AtomicU64::new(0);
        let reading = tokio::sync::Mutex::default();
        Self { id, state: Mutex::new(state), changes, known_changes, reading }
    }

    /// The state; hold it shortly.
    pub(crate) fn lock(&self) -> MutexGuard<'_, MeshState> {
        self.state.lock()
    }
}

/// A pushed row whose ack is awaited.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) key: PublicKey,
    pub(crate) member_id: MemberId,
    pub(crate) priority: Priority,
    pub(crate) until: Timestamp,
    /// Presences it was pushed to: one, or every device of a member.
    pub(crate) pushed_to: Vec<PresenceId>,
    /// A socket that is gone by now was written it, so that the attempt counts.
    pub(crate) was_written: bool,
}

/// A row in the window of one connection.
#[derive(Debug)]
pub(crate) struct Unacked {
    pub(crate) seq: DeliverySeq,
    pub(crate) message_id: Arc<str>,
    pub(crate) client_message_id: Option<Arc<str>>,
    /// Its place in the connection's queue, see [`Connection::take_back`].
    pub(crate) ticket: u64,
}

/// One presence with its socket, if it has one.
pub(crate) struct Entry {
    pub(crate) presence: Presence,
    pub(crate) lease: Lease,
    pub(crate) connection: Option<Arc<Connection>>,
    /// The last sign of life of the socket it lost.
    pub(crate) lost_seen_at: Timestamp,
    /// When the hello of its newest socket was signed.
    pub(crate) hello_timestamp: Timestamp,
    /// Something it said about itself is not in the store yet; the next sweep writes it.
    pub(crate) is_unsaved: bool,
    /// Pushed rows it has not acknowledged, oldest first.
    pub(crate) unacked: VecDeque<Unacked>,
    /// Rows of its member's queue that other devices have and it does not yet, in accept order.
    pub(crate) owed: BTreeMap<DeliverySeq, Priority>,
    /// A task brings it owed copies.
    pub(crate) is_copying: bool,
    /// Session keys whose attestation this connection was given.
    pub(crate) known_senders: HashSet<PublicKey>,
    /// A `pull_messages` opened the gate until everything held was handed over.
    pub(crate) is_pulling: bool,
    /// Last `pull_messages`.
    pub(crate) pulled_at: Option<Timestamp>,
    /// Counters of earlier connections as they were told to the client; its own are worked out against them.
    pub(crate) earlier_stats: claudemesh_protocol::wire::Stats,
    /// Its row of the peer list.
    pub(crate) listed: ListedPresence,
}

impl Entry {
    /// Whoever may change it makes it forget how it was listed.
    fn changing(&mut self) -> &mut Self {
        self.listed.forget();
        self
    }

    /// What may be pushed to it now: what it takes, unless older rows of that class are owed to it.
    pub(crate) fn open(&self) -> Priorities {
        let takes = self.takes();
        if self.owed.is_empty() {
            return takes;
        }
        let is_owed = |class: &Priority| self.owed.values().any(|owed| owed == class);
        takes.iter().filter(|class| !is_owed(class)).fold(Priorities::NONE, Priorities::with)
    }

    /// What it takes by status and room: nothing without a socket.
    pub(crate) fn takes(&self) -> Priorities {
        let is_writable =
            self.connection.as_ref().is_some_and(|connection| !connection.is_closing());
        if !is_writable || self.unacked.len() >= UNACKED_MAX {
            return Priorities::NONE;
        }
        if self.is_pulling {
            return Priorities::ALL;
        }
        gate::open_for(self.presence.status.status, self.presence.gatekeeper())
    }

    /// The last frame or pong that came from its newest socket.
    pub(crate) fn last_seen(&self) -> Timestamp {
        self.connection.as_ref().map_or(self.lost_seen_at, |connection| connection.last_seen())
    }

    /// Rows that may still be pushed before acks must come.
    pub(crate) fn room(&self) -> usize {
        UNACKED_MAX.saturating_sub(self.unacked.len())
    }
}

/// The state of one mesh. Maps that are walked have an order of their own, so that what a mesh does depends on its history
/// alone; those looked into for every message are found by hash.
pub(crate) struct MeshState {
    pub(crate) info: claudemesh_store::Mesh,
    roster: IndexMap<MemberId, Known>,
    by_member_key: HashMap<PublicKey, MemberId>,
    by_former_key: HashMap<PublicKey, MemberId>,
    /// Whose each name is, folded; of members that had it before names were unique, the first to join.
    by_name: HashMap<String, MemberId>,
    presences: IndexMap<PresenceId, Entry>,
    leases: LeaseBook,
    by_session_key: HashMap<PublicKey, PresenceId>,
    by_member: HashMap<MemberId, Vec<PresenceId>>,
    /// Hellos between their capacity check and their place.
    pub(crate) joining: usize,
    /// Machines of the daemons among them, for the clone policy.
    pub(super) joining_devices: BTreeMap<PresenceId, (MemberId, String)>,
    pub(crate) queues: BTreeMap<PublicKey, KeyQueue>,
    pub(crate) in_flight: BTreeMap<DeliverySeq, InFlight>,
    /// Rows that were pushed before their commit, until it has ended; true once acknowledged.
    pub(crate) uncommitted: BTreeMap<DeliverySeq, bool>,
    /// Of these, the ones that were acknowledged and then not stored, until the acknowledgement has had its turn.
    pub(crate) never_stored: BTreeSet<DeliverySeq>,
    open_rows: HashMap<MemberId, u64>,
    open_total: u64,
    pub(crate) budgets: BTreeMap<MemberId, TokenBucket>,
    /// What each member may still spend on receipts.
    pub(crate) receipt_budgets: BTreeMap<MemberId, TokenBucket>,
    pub(crate) loops: LoopGuard,
    /// Members whose key is being changed: what they sign with the old one waits, so that it is clear which key signed what.
    pub(crate) changing_key: BTreeSet<MemberId>,
    /// When the audit log was last recomputed for somebody.
    pub(crate) verified_at: Option<Timestamp>,
    /// The entry of the newest signed head of the audit log that the connections here were told of; 0 for none.
    pub(crate) told_head: i64,
}

impl MeshState {
    pub(super) fn new(info: claudemesh_store::Mesh, roster: Vec<RosterEntry>) -> Self {
        let mut state = Self {
            info,
            roster: IndexMap::new(),
            by_member_key: HashMap::new(),
            by_former_key: HashMap::new(),
            by_name: HashMap::new(),
            presences: IndexMap::new(),
            leases: LeaseBook::default(),
            by_session_key: HashMap::new(),
            by_member: HashMap::new(),
            joining: 0,
            joining_devices: BTreeMap::new(),
            queues: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
            never_stored: BTreeSet::new(),
            open_rows: HashMap::new(),
            open_total: 0,
            budgets: BTreeMap::new(),
            receipt_budgets: BTreeMap::new(),
            loops: LoopGuard::default(),
            changing_key: BTreeSet::new(),
            verified_at: None,
            told_head: 0,
        };
        state.set_roster(roster);
        state
    }

    // Presences.

    pub(crate) fn presences(&self) -> impl Iterator<Item = &Entry> {
        self.presences.values()
    }

    /// Presences to change.
    pub(crate) fn presences_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.presences.values_mut().map(Entry::changing)
    }

    pub(crate) fn presence_count(&self) -> usize {
        self.presences.len()
    }

    /// Members with a presence that counts.
    pub(crate) fn active_members(&self) -> usize {
        self.by_member
            .values()
            .filter(|ids| {
                ids.iter()
                    .filter_map(|id| self.presences.get(id))
                    .any(|entry| !entry.presence.is_transient())
            })
            .count()
    }

    pub(crate) fn presence(&self, id: &PresenceId) -> Option<&Entry> {
        self.presences.get(id)
    }

    /// A presence to change.
    pub(crate) fn presence_mut(&mut self, id: &PresenceId) -> Option<&mut Entry> {
        self.presences.get_mut(id).map(Entry::changing)
    }

    /// The presence, while `connection` is its socket.
    pub(crate) fn own(&mut self, id: &PresenceId, connection: &Connection) -> Option<&mut Entry> {
        self.presence_mut(id).filter(|entry| {
            entry.connection.as_ref().is_some_and(|mine| mine.id() == connection.id())
        })
    }

    /// Starts or ends the lease of a presence.
    pub(crate) fn set_lease(&mut self, id: &PresenceId, lease: Lease) {
        if let Some(entry) = self.presences.get_mut(id) {
            let before = std::mem::replace(&mut entry.lease, lease);
            self.leases.change(id, before, lease);
        }
    }

    /// The running leases.
    pub(crate) const fn leases(&self) -> &LeaseBook {
        &self.leases
    }

    pub(crate) fn session(&self, key: PublicKey) -> Option<&Entry> {
        self.presences.get(self.by_session_key.get(&key)?)
    }

    pub(crate) fn of_member(&self, id: &MemberId) -> impl Iterator<Item = &Entry> {
        self.by_member
            .get(id)
            .into_iter()
            .flatten()
            .filter_map(|presence| self.presences.get(presence))
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        let presence = &entry.presence;
        // One that only sends something receives nothing, and may stand beside the session it sends for.
        if let Some(key) = presence.session_key
            && !presence.is_transient()
        {
            self.by_session_key.insert(key, presence.id.clone());
        }
        self.by_member.entry(presence.member_id.clone()).or_default().push(presence.id.clone());
        self.leases.change(&presence.id, Lease::Online, entry.lease);
        self.presences.insert(presence.id.clone(), entry);
    }

    pub(crate) fn remove(&mut self, id: &PresenceId) -> Option<Entry> {
        let entry = self.presences.swap_remove(id)?;
        self.leases.forget(id, entry.lease);
        if let Some(key) = entry.presence.session_key
            && self.by_session_key.get(&key) == Some(id)
        {
            self.by_session_key.remove(&key);
        }
        if let Some(ids) = self.by_member.get_mut(&entry.presence.member_id) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.by_member.remove(&entry.presence.member_id);
            }
        }
        Some(entry)
    }

    /// Connected presences that rows of this key are pushed to: the session itself; for a member key every device of the
    /// member, and without a device its other connections (broker spec §3.3).
    pub(crate) fn receivers(&self, key: PublicKey) -> impl Iterator<Item = &Entry> {
        let session = self.session(key);
        let member = self.by_member_key.get(&key).filter(|_| session.is_none());
        let connected = move || {
            let of_member = member.into_iter().flat_map(|member| self.of_member(member));
            session.into_iter().chain(of_member).filter(|entry| entry.connection.is_some())
        };
        let has_device = connected().any(|entry| entry.presence.is_device());
        connected().filter(move |entry| {
            session.is_some()
                || if has_device {
                    entry.presence.is_device()
                } else {
                    entry.presence.is_stand_in()
                }
        })
    }

    /// What may be pushed for this key now.
    pub(crate) fn open(&self, key: PublicKey) -> Priorities {
        self.receivers(key).fold(Priorities::NONE, |open, entry| open.or(self.open_to(entry, key)))
    }

    /// What may be pushed now of this key's rows to one of its receivers. A session that stands in for its daemon gets
    /// none of its member's while rows of its own wait in that class or a more urgent one: both may be copies of one
    /// broadcast, and the member's copy of a younger one must not pass its own of an older one.
    ///
    /// Nor does it get any while another one that stands in has an older row of theirs that it was not given: one daemon
    /// reads both sockets side by side, and the younger row could be stored first.
    pub(crate) fn open_to(&self, entry: &Entry, key: PublicKey) -> Priorities {
        if self.has_missed_a_row(entry, key) {
            return Priorities::NONE;
        }
        self.behind_own(entry, key, entry.open())
    }

    /// True when another session of this daemon has an older row of the key on its way that this one was not given.
    pub(crate) fn has_missed_a_row(&self, entry: &Entry, key: PublicKey) -> bool {
        let presence = &entry.presence;
        if presence.session_key == Some(key) || presence.is_device() {
            return false;
        }
        let is_missing = |unacked: &Unacked| {
            self.in_flight
                .get(&unacked.seq)
                .is_some_and(|row| row.key == key && !row.pushed_to.contains(&presence.id))
        };
        self.of_member(&presence.member_id)
            .filter(|other| other.presence.id != presence.id && other.presence.is_stand_in())
            .any(|other| other.unacked.iter().any(is_missing))
    }

    /// As [`MeshState::open_to`], for copies it is owed.
    pub(crate) fn takes_copies(&self, entry: &Entry, key: PublicKey) -> Priorities {
        self.behind_own(entry, key, entry.takes())
    }

    fn behind_own(&self, entry: &Entry, key: PublicKey, open: Priorities) -> Priorities {
        let own = entry.presence.session_key.filter(|own| *own != key);
        let Some(queue) = own.and_then(|own| self.queues.get(&own)) else { return open };
        // Claims take a class and everything more urgent.
        let clear = open.iter().take_while(|priority| queue.is_clear(*priority));
        clear.fold(Priorities::NONE, Priorities::with)
    }

    /// Keys whose rows this presence receives: its own, and its member's where it is in line for it.
    pub(crate) fn keys_of(&self, id: &PresenceId) -> Vec<PublicKey> {
        let Some(entry) = self.presences.get(id) else { return Vec::new() };
        let presence = &entry.presence;
        let mut keys = vec![presence.recipient_key()];
        if presence.session_key.is_some() && presence.is_stand_in() {
            keys.push(presence.member_key);
        }
        keys
    }

    /// Decides for a new message of this key.
    pub(crate) fn route(&mut self, key: PublicKey, priority: Priority) -> Route {
        let open = self.open(key);
        match self.queues.get_mut(&key) {
            Some(queue) => queue.route(priority, open),
            // Nearly always nothing waits, and then there is nothing to remember.
            None if open.allows(priority) => Route::Direct,
            None => self.queue(key).route(priority, open),
        }
    }

    pub(crate) fn queue(&mut self, key: PublicKey) -> &mut KeyQueue {
        self.queues.entry(key).or_default()
    }

    /// Forgets queues about which nothing is left to know, and those of sessions that have ended: their rows have moved.
    pub(crate) fn forget_idle_queues(&mut self) {
        let (members, sessions) = (&self.by_member_key, &self.by_session_key);
        self.queues.retain(|key, queue| {
            let is_someones = members.contains_key(key) || sessions.contains_key(key);
            queue.is_unsettled() || (!queue.is_idle() && is_someones)
        });
    }

    /// The rows of an ended session have moved to its member, or that could not be written.
    pub(crate) fn end_move(&mut self, key: PublicKey, is_written: bool) {
        let is_back = self.session(key).is_some();
        let queue = self.queue(key);
        queue.moved(is_written);
        if !is_back && !queue.is_unsettled() {
            self.queues.remove(&key);
        }
    }

    /// Forgets the queue of a key about which nothing is left to know.
    pub(crate) fn tidy_queue(&mut self, key: PublicKey) {
        if self.queues.get(&key).is_some_and(KeyQueue::is_idle) {
            self.queues.remove(&key);
        }
    }

    // Open rows, for the backlog limits.

    pub(crate) fn open_rows(&self, member: &MemberId) -> u64 {
        self.open_rows.get(member).copied().unwrap_or(0)
    }

    pub(crate) const fn open_total(&self) -> u64 {
        self.open_total
    }

    pub(crate) fn add_open(&mut self, member: &MemberId, rows: u64) {
        if rows > 0 {
            *self.open_rows.entry(member.clone()).or_insert(0) += rows;
            self.open_total += rows;
        }
    }

    pub(crate) fn sub_open(&mut self, member: &MemberId, rows: u64) {
        self.open_total = self.open_total.saturating_sub(rows);
        if let Some(open) = self.open_rows.get_mut(member) {
            *open = open.saturating_sub(rows);
            if *open == 0 {
                self.open_rows.remove(member);
            }
        }
    }

    // Pushes that wait for their ack.

    /// Forgets a pushed row, because it is delivered or goes back.
    pub(crate) fn take_in_flight(&mut self, seq: DeliverySeq) -> Option<InFlight> {
        let in_flight = self.in_flight.remove(&seq)?;
        for presence in &in_flight.pushed_to {
            if let Some(entry) = self.presences.get_mut(presence) {
                entry.unacked.retain(|unacked| unacked.seq != seq);
            }
        }
        Some(in_flight)
    }

    /// Forgets a pushed row because its recipient has it.
    pub(crate) fn settle(&mut self, seq: DeliverySeq) -> Option<InFlight> {
        let row = self.take_in_flight(seq)?;
        if let Some(was_acked) = self.uncommitted.get_mut(&seq) {
            *was_acked = true;
        }
        Some(row)
    }

    /// True when a receiver of this key is owed copies.
    pub(crate) fn owes_copies(&self, key: PublicKey) -> bool {
        self.receivers(key).any(|entry| !entry.owed.is_empty())
    }

    /// Takes back what only this presence was given: its socket is gone, and what that was not written yet never will
    /// be. Those rows must be released.
    pub(crate) fn take_unacked(&mut self, id: &PresenceId) -> Vec<(DeliverySeq, InFlight)> {
        let Some(entry) = self.presences.get_mut(id) else { return Vec::new() };
        entry.known_senders = HashSet::new();
        entry.is_pulling = false;
        let first_unwritten =
            entry.connection.as_ref().map_or(u64::MAX, |connection| connection.take_back());
        let unacked = std::mem::take(&mut entry.unacked);
        let mut orphaned = Vec::new();
        for row in unacked {
            let Some(in_flight) = self.in_flight.get_mut(&row.seq) else { continue };
            in_flight.pushed_to.retain(|other| other != id);
            in_flight.was_written |= row.ticket < first_unwritten;
            if in_flight.pushed_to.is_empty()
                && let Some(in_flight) = self.in_flight.remove(&row.seq)
            {
                orphaned.push((row.seq, in_flight));
            }
        }
        orphaned
    }

    /// A device that has just come is owed the rows of its member's queue that others were pushed and it was not.
    pub(crate) fn owe_to_new_device(&mut self, id: &PresenceId) {
        let Some(entry) = self.presences.get_mut(id).filter(|entry| entry.presence.is_device())
        else {
            return;
        };
        let key = entry.presence.member_key;
        let missed = self
            .in_flight
            .iter()
            .filter(|(_, row)| row.key == key && !row.pushed_to.contains(id))
            .map(|(seq, row)| (*seq, row.priority));
        entry.owed.extend(missed);
    }

    // Events.

    /// Tells a system event to every connected presence that `wants` it.
    pub(crate) fn announce(&self, push: Push, wants: impl Fn(&Presence) -> bool) {
        let Ok(text) = ServerFrame::from(push).encode() else { return };
        let text = Utf8Bytes::from(text);
        for entry in self.presences.values() {
            if let Some(connection) = &entry.connection
                && wants(&entry.presence)
            {
                connection.say_text(text.clone());
            }
        }
    }
}
