//! Whose key the daemon's own connection of a mesh speaks with: the member's, or in an ephemeral daemon that of a session
//! which exists in memory only (daemon spec §4.1). There the member is vouched for, never connected: its mail is for the
//! machines that stay.

use std::sync::Arc;

use claudemesh_client::hello::{PresenceInfo, daemon_capabilities};
use claudemesh_client::{HelloClock, HelloSource, MemberHello, Role, SessionHelloSource};
use claudemesh_crypto::KeyPair;
use claudemesh_protocol::wire::hello::{capability, channel};
use claudemesh_protocol::{PublicKey, TargetSpec};
use parking_lot::Mutex;

use super::{Mesh, MeshHandle};

/// How a daemon stands in its meshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// As its member, by `hello`.
    #[default]
    Member,
    /// As a session of its member with a key of its own, by `session_hello`: its only connection beside those of registered
    /// sessions.
    Session,
}

/// The session that an ephemeral daemon is in one mesh; it ends with the mesh's tasks.
pub(super) struct OwnSession {
    keys: Arc<KeyPair>,
    /// The same over reconnections.
    id: String,
}

impl OwnSession {
    /// A new one, where the daemon stands as a session.
    pub(super) fn of(standing: Standing) -> Option<Self> {
        match standing {
            Standing::Member => None,
            Standing::Session => Some(Self {
                keys: Arc::new(KeyPair::generate()),
                id: format!("ephemeral-{}", crate::ids::next()),
            }),
        }
    }
}

impl Mesh {
    /// The key pair that the daemon's own connection speaks with.
    pub(super) fn voice(&self) -> &Arc<KeyPair> {
        self.own_session.as_ref().map_or(&self.member.keys, |session| &session.keys)
    }

    /// Its public half: what reaches the daemon's own connection is addressed to it.
    pub(super) fn voice_key(&self) -> PublicKey {
        self.voice().public()
    }

    /// The key of the session that the daemon is; `None` where it is its member.
    pub(super) fn own_session_key(&self) -> Option<PublicKey> {
        self.own_session.as_ref().map(|session| session.keys.public())
    }

    /// The key pair of that session.
    pub(super) fn own_session_keys(&self) -> Option<&KeyPair> {
        self.own_session.as_ref().map(|session| &*session.keys)
    }

    /// Words of the handshake of every session of this daemon.
    pub(super) fn session_capabilities(&self) -> Vec<String> {
        let mut words = daemon_capabilities();
        if self.own_session.is_some() {
            words.push(capability::EPHEMERAL.to_owned());
        }
        words
    }

    /// How the daemon's own connection introduces itself.
    pub(super) fn own_hello(&self) -> (Role, Arc<dyn HelloSource>) {
        let settings = &self.context.settings;
        let info = PresenceInfo {
            pid: settings.pid,
            cwd: settings.cwd.clone(),
            hostname: settings.hostname.clone(),
            ..PresenceInfo::default()
        };
        let Some(session) = &self.own_session else {
            let hello = MemberHello {
                mesh_id: self.id.clone(),
                member_id: self.member.member_id.clone(),
                key: Arc::clone(&self.member.keys),
                info: PresenceInfo { session_id: format!("daemon-{}", settings.pid), ..info },
                capabilities: daemon_capabilities(),
                channel: channel::DAEMON,
                host_fingerprint: settings.host_fingerprint.clone(),
                clock: Arc::clone(&self.hello_clock),
            };
            return (Role::ControlPlane, Arc::new(hello));
        };
        let hello = SessionHelloSource {
            mesh_id: self.id.clone(),
            member_id: self.member.member_id.clone(),
            member: Arc::clone(&self.member.keys),
            session: Arc::clone(&session.keys),
            allowed_caps: None,
            info: Mutex::new(PresenceInfo { session_id: session.id.clone(), ..info }),
            capabilities: self.session_capabilities(),
            clock: HelloClock::default(),
        };
        (Role::Session, Arc::new(hello))
    }

    /// True for a row of the member that came to an ephemeral daemon: brokers that do not know the word in its handshake let
    /// any session stand in while no device of the member is connected. It is for the machines that stay.
    pub(super) fn is_for_the_devices(&self, target: Option<&TargetSpec>) -> bool {
        self.own_session.is_some()
            && matches!(target, Some(TargetSpec::Key(key)) if *key == self.member.public)
    }
}

impl MeshHandle {
    /// The key that stands for the daemon itself here: what is addressed to it is for whoever asks without a session, and
    /// for every session of this daemon.
    pub(crate) fn voice_key(&self) -> PublicKey {
        self.mesh.voice_key()
    }

    /// The key of the session that an ephemeral daemon is; peers see it.
    pub(crate) fn own_session_key(&self) -> Option<PublicKey> {
        self.mesh.own_session_key()
    }
}
