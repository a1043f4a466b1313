//! What this program and a daemon of another version do with each other (daemon spec §9.6).
//!
//! An older daemon that nobody manages, and that sends nothing at the moment, is replaced by one of this version. Only
//! upwards, and once in a process: two programs of different versions would otherwise restart each other for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use claudemesh_daemon::home::file::{self, FileLock};
use claudemesh_daemon::sessions::process;
use claudemesh_ipc::api::Version;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link::{Probe, Running};

/// Version of this program.
const OWN: &str = env!("CARGO_PKG_VERSION");
/// Step between two looks at a daemon that is stopping.
const STOP_STEP: Duration = Duration::from_millis(20);

/// Whether the versions of this process and the daemon were compared already.
#[derive(Debug, Default)]
pub(crate) struct Compared(AtomicBool);

/// How a daemon's version stands to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Same,
    Older,
    Newer,
}

impl Context {
    /// Compares versions, once in a process: an older daemon is replaced where that harms nobody, else one sentence says
    /// how they differ.
    ///
    /// # Errors
    /// The old daemon was stopped and none could be started in its place.
    pub(crate) async fn agree(&self, version: Version) -> Outcome<Running> {
        let is_first = !self.compared.0.swap(true, Ordering::Relaxed);
        let standing = if is_first { standing(&version.daemon_version) } else { Standing::Same };
        let theirs = format!("v{}", version.daemon_version);
        match standing {
            Standing::Same => {}
            Standing::Newer => self.out.notice(&format!(
                "the daemon is {theirs}, newer than this program (v{OWN}): upgrade this program"
            )),
            Standing::Older => match self.hindrance(&version).await? {
                None => return self.replace(&version).await,
                Some(why) => {
                    self.out.notice(&format!("the daemon is {theirs}, older than v{OWN}: {why}"));
                }
            },
        }
        Ok(Running { client: self.client()?, version, was_started: false })
    }

    /// Refuses a daemon that lacks what the verb needs; where it can, the verb then does without it.
    ///
    /// # Errors
    /// Exit 4.
    pub(crate) fn need_feature(&self, version: &Version, feature: &str) -> Outcome<()> {
        if version.ipc_features.iter().any(|known| known == feature) {
            return Ok(());
        }
        let message = format!("the daemon (v{}) cannot do {}", version.daemon_version, self.spoken);
        Err(Failure::new(ErrorCode::DaemonUnreachable, message)
            .detail(format!("it lacks \"{feature}\""))
            .exit(ExitCode::Network)
            .action("claudemesh daemon restart"))
    }

    /// Why an older daemon is left alone, and what a person can do about it; `None` when it can be replaced.
    async fn hindrance(&self, version: &Version) -> Outcome<Option<String>> {
        if version.ephemeral {
            // What it has not sent, and its keys, would end with it.
            return Ok(Some("it is ephemeral, and stays until its job is done".to_owned()));
        }
        if self.service_unit().is_some() {
            let why = "restart its service, or run claudemesh daemon restart";
            return Ok(Some(why.to_owned()));
        }
        if self.environment.in_session || self.environment.no_autospawn {
            return Ok(Some("run claudemesh daemon restart outside of this session".to_owned()));
        }
        // One that stays in a terminal, or that another program started, is somebody's.
        if !process::leads_its_session(version.pid) {
            return Ok(Some("somebody else started it and has to restart it".to_owned()));
        }
        let health = self.client()?.with_token(None).health().await;
        // One that does not answer any more is being replaced by somebody else.
        let is_sending =
            health.is_ok_and(|health| health.meshes.iter().any(|mesh| mesh.inflight > 0));
        let why = "it is sending; run claudemesh daemon restart later";
        Ok(is_sending.then(|| why.to_owned()))
    }

    /// Stops the older daemon and starts one of this version, unless somebody else does so already.
    async fn replace(&self, old: &Version) -> Outcome<Running> {
        let began = Instant::now();
        let lock_file = self.paths.spawn_lock_file();
        let cannot_lock = |error: &std::io::Error| {
            Failure::io(format!("cannot lock {}", lock_file.display()), error)
        };
        let deadline = began + limits::DAEMON_STOP_BUDGET + limits::DAEMON_SPAWN_BUDGET;
        let lock = loop {
            let lock = FileLock::try_take(&lock_file).map_err(|error| cannot_lock(&error))?;
            // Somebody else may have replaced it, or may be about to.
            match self.probe().await? {
                Probe::Up(version) if version.pid != old.pid => {
                    let client = self.client()?;
                    return Ok(Running { client, version: *version, was_started: false });
                }
                Probe::Up(_) => {}
                _ => {
                    drop(lock);
                    return self.start_daemon_with(&[]).await;
                }
            }
            match lock {
                Some(lock) => break lock,
                None if Instant::now() >= deadline => return self.start_daemon_with(&[]).await,
                None => tokio::time::sleep(STOP_STEP).await,
            }
        };
        let had_tcp = self.paths.http_port_file().exists();
        let stopped = self.client()?.with_token(None).shutdown().await;
        if stopped.is_err() || !self.has_ended().await? {
            let theirs = &old.daemon_version;
            self.out.notice(&format!(
                "the daemon is v{theirs}, older than v{OWN}, and does not stop: run claudemesh daemon restart"
            ));
            return Ok(Running {
                client: self.client()?,
                version: old.clone(),
                was_started: false,
            });
        }
        drop(lock);
        // As it was started before.
        let more: &[&str] = if had_tcp { &["--tcp"] } else { &[] };
        let running =
            self.out.during("restarting the daemon", self.start_daemon_with(more)).await?;
        let ms = began.elapsed().as_millis();
        self.out.notice(&format!(
            "daemon restarted: it was v{}, it is v{} ({ms} ms)",
            old.daemon_version, running.version.daemon_version
        ));
        Ok(running)
    }

    /// Waits until the lock of the daemon is free.
    async fn has_ended(&self) -> Outcome<bool> {
        let lock = self.paths.lock_file();
        let deadline = Instant::now() + limits::DAEMON_STOP_BUDGET;
        loop {
            let is_held = file::is_locked(&lock)
                .map_err(|error| Failure::io(format!("cannot read {}", lock.display()), &error))?;
            if !is_held {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(STOP_STEP).await;
        }
    }
}

fn standing(theirs: &str) -> Standing {
    match (numbers(theirs), numbers(OWN)) {
        (Some(theirs), Some(own)) if theirs < own => Standing::Older,
        (Some(theirs), Some(own)) if theirs > own => Standing::Newer,
        // Also a version that cannot be read: nothing is known about it.
        _ => Standing::Same,
    }
}

/// `1.2.3` as numbers; builds on the way to it count as it.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let release = version.split(['-', '+']).next()?;
    let mut parts = release.split('.').map(str::parse);
    let numbers = [parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(standing(OWN), Standing::Same);
        assert_eq!(standing("0.0.1"), Standing::Older);
        assert_eq!(standing("0.0.999"), Standing::Older);
        assert_eq!(standing("99.0.0"), Standing::Newer);
        assert_eq!(standing("99.0.0-rc.1"), Standing::Newer);
        for unreadable in ["", "next", "1.2", "1.2.3.4", "1.x.3"] {
            assert_eq!(standing(unreadable), Standing::Same, "{unreadable}");
        }
        assert!(numbers("0.9.10") > numbers("0.9.9") && numbers("0.10.0") > numbers("0.9.9"));
    }
}
