//! What the daemon tells a manager that waits for it (`sd_notify(3)`): a datagram to the socket in `NOTIFY_SOCKET`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use claudemesh_ipc::env;

/// The daemon serves.
pub(crate) const READY: &str = "READY=1";
/// The daemon ends in order.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Tells the manager, when there is one. A manager that cannot be told draws its own conclusions.
pub(crate) fn tell(state: &str) {
    let Some(address) = env::path(env::NOTIFY_SOCKET) else { return };
    if let Err(error) = send(address.as_os_str(), state) {
        tracing::warn!(%error, state, "service_manager_not_told");
    }
}

fn send(address: &OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // A full queue at the manager must not hold up the daemon.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &parse(address)?).map(drop)
}

/// A path, or with a leading `@` a name in the abstract name space.
fn parse(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            SocketAddr::from_abstract_name(name)
        }
        #[cfg(not(target_os = "linux"))]
        Some(_) => Err(io::ErrorKind::Unsupported.into()),
        None => SocketAddr::from_pathname(std::path::Path::new(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_address_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@claudemesh-test-{}", std::process::id());
        for address in [path.as_os_str(), OsStr::new(&name)] {
            let manager = UnixDatagram::bind_addr(&parse(address).unwrap()).unwrap();
            send(address, READY).unwrap();
            let mut said = [0; 32];
            let length = manager.recv(&mut said).unwrap();
            assert_eq!(&said[..length], READY.as_bytes());
        }
        assert!(send(dir.path().join("nobody").as_os_str(), READY).is_err());
    }
}
