//! The fingerprint by which a broker notices one member on two machines (wire spec §5.15). Never shown to peers.

use crate::hash::sha256_hex;

/// SHA-256 over version, host id and stable hardware address, as hex. `host_id` is `linux:<machine-id>`,
/// `darwin:<uuid>` or empty; `stable_mac` six hex pairs with colons, or empty.
pub fn fingerprint(host_id: &str, stable_mac: &str) -> String {
    sha256_hex(format!("v2\0{host_id}\0{stable_mac}").as_bytes())
}
