//! Address ranges, written `10.0.0.0/8`, `::1/128` or a single address.

use std::net::IpAddr;
use std::str::FromStr;

/// A range of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix_bits: u8,
}

/// The text is no address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an address range like 10.0.0.0/8")]
pub struct CidrError;

impl Cidr {
    /// Reads a comma list; the empty text is the empty list.
    pub fn parse_list(text: &str) -> Option<Vec<Self>> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().ok())
            .collect()
    }

    /// True when `address` lies in the range; an IPv4 address written as IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                shift >= 32 || (u32::from(network) >> shift) == (u32::from(address) >> shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix_bits);
                shift >= 128 || (u128::from(network) >> shift) == (u128::from(address) >> shift)
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| CidrError)?;
        let widest = if network.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= widest).ok_or(CidrError)?,
            None => widest,
        };
        Ok(Self { network, prefix_bits })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(range: &str, address: &str) -> bool {
        range.parse::<Cidr>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn ranges_hold_their_addresses_and_no_others() {
        assert!(inside("10.0.0.0/8", "10.255.3.4"));
        assert!(!inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("10.1.2.3", "10.1.2.3"));
        assert!(!inside("10.1.2.3", "10.1.2.4"));
        assert!(inside("0.0.0.0/0", "203.0.113.9"));
        assert!(inside("fd00::/8", "fd12::1"));
        assert!(!inside("fd00::/8", "fe80::1"));
        assert!(inside("127.0.0.0/8", "::ffff:127.0.0.1"));
    }

    #[test]
    fn broken_ranges_are_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "host/8", "10.0.0.0/x"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!(Cidr::parse_list("").unwrap().len(), 0);
        assert_eq!(Cidr::parse_list("10.0.0.0/8, ::1").unwrap().len(), 2);
        assert!(Cidr::parse_list("10.0.0.0/8,nonsense").is_none());
    }
}
