//! From one member key to the next (daemon spec §19.1, wire spec §5.18).
//!
//! The steps, and what the next start makes of a death right after each of them:
//!
//! | # | step | after a death |
//! |---|---|---|
//! | 1 | a fresh key is written to `rotation-pending-<slug>.json` | the broker takes the old key: the record goes when nothing of the rotation can be on its way any more |
//! | 2 | the old key's X25519 half is archived | as 1; the archived half goes with the record |
//! | 3 | the broker binds the new key to the member | the broker refuses the old key and takes the new one, as a short connection finds out: on with 4 |
//! | 4 | `config.json` gets the new key | the record names the key that `config.json` has: on with 5 |
//! | 5 | the mesh ends under the old key, its inbox rows move to the new one | the same rows move again, which changes nothing |
//! | 6 | the record is removed | nothing is left to do |
//! | 7 | the mesh is attached under the new key, its sessions are vouched for by it | the start does it |
//!
//! Between 3 and 7 peers may still seal for the old key: the broker hands that to the member, and the archive opens it.
//! What our outbox had sealed under the old key is sealed anew when it is sent (`mesh::rekey`).
//!
//! A lost answer to step 3 is the same as a death after it. The broker takes a signed rotation for a minute, so an old key
//! that still works proves nothing before that minute, and one for the way, is over ([`TOO_LATE`]). Until then the record
//! stays, and asking again goes on with the same new key.
//!
//! Whoever holds the key on another machine is refused by the broker from step 3 on: a rotation is for one machine.

use std::collections::HashMap;
use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::rotation::Rotation;
use claudemesh_ipc::api::MeshStatus;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::REQUEST_TIMEOUT;
use claudemesh_protocol::wire::{ClientFrame, RotateMemberKey};
use claudemesh_protocol::{PublicKey, Timestamp};
use claudemesh_sqlite::crash_point;
use tokio::time::Instant;

use super::Identity;
use super::pending::Pending;
use crate::daemon::Daemon;
use crate::home::config::{Config, ConfigError, MeshEntry, UpdateError};
use crate::mesh::{MeshHandle, RequestError, Via};
use crate::storage::{Causes, StorageError};
use crate::{blocking, clock};

/// Feature of brokers that change keys.
const FEATURE: &str = "member_keypair_rotated_event";
/// How long after a connection opened under the old key a rotation that was sent before can still be taken: the signature
/// counts for a minute either way, and the frame may have been on its way.
const TOO_LATE: Duration = Duration::from_secs(150);
/// Pause between two looks at rotations that have begun.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Longest pause between two looks at the archive: the clock may have been set.
const ARCHIVE_LOOK: Duration = Duration::from_hours(1);
/// Shortest one.
const ARCHIVE_LOOK_LEAST: Duration = Duration::from_secs(1);

/// A rotation that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotated {
    /// The key until now.
    pub old: PublicKey,
    /// The key from now on.
    pub new: PublicKey,
}

/// Why a key was not rotated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RotationError {
    /// The mesh is not joined.
    #[error("the mesh \"{0}\" is not attached")]
    NotAttached(String),
    /// There is no connection to its broker.
    #[error("no connection to the broker of {0}")]
    NotOpen(String),
    /// Its broker is too old.
    #[error("the broker of {0} cannot change the key of a member")]
    Unsupported(String),
    /// The old key or the new one could not be kept; nothing has changed.
    #[error("the keys cannot be written down: {0}")]
    NotKept(#[source] std::io::Error),
    /// The broker said no; nothing has changed.
    #[error("the broker refused the new key: {}", .0.message)]
    Refused(RequestError),
    /// The broker's answer was lost. The daemon finds out by itself.
    #[error(
        "the answer of the broker was lost; the daemon finds out which key counts and goes on by itself"
    )]
    Unknown,
    /// The broker has the new key, and something here could not be written; it is tried again.
    #[error(
        "the new key is registered and could not be put in place yet: {0}; the daemon tries again by itself"
    )]
    Unfinished(String),
}

impl RotationError {
    /// The word of the local API.
    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::NotAttached(_) => ErrorCode::MeshNotAttached,
            Self::NotOpen(_) => ErrorCode::BrokerUnavailable,
            Self::Unsupported(_) | Self::NotKept(_) | Self::Refused(_) => {
                ErrorCode::KeyRotationFailed
            }
            Self::Unknown => ErrorCode::OutcomeUnknown,
            Self::Unfinished(_) => ErrorCode::Io,
        }
    }
}

/// What the broker made of a rotation.
enum Answer {
    Registered,
    Refused(RequestError),
    Lost,
}

impl Daemon {
    /// Gives our member in a mesh another key. When this returns, the mesh goes by it.
    ///
    /// # Errors
    /// [`RotationError`].
    pub(crate) async fn rotate_keypair(&self, slug: &str) -> Result<Rotated, RotationError> {
        let identity = self.context().identity.clone();
        let _one_at_a_time = identity.shared.rotating.lock().await;
        let mesh =
            self.meshes().get(slug).ok_or_else(|| RotationError::NotAttached(slug.to_owned()))?;
        let link = mesh.health();
        if link.status != MeshStatus::Open {
            return Err(RotationError::NotOpen(slug.to_owned()));
        }
        if !link.features.contains_key(FEATURE) {
            return Err(RotationError::Unsupported(slug.to_owned()));
        }
        self.finish_last_rotation(slug, &mesh).await?;
        let pending = self.begin_rotation(&identity, slug, &mesh).await?;
        crash_point("rotate.after_archive");
        let rotated = Rotated { old: pending.old, new: pending.new.public() };
        match self.register_key(&mesh, &pending).await {
            Answer::Registered => {}
            Answer::Refused(error) => {
                self.abandon(&identity, &pending).await;
                return Err(RotationError::Refused(error));
            }
            Answer::Lost => return Err(RotationError::Unknown),
        }
        crash_point("rotate.after_register");
        self.finish_rotation(&identity, &pending).await?;
        let (old, new) = (rotated.old.short(16), rotated.new.short(16));
        tracing::info!(mesh = slug, old, new, "member_key_rotated");
        Ok(rotated)
    }

    /// The record of a rotation that lacks only its last steps makes way for the next one when these are done.
    async fn finish_last_rotation(
        &self,
        slug: &str,
        mesh: &MeshHandle,
    ) -> Result<(), RotationError> {
        let own = mesh.member().public;
        let all = self.pending_rotations().await;
        let last = all.iter().find(|last| last.slug == slug && last.new.public() == own);
        let Some(last) = last else { return Ok(()) };
        let unfinished =
            |error: StorageError| RotationError::Unfinished(Causes(&error).to_string());
        self.settle_records(last).await.map_err(unfinished)
    }

    /// Steps 1 and 2. A rotation that was begun before goes on with its key.
    async fn begin_rotation(
        &self,
        identity: &Identity,
        slug: &str,
        mesh: &MeshHandle,
    ) -> Result<Pending, RotationError> {
        let (dir, slug) = (identity.shared.dir.clone(), slug.to_owned());
        let (identity, path) = (identity.clone(), self.context().paths.membership_file());
        let settings = self.context().settings.get();
        let own = mesh.member().public;
        let begun = blocking::run(move || {
            let entry =
                entry_of(&path, &slug).map_err(|error| std::io::Error::other(error.to_string()))?;
            let entry = entry.filter(|entry| entry.keys.public() == own);
            let Some(entry) = entry else {
                return Err(std::io::Error::other("config.json has just changed; try again"));
            };
            let now = clock::now();
            let begun = Pending::read(&dir, &slug)?;
            let begun = begun.filter(|begun| begun.is_of(&entry) && begun.old == own);
            let pending = begun.map_or_else(|| Pending::begin(&dir, &entry, now), Ok)?;
            let joined_at = Timestamp::parse_iso(&entry.joined_at);
            let archived =
                identity.archive(&entry.slug, &entry.keys, joined_at, &settings.crypto, now);
            if let Err(error) = archived {
                tracing::error!(mesh = slug, %error, "key_rotation_aborted_archive_write_failed");
                // A record without a rotation is ended by the next look, if not now.
                let _ = pending.end();
                return Err(error);
            }
            Ok(pending)
        });
        let begun = begun.await.unwrap_or_else(|| Err(std::io::Error::other("it panicked")));
        begun.map_err(RotationError::NotKept)
    }

    /// Step 3.
    async fn register_key(&self, mesh: &MeshHandle, pending: &Pending) -> Answer {
        let member = mesh.member();
        let timestamp = clock::now();
        let statement = Rotation {
            mesh: mesh.mesh_id(),
            member: &member.member_id,
            old: pending.old,
            new: pending.new.public(),
            timestamp,
        };
        let (Ok(signature_old), Ok(signature_new)) =
            (statement.sign(&member.keys), statement.sign(&pending.new))
        else {
            return Answer::Refused(refused("the ids of this mesh cannot be signed"));
        };
        let frame = ClientFrame::RotateMemberKey(Box::new(RotateMemberKey {
            new_pubkey: statement.new,
            timestamp: timestamp.as_millis(),
            signature_old,
            signature_new,
        }));
        match mesh.request_within(Via::Member, frame, REQUEST_TIMEOUT).await {
            Ok(_) => Answer::Registered,
            Err(error) if error.may_have_run || is_about_the_key(&error) => {
                match self.takes(mesh, &pending.new).await {
                    Some(true) => Answer::Registered,
                    _ => Answer::Lost,
                }
            }
            Err(error) => Answer::Refused(error),
        }
    }

    /// Whether the broker of a mesh takes this key of our member, as a short connection finds out; `None` when it cannot be
    /// asked.
    async fn takes(&self, mesh: &MeshHandle, keys: &KeyPair) -> Option<bool> {
        match mesh.probe_key(keys).await {
            Ok(()) => Some(true),
            Err(error) if is_about_the_key(&error) => Some(false),
            Err(error) => {
                tracing::debug!(mesh = mesh.slug(), %error, "key_not_probed");
                None
            }
        }
    }

    /// Steps 4 to 7.
    async fn finish_rotation(
        &self,
        identity: &Identity,
        pending: &Pending,
    ) -> Result<(), RotationError> {
        let unfinished =
            |error: &dyn std::fmt::Display| RotationError::Unfinished(error.to_string());
        // Whoever sees the new `config.json` waits: the old connections end before the new ones begin.
        let _no_reload = self.hold_reloads().await;
        let (path, replaced) = (self.context().paths.membership_file(), pending.clone());
        let (identity, settings) = (identity.clone(), self.context().settings.get());
        let put = blocking::run(move || {
            // Begun by a process that died between its steps 1 and 2.
            if let Ok(Some(entry)) = entry_of(&path, &replaced.slug)
                && entry.keys.public() == replaced.old
                && !identity
                    .archived(&entry.slug, clock::now())
                    .iter()
                    .any(|key| key.public == replaced.old)
            {
                let joined_at = Timestamp::parse_iso(&entry.joined_at);
                let (slug, now) = (&entry.slug, clock::now());
                identity
                    .archive(slug, &entry.keys, joined_at, &settings.crypto, now)
                    .map_err(|error| error.to_string())?;
            }
            put_in_place(&path, &replaced).map_err(|error| error.to_string())
        });
        put.await
            .unwrap_or_else(|| Err("it panicked".to_owned()))
            .map_err(|error| unfinished(&error))?;
        crash_point("rotate.after_config");
        if let Some(mesh) = self.meshes().get(&pending.slug)
            && mesh.member().public == pending.old
        {
            mesh.end().await;
        }
        let moved = self.settle_records(pending).await;
        let path = self.context().paths.membership_file();
        match blocking::run(move || Config::read(&path)).await {
            Some(Ok(config)) => drop(self.apply_meshes(&config).await),
            Some(Err(error)) => return Err(unfinished(&error)),
            None => return Err(unfinished(&"it panicked")),
        }
        moved.map_err(|error| unfinished(&Causes(&error)))
    }

    /// Steps 5 and 6, for a mesh that is not connected under the old key: what was received for the old key is the new
    /// one's, and the old one is remembered.
    async fn settle_records(&self, pending: &Pending) -> Result<(), StorageError> {
        let context = self.context();
        let (old, new) = (pending.old, pending.new.public());
        context.inbox.rekey(&pending.slug, old, new).await?;
        let state = context.identity.state(&pending.slug, &pending.mesh_id);
        state.note_own(old);
        let (slug, pending) = (pending.slug.clone(), pending.clone());
        let ended = blocking::run(move || state.save().and_then(|()| pending.end())).await;
        if let Some(Err(error)) = ended {
            tracing::warn!(mesh = slug, %error, "rotation_record_not_removed");
        }
        Ok(())
    }

    /// A rotation that the broker does not know, and will not come to know: the old key stays.
    async fn abandon(&self, identity: &Identity, pending: &Pending) {
        let (identity, pending, slug) = (identity.clone(), pending.clone(), pending.slug.clone());
        let ended = blocking::run(move || {
            // The record last: as long as it is there, this is done again.
            identity.unarchive(&pending.slug, pending.old)?;
            pending.end()
        });
        match ended.await {
            Some(Ok(())) => tracing::warn!(mesh = slug, "key_rotation_abandoned"),
            Some(Err(error)) => {
                tracing::warn!(mesh = slug, %error, "rotation_record_not_removed");
            }
            None => {}
        }
    }

    /// Finishes, before the meshes of `config` are attached, the rotations that had got as far as `config.json`.
    pub(crate) async fn finish_rotations(&self, config: &Config) {
        for pending in self.pending_rotations().await {
            let has_new_key = config.mesh(&pending.slug).is_some_and(|entry| {
                pending.is_of(entry) && entry.keys.public() == pending.new.public()
            });
            if has_new_key {
                self.settle_or_tell(&pending).await;
            }
        }
    }

    async fn settle_or_tell(&self, pending: &Pending) {
        match self.settle_records(pending).await {
            Ok(()) => tracing::info!(mesh = pending.slug, "key_rotation_finished"),
            Err(error) => {
                let error = Causes(&error);
                tracing::warn!(mesh = pending.slug, %error, "key_rotation_unfinished");
            }
        }
    }

    async fn pending_rotations(&self) -> Vec<Pending> {
        let dir = self.context().identity.shared.dir.clone();
        blocking::run(move || Pending::all(&dir)).await.unwrap_or_default()
    }

    /// Looks at every rotation that has begun and not ended; true while there are any.
    async fn look_at_rotations(&self, open_since: &mut HashMap<String, Instant>) -> bool {
        let identity = self.context().identity.clone();
        // The rotation that is under way looks after itself.
        let Ok(_one_at_a_time) = identity.shared.rotating.try_lock() else { return true };
        let mut is_any_left = false;
        for pending in self.pending_rotations().await {
            let Some(mesh) =
                self.meshes().get(&pending.slug).filter(|mesh| is_about(&pending, mesh))
            else {
                tracing::warn!(mesh = pending.slug, "rotation_record_of_left_mesh");
                self.abandon(&identity, &pending).await;
                continue;
            };
            let own = mesh.member().public;
            if own == pending.new.public() {
                self.settle_or_tell(&pending).await;
            } else if own == pending.old {
                is_any_left |= !self.look_at(&identity, &pending, &mesh, open_since).await;
            } else {
                // Somebody put a third key in place.
                self.abandon(&identity, &pending).await;
            }
        }
        is_any_left
    }

    /// Which of the two keys does the broker take? True when the rotation has ended, one way or the other.
    async fn look_at(
        &self,
        identity: &Identity,
        pending: &Pending,
        mesh: &MeshHandle,
        open_since: &mut HashMap<String, Instant>,
    ) -> bool {
        if mesh.status() == MeshStatus::Open {
            let since = *open_since.entry(pending.slug.clone()).or_insert_with(Instant::now);
            // An answer proves that the broker has not closed this connection, as it does when a key changes.
            if since.elapsed() < TOO_LATE || mesh.members().await.is_err() {
                return false;
            }
            open_since.remove(&pending.slug);
            self.abandon(identity, pending).await;
            return true;
        }
        open_since.remove(&pending.slug);
        if !mesh.is_unauthorized() || self.takes(mesh, &pending.new).await != Some(true) {
            return false;
        }
        match self.finish_rotation(identity, pending).await {
            Ok(()) => {
                tracing::info!(mesh = pending.slug, "key_rotation_finished");
                true
            }
            Err(error) => {
                tracing::warn!(mesh = pending.slug, %error, "key_rotation_unfinished");
                false
            }
        }
    }
}

/// Brings rotations to their end that a crash or a lost answer left, and lets archived keys go with their time, until the
/// daemon stops. Sleeps for an hour where there is neither.
pub(crate) async fn tend(daemon: Daemon) {
    let identity = daemon.context().identity.clone();
    let stopping = daemon.stopping();
    let mut open_since = HashMap::new();
    loop {
        let is_any_left = daemon.look_at_rotations(&mut open_since).await;
        let cleaned = identity.clone();
        if let Some(Err(error)) = blocking::run(move || cleaned.clean_up(clock::now())).await {
            tracing::warn!(%error, "keypair_archive_not_written");
        }
        let expiry = identity.next_expiry(clock::now()).unwrap_or(ARCHIVE_LOOK);
        let pause = if is_any_left { LOOK_AGAIN } else { ARCHIVE_LOOK };
        let pause = expiry.max(ARCHIVE_LOOK_LEAST).min(pause);
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = identity.shared.look.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn is_about(pending: &Pending, mesh: &MeshHandle) -> bool {
    *mesh.mesh_id() == pending.mesh_id && mesh.member().member_id == pending.member_id
}

/// The broker does not know the key that asked.
fn is_about_the_key(error: &RequestError) -> bool {
    ErrorCode::parse(&error.code) == Some(ErrorCode::Unauthorized)
}

fn refused(message: &str) -> RequestError {
    RequestError {
        code: ErrorCode::InvalidArgs.as_str().to_owned(),
        message: message.to_owned(),
        retry_after_ms: None,
        may_have_run: false,
    }
}

fn entry_of(path: &std::path::Path, slug: &str) -> Result<Option<MeshEntry>, ConfigError> {
    Ok(Config::read(path)?.mesh(slug).cloned())
}

/// Step 4. Does nothing when the key is in place already, or the entry is another one by now.
fn put_in_place(path: &std::path::Path, pending: &Pending) -> Result<(), UpdateError<ConfigError>> {
    Config::update(path, |config| {
        config.change_mesh(&pending.slug, |entry| {
            if pending.is_of(entry) && entry.keys.public() == pending.old {
                entry.keys = pending.new.clone();
            }
        });
        Ok::<_, ConfigError>(())
    })
}
