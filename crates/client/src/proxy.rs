//! Ways out of a network that lets nobody dial directly: `HTTPS_PROXY` with CONNECT, and `NO_PROXY` (daemon spec §6.2).
//! Only encrypted connections are proxied; unencrypted ones stay on this machine anyway.

use std::io;
use std::net::IpAddr;

use claudemesh_protocol::encoding::b64;
use claudemesh_protocol::invite::is_loopback;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::dial::{ByteStream, DialError, Dialer, Endpoint, TcpDialer};

/// Port of a proxy that names none.
const PROXY_PORT: u16 = 80;
/// Longest answer of a proxy to CONNECT, in bytes; its body is not read.
const ANSWER_MAX_BYTES: usize = 8 * 1024;

/// A proxy and the hosts that are reached without it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Proxies {
    https: Option<Result<Proxy, ProxyError>>,
    direct: Vec<Direct>,
}

/// Where CONNECT goes.
///
/// # Security
/// Carries the credentials of the proxy; no `Debug`.
#[derive(Clone, PartialEq, Eq)]
struct Proxy {
    host: String,
    port: u16,
    /// Base64 of `user:password`.
    credentials: Option<String>,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    Everything,
    /// The host itself and everything below it; with a port, only there.
    Host(String, Option<u16>),
    /// Addresses of a network; all of one family have the same prefix length.
    Network(IpAddr, u8),
}

/// A proxy setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("HTTPS_PROXY names no http:// proxy")]
pub struct ProxyError;

impl Proxies {
    /// Reads the values of `HTTPS_PROXY` (`[http://][user:password@]host[:port]`) and `NO_PROXY` (hosts, networks and
    /// `*`, separated by commas). A proxy that cannot be understood, or that itself wants TLS, fails every dial that
    /// would need it: going around it is not what its owner asked for.
    pub fn new(https_proxy: Option<&str>, no_proxy: Option<&str>) -> Self {
        let https_proxy = https_proxy.map(str::trim).filter(|text| !text.is_empty());
        let direct = no_proxy.unwrap_or_default().split(',').filter_map(Direct::parse).collect();
        Self { https: https_proxy.map(Proxy::parse), direct }
    }

    /// The proxy on the way to `endpoint`; `None`: directly.
    fn towards(&self, endpoint: &Endpoint) -> Option<&Result<Proxy, ProxyError>> {
        let proxy = self.https.as_ref().filter(|_| endpoint.is_tls)?;
        let is_direct =
            is_loopback(&endpoint.host) || self.direct.iter().any(|direct| direct.covers(endpoint));
        (!is_direct).then_some(proxy)
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError),
            None => text,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, authority),
        };
        let (host, port) = crate::dial::host_and_port(authority).ok_or(ProxyError)?;
        let credentials = credentials.map(|text| b64(&percent_decoded(text)));
        Ok(Self { host, port: port.unwrap_or(PROXY_PORT), credentials })
    }
}

impl Direct {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Some((address, bits)) = text.split_once('/') {
            return Some(Self::Network(address.parse().ok()?, bits.parse().ok()?));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let (host, port) = crate::dial::host_and_port(text.trim_start_matches("*."))?;
        let host = host.trim_start_matches('.').to_owned();
        (!host.is_empty()).then_some(Self::Host(host, port))
    }

    fn covers(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Everything => true,
            Self::Host(host, port) => {
                let named = endpoint.host.to_ascii_lowercase();
                let is_below = named
                    .strip_suffix(host.as_str())
                    .is_some_and(|front| front.is_empty() || front.ends_with('.'));
                is_below && port.is_none_or(|port| port == endpoint.port)
            }
            Self::Network(network, bits) => endpoint
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| is_in_network(address, *network, *bits)),
        }
    }
}

fn is_in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u128::from(address.to_bits()), u128::from(network.to_bits()), 32_u32)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    let shift = width.saturating_sub(u32::from(bits));
    // A shift by the whole width leaves nothing to compare.
    address.checked_shr(shift) == network.checked_shr(shift)
}

/// Credentials in a URL are percent-encoded.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = (*first == b'%')
            .then(|| std::str::from_utf8(after.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(byte) = byte {
            decoded.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    decoded
}

/// Dials directly, or through a proxy where one is set.
#[derive(Clone, Default)]
pub struct ProxyDialer {
    proxies: Proxies,
}

impl ProxyDialer {
    /// With these proxies.
    pub fn new(proxies: Proxies) -> Self {
        Self { proxies }
    }
}

impl Dialer for ProxyDialer {
    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, DialError>> {
        let Some(proxy) = self.proxies.towards(endpoint) else { return TcpDialer.dial(endpoint) };
        Box::pin(async move {
            let proxy = proxy.as_ref().map_err(Clone::clone)?;
            let mut socket = TcpStream::connect((proxy.host.as_str(), proxy.port)).await?;
            socket.set_nodelay(true)?;
            socket.write_all(connect_request(endpoint, proxy).as_bytes()).await?;
            match answer_status(&mut socket).await? {
                200..=299 => Ok(Box::new(socket) as Box<dyn ByteStream>),
                status => Err(DialError::Proxy { status }),
            }
        })
    }
}

fn connect_request(endpoint: &Endpoint, proxy: &Proxy) -> String {
    let host = if endpoint.host.contains(':') {
        format!("[{}]:{}", endpoint.host, endpoint.port)
    } else {
        format!("{}:{}", endpoint.host, endpoint.port)
    };
    let credentials = proxy
        .credentials
        .as_ref()
        .map(|credentials| format!("Proxy-Authorization: Basic {credentials}\r\n"))
        .unwrap_or_default();
    format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{credentials}\r\n")
}

/// The status of the proxy's answer. Read byte by byte: what follows the head belongs to the broker.
async fn answer_status(socket: &mut TcpStream) -> Result<u16, io::Error> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == ANSWER_MAX_BYTES {
            return Err(io::Error::other("the proxy's answer does not end"));
        }
        head.push(socket.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head);
    let status = text
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.trim().parse().ok());
    status.ok_or_else(|| io::Error::other("the proxy's answer is no HTTP"))
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::invite::PlainHttp;

    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::of_url(url, PlainHttp::Allowed).unwrap()
    }

    #[test]
    fn proxies_are_read_in_their_forms() {
        let read =
            |text| Proxy::parse(text).map(|proxy| (proxy.host, proxy.port, proxy.credentials));
        assert_eq!(read("proxy.corp:3128"), Ok(("proxy.corp".into(), 3128, None)));
        assert_eq!(read("http://proxy.corp"), Ok(("proxy.corp".into(), 80, None)));
        assert_eq!(read("HTTP://[::1]:8080/"), Ok(("::1".into(), 8080, None)));
        let credentials = Some(b64(b"us:er:p@ss"));
        assert_eq!(
            read("http://us%3Aer:p%40ss@proxy.corp:1"),
            Ok(("proxy.corp".into(), 1, credentials))
        );
        for bad in ["https://proxy.corp", "socks5://proxy.corp", "http://", "proxy:port"] {
            assert_eq!(read(bad), Err(ProxyError), "{bad}");
        }
        assert!(Proxies::new(Some(" "), None) == Proxies::default());
    }

    #[test]
    fn no_proxy_names_hosts_networks_and_everything() {
        let uses = |no_proxy, url| {
            let proxies = Proxies::new(Some("proxy:1"), Some(no_proxy));
            proxies.towards(&endpoint(url)).is_some()
        };
        assert!(uses("", "wss://mesh.example.org/ws"));
        for no_proxy in
            ["*", "example.org", ".example.org", "*.example.org", "a, MESH.example.org:443 ,b"]
        {
            assert!(!uses(no_proxy, "wss://mesh.example.org/ws"), "{no_proxy}");
        }
        for no_proxy in ["xample.org", "other.org", "mesh.example.org:444", "10.0.0.0/8", "/", ","]
        {
            assert!(uses(no_proxy, "wss://mesh.example.org/ws"), "{no_proxy}");
        }
        assert!(!uses("10.0.0.0/8", "wss://10.1.2.3/ws"));
        assert!(!uses("10.1.2.3", "wss://10.1.2.3/ws"));
        assert!(!uses("::/0", "wss://[fd00::1]/ws"));
        assert!(!uses("0.0.0.0/0", "wss://10.1.2.3/ws"));
        assert!(uses("10.0.0.0/16", "wss://10.1.2.3/ws"));
        assert!(!uses("", "wss://127.0.0.1/ws"), "loopback is never proxied");
        assert!(!uses("", "ws://mesh.example.org/ws"), "unencrypted is never proxied");
    }
}
