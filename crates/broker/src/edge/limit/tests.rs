//! Addresses, exemptions and counts.

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn client(peer: &str, forwarded: &[&str], trusted: &str) -> ClientAddress {
    let pairs: Vec<_> = forwarded.iter().map(|value| ("x-forwarded-for", *value)).collect();
    ClientAddress::of(peer.parse().unwrap(), &headers(&pairs), &Cidr::parse_list(trusted).unwrap())
}

/// HTTP-3.
#[test]
fn a_forged_header_from_an_untrusted_peer_changes_nothing() {
    assert_eq!(client("203.0.113.9", &["127.0.0.1"], "").ip.to_string(), "203.0.113.9");
    assert!(!client("203.0.113.9", &["127.0.0.1"], "").is_local);
    let local = client("127.0.0.1", &["198.51.100.1"], "");
    assert_eq!((local.ip.to_string().as_str(), local.is_local), ("127.0.0.1", false));
}

#[test]
fn a_trusted_proxy_names_the_client_and_clients_cannot_name_themselves() {
    assert_eq!(client("10.0.0.2", &["198.51.100.1"], "10.0.0.0/8").ip.to_string(), "198.51.100.1");
    let spoofed = client("10.0.0.2", &["127.0.0.1, 198.51.100.1, 10.0.0.3"], "10.0.0.0/8");
    assert_eq!(spoofed.ip.to_string(), "198.51.100.1");
    assert_eq!(client("10.0.0.2", &["nonsense"], "10.0.0.0/8").ip.to_string(), "10.0.0.2");
    assert!(!client("127.0.0.1", &["127.0.0.1"], "127.0.0.0/8").is_local);
}

#[test]
fn both_loopbacks_are_local() {
    for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert!(client(peer, &[], "").is_local, "{peer}");
    }
}

/// HTTP-4.
#[test]
fn requests_and_sockets_are_counted_for_others_and_not_for_loopback() {
    let limits = EdgeLimits::new(&BrokerLimits {
        max_sockets_per_ip: 2,
        http_burst_per_ip: 3,
        ..BrokerLimits::default()
    });
    let other = client("203.0.113.9", &[], "");
    let local = client("::1", &[], "");
    assert!((0..1_000).all(|_| limits.request(local).is_ok()));
    assert_eq!((0..10).filter(|_| limits.request(other).is_ok()).count(), 3);
    let local_sockets: Vec<_> = (0..500).map(|_| limits.open_socket(local)).collect();
    assert!(local_sockets.iter().all(Option::is_some));
    let first = limits.open_socket(other).unwrap();
    let _second = limits.open_socket(other).unwrap();
    assert!(limits.open_socket(other).is_none());
    drop(first);
    assert!(limits.open_socket(other).is_some());
}

/// INV-5: unknown codes cost double; another address is unaffected.
#[test]
fn guessing_codes_runs_dry_twice_as_fast() {
    let limits = EdgeLimits::new(&BrokerLimits::default());
    let guesser = client("203.0.113.9", &[], "");
    let tried =
        (0..50).filter(|_| limits.claim(guesser, "AAAAAAAA", CodeFound::Unknown).is_ok()).count();
    assert_eq!(tried, 10);
    assert!(limits.claim(client("203.0.113.10", &[], ""), "BBBBBBBB", CodeFound::Known).is_ok());
}

#[test]
fn five_wrong_setup_codes_a_minute_even_on_loopback() {
    let limits = EdgeLimits::new(&BrokerLimits::default());
    let local = client("127.0.0.1", &[], "");
    assert_eq!((0..9).filter(|_| limits.setup_try(local).is_ok()).count(), 5);
}

#[test]
fn neighbours_in_one_ipv6_network_share_a_bucket() {
    let limits = EdgeLimits::new(&BrokerLimits { http_burst_per_ip: 1, ..BrokerLimits::default() });
    assert!(limits.request(client("2001:db8::1", &[], "")).is_ok());
    assert!(limits.request(client("2001:db8::2", &[], "")).is_err());
    assert!(limits.request(client("2001:db8:1::1", &[], "")).is_ok());
}
