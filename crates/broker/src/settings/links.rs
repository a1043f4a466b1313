//! The addresses under which others reach this broker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::{Settings, is_wildcard};

/// Addresses that lie behind the usual routes of a machine; nothing is ever sent to them.
const ROUTE_PROBES: [&str; 5] =
    ["192.0.2.1:9", "10.0.0.1:9", "192.168.0.1:9", "172.16.0.1:9", "[2001:db8::1]:9"];

/// Derived once the listener stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// Where the listener stands.
    pub listen: SocketAddr,
    /// HTTP address for programs of this machine, without a trailing slash.
    pub local_url: String,
    /// WebSocket address for programs of this machine.
    pub local_ws_url: String,
    /// HTTP address for everybody, without a trailing slash.
    pub public_url: String,
    /// WebSocket address for everybody; what `broker_url` fields carry.
    pub ws_url: String,
    /// Start of invite links, without a trailing slash.
    pub app_url: String,
    /// Addresses another machine can use: the public one when set, else one per network; empty on loopback.
    pub share_urls: Vec<String>,
    is_derived: bool,
}

impl Links {
    /// Works out the addresses of a listener.
    pub fn new(settings: &Settings, listen: SocketAddr) -> Self {
        let dialled = |ip: IpAddr| format!("http://{}", SocketAddr::new(ip, listen.port()));
        let networks =
            if is_wildcard(listen.ip()) { network_addresses(listen.ip()) } else { Vec::new() };
        let local_url = dialled(loopback_of(listen.ip()));
        let derived = match networks.first() {
            Some(ip) => dialled(*ip),
            None if is_wildcard(listen.ip()) => local_url.clone(),
            None => dialled(listen.ip()),
        };
        let public_url = settings.public_url.clone().unwrap_or(derived);
        let share_urls = match &settings.public_url {
            Some(url) => vec![url.clone()],
            None if is_wildcard(listen.ip()) => networks.into_iter().map(dialled).collect(),
            None if listen.ip().is_loopback() => Vec::new(),
            None => vec![dialled(listen.ip())],
        };
        Self {
            listen,
            local_ws_url: ws_form(&local_url),
            local_url,
            ws_url: settings.ws_url.clone().unwrap_or_else(|| ws_form(&public_url)),
            app_url: settings.app_url.clone().unwrap_or_else(|| public_url.clone()),
            public_url,
            share_urls,
            is_derived: settings.public_url.is_none() && settings.ws_url.is_none(),
        }
    }

    /// WebSocket address for whoever reached the broker at `dialled`, its own end of that connection.
    ///
    /// With nothing set and a listener on every network, the address that just worked is the best one to name.
    /// A `Host` header is never used: the caller could write anything into it.
    pub fn ws_url_for(&self, dialled: Option<SocketAddr>) -> String {
        match dialled {
            Some(address) if self.is_derived && is_wildcard(self.listen.ip()) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                ws_form(&format!("http://{address}"))
            }
            _ => self.ws_url.clone(),
        }
    }
}

/// The address by which programs of this machine reach a listener on `ip`: the listener beside it, see `serve`.
pub(crate) fn loopback_of(ip: IpAddr) -> IpAddr {
    match ip {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// `http(s)://host` as `ws(s)://host/ws`.
fn ws_form(http_url: &str) -> String {
    format!("{}/ws", http_url.replacen("http", "ws", 1))
}

/// The addresses from which this machine would reach its networks. Connecting a UDP socket only looks up the route.
fn network_addresses(wildcard: IpAddr) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for probe in ROUTE_PROBES.iter().filter_map(|probe| probe.parse::<SocketAddr>().ok()) {
        if probe.is_ipv6() && wildcard.is_ipv4() {
            continue;
        }
        let any = if probe.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let address = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(probe)?;
            socket.local_addr()
        });
        if let Ok(ip) = address.map(|address| address.ip())
            && !ip.is_loopback()
            && !is_wildcard(ip)
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(listen: &str, change: impl FnOnce(&mut Settings)) -> Links {
        let mut settings = Settings::embedded("/nowhere");
        change(&mut settings);
        Links::new(&settings, listen.parse().unwrap())
    }

    #[test]
    fn a_loopback_broker_is_reached_on_loopback_only() {
        let links = links("127.0.0.1:7900", |_| {});
        assert_eq!(links.public_url, "http://127.0.0.1:7900");
        assert_eq!(links.ws_url, "ws://127.0.0.1:7900/ws");
        assert!(links.share_urls.is_empty());
    }

    #[test]
    fn a_public_address_rules_everything_that_others_see() {
        let links = links("0.0.0.0:7900", |settings| {
            settings.public_url = Some("https://mesh.example.org".into());
        });
        assert_eq!(links.app_url, "https://mesh.example.org");
        assert_eq!(links.ws_url, "wss://mesh.example.org/ws");
        assert_eq!(links.local_url, "http://127.0.0.1:7900");
        let dialled = Some("192.0.2.7:7900".parse().unwrap());
        assert_eq!(links.ws_url_for(dialled), "wss://mesh.example.org/ws");
    }

    #[test]
    fn a_wildcard_listener_names_the_address_that_was_dialled() {
        let links = links("0.0.0.0:7900", |_| {});
        let dialled = Some("[::ffff:192.0.2.7]:7900".parse().unwrap());
        assert_eq!(links.ws_url_for(dialled), "ws://192.0.2.7:7900/ws");
    }

    #[test]
    fn a_listener_on_one_network_is_shared_there_and_used_locally_on_loopback() {
        let links = links("192.0.2.7:7900", |_| {});
        assert_eq!(links.share_urls, ["http://192.0.2.7:7900"]);
        assert_eq!(links.ws_url, "ws://192.0.2.7:7900/ws");
        assert_eq!(links.local_url, "http://127.0.0.1:7900");
    }

    #[test]
    fn an_ipv6_listener_keeps_its_brackets() {
        assert_eq!(links("[::1]:7900", |_| {}).ws_url, "ws://[::1]:7900/ws");
    }
}
