//! `host_fingerprint.json`: the machine that these files were made on, and what happens when they turn up on another one
//! (daemon spec §4.3). It notices restored backups, copied home directories and images; it keeps nobody out who means to
//! get in.
//!
//! What if the power goes between these two lines? The record is replaced as a whole, so there is the old one or the new
//! one. Nothing else hangs on it: whoever dies before the record is written is the first run once more.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use super::host::{Host, HostSources, is_real};
use crate::home::file::{self, Symlinks};
use crate::settings::{ClonePolicy, CloneSettings};

/// Version of the stored record.
const SCHEMA_VERSION: u32 = 2;
/// The record, in the daemon directory.
const FILE: &str = "host_fingerprint.json";
/// Empty; its time says when a start was refused last.
const REFUSED_FILE: &str = ".host-refused";
/// Refusals that follow each other within this time are one service manager trying again.
const REFUSED_AGAIN: Duration = Duration::from_mins(1);

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    schema_version: u32,
    fingerprint: String,
    host_id: String,
    stable_mac: String,
    written_at: String,
}

/// How the record and this machine compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing was stored.
    FirstRun,
    /// The same machine.
    Match,
    /// The same machine with another network card.
    MacDrift,
    /// Another machine.
    Mismatch,
}

/// The files were made on another machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "these files were made on another machine (there {stored}, here {current})\n\
     if this machine takes its place: claudemesh daemon accept-host\n\
     if both machines go on: claudemesh daemon remint, which makes this one a member of its own"
)]
pub struct ForeignHost {
    /// Id of the machine that the files were made on.
    pub stored: String,
    /// Id of this machine.
    pub current: String,
    /// The last start was refused a moment ago, so that everything has been said.
    pub is_repeated: bool,
}

/// This machine, after it was compared with the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Told to the broker: hex64.
    pub fingerprint: String,
    /// The record is another machine's, and the policy lets this one start.
    pub is_foreign: bool,
}

/// The record cannot be replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// A newer program wrote it; it may say more than we understand.
    #[error("{} was written by a newer version; install that version", .0.display())]
    Newer(PathBuf),
    /// It cannot be read or written.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        /// The record.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The fingerprint of this machine, hex64, after comparing it with the record in `daemon_dir`. An unreadable record, or one
/// of a newer program, is kept and compared with nothing.
///
/// # Errors
/// [`ForeignHost`] when the record is another machine's and the policy is to refuse. A machine that has no id of its own,
/// now or when the record was made, is never refused: a container gets another card at each start.
pub(crate) fn check(
    daemon_dir: &Path,
    settings: &CloneSettings,
    sources: &HostSources,
    now: Timestamp,
) -> Result<Checked, ForeignHost> {
    let path = daemon_dir.join(FILE);
    let id_override = settings.id_override.as_deref();
    let stored = match read(&path) {
        Ok(stored) => stored,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "host_fingerprint_unavailable");
            let fingerprint = Host::current(sources, id_override, None).fingerprint();
            return Ok(Checked { fingerprint, is_foreign: false });
        }
    };
    let stored_id = stored.as_ref().map(|stored| stored.host_id.as_str());
    let host = Host::current(sources, id_override, stored_id);
    let verdict = judge(stored.as_ref(), &host);
    match verdict {
        Verdict::Match => {}
        Verdict::FirstRun | Verdict::MacDrift => {
            if let Err(error) = write(&path, &host, now) {
                tracing::warn!(path = %path.display(), %error, "host_fingerprint_not_written");
            }
        }
        Verdict::Mismatch => {
            let stored_id = stored_id.unwrap_or_default();
            match policy_for(settings.policy, stored_id, &host.id) {
                ClonePolicy::Allow => {}
                ClonePolicy::Warn => {
                    tracing::warn!(stored = stored_id, current = %host.id, "host_fingerprint_mismatch");
                }
                ClonePolicy::Refuse => {
                    return Err(ForeignHost {
                        stored: stored_id.to_owned(),
                        current: host.id,
                        is_repeated: refused_before(&daemon_dir.join(REFUSED_FILE)),
                    });
                }
            }
        }
    }
    Ok(Checked { fingerprint: host.fingerprint(), is_foreign: verdict == Verdict::Mismatch })
}

/// The fingerprint of this machine, hex64, whoever the files belong to. Nothing is written.
pub fn host_fingerprint(
    daemon_dir: &Path,
    settings: &CloneSettings,
    sources: &HostSources,
) -> String {
    let kept = read(&daemon_dir.join(FILE)).ok().flatten().map(|stored| stored.host_id);
    Host::current(sources, settings.id_override.as_deref(), kept.as_deref()).fingerprint()
}

/// Makes this machine the one that the files belong to; the keys stay. Answers its fingerprint, hex64. Needs no daemon,
/// and does one that runs no harm.
///
/// # Errors
/// [`AcceptError`].
pub fn accept_host(
    daemon_dir: &Path,
    settings: &CloneSettings,
    sources: &HostSources,
    now: Timestamp,
) -> Result<String, AcceptError> {
    let path = daemon_dir.join(FILE);
    let kept = match read(&path) {
        Ok(stored) => stored.map(|stored| stored.host_id),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            return Err(AcceptError::Newer(path));
        }
        // Damaged, and to be replaced all the same.
        Err(_) => None,
    };
    let host = Host::current(sources, settings.id_override.as_deref(), kept.as_deref());
    file::create_private_dir(daemon_dir)
        .and_then(|()| write(&path, &host, now))
        .map_err(|source| AcceptError::File { path, source })?;
    // Only a mark: the next refusal, if there is one, has its whole text again.
    let _ = std::fs::remove_file(daemon_dir.join(REFUSED_FILE));
    Ok(host.fingerprint())
}

fn judge(stored: Option<&Record>, host: &Host) -> Verdict {
    let Some(stored) = stored else { return Verdict::FirstRun };
    if stored.fingerprint == host.fingerprint() {
        Verdict::Match
    } else if stored.host_id == host.id && is_real(&host.id) {
        Verdict::MacDrift
    } else {
        Verdict::Mismatch
    }
}

/// The policy for these two ids.
fn policy_for(configured: ClonePolicy, stored: &str, current: &str) -> ClonePolicy {
    match configured {
        ClonePolicy::Refuse if !is_real(stored) || !is_real(current) => ClonePolicy::Warn,
        configured => configured,
    }
}

/// True when the mark of the last refusal is young; sets it anew.
fn refused_before(mark: &Path) -> bool {
    let age = std::fs::metadata(mark).and_then(|meta| meta.modified()).map(|at| at.elapsed());
    // A clock that was set back counts as a refusal of long ago.
    let is_young = matches!(age, Ok(Ok(age)) if age < REFUSED_AGAIN);
    if let Err(error) = file::replace(mark, b"", file::SECRET, Symlinks::Refuse) {
        tracing::debug!(%error, "host_refusal_not_marked");
    }
    is_young
}

fn read(path: &Path) -> io::Result<Option<Record>> {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let Some(content) = file::read(path, Symlinks::Refuse)? else { return Ok(None) };
    let version: Version = serde_json::from_slice(&content.bytes).map_err(io::Error::other)?;
    if version.schema_version > SCHEMA_VERSION {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "written by a newer version"));
    }
    if version.schema_version < SCHEMA_VERSION {
        return Err(io::Error::other("written by an older version"));
    }
    serde_json::from_slice(&content.bytes).map(Some).map_err(io::Error::other)
}

fn write(path: &Path, host: &Host, now: Timestamp) -> io::Result<()> {
    let record = Record {
        schema_version: SCHEMA_VERSION,
        fingerprint: host.fingerprint(),
        host_id: host.id.clone(),
        stable_mac: host.mac.clone(),
        written_at: now.to_iso(),
    };
    let json = serde_json::to_vec_pretty(&record).map_err(io::Error::other)?;
    file::replace(path, &json, file::SECRET, Symlinks::Refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(0);

    fn host(id: &str, mac: &str) -> Host {
        Host { id: id.to_owned(), mac: mac.to_owned() }
    }

    fn record(of: &Host) -> Record {
        Record {
            schema_version: SCHEMA_VERSION,
            fingerprint: of.fingerprint(),
            host_id: of.id.clone(),
            stable_mac: of.mac.clone(),
            written_at: String::new(),
        }
    }

    /// A machine made of files.
    struct Machine {
        dir: tempfile::TempDir,
        sources: HostSources,
    }

    impl Machine {
        fn new(id: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let sources = HostSources {
                machine_id_files: vec![dir.path().join("machine-id")],
                interfaces_dir: dir.path().join("net"),
            };
            std::fs::write(&sources.machine_id_files[0], id).unwrap();
            let machine = Self { dir, sources };
            machine.plug_in("eth1", "a8:00:00:00:00:01");
            machine
        }

        fn plug_in(&self, name: &str, address: &str) {
            let card = self.sources.interfaces_dir.join(name);
            std::fs::create_dir_all(&card).unwrap();
            std::fs::write(card.join("address"), address).unwrap();
        }

        fn record(&self) -> String {
            std::fs::read_to_string(self.dir.path().join(FILE)).unwrap()
        }

        fn check(&self, settings: &CloneSettings, now: i64) -> Result<String, ForeignHost> {
            let now = Timestamp::from_millis(now);
            check(self.dir.path(), settings, &self.sources, now).map(|checked| checked.fingerprint)
        }
    }

    /// Daemon spec §4 Accept 1: unit table tests for all rows of the fingerprint table; both vectors match.
    #[test]
    fn the_table_of_fingerprints() {
        let linux = host("linux:0123456789abcdef0123456789abcdef", "aa:bb:cc:dd:ee:0f");
        assert_eq!(
            linux.fingerprint(),
            "dd29563120a513e3e9082c55886ba25fc309efd5fbe4ad3b4e63b3c9c3fe1229"
        );
        let mac = host("darwin:564D0B4C-0000-4000-8000-1234567890AB", "");
        assert_eq!(
            mac.fingerprint(),
            "8b5db026dec2237e8ae101ff39b20609832389a858789c84b379273c0926ccaa"
        );
        let docked = Host { mac: "00:00:00:00:00:01".to_owned(), ..linux.clone() };
        let (random, unknown) = (host("random:1", "a"), host("", "a"));
        for (stored, current, expected) in [
            (None, &linux, Verdict::FirstRun),
            (Some(&linux), &linux, Verdict::Match),
            (Some(&linux), &docked, Verdict::MacDrift),
            (Some(&linux), &mac, Verdict::Mismatch),
            (Some(&random), &host("random:1", "b"), Verdict::Mismatch),
            (Some(&unknown), &host("", "b"), Verdict::Mismatch),
        ] {
            assert_eq!(judge(stored.map(record).as_ref(), current), expected, "{current:?}");
        }
    }

    /// Daemon spec §4 Accept 2: adding a card that sorts first does not make the next start refuse and rewrites the record
    /// once.
    #[test]
    fn another_card_rewrites_the_record_once() {
        let machine = Machine::new("0123456789abcdef");
        let settings = CloneSettings::default();
        let first = machine.check(&settings, 0).unwrap();
        let written = machine.record();
        assert_eq!(machine.check(&settings, 9_000).unwrap(), first);
        assert_eq!(machine.record(), written, "not written again");
        machine.plug_in("eth0", "a8:00:00:00:00:00");
        let docked = machine.check(&settings, 20_000).unwrap();
        assert_ne!(docked, first);
        let rewritten = machine.record();
        assert!(rewritten.contains("a8:00:00:00:00:00"), "{rewritten}");
        assert_eq!(machine.check(&settings, 30_000).unwrap(), docked);
        assert_eq!(machine.record(), rewritten);
    }

    #[test]
    fn the_policy_decides_about_another_machine_and_accepting_settles_it() {
        let machine = Machine::new("aaaa");
        let refuse = CloneSettings::default();
        machine.check(&refuse, 0).unwrap();
        let written = machine.record();
        std::fs::write(&machine.sources.machine_id_files[0], "bbbb").unwrap();
        let refused = machine.check(&refuse, 0).unwrap_err();
        assert_eq!(
            (refused.stored.as_str(), refused.current.as_str()),
            ("linux:aaaa", "linux:bbbb")
        );
        assert!(!refused.is_repeated);
        assert!(machine.check(&refuse, 0).unwrap_err().is_repeated);
        for policy in [ClonePolicy::Warn, ClonePolicy::Allow] {
            let settings = CloneSettings { policy, ..CloneSettings::default() };
            assert_eq!(machine.check(&settings, 0).unwrap().len(), 64);
            assert_eq!(machine.record(), written, "{policy:?} leaves the record");
        }
        let accepted = accept_host(machine.dir.path(), &refuse, &machine.sources, NOW).unwrap();
        assert_eq!(machine.check(&refuse, 0).unwrap(), accepted);
        std::fs::write(&machine.sources.machine_id_files[0], "cccc").unwrap();
        assert!(!machine.check(&refuse, 0).unwrap_err().is_repeated, "the mark went with it");
    }

    /// A machine without an id of its own is warned, not refused.
    #[test]
    fn what_has_no_id_is_never_refused() {
        let machine = Machine::new("");
        let settings = CloneSettings::default();
        let first = machine.check(&settings, 0).unwrap();
        assert_eq!(machine.check(&settings, 0).unwrap(), first, "what was made up is kept");
        machine.plug_in("eth0", "a8:00:00:00:00:00");
        let written = machine.record();
        assert_ne!(machine.check(&settings, 0).unwrap(), first);
        assert_eq!(machine.record(), written);
        std::fs::write(&machine.sources.machine_id_files[0], "aaaa").unwrap();
        assert!(machine.check(&settings, 0).is_ok());
        let named = CloneSettings { id_override: Some("pod".to_owned()), ..settings };
        accept_host(machine.dir.path(), &named, &machine.sources, NOW).unwrap();
        assert!(machine.record().contains("\"override:pod\""));
        let other = CloneSettings { id_override: Some("other".to_owned()), ..named };
        assert_eq!(machine.check(&other, 0).unwrap_err().current, "override:other");
    }

    #[test]
    fn what_a_newer_version_wrote_is_kept() {
        let machine = Machine::new("aaaa");
        let newer = r#"{"schema_version": 3}"#;
        let settings = CloneSettings::default();
        let dir = machine.dir.path();
        std::fs::write(dir.join(FILE), newer).unwrap();
        assert_eq!(machine.check(&settings, 0).unwrap().len(), 64);
        let refused = accept_host(dir, &settings, &machine.sources, NOW);
        assert!(matches!(refused, Err(AcceptError::Newer(_))));
        assert_eq!(machine.record(), newer);
        std::fs::write(dir.join(FILE), "not JSON").unwrap();
        assert_eq!(machine.check(&settings, 0).unwrap().len(), 64);
        assert_eq!(machine.record(), "not JSON");
        accept_host(dir, &settings, &machine.sources, NOW).unwrap();
        assert!(machine.record().contains("linux:aaaa"));
    }
}
