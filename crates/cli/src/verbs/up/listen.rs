//! Where the broker of `up` listens: the flag, what was remembered, the default (CLI spec §5.6).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use claudemesh_daemon::home::file::{self, Symlinks};
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::UpArgs;

/// Ports tried after the wanted one.
const PORT_TRIES: u16 = 100;

/// `listen.json`: the choice that later starts repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// Address.
    pub(super) address: IpAddr,
    /// Port, as the broker got it.
    pub(super) port: u16,
    /// `--insecure-http` was given for this address.
    #[serde(default)]
    pub(super) insecure_http: bool,
}

/// The choice of this start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listen {
    /// Address.
    pub(super) address: IpAddr,
    /// Wanted port; 0 takes any.
    pub(super) port: u16,
    /// Whether this port and no other will do.
    pub(super) is_port_fixed: bool,
    /// Allowed without TLS.
    pub(super) insecure_http: bool,
}

/// What was chosen before; a file that cannot be read counts as none.
pub(super) fn remembered(dir: &Path) -> Option<Remembered> {
    serde_json::from_slice(&std::fs::read(path(dir)).ok()?).ok()
}

fn path(dir: &Path) -> std::path::PathBuf {
    dir.join("listen.json")
}

impl Listen {
    /// Decides: flag, else remembered, else loopback and the default port.
    ///
    /// # Errors
    /// Exit 3 for a bad address; exit 7 for a network address without TLS and without `--insecure-http`.
    pub(super) fn decide(context: &Context, args: &UpArgs, dir: &Path) -> Outcome<Self> {
        let before = remembered(dir);
        let port_before = before.map(|before| before.port);
        let Some(text) = &args.listen else {
            return Ok(match before {
                Some(before) => Self {
                    address: before.address,
                    port: before.port,
                    is_port_fixed: false,
                    insecure_http: before.insecure_http,
                },
                None => Self {
                    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    port: limits::BROKER_DEFAULT_PORT,
                    is_port_fixed: false,
                    insecure_http: false,
                },
            });
        };
        let (address, port) = parse(text).ok_or_else(|| {
            Failure::invalid(format!("{}: --listen \"{text}\"", context.spoken))
                .detail("expected: an IP address, with or without a port: 127.0.0.1, 0.0.0.0:7900, [::]:7900")
        })?;
        let has_tls = context
            .environment
            .broker_public_url
            .as_deref()
            .is_some_and(|url| url.starts_with("https://"));
        if !address.is_loopback() && !has_tls && !args.insecure_http {
            return Err(Failure::new(ErrorCode::Forbidden, format!("refusing to listen on {address} without TLS"))
                .detail("others could see who talks to whom, and sign-in tokens; message bodies stay encrypted")
                .detail("behind a proxy with TLS: BROKER_PUBLIC_URL=https://…")
                .action("pass --insecure-http to allow it"));
        }
        Ok(Self {
            address,
            port: port.or(port_before).unwrap_or(limits::BROKER_DEFAULT_PORT),
            is_port_fixed: port.is_some_and(|port| port != 0),
            insecure_http: args.insecure_http,
        })
    }

    /// True when a broker at `listen` is where this start wants it. Without a fixed port any port will do.
    pub(super) fn is_met_by(&self, listen: &str) -> bool {
        listen.parse::<SocketAddr>().is_ok_and(|at| {
            at.ip() == self.address && (!self.is_port_fixed || at.port() == self.port)
        })
    }

    /// True when this start is the one that opens the broker to the network.
    pub(super) fn is_new_exposure(&self, before: Option<&Remembered>) -> bool {
        self.insecure_http
            && !self.address.is_loopback()
            && before.is_none_or(|before| before.address != self.address)
    }

    /// The first free port from the wanted one on.
    ///
    /// # Errors
    /// Exit 4 when a fixed port is taken, or all of a hundred are.
    pub(super) fn free_port(&self, from: u16) -> Outcome<u16> {
        if from == 0 {
            return Ok(0);
        }
        let last = if self.is_port_fixed { from } else { from.saturating_add(PORT_TRIES) };
        let is_free = |port: &u16| TcpListener::bind(SocketAddr::new(self.address, *port)).is_ok();
        (from..=last).find(is_free).ok_or_else(|| {
            let what = if self.is_port_fixed {
                format!("port {from} is taken by another program")
            } else {
                format!("no free port from {from} to {last} on {}", self.address)
            };
            Failure::new(ErrorCode::Unavailable, what).action("claudemesh up --listen ADDR:PORT")
        })
    }

    /// Remembers the choice with the port the broker got.
    ///
    /// # Errors
    /// Exit 10.
    pub(super) fn remember(&self, dir: &Path, listen: &str) -> Outcome<()> {
        let port = listen.parse::<SocketAddr>().map_or(self.port, |at| at.port());
        let choice = Remembered { address: self.address, port, insecure_http: self.insecure_http };
        if remembered(dir) == Some(choice) {
            return Ok(());
        }
        let bytes =
            serde_json::to_vec_pretty(&choice).map_err(|error| Failure::internal(&error))?;
        file::replace(&path(dir), &bytes, file::SECRET, Symlinks::Refuse)
            .map_err(|error| Failure::io(format!("cannot write {}", path(dir).display()), &error))
    }
}

/// `ADDR`, `ADDR:PORT`, `[V6]:PORT`, `localhost`.
fn parse(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let text = text.trim().replacen("localhost", "127.0.0.1", 1);
    if let Ok(at) = text.parse::<SocketAddr>() {
        return Some((at.ip(), Some(at.port())));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&text);
    bare.parse().ok().map(|address| (address, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_port() {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(parse("127.0.0.1"), Some((local, None)));
        assert_eq!(parse("localhost:0"), Some((local, Some(0))));
        assert_eq!(parse("0.0.0.0:7901").map(|(_, port)| port), Some(Some(7901)));
        assert_eq!(parse("[::]:7900").map(|(_, port)| port), Some(Some(7900)));
        assert_eq!(parse("::1").map(|(address, _)| address.is_loopback()), Some(true));
        for bad in ["", "host.example", "1.2.3", "127.0.0.1:x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_taken_port_leads_to_the_next_unless_it_was_asked_for() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let listen = Listen {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port,
            is_port_fixed: false,
            insecure_http: false,
        };
        assert_ne!(listen.free_port(port).unwrap(), port);
        let fixed = Listen { is_port_fixed: true, ..listen };
        assert_eq!(fixed.free_port(port).unwrap_err().exit, 4);
    }

    #[test]
    fn the_choice_is_remembered_with_the_port_that_was_got() {
        let dir = tempfile::tempdir().unwrap();
        let listen = Listen {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            is_port_fixed: false,
            insecure_http: false,
        };
        listen.remember(dir.path(), "127.0.0.1:7911").unwrap();
        assert_eq!(remembered(dir.path()).unwrap().port, 7911);
        assert!(listen.is_met_by("127.0.0.1:7911"));
        assert!(!Listen { is_port_fixed: true, port: 1, ..listen }.is_met_by("127.0.0.1:7911"));
    }
}
