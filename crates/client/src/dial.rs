//! Opening the byte stream of a connection: which addresses are allowed, TCP options, the TLS provider.

use std::io;
use std::sync::Once;

use claudemesh_protocol::invite::{PlainHttp, is_loopback};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Ports of addresses that name none.
const PLAIN_PORT: u16 = 80;
/// As [`PLAIN_PORT`], for TLS.
const TLS_PORT: u16 = 443;

/// Why an address is not dialled, or why dialling failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Neither `ws://` nor `wss://`, or without a host.
    #[error("{0:?} is no ws:// or wss:// address")]
    Address(String),
    /// Unencrypted to another machine; the owner of this machine has not allowed that.
    #[error(
        "refusing an unencrypted connection to {host}\nhint: use wss://, or set CLAUDEMESH_ALLOW_INSECURE=1"
    )]
    Insecure {
        /// The machine.
        host: String,
    },
    /// The proxy does not let us through.
    #[error("the proxy refuses to connect (status {status})")]
    Proxy {
        /// Its HTTP status.
        status: u16,
    },
    /// The proxy that is set cannot be used.
    #[error(transparent)]
    ProxySetting(#[from] crate::proxy::ProxyError),
    /// Name resolution or TCP.
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
}

/// A byte stream in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Opens the byte stream below a WebSocket; tests put their own in place of TCP.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `endpoint`. The caller limits the time.
    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, DialError>>;
}

/// Host and port of a WebSocket address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `wss://`: TLS follows on the byte stream.
    pub is_tls: bool,
}

impl Endpoint {
    /// Reads a `ws://` or `wss://` address and applies the rule for unencrypted ones.
    ///
    /// # Errors
    /// [`DialError::Address`], [`DialError::Insecure`].
    pub fn of_url(url: &str, plain: PlainHttp) -> Result<Self, DialError> {
        let invalid = || DialError::Address(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
        let default_port = match scheme {
            "ws" => PLAIN_PORT,
            "wss" => TLS_PORT,
            _ => return Err(invalid()),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        if authority.contains('@') {
            return Err(invalid());
        }
        let (host, port) = host_and_port(authority).ok_or_else(invalid)?;
        let port = port.unwrap_or(default_port);
        if scheme == "ws" && plain == PlainHttp::LoopbackOnly && !is_loopback(&host) {
            return Err(DialError::Insecure { host });
        }
        Ok(Self { host, port, is_tls: scheme == "wss" })
    }
}

/// Reads `host`, `host:port`, `[ipv6]` or `[ipv6]:port`; `None` for anything else.
pub(crate) fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map(str::parse).transpose().ok()?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// TCP without Nagle's delay: frames are small and each is waited for.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDialer;

impl Dialer for TcpDialer {
    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, DialError>> {
        Box::pin(async move {
            let socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
            socket.set_nodelay(true)?;
            Ok(Box::new(socket) as Box<dyn ByteStream>)
        })
    }
}

/// Makes `ring` the process-wide TLS provider, once; a provider installed before stays.
pub fn install_tls_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // An error means that the program has chosen a provider already, which is as good.
        let _already_chosen = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_addresses_are_for_this_machine_unless_allowed() {
        let read = |url| Endpoint::of_url(url, PlainHttp::LoopbackOnly).map(|e| (e.host, e.port));
        assert_eq!(read("ws://127.0.0.1:7900/ws").unwrap(), ("127.0.0.1".into(), 7900));
        assert_eq!(read("ws://localhost/ws").unwrap(), ("localhost".into(), 80));
        assert_eq!(read("ws://[::1]:7900/ws").unwrap(), ("::1".into(), 7900));
        assert_eq!(read("wss://mesh.example.org/ws").unwrap(), ("mesh.example.org".into(), 443));
        assert!(matches!(read("ws://10.0.0.7:7900/ws"), Err(DialError::Insecure { .. })));
        assert!(matches!(read("ws://127.0.0.1.evil.example/ws"), Err(DialError::Insecure { .. })));
        assert!(Endpoint::of_url("ws://10.0.0.7:7900/ws", PlainHttp::Allowed).is_ok());
    }

    #[test]
    fn other_texts_are_no_addresses() {
        for url in [
            "",
            "ws:/x",
            "http://h/ws",
            "ws:///ws",
            "wss://h:70000/ws",
            "ws://user@localhost/ws",
            "ws://:1/ws",
        ] {
            assert!(
                matches!(Endpoint::of_url(url, PlainHttp::Allowed), Err(DialError::Address(_))),
                "{url}"
            );
        }
    }
}
