//! Registration of a session (daemon spec §8.3).

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use claudemesh_crypto::{KeyPair, attestation};
use claudemesh_ipc::SessionToken;
use claudemesh_ipc::api::MessageMode;
use claudemesh_ipc::api::session::PresenceOffer;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::{ErrorCode, Group, PublicKey, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{Activity, Session, Sessions, TokenHash};

/// What a registration asks for, already checked field by field.
pub struct NewSession {
    /// The secret by which it is known.
    pub token: SessionToken,
    /// UUID of the agent session.
    pub session_id: String,
    /// Mesh slug, attached.
    pub mesh: String,
    /// Name.
    pub display_name: String,
    /// The process whose end ends it.
    pub pid: u32,
    /// Its directory.
    pub cwd: Option<String>,
    /// Free text.
    pub role: Option<String>,
    /// Its groups.
    pub groups: Vec<Group>,
    /// How messages reach it.
    pub message_mode: MessageMode,
    /// What it may do.
    pub caps: Option<CapabilitySet>,
    /// Directories it shares.
    pub share_dirs: Vec<String>,
    /// Model name.
    pub model: Option<String>,
    /// Kind of agent.
    pub kind: Option<String>,
    /// Registered by an MCP server.
    pub ambient: bool,
    /// Where its key comes from.
    pub offer: Offer,
}

/// Where the key of a session comes from.
pub enum Offer {
    /// It has none: no presence.
    None,
    /// From the store, made when absent.
    Stored,
    /// Handed over.
    Given(Box<PresenceOffer>),
}

/// Why a registration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The process does not run or is not ours.
    #[error("process {0} does not run under this user")]
    PidNotOurs(u32),
    /// The registry is full.
    #[error("too many sessions are registered")]
    TooMany,
    /// The key store cannot be used.
    #[error("cannot use the stored key of this session")]
    KeyStore(#[source] std::io::Error),
}

/// A registration that stands.
pub struct Registered {
    /// The session.
    pub session: Arc<Session>,
    /// Those that made way; their connections are to be closed first.
    pub replaced: Vec<Arc<Session>>,
    /// Nothing changed: the same session with the same content was there.
    pub is_repeat: bool,
    /// Why it has no presence although one was asked for.
    pub presence_error: Option<&'static str>,
}

impl Sessions {
    /// Registers a session; an earlier one with the same token, id or key makes way. Reads and writes key files, so
    /// it is called where blocking is allowed.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn register(
        &self,
        new: NewSession,
        member: PublicKey,
        now: Timestamp,
    ) -> Result<Registered, RegisterError> {
        let processes = &self.shared.processes;
        if !processes.is_alive(new.pid) || !processes.is_ours(new.pid) {
            return Err(RegisterError::PidNotOurs(new.pid));
        }
        let start_time = processes.start_time(new.pid);
        let Chosen { keys, caps, error } = self.choose_key(&new, member, now)?;
        let activity = self.activity_of(&new.mesh, &new.session_id);
        let session = Arc::new(Session {
            token_hash: TokenHash::of(&new.token),
            token_prefix: new.token.prefix().to_owned(),
            session_id: new.session_id,
            mesh: new.mesh,
            display_name: new.display_name,
            pid: new.pid,
            start_time,
            cwd: new.cwd,
            role: new.role,
            groups: new.groups,
            message_mode: new.message_mode,
            caps,
            share_dirs: new.share_dirs,
            model: new.model,
            kind: new.kind,
            ambient: new.ambient,
            keys,
            registered_at: now,
            last_seen_at: AtomicI64::new(now.as_millis()),
            activity,
            ended: CancellationToken::new(),
        });
        let mut state = self.shared.state.lock();
        if let Some(same) = state.by_token.get(&session.token_hash)
            && same.has_content_of(&session)
        {
            let session = Arc::clone(same);
            session.touch(now);
            return Ok(Registered {
                session,
                replaced: Vec::new(),
                is_repeat: true,
                presence_error: error,
            });
        }
        let makes_way = |old: &Session| {
            let same_id = old.mesh == session.mesh && old.session_id == session.session_id;
            let same_key = session.key().is_some() && old.key() == session.key();
            old.token_hash == session.token_hash || same_id || same_key
        };
        let replaced: Vec<_> =
            state.by_token.values().filter(|old| makes_way(old)).cloned().collect();
        if state.by_token.len() - replaced.len() >= self.shared.limits.lock().max {
            return Err(RegisterError::TooMany);
        }
        for old in &replaced {
            state.by_token.remove(&old.token_hash);
            old.ended.cancel();
        }
        state.by_token.insert(session.token_hash, Arc::clone(&session));
        drop(state);
        self.changed();
        self.watch(&session);
        Ok(Registered { session, replaced, is_repeat: false, presence_error: error })
    }

    fn choose_key(
        &self,
        new: &NewSession,
        member: PublicKey,
        now: Timestamp,
    ) -> Result<Chosen, RegisterError> {
        match &new.offer {
            Offer::None => Ok(Chosen { keys: None, caps: new.caps, error: None }),
            Offer::Stored => {
                let stored = self
                    .shared
                    .key_store
                    .load_or_create(&new.mesh, &new.session_id, new.caps, now)
                    .map_err(RegisterError::KeyStore)?;
                let Some(stored) = stored else {
                    // The names are not fit for a file: a key in memory, for this run.
                    let keys = Some(self.key_in_memory(&new.mesh, &new.session_id));
                    return Ok(Chosen { keys, caps: new.caps, error: None });
                };
                let caps = narrowed(stored.allowed_caps, new.caps);
                Ok(Chosen { keys: Some(Arc::new(stored.keys)), caps, error: None })
            }
            Offer::Given(offer) => Ok(match checked(offer, member, new.caps, now) {
                Ok(keys) => Chosen { keys: Some(Arc::new(keys)), caps: new.caps, error: None },
                Err(code) => Chosen { keys: None, caps: new.caps, error: Some(code.as_str()) },
            }),
        }
    }

    /// What the agent session is doing, when it is registered already.
    fn activity_of(&self, mesh: &str, session_id: &str) -> Arc<Activity> {
        let all = self.live(mesh);
        let same = all.iter().find(|session| session.session_id == session_id);
        same.map(|session| Arc::clone(&session.activity)).unwrap_or_default()
    }

    /// The key in memory of a session that is registered already, so that a repeated registration keeps it.
    fn key_in_memory(&self, mesh: &str, session_id: &str) -> Arc<KeyPair> {
        let all = self.live(mesh);
        let same = all.iter().find(|session| session.session_id == session_id);
        same.and_then(|session| session.keys.clone())
            .unwrap_or_else(|| Arc::new(KeyPair::generate()))
    }
}

struct Chosen {
    keys: Option<Arc<KeyPair>>,
    caps: Option<CapabilitySet>,
    error: Option<&'static str>,
}

/// What both lists allow; a missing list allows everything.
const fn narrowed(
    stored: Option<CapabilitySet>,
    asked: Option<CapabilitySet>,
) -> Option<CapabilitySet> {
    match (stored, asked) {
        (Some(stored), Some(asked)) => Some(stored.intersection(asked)),
        (Some(caps), None) | (None, Some(caps)) => Some(caps),
        (None, None) => None,
    }
}

fn checked(
    offer: &PresenceOffer,
    member: PublicKey,
    caps: Option<CapabilitySet>,
    now: Timestamp,
) -> Result<KeyPair, ErrorCode> {
    let keys = KeyPair::from_hex(offer.session_secret_key.reveal())
        .map_err(|_| ErrorCode::BadSessionPubkey)?;
    if keys.public() != offer.session_pubkey {
        return Err(ErrorCode::BadSessionPubkey);
    }
    let given = &offer.parent_attestation;
    attestation::check_binding(given, member, keys.public())
        .map_err(|_| ErrorCode::AttestationMismatch)?;
    if given.allowed_caps != caps {
        return Err(ErrorCode::AttestationMismatch);
    }
    attestation::verify(given, now).map_err(|error| match error {
        attestation::AttestationError::Expired => ErrorCode::Expired,
        attestation::AttestationError::TtlTooLong => ErrorCode::TtlTooLong,
        _ => ErrorCode::BadSignature,
    })?;
    Ok(keys)
}

impl Session {
    fn has_content_of(&self, other: &Self) -> bool {
        self.session_id == other.session_id
            && self.mesh == other.mesh
            && self.display_name == other.display_name
            && self.pid == other.pid
            && self.start_time == other.start_time
            && self.cwd == other.cwd
            && self.role == other.role
            && self.groups == other.groups
            && self.message_mode == other.message_mode
            && self.caps == other.caps
            && self.share_dirs == other.share_dirs
            && self.model == other.model
            && self.kind == other.kind
            && self.ambient == other.ambient
            && self.key() == other.key()
    }
}
