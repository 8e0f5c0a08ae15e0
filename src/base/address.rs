//! Addresses of clients: what counts as one client, and networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What one client is taken to have for itself: an address of IPv4, or a /64 of IPv6, which is the least that a
/// site is given (RFC 6177) and out of which a host takes as many addresses as it likes (RFC 8981).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressBlock {
    /// An address of IPv4.
    V4(Ipv4Addr),
    /// The first half of an address of IPv6.
    V6(u64),
}

impl From<IpAddr> for AddressBlock {
    fn from(address: IpAddr) -> AddressBlock {
        match address.to_canonical() {
            IpAddr::V4(address) => AddressBlock::V4(address),
            IpAddr::V6(address) => AddressBlock::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressBlock::V4(address) => address.fmt(f),
            AddressBlock::V6(prefix) => {
                write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*prefix) << 64))
            }
        }
    }
}

/// Networks, of either kind of address.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Reads a network, such as `10.0.0.0/8`, or an address, which is a network of one.
    ///
    /// # Errors
    /// It is neither, or names a network by an address within it.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let address = text.parse::<IpAddr>().map(IpNet::from).ok();
        let network = address.or_else(|| text.parse().ok());
        let network = network.ok_or_else(|| format!("`{text}` is no network or address"))?;
        if network.trunc() != network {
            return Err(format!("`{text}` is an address within {}", network.trunc()));
        }
        self.0.push(network);
        Ok(())
    }

    /// Whether one of them holds `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// As they are written.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(IpNet::to_string)
    }
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> AddressBlock {
        AddressBlock::from(text.parse::<IpAddr>().expect("an address"))
    }

    #[test]
    fn a_client_has_an_address_of_ipv4_or_half_of_one_of_ipv6() {
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
        assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:2:ffff::9"));
        assert_ne!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
        assert_eq!(block("::ffff:192.0.2.1"), block("192.0.2.1"));
        assert_eq!(block("192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(block("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn networks_hold_addresses_of_their_kind_however_those_are_written() {
        let mut networks = Networks::default();
        for text in ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"] {
            networks.add(text).expect("a network");
        }
        let holds = |text: &str| networks.contains(text.parse().expect("an address"));
        for inside in ["10.255.0.1", "::ffff:10.1.2.3", "192.0.2.7", "2001:db8:ffff::1"] {
            assert!(holds(inside), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1"] {
            assert!(!holds(outside), "{outside}");
        }
        for wrong in ["", "10.0.0.1/8", "10.0.0.0/33", "example.com", "10.0.0.0/8 "] {
            assert!(networks.add(wrong).is_err(), "{wrong}");
        }
    }
}
