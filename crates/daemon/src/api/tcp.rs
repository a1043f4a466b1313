//! The local API over loopback TCP, for SDKs that cannot use a Unix socket (daemon spec §9.1): off unless asked for, and
//! whatever goes wrong with it, the daemon goes on without.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::Paths;
use claudemesh_protocol::limits::IPC_TCP_CONNECTIONS;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::caller::Transport;
use super::server::Door;
use crate::home::file::{self, Symlinks};

/// Wait after a failed accept, so that the loop does not run hot.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The listeners of one port.
pub(crate) struct TcpDoor {
    listeners: Vec<TcpListener>,
    port: u16,
}

impl TcpDoor {
    /// Listens on `wanted`, or on any free port when that is taken, and writes the port where clients look for it. `None`
    /// when that is not possible.
    pub(crate) async fn open(paths: &Paths, wanted: u16) -> Option<Self> {
        let opened = async {
            let first = match TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).await {
                Err(error) if wanted != 0 => {
                    tracing::warn!(port = wanted, %error, "ipc_tcp_port_taken");
                    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?
                }
                bound => bound?,
            };
            let port = first.local_addr()?.port();
            let mut listeners = vec![first];
            // Machines without IPv6, and ports that somebody has there: clients find the other address.
            match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
                Ok(second) => listeners.push(second),
                Err(error) => tracing::debug!(port, %error, "ipc_tcp_without_ipv6"),
            }
            let text = format!("{port}\n");
            let path = paths.http_port_file();
            file::replace(&path, text.as_bytes(), file::PUBLIC, Symlinks::Refuse)?;
            Ok::<_, io::Error>(Self { listeners, port })
        };
        match opened.await {
            Ok(door) => Some(door),
            Err(error) => {
                tracing::error!(%error, "ipc_tcp_not_available");
                None
            }
        }
    }

    /// The port it listens on.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Serves until the daemon stops.
    pub(crate) async fn serve(self, door: Door) {
        let places = Arc::new(Semaphore::new(IPC_TCP_CONNECTIONS));
        let serving = self.listeners.into_iter().map(|listener| {
            let (door, places) = (door.clone(), Arc::clone(&places));
            accept_all(door, listener, places)
        });
        futures_util::future::join_all(serving).await;
    }
}

async fn accept_all(door: Door, listener: TcpListener, places: Arc<Semaphore>) {
    let stopping = door.stopping().clone();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let next = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            next = next => next,
        };
        match next {
            None => return,
            Some((place, Ok((stream, from)))) => {
                if is_local(from) && stream.set_nodelay(true).is_ok() {
                    door.admit_held(stream, Transport::Tcp, place);
                }
            }
            Some((_, Err(error))) => {
                tracing::warn!(%error, "ipc_accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_local(from: SocketAddr) -> bool {
    from.ip().is_loopback()
}
