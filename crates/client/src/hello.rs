//! The signed handshakes, built anew for every attempt (daemon spec §7.1, §7.2).
//!
//! A timestamp is never used twice by one identity, and follows the broker's clock once that was told.

use std::collections::VecDeque;
use std::sync::Arc;

use claudemesh_crypto::{KeyPair, attestation, hello};
use claudemesh_protocol::canonical::CanonicalError;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::limits::{ATTESTATION_TTL, PROTOCOL_VERSION};
use claudemesh_protocol::wire::hello::{capability, channel};
use claudemesh_protocol::wire::{ClientFrame, Hello, SessionHello};
use claudemesh_protocol::{Group, MemberId, MeshId, Timestamp};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

/// What a handshake is built with besides the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloContext {
    /// The time to sign with: our clock, corrected by what the broker said about its own.
    pub now: Timestamp,
}

/// Why no handshake could be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// An id cannot be signed.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// The attestation cannot be written as JSON.
    #[error("cannot write the attestation: {0}")]
    Json(#[from] serde_json::Error),
    /// The owner has no key for this identity any more.
    #[error("the key of this identity is gone")]
    NoKey,
}

/// Builds the first frame of a connection; called for every attempt.
pub trait HelloSource: Send + Sync + 'static {
    /// The frame to send. The caller limits the time.
    fn hello(&self, context: HelloContext) -> BoxFuture<'_, Result<ClientFrame, HelloError>>;
}

/// Timestamps that [`HelloClock`] remembers; far more handshakes than one identity makes in a millisecond.
const RECENT_TIMESTAMPS: usize = 64;

/// Gives one identity timestamps that never repeat. They go back when the clock does: a broker whose clock was set back
/// refuses those that are ahead of it.
#[derive(Debug, Default)]
pub struct HelloClock(Mutex<VecDeque<i64>>);

impl HelloClock {
    /// `now`, or the next millisecond that was not answered recently.
    pub fn next(&self, now: Timestamp) -> Timestamp {
        let mut recent = self.0.lock();
        let mut millis = now.as_millis();
        while recent.contains(&millis) {
            millis = millis.saturating_add(1);
        }
        if recent.len() == RECENT_TIMESTAMPS {
            recent.pop_front();
        }
        recent.push_back(millis);
        Timestamp::from_millis(millis)
    }
}

/// What peers see of a presence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PresenceInfo {
    /// Name shown; `None` leaves it to the roster.
    pub display_name: Option<String>,
    /// The client's own name for the session.
    pub session_id: String,
    /// Process.
    pub pid: u32,
    /// Working directory.
    pub cwd: String,
    /// Host.
    pub hostname: Option<String>,
    /// Model of the agent.
    pub model: Option<String>,
    /// Role label.
    pub role: Option<String>,
    /// Groups; `None` leaves them to the broker.
    pub groups: Option<Vec<Group>>,
}

/// Capabilities of our daemon's connections (daemon spec §7.1), as far as this build has them.
pub fn daemon_capabilities() -> Vec<String> {
    [
        capability::CLIENT_ACK,
        capability::RECEIPTS,
        capability::FEATURES,
        capability::AUDIT_HEADS,
        capability::GROUP_E2E,
        capability::BODY_META,
        capability::LOCAL_GATE,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The member-keyed handshake of a daemon's connection to one mesh.
pub struct MemberHello {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The member.
    pub member_id: MemberId,
    /// Its key.
    pub key: Arc<KeyPair>,
    /// What peers see.
    pub info: PresenceInfo,
    /// Capability words.
    pub capabilities: Vec<String>,
    /// Kind of program.
    pub channel: &'static str,
    /// Hash of the machine, hex64 (wire spec §5.15).
    pub host_fingerprint: Option<String>,
    /// Timestamps of this member key.
    pub clock: Arc<HelloClock>,
}

impl MemberHello {
    /// The frame at `now`.
    ///
    /// # Errors
    /// [`HelloError::Canonical`].
    pub fn build(&self, now: Timestamp) -> Result<Hello, HelloError> {
        let timestamp = self.clock.next(now);
        let signature = hello::sign(&self.mesh_id, &self.member_id, &self.key, timestamp)?;
        Ok(Hello {
            protocol_version: Some(PROTOCOL_VERSION),
            capabilities: Some(self.capabilities.clone()),
            mesh_id: self.mesh_id.clone(),
            member_id: self.member_id.clone(),
            pubkey: self.key.public().to_hex(),
            session_pubkey: None,
            session_proof: None,
            parent_attestation: None,
            display_name: self.info.display_name.clone(),
            session_id: self.info.session_id.clone(),
            pid: i64::from(self.info.pid),
            cwd: Some(self.info.cwd.clone()),
            hostname: self.info.hostname.clone(),
            host_fingerprint: self.host_fingerprint.clone(),
            peer_type: Some("ai".to_owned()),
            channel: Some(self.channel.to_owned()),
            model: self.info.model.clone(),
            groups: self.info.groups.clone(),
            peer_role: None,
            mesh_seq: None,
            timestamp: timestamp.as_millis(),
            signature: signature.to_hex(),
        })
    }
}

impl HelloSource for MemberHello {
    fn hello(&self, context: HelloContext) -> BoxFuture<'_, Result<ClientFrame, HelloError>> {
        Box::pin(async move { Ok(ClientFrame::Hello(Box::new(self.build(context.now)?))) })
    }
}

/// The session-keyed handshake: the member key vouches for the session anew at every attempt, and never for more than
/// the session was registered with.
pub struct SessionHelloSource {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The member.
    pub member_id: MemberId,
    /// Its key.
    pub member: Arc<KeyPair>,
    /// The session's key.
    pub session: Arc<KeyPair>,
    /// What the session may do; `None` everything its member may, empty nothing.
    pub allowed_caps: Option<CapabilitySet>,
    /// What peers see; may change between attempts.
    pub info: Mutex<PresenceInfo>,
    /// Capability words.
    pub capabilities: Vec<String>,
    /// Timestamps of this session key.
    pub clock: HelloClock,
}

impl SessionHelloSource {
    /// The frame at `now`.
    ///
    /// # Errors
    /// [`HelloError::Canonical`], [`HelloError::Json`].
    pub fn build(&self, now: Timestamp) -> Result<SessionHello, HelloError> {
        let info = self.info.lock().clone();
        let parent = self.member.public();
        let timestamp = self.clock.next(now);
        let expires_at = timestamp.plus(ATTESTATION_TTL);
        let statement =
            attestation::mint(&self.member, self.session.public(), expires_at, self.allowed_caps);
        let signature = hello::sign_session(&self.mesh_id, parent, &self.session, timestamp)?;
        Ok(SessionHello {
            protocol_version: Some(PROTOCOL_VERSION),
            capabilities: Some(self.capabilities.clone()),
            mesh_id: self.mesh_id.clone(),
            parent_member_id: Some(self.member_id.clone()),
            parent_member_pubkey: parent.to_hex(),
            session_pubkey: self.session.public().to_hex(),
            parent_attestation: serde_json::to_value(&statement)?,
            display_name: info.display_name,
            session_id: info.session_id,
            pid: i64::from(info.pid),
            cwd: Some(info.cwd),
            hostname: info.hostname,
            peer_type: Some("ai".to_owned()),
            channel: Some(channel::SESSION.to_owned()),
            model: info.model,
            groups: info.groups,
            role: info.role,
            mesh_seq: None,
            timestamp: timestamp.as_millis(),
            signature: signature.to_hex(),
        })
    }
}

impl HelloSource for SessionHelloSource {
    fn hello(&self, context: HelloContext) -> BoxFuture<'_, Result<ClientFrame, HelloError>> {
        Box::pin(async move { Ok(ClientFrame::SessionHello(Box::new(self.build(context.now)?))) })
    }
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::SignatureBytes;
    use claudemesh_protocol::capability::Capability;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    fn signature(text: &str) -> SignatureBytes {
        text.parse().unwrap()
    }

    #[test]
    fn member_hellos_verify_and_never_repeat_a_timestamp() {
        let source = MemberHello {
            mesh_id: MeshId::new("M"),
            member_id: MemberId::new("A"),
            key: Arc::new(KeyPair::generate()),
            info: PresenceInfo::default(),
            capabilities: daemon_capabilities(),
            channel: channel::DAEMON,
            host_fingerprint: None,
            clock: Arc::default(),
        };
        let hellos: Vec<_> = (0..3).map(|_| source.build(NOW).unwrap()).collect();
        assert_eq!(
            hellos.iter().map(|h| h.timestamp - NOW.as_millis()).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        for built in &hellos {
            let at = Timestamp::from_millis(built.timestamp);
            let key = source.key.public();
            hello::verify(&built.mesh_id, &built.member_id, key, at, &signature(&built.signature))
                .unwrap();
        }
    }

    /// Daemon spec §7.2: renewal keeps the capabilities exactly and lives 12 h from the attempt.
    #[test]
    fn renewed_attestations_keep_the_registered_capabilities() {
        for caps in
            [None, Some(CapabilitySet::EMPTY), Some(CapabilitySet::from_iter([Capability::Dm]))]
        {
            let source = SessionHelloSource {
                mesh_id: MeshId::new("M"),
                member_id: MemberId::new("A"),
                member: Arc::new(KeyPair::generate()),
                session: Arc::new(KeyPair::generate()),
                allowed_caps: caps,
                info: Mutex::default(),
                capabilities: daemon_capabilities(),
                clock: HelloClock::default(),
            };
            for days in 0..3 {
                let now = NOW.plus(std::time::Duration::from_secs(days * 86_400));
                let built = source.build(now).unwrap();
                let statement = built.attestation().unwrap();
                assert_eq!(statement.allowed_caps, caps);
                attestation::verify(&statement, now).unwrap();
                assert_eq!(statement.expires_at, now.plus(ATTESTATION_TTL));
            }
        }
    }
}
