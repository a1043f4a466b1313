//! The connections of registered sessions: each with its own key, vouched for by the member anew at every attempt
//! (daemon spec §7.1, §7.2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_client::hello::PresenceInfo;
use claudemesh_client::{
    Connection, ConnectionEvent, ConnectionOptions, DisabledReason, HelloClock, Role,
    SessionHelloSource, Status,
};
use claudemesh_crypto::KeyPair;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::limits::{ATTESTATION_TTL, REQUEST_TIMEOUT};
use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::wire::{ClientFrame, SetStatus};
use claudemesh_protocol::{Group, GroupName, PublicKey};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Mesh;
use super::counts::{Counted, tell_last};
use super::receive::Receiver;
use super::supervise::supervise;
use crate::sessions::Session;

/// How long after it opened a connection that never broke fetches another attestation: an hour before the end of the one it
/// has; receivers refuse messages that are younger than the attestation's end.
pub(super) const RENEW_AFTER: Duration = ATTESTATION_TTL.saturating_sub(Duration::from_hours(1));

/// What the mesh keeps of a session's connection.
pub(super) struct SessionLink {
    pub(super) keys: Arc<KeyPair>,
    /// The connection, once its task has begun.
    pub(super) connection: Arc<Mutex<Option<Connection>>>,
    /// Builds its handshakes.
    source: Arc<SessionHelloSource>,
    pub(super) stop: CancellationToken,
    /// Opened only to send what an ended session left behind.
    pub(super) purpose: Purpose,
    /// Whose counters it tells.
    counted: Option<Counted>,
}

/// Why a session connection is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The session lives.
    Live,
    /// The session has ended and rows of it wait. Nobody is told that it is there, and nothing is delivered to it: to its
    /// peers it would look alive.
    Flush,
}

impl Purpose {
    /// The words of its handshake, from those of every session of this daemon.
    fn capabilities(self, mut words: Vec<String>) -> Vec<String> {
        if self == Self::Flush {
            words.push(capability::TRANSIENT.to_owned());
        }
        words
    }
}

/// The session connections of a mesh. A key has one.
#[derive(Default)]
pub(super) struct SessionLinks(BTreeMap<PublicKey, SessionLink>);

impl SessionLinks {
    pub(super) fn get(&self, key: &PublicKey) -> Option<&SessionLink> {
        self.0.get(key)
    }

    pub(super) fn contains(&self, key: &PublicKey) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PublicKey, &SessionLink)> {
        self.0.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &SessionLink> {
        self.0.values()
    }

    /// Puts a connection in its place and ends the one that was there; true when it has the place. One that only sends
    /// what was left behind never takes it from another: its session may have come back a moment ago, and would be
    /// left without a connection once that is sent.
    fn put(&mut self, key: PublicKey, link: SessionLink) -> bool {
        if link.purpose == Purpose::Flush && self.contains(&key) {
            return false;
        }
        if let Some(older) = self.0.insert(key, link) {
            older.stop.cancel();
        }
        true
    }

    /// Ends a connection; true when there was one.
    fn end(&mut self, key: &PublicKey) -> bool {
        let link = self.0.remove(key);
        if let Some(link) = &link {
            if let (Some(counted), Some(connection)) = (&link.counted, &*link.connection.lock()) {
                tell_last(counted, connection);
            }
            link.stop.cancel();
        }
        link.is_some()
    }

    /// Keys whose connections only send what was left behind.
    pub(super) fn flushing(&self) -> Vec<PublicKey> {
        let is_flush = |link: &SessionLink| link.purpose == Purpose::Flush;
        self.iter().filter(|(_, link)| is_flush(link)).map(|(key, _)| *key).collect()
    }

    /// Ends all.
    pub(super) fn end_all(&mut self) {
        for link in std::mem::take(&mut self.0).into_values() {
            link.stop.cancel();
        }
    }
}

/// What a session connection says about itself.
pub(super) struct SessionPresence {
    pub(super) keys: Arc<KeyPair>,
    pub(super) caps: Option<CapabilitySet>,
    pub(super) info: PresenceInfo,
    pub(super) purpose: Purpose,
    pub(super) counted: Option<Counted>,
}

impl SessionPresence {
    /// Of a registered session; `None` when it has no key and so no presence.
    pub(super) fn of(session: &Session, hostname: Option<String>) -> Option<Self> {
        Some(Self {
            keys: Arc::clone(session.keys.as_ref()?),
            caps: session.caps,
            info: PresenceInfo {
                display_name: Some(session.display_name.clone()),
                session_id: session.session_id.clone(),
                pid: session.pid,
                cwd: session.cwd.clone().unwrap_or_default(),
                hostname,
                model: session.model.clone(),
                role: session.role.clone(),
                groups: (!session.groups.is_empty()).then(|| session.groups.clone()),
            },
            purpose: Purpose::Live,
            counted: Some(Counted::of(session)),
        })
    }
}

impl Mesh {
    /// Opens the connection of a session. One with the same key is closed first: a key has one connection. What only
    /// sends what an ended session left gives way to it.
    pub(super) fn open_presence(self: &Arc<Self>, presence: SessionPresence) {
        if self.stop.is_cancelled() {
            return;
        }
        let key = presence.keys.public();
        let stop = self.stop.child_token();
        let connection = Arc::new(Mutex::new(None));
        let source = Arc::new(SessionHelloSource {
            mesh_id: self.id.clone(),
            member_id: self.member.member_id.clone(),
            member: Arc::clone(&self.member.keys),
            session: Arc::clone(&presence.keys),
            allowed_caps: presence.caps,
            info: Mutex::new(presence.info),
            capabilities: presence.purpose.capabilities(self.session_capabilities()),
            clock: HelloClock::default(),
        });
        let link = SessionLink {
            keys: presence.keys,
            connection: Arc::clone(&connection),
            source: Arc::clone(&source),
            stop: stop.clone(),
            purpose: presence.purpose,
            counted: presence.counted.clone(),
        };
        {
            let mut sessions = self.sessions.lock();
            if !sessions.put(key, link) {
                return;
            }
            self.roster.begin_own(key);
        }
        let mesh = Arc::clone(self);
        let counted = presence.counted;
        self.tasks.spawn(async move {
            let run = || {
                let (source, connection) = (Arc::clone(&source), Arc::clone(&connection));
                run(Arc::clone(&mesh), source, connection, counted.clone(), stop.clone())
            };
            supervise("session", &mesh.slug, &stop, run).await;
        });
    }

    /// Closes the connection of a session with 1000, so that its peers see it leave at once.
    pub(super) fn close_presence(&self, key: &PublicKey) {
        self.end_link(&mut self.sessions.lock(), key);
    }

    /// Ends a connection and what is known by it, as one step: its session may be coming back.
    pub(super) fn end_link(&self, sessions: &mut SessionLinks, key: &PublicKey) {
        if sessions.end(key) {
            self.shared_keys.forget(*key);
            self.roster.end_own(*key);
        }
    }

    /// A session has joined or left a group: its next handshake says so too, or a return after the lease would undo it.
    pub(super) fn keep_groups(&self, key: &PublicKey, frame: &ClientFrame) {
        let sessions = self.sessions.lock();
        let Some(link) = sessions.get(key) else { return };
        let mut info = link.source.info.lock();
        // Without a list the broker restores the groups of the session itself.
        let Some(groups) = info.groups.as_mut() else { return };
        match frame {
            ClientFrame::JoinGroup(join) => {
                if let Ok(name) = GroupName::parse_lenient(&join.name) {
                    groups.retain(|group| group.name != name);
                    groups.push(Group { name, role: join.role.clone() });
                }
            }
            ClientFrame::LeaveGroup(leave) => {
                if let Ok(name) = GroupName::parse_lenient(&leave.name) {
                    groups.retain(|group| group.name != name);
                }
            }
            _ => {}
        }
    }

    /// The member may connect again: sessions that were refused along with it try at once.
    pub(super) fn retry_sessions(&self) {
        let is_refused = |connection: &Connection| {
            matches!(
                connection.state().status,
                Status::Disabled(DisabledReason::Revoked | DisabledReason::Unauthorized)
            )
        };
        let sessions = self.sessions.lock();
        let connections = sessions.values().filter_map(|link| link.connection.lock().clone());
        connections.filter(is_refused).for_each(|connection| connection.retry_now());
    }

    /// Tells the broker what a session is doing, in the background: after each report, and on each new connection, since
    /// the last report may not have come through.
    pub(super) fn tell_status(self: &Arc<Self>, session: &Session) {
        let Some(key) = session.key() else { return };
        let (mesh, activity) = (Arc::clone(self), Arc::clone(&session.activity));
        self.tasks.spawn(async move {
            // Two of these may overtake each other; the last one to be answered sends what is true by then.
            while let Some(told) = activity.reported() {
                let (status, source) = (told.0, Some(told.1));
                let frame = ClientFrame::SetStatus(Box::new(SetStatus { status, source }));
                let Some(connection) = mesh.session_connection(&key) else { return };
                if let Err(error) = connection.request(&frame, REQUEST_TIMEOUT).await {
                    tracing::debug!(mesh = %mesh.slug, %error, "hook_status_not_sent");
                    return;
                }
                if activity.reported() == Some(told) {
                    return;
                }
            }
        });
    }

    /// The connection of a session.
    pub(super) fn session_connection(&self, key: &PublicKey) -> Option<Connection> {
        self.sessions.lock().get(key).and_then(|link| link.connection.lock().clone())
    }
}

async fn run(
    mesh: Arc<Mesh>,
    source: Arc<SessionHelloSource>,
    slot: Arc<Mutex<Option<Connection>>>,
    counted: Option<Counted>,
    stop: CancellationToken,
) {
    let keys = Arc::clone(&source.session);
    let settings = &mesh.context.settings;
    let mut options =
        ConnectionOptions::new(&mesh.broker_url, Role::Session, settings.plain, source)
            .mesh(&mesh.slug)
            .session(keys.public().short(12));
    options.timing = settings.timing.clone();
    options.dialer = Arc::clone(&settings.dialer);
    let (connection, mut events) = Connection::open(options, &mesh.tasks, stop.child_token());
    *slot.lock() = Some(connection.clone());
    let _closed_at_the_end = CloseOnDrop(connection.clone());
    let mut receiver =
        Receiver::of_session(Arc::clone(&mesh), connection.clone(), Arc::clone(&keys));
    let mut renew_at = Instant::now() + ATTESTATION_TTL;
    let mut stats_at = Instant::now() + settings.stats_every;
    loop {
        let event = tokio::select! {
            biased;
            () = sleep_until(stats_at) => {
                stats_at = Instant::now() + settings.stats_every;
                if let Some(counted) = &counted {
                    mesh.tell_counts(counted, &connection).await;
                }
                continue;
            }
            () = sleep_until(renew_at) => {
                renew_at = Instant::now() + ATTESTATION_TTL;
                connection.renew();
                continue;
            }
            event = receiver.next(&mut events) => event,
        };
        match event {
            None => return,
            Some(ConnectionEvent::Opened(ack)) => {
                receiver.opened().await;
                if let Some(counted) = &counted {
                    mesh.counted_on(counted, &connection, ack.restored_stats).await;
                }
                mesh.hurry(Some(keys.public()));
                if let Some(session) = mesh.context.sessions.by_key(&mesh.slug, &keys.public()) {
                    mesh.tell_status(&session);
                }
                renew_at = Instant::now() + RENEW_AFTER;
                mesh.refresh.soon();
                mesh.wake.notify_one();
            }
            Some(ConnectionEvent::Closed { close, was_open, status, .. }) => {
                if was_open {
                    mesh.context.figures.connection_lost(&mesh.slug, Role::Session, &close);
                }
                mesh.refresh.soon();
                if status == Status::Disabled(DisabledReason::Kicked) {
                    tracing::warn!(mesh = %mesh.slug, session = %keys.public().short(12), "session_kicked");
                    mesh.context.sessions.kicked(&mesh.slug, &keys.public());
                    mesh.close_presence(&keys.public());
                }
            }
            Some(ConnectionEvent::Receipt(receipt)) => mesh.hear(*receipt),
            // Every connection is told; the member's own one speaks for all.
            Some(ConnectionEvent::StateChange(_)) => {}
            Some(ConnectionEvent::Push(push)) => receiver.receive(*push).await,
            Some(ConnectionEvent::UnreadablePush(ack)) => receiver.unreadable(ack).await,
        }
    }
}

struct CloseOnDrop(Connection);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use claudemesh_client::hello::daemon_capabilities;
    use claudemesh_protocol::{MemberId, MeshId};

    use super::*;

    fn link(keys: &KeyPair, purpose: Purpose) -> SessionLink {
        let keys = Arc::new(keys.clone());
        let source = SessionHelloSource {
            mesh_id: MeshId::new("M"),
            member_id: MemberId::new("A"),
            member: Arc::new(KeyPair::generate()),
            session: Arc::clone(&keys),
            allowed_caps: None,
            info: Mutex::default(),
            capabilities: purpose.capabilities(daemon_capabilities()),
            clock: HelloClock::default(),
        };
        SessionLink {
            keys,
            connection: Arc::default(),
            source: Arc::new(source),
            stop: CancellationToken::new(),
            purpose,
            counted: None,
        }
    }

    /// A session may return in the moment in which somebody opens a connection for what it had left behind: whichever
    /// comes second, the session has its own connection in the end, and it is not ended when everything is sent.
    #[test]
    fn a_flush_never_takes_the_place_of_a_session() {
        let session = KeyPair::generate();
        let key = session.public();
        for order in [[Purpose::Live, Purpose::Flush], [Purpose::Flush, Purpose::Live]] {
            let mut links = SessionLinks::default();
            for purpose in order {
                let link = link(&session, purpose);
                let has_place = links.put(key, link);
                assert_eq!(has_place, purpose == Purpose::Live || order[0] == Purpose::Flush);
            }
            let kept = links.get(&key).unwrap();
            assert_eq!((kept.purpose, kept.stop.is_cancelled()), (Purpose::Live, false));
            assert!(links.flushing().is_empty());
            assert!(links.end(&key) && !links.end(&key));
        }
    }
}
