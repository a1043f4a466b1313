//! What tells this machine from another: an id of the system and the address of a network card (daemon spec §4.3).

use std::path::{Path, PathBuf};

use claudemesh_crypto::{host, random};

/// In front of an id that says nothing about the machine; it was made up once and kept.
const MADE_UP: &str = "random:";
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

/// Where a machine is asked who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSources {
    /// Files with the id of the machine, in order.
    pub machine_id_files: Vec<PathBuf>,
    /// The directory that lists network interfaces.
    pub interfaces_dir: PathBuf,
}

impl Default for HostSources {
    /// Where Linux keeps them.
    fn default() -> Self {
        Self {
            machine_id_files: ["/etc/machine-id", "/var/lib/dbus/machine-id"]
                .map(PathBuf::from)
                .into(),
            interfaces_dir: PathBuf::from("/sys/class/net"),
        }
    }
}

/// What tells this machine from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// `linux:<machine id>`, `override:<as configured>`, `random:<made up>`, or empty.
    pub id: String,
    /// `aa:bb:cc:dd:ee:ff`, or empty.
    pub mac: String,
}

impl Host {
    /// This machine. `kept` is the id of the last run: one that was made up stays the same.
    pub(crate) fn current(
        sources: &HostSources,
        id_override: Option<&str>,
        kept: Option<&str>,
    ) -> Self {
        let configured = id_override.map(|id| format!("override:{id}"));
        let id =
            configured.or_else(|| machine_id(&sources.machine_id_files)).unwrap_or_else(|| {
                tracing::warn!("fingerprint_unavailable");
                kept.filter(|id| id.starts_with(MADE_UP)).map_or_else(made_up, str::to_owned)
            });
        Self { id, mac: stable_mac(&interfaces(&sources.interfaces_dir)) }
    }

    /// As it is told to the broker and compared: hex64.
    pub(crate) fn fingerprint(&self) -> String {
        host::fingerprint(&self.id, &self.mac)
    }
}

fn made_up() -> String {
    format!("{MADE_UP}{}", hex::encode(random::bytes::<16>()))
}

/// True for an id that says which machine it is, not only that it is one.
pub(super) fn is_real(id: &str) -> bool {
    !id.is_empty() && !id.starts_with(MADE_UP)
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
