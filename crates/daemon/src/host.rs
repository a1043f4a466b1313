//! Which machine this is, told to the broker as a hash so that an accidental copy of a home directory is noticed (daemon
//! spec §4.3). It keeps nobody out who means to get in.

use std::io;
use std::path::{Path, PathBuf};

use claudemesh_crypto::{host, random};
use claudemesh_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use crate::home::file::{self, Symlinks};

/// Version of the stored record.
const SCHEMA_VERSION: u32 = 2;
/// File in the daemon directory.
const FILE: &str = "host_fingerprint.json";
/// Where Linux keeps the id of a machine, in order.
const MACHINE_ID_FILES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// Where Linux lists network interfaces.
const INTERFACES_DIR: &str = "/sys/class/net";
/// First letters of interfaces that come and go with software (daemon spec §4.3), without regard to case.
const VIRTUAL: [&str; 19] = [
    "lo",
    "docker",
    "br-",
    "bridge",
    "veth",
    "tap",
    "tun",
    "tailscale",
    "wg",
    "utun",
    "ppp",
    "vboxnet",
    "vmnet",
    "awdl",
    "llw",
    "anpi",
    "virbr",
    "cni",
    "flannel",
];
/// More of them.
const VIRTUAL_TOO: [&str; 2] = ["cali", "zt"];
/// Bit of a hardware address that software set it.
const LOCALLY_ADMINISTERED: u8 = 0x02;

/// What tells this machine from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// `linux:<machine id>`, `random:<id>`, or empty.
    id: String,
    /// `aa:bb:cc:dd:ee:ff`, or empty.
    mac: String,
}

/// `host_fingerprint.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    schema_version: u32,
    fingerprint: String,
    host_id: String,
    stable_mac: String,
    written_at: String,
}

/// How the stored record and this machine compare.
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

/// The fingerprint of this machine, hex64, after comparing it with what is stored in `daemon_dir`.
///
/// A record of another machine stays as it is and is logged.
pub(crate) fn fingerprint(daemon_dir: &Path, now: Timestamp) -> String {
    let path = daemon_dir.join(FILE);
    let stored = match read(&path) {
        Ok(stored) => stored,
        Err(error) => {
            // Never overwrite what a newer version wrote.
            tracing::warn!(path = %path.display(), %error, "host_fingerprint_unavailable");
            return Host::current(None).fingerprint();
        }
    };
    let host = Host::current(stored.as_ref());
    match judge(stored.as_ref(), &host) {
        Verdict::Match => {}
        Verdict::FirstRun | Verdict::MacDrift => {
            if let Err(error) = write(&path, &host, now) {
                tracing::warn!(path = %path.display(), %error, "host_fingerprint_not_written");
            }
        }
        Verdict::Mismatch => {
            let stored_id = stored.as_ref().map(|stored| stored.host_id.as_str());
            tracing::warn!(stored = stored_id, current = %host.id, "host_fingerprint_mismatch");
        }
    }
    host.fingerprint()
}

impl Host {
    fn current(stored: Option<&Record>) -> Self {
        let id = machine_id(&MACHINE_ID_FILES.map(PathBuf::from)).unwrap_or_else(|| {
            tracing::warn!("fingerprint_unavailable");
            let kept = stored.map(|stored| stored.host_id.clone());
            kept.filter(|id| id.starts_with("random:"))
                .unwrap_or_else(|| format!("random:{}", hex::encode(random::bytes::<16>())))
        });
        Self { id, mac: stable_mac(&interfaces(Path::new(INTERFACES_DIR))) }
    }

    fn fingerprint(&self) -> String {
        host::fingerprint(&self.id, &self.mac)
    }

    /// An id that says which machine it is, not only that it is one.
    fn has_real_id(&self) -> bool {
        is_real(&self.id)
    }
}

fn is_real(id: &str) -> bool {
    !id.is_empty() && !id.starts_with("random:")
}

fn judge(stored: Option<&Record>, host: &Host) -> Verdict {
    let Some(stored) = stored else { return Verdict::FirstRun };
    if stored.fingerprint == host.fingerprint() {
        Verdict::Match
    } else if stored.host_id == host.id && host.has_real_id() {
        Verdict::MacDrift
    } else {
        Verdict::Mismatch
    }
}

fn read(path: &Path) -> io::Result<Option<Record>> {
    let Some(content) = file::read(path, Symlinks::Refuse)? else { return Ok(None) };
    let record: Record = serde_json::from_slice(&content.bytes).map_err(io::Error::other)?;
    if record.schema_version != SCHEMA_VERSION {
        return Err(io::Error::other("written by another version"));
    }
    Ok(Some(record))
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

/// The first usable id of these files, with its prefix.
fn machine_id(files: &[PathBuf]) -> Option<String> {
    files.iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let id = text.trim();
        let is_usable =
            !id.is_empty() && id != "uninitialized" && id.bytes().any(|byte| byte != b'0');
        is_usable.then(|| format!("linux:{id}"))
    })
}

/// Name and hardware address of every interface.
fn interfaces(dir: &Path) -> Vec<(String, [u8; 6])> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let text = std::fs::read_to_string(entry.path().join("address")).ok()?;
            let mut address = [0; 6];
            hex::decode_to_slice(text.trim().replace(':', ""), &mut address).ok()?;
            Some((entry.file_name().into_string().ok()?, address))
        })
        .collect()
}

/// The first address by interface name: of hardware, or else of what software set.
fn stable_mac(interfaces: &[(String, [u8; 6])]) -> String {
    let is_local =
        |address: &[u8; 6]| address.first().is_some_and(|first| first & LOCALLY_ADMINISTERED != 0);
    let mut usable: Vec<_> = interfaces
        .iter()
        .filter(|(name, address)| *address != [0; 6] && !is_virtual(name))
        .map(|(name, address)| (is_local(address), name, address))
        .collect();
    usable.sort();
    let first = usable.first().map(|(_, _, address)| address.map(|byte| format!("{byte:02x}")));
    first.map(|parts| parts.join(":")).unwrap_or_default()
}

fn is_virtual(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_access_point = name
        .strip_prefix("ap")
        .is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()));
    is_access_point || VIRTUAL.iter().chain(&VIRTUAL_TOO).any(|prefix| name.starts_with(prefix))
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

    /// Daemon spec §4.4 Accept 1: unit table tests for all rows of the fingerprint table; both vectors match.
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

    #[test]
    fn hardware_goes_before_software_and_names_decide() {
        let list = |rows: &[(&str, [u8; 6])]| {
            rows.iter().map(|(name, mac)| ((*name).to_owned(), *mac)).collect::<Vec<_>>()
        };
        let hard = |last| [0xa8, 0, 0, 0, 0, last];
        let soft = |last| [0xaa, 0, 0, 0, 0, last];
        let all = list(&[
            ("wlan0", hard(2)),
            ("eth0", hard(1)),
            ("docker0", hard(9)),
            ("VETH1", hard(8)),
            ("ap1", hard(7)),
            ("apple0", hard(6)),
            ("bond0", soft(5)),
            ("lo", [0; 6]),
        ]);
        assert_eq!(stable_mac(&all), "a8:00:00:00:00:06");
        let software = list(&[("eth1", soft(2)), ("eth0", soft(1)), ("wg0", hard(1))]);
        assert_eq!(stable_mac(&software), "aa:00:00:00:00:01");
        assert_eq!(stable_mac(&list(&[("eth0", [0; 6])])), "");
    }

    /// Daemon spec §4.4 Accept 2: adding a NIC that sorts first rewrites the file once.
    #[test]
    fn the_record_is_written_once_and_follows_the_card() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let first = fingerprint(dir.path(), NOW);
        let written = std::fs::read(&path).unwrap();
        assert_eq!(fingerprint(dir.path(), NOW.plus(std::time::Duration::from_secs(9))), first);
        assert_eq!(std::fs::read(&path).unwrap(), written, "not written again");
        let newer = br#"{"schema_version": 3}"#;
        std::fs::write(&path, newer).unwrap();
        assert_eq!(fingerprint(dir.path(), NOW).len(), 64);
        assert_eq!(std::fs::read(&path).unwrap(), newer, "what a newer version wrote is kept");
    }

    #[test]
    fn empty_ids_of_machines_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> = ["a", "b", "c", "d"].map(|name| dir.path().join(name)).into();
        std::fs::write(&files[0], "uninitialized\n").unwrap();
        std::fs::write(&files[1], "00000000\n").unwrap();
        assert_eq!(machine_id(&files), None);
        std::fs::write(&files[3], " abc1 \n").unwrap();
        assert_eq!(machine_id(&files).as_deref(), Some("linux:abc1"));
    }
}
