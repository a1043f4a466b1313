//! Presences: one live or leased connection of a member, session or service, and what becomes of it when sockets come
//! and go (broker spec §2.1, §2.2).

use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::wire::hello::{capability, channel};
use claudemesh_protocol::wire::{Profile, Stats};
use claudemesh_protocol::{Group, MemberId, PeerRole, PresenceId, PublicKey, Timestamp};

use crate::gate::Gatekeeper;
use crate::status::StatusRecord;

/// Which handshake made a presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// `hello`, keyed by the member.
    Member,
    /// `session_hello`, keyed by a session.
    Session,
}

/// What a client said about itself in its hello.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientInfo {
    /// The client's own name for its session.
    pub session_id: String,
    /// Process id.
    pub pid: i64,
    /// Working directory.
    pub cwd: String,
    /// Host name.
    pub hostname: Option<String>,
    /// Hash of the machine.
    pub host_fingerprint: Option<String>,
    /// `ai`, `human`, `connector`, …
    pub peer_type: Option<String>,
    /// Kind of program.
    pub channel: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Hello capabilities, sorted, each once.
    pub capabilities: Vec<String>,
}

impl ClientInfo {
    /// True when the hello listed `capability`.
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|word| word == capability)
    }
}

/// One presence.
#[derive(Debug, Clone, PartialEq)]
pub struct Presence {
    /// Its id, the same over reattachments.
    pub id: PresenceId,
    /// Its member.
    pub member_id: MemberId,
    /// Its member's key.
    pub member_key: PublicKey,
    /// Its session key, if it has one.
    pub session_key: Option<PublicKey>,
    /// How it came.
    pub handshake: Handshake,
    /// What it is.
    pub role: PeerRole,
    /// Name of this presence.
    pub display_name: String,
    /// What the client said about itself.
    pub client: ClientInfo,
    /// Status.
    pub status: StatusRecord,
    /// Summary.
    pub summary: Option<String>,
    /// Groups.
    pub groups: Vec<Group>,
    /// False: not in lists of others, not reached by broadcast and group.
    pub is_visible: bool,
    /// Profile.
    pub profile: Profile,
    /// Counters of this connection.
    pub stats: Option<Stats>,
    /// What the session may do; `None` everything.
    pub session_caps: Option<CapabilitySet>,
    /// The member's statement about the session key.
    pub attestation: Option<ParentAttestation>,
    /// When the presence began.
    pub connected_at: Timestamp,
}

impl Presence {
    /// The key broadcasts and groups reach it by: session key, else member key.
    pub fn recipient_key(&self) -> PublicKey {
        self.session_key.unwrap_or(self.member_key)
    }

    /// A one-shot command-line call: announced to nobody and not counted as present.
    pub fn is_transient(&self) -> bool {
        self.client.has(capability::TRANSIENT)
    }

    /// A member's own standing connection, one per device: first in line for member-key rows.
    pub fn is_device(&self) -> bool {
        self.role == PeerRole::ControlPlane && self.session_key.is_none() && !self.is_transient()
    }

    /// A session of a daemon that ends with its job.
    pub fn is_ephemeral(&self) -> bool {
        self.handshake == Handshake::Session && self.client.has(capability::EPHEMERAL)
    }

    /// May take member-key rows when the member has no device connected. What an ephemeral session took would be gone with
    /// its job.
    pub fn is_stand_in(&self) -> bool {
        self.role != PeerRole::ControlPlane && !self.is_transient() && !self.is_ephemeral()
    }

    /// True when it confirms pushes with `client_ack`; for others a written push counts as delivered.
    pub fn acknowledges(&self) -> bool {
        self.client.has(capability::CLIENT_ACK)
            || self
                .client
                .channel
                .as_deref()
                .is_some_and(|word| word == channel::DAEMON || word == channel::SESSION)
    }

    /// Who gates `now` and `next` for it.
    pub fn gatekeeper(&self) -> Gatekeeper {
        if self.client.has(capability::LOCAL_GATE) {
            Gatekeeper::Daemon
        } else {
            Gatekeeper::Broker
        }
    }
}

/// Whether a presence has a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It has one.
    Online,
    /// It had one; the presence ends at this time unless its client returns.
    Until(Timestamp),
}

/// An authenticated hello looking for its place.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// How it comes.
    pub handshake: Handshake,
    /// Its member.
    pub member_id: &'a MemberId,
    /// Its session key.
    pub session_key: Option<PublicKey>,
    /// Its session id.
    pub session_id: &'a str,
    /// Its machine.
    pub host_fingerprint: Option<&'a str>,
    /// What it is.
    pub role: PeerRole,
    /// Its kind of program.
    pub channel: Option<&'a str>,
    /// It comes to send something and goes again.
    pub is_transient: bool,
}

/// Where an arrival goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// It continues this presence.
    Reattach(PresenceId),
    /// It is a new presence and ends these, which stood for the same session.
    New {
        /// Presences to close with `session_replaced`.
        replaces: Vec<PresenceId>,
    },
}

fn continues(arrival: &Arrival<'_>, presence: &Presence, lease: Lease) -> bool {
    if presence.member_id != *arrival.member_id || presence.handshake != arrival.handshake {
        return false;
    }
    match arrival.handshake {
        Handshake::Session => presence.session_key == arrival.session_key,
        Handshake::Member => {
            let is_same = match (presence.session_key, arrival.session_key) {
                (Some(theirs), Some(ours)) => theirs == ours,
                (None, None) => is_same_session_id(arrival, presence),
                _ => false,
            };
            is_same && lease != Lease::Online
        }
    }
}

/// Session ids of two machines may agree by accident (`daemon-4242`); the machines then say so.
fn is_same_session_id(arrival: &Arrival<'_>, presence: &Presence) -> bool {
    let hosts = (arrival.host_fingerprint, presence.client.host_fingerprint.as_deref());
    let are_other_machines = matches!(hosts, (Some(ours), Some(theirs)) if ours != theirs);
    presence.client.session_id == arrival.session_id && !are_other_machines
}

/// True for a daemon whose process was killed: its successor runs on the same machine under another session id. Only a
/// lease is taken over, so that two daemons of one member on one machine keep apart while both are connected.
fn is_restart(arrival: &Arrival<'_>, presence: &Presence, lease: Lease) -> bool {
    let is_daemon = arrival.handshake == Handshake::Member
        && arrival.role == PeerRole::ControlPlane
        && arrival.session_key.is_none()
        && !arrival.is_transient;
    is_daemon
        && lease != Lease::Online
        && presence.member_id == *arrival.member_id
        && presence.handshake == Handshake::Member
        && presence.is_device()
        && arrival.host_fingerprint.is_some()
        && presence.client.host_fingerprint.as_deref() == arrival.host_fingerprint
        && presence.client.channel.as_deref() == arrival.channel
}

/// Decides where an arrival goes among the presences of its mesh. Presences of other members are never touched, whatever
/// key or id the arrival quotes.
///
/// A daemon that says the id of an earlier presence continues that one; otherwise it continues the newest one that a killed
/// process of the same machine left behind. Else each kill would leave a presence to its lease, and a process that dies
/// over and over would fill its mesh.
///
/// A transient arrival and a lasting presence have nothing to do with each other, also when both stand for one session:
/// the one is announced to nobody, and of the other everybody must learn when it ends.
pub fn place<'a>(
    arrival: &Arrival<'_>,
    presences: impl Iterator<Item = (&'a Presence, Lease)>,
) -> Placement {
    let mut replaces = Vec::new();
    let mut left_behind: Option<&Presence> = None;
    for (presence, lease) in presences {
        if presence.is_transient() != arrival.is_transient {
            continue;
        }
        if continues(arrival, presence, lease) {
            return Placement::Reattach(presence.id.clone());
        }
        if is_restart(arrival, presence, lease) {
            let newest = left_behind.filter(|other| other.connected_at > presence.connected_at);
            left_behind = newest.or(Some(presence));
        }
        let is_same_key =
            arrival.session_key.is_some() && presence.session_key == arrival.session_key;
        if presence.member_id == *arrival.member_id
            && (is_same_key || is_same_session_id(arrival, presence))
        {
            replaces.push(presence.id.clone());
        }
    }
    match left_behind {
        Some(presence) if replaces.is_empty() => Placement::Reattach(presence.id.clone()),
        _ => Placement::New { replaces },
    }
}

/// The role of a presence (wire spec §2.1).
pub fn role_of(handshake: Handshake, asked: Option<&str>, peer_type: Option<&str>) -> PeerRole {
    match handshake {
        Handshake::Session => PeerRole::Session,
        Handshake::Member
            if asked == Some(PeerRole::Service.as_str())
                || matches!(peer_type, Some("connector" | "bridge")) =>
        {
            PeerRole::Service
        }
        Handshake::Member => PeerRole::ControlPlane,
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
