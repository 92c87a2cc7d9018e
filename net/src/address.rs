//! Addresses: prefixes, virtual addresses, and the classes of IPv4 and MAC addresses that input
//! checks ask about.
//!
//! The host address kept inside an [`Ipv4Prefix`] (192.0.2.1/24, not 192.0.2.0/24) makes one type
//! serve interface addresses and routes alike, as `ifconfig` and `route` write both.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use smoltcp::wire::EthernetAddress;

/// A MAC address; printed as BSD does, `00:00:5e:00:01:07`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Everybody.
    pub const BROADCAST: MacAddress = MacAddress([0xff; 6]);

    /// Nobody: what ARP puts where it does not know an address.
    pub const ZERO: MacAddress = MacAddress([0; 6]);

    /// Whether it names a group (everybody included) and not a station.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl From<EthernetAddress> for MacAddress {
    fn from(address: EthernetAddress) -> MacAddress {
        MacAddress(address.0)
    }
}

impl From<MacAddress> for EthernetAddress {
    fn from(address: MacAddress) -> EthernetAddress {
        EthernetAddress(address.0)
    }
}

/// Names an interface in every table; index 0 is the loopback interface `lo0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceIndex(pub u16);

impl InterfaceIndex {
    /// The loopback interface, present in every node.
    pub const LOOPBACK: InterfaceIndex = InterfaceIndex(0);

    /// The index as a number for slices.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// An IPv4 address and the length of its network part, as in `192.0.2.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ipv4Prefix {
    address: Ipv4Addr,
    length: u8,
}

impl Ipv4Prefix {
    /// The prefix of everything: `0.0.0.0/0`.
    pub const DEFAULT: Ipv4Prefix = Ipv4Prefix {
        address: Ipv4Addr::UNSPECIFIED,
        length: 0,
    };

    /// A prefix of `length` bits; `None` beyond 32.
    pub fn new(address: Ipv4Addr, length: u8) -> Option<Ipv4Prefix> {
        (length <= 32).then_some(Ipv4Prefix { address, length })
    }

    /// The address as it was given, with its host part.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Length of the network part, bits, at most 32.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The netmask.
    pub fn netmask(&self) -> Ipv4Addr {
        let shift = 32 - u32::from(self.length);
        Ipv4Addr::from_bits(u32::MAX.checked_shl(shift).unwrap_or(0))
    }

    /// The same prefix with the host part zero.
    pub fn network(&self) -> Ipv4Prefix {
        Ipv4Prefix {
            address: Ipv4Addr::from_bits(self.address.to_bits() & self.netmask().to_bits()),
            length: self.length,
        }
    }

    /// Whether `address` lies in this network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ address.to_bits()) & self.netmask().to_bits() == 0
    }

    /// The network's directed broadcast address; point-to-point and host prefixes have none.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        (self.length < 31)
            .then(|| Ipv4Addr::from_bits(self.address.to_bits() | !self.netmask().to_bits()))
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

/// The text is not `a.b.c.d` or `a.b.c.d/length` with a length of at most 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPrefix;

impl fmt::Display for BadPrefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("bad address, expected a.b.c.d/length")
    }
}

impl core::error::Error for BadPrefix {}

impl FromStr for Ipv4Prefix {
    type Err = BadPrefix;

    /// A bare address is a host prefix (`/32`); `default` is `0.0.0.0/0`.
    fn from_str(text: &str) -> Result<Ipv4Prefix, BadPrefix> {
        if text == "default" {
            return Ok(Ipv4Prefix::DEFAULT);
        }
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let address = address.parse().map_err(|_| BadPrefix)?;
        let length = length.parse().map_err(|_| BadPrefix)?;
        Ipv4Prefix::new(address, length).ok_or(BadPrefix)
    }
}

/// A CARP address as every CPU's ARP and IP input see it: answered, accepted and used as a source
/// only while `master`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The interface whose segment the address lives on.
    pub interface: InterfaceIndex,
    /// The address and its prefix length.
    pub address: Ipv4Prefix,
    /// The virtual host id, 1 to 255.
    pub vhid: u8,
    /// The MAC address frames of this address leave from; normally [`virtual_mac`].
    pub mac: MacAddress,
    /// Whether this node is the vhid's master.
    pub master: bool,
}

/// The MAC address of a vhid: `00:00:5e:00:01:<vhid>`.
pub fn virtual_mac(vhid: u8) -> MacAddress {
    MacAddress([0x00, 0x00, 0x5e, 0x00, 0x01, vhid])
}

/// The MAC address of an IPv4 multicast group (RFC 1112, 6.4).
pub fn multicast_mac(group: Ipv4Addr) -> MacAddress {
    let [_, second, third, fourth] = group.octets();
    MacAddress([0x01, 0x00, 0x5e, second & 0x7f, third, fourth])
}

/// Addresses that no packet on a wire may have as its source, whatever we are configured as:
/// unspecified, loopback, multicast, reserved, limited broadcast (RFC 1122, 3.2.1.3).
pub(crate) fn is_martian_source(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240
}

/// Addresses that can be given to an interface or a socket.
pub(crate) fn is_host_address(address: Ipv4Addr) -> bool {
    address.octets()[0] != 0 && !address.is_multicast() && address.octets()[0] < 240
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn prefix_arithmetic() {
        let prefix: Ipv4Prefix = "192.0.2.77/26".parse().unwrap();
        assert_eq!(prefix.netmask(), Ipv4Addr::new(255, 255, 255, 192));
        assert_eq!(prefix.network().to_string(), "192.0.2.64/26");
        assert_eq!(prefix.broadcast(), Some(Ipv4Addr::new(192, 0, 2, 127)));
        assert!(prefix.contains(Ipv4Addr::new(192, 0, 2, 64)));
        assert!(!prefix.contains(Ipv4Addr::new(192, 0, 2, 128)));
    }

    #[test]
    fn prefix_edges() {
        assert!(Ipv4Prefix::DEFAULT.contains(Ipv4Addr::BROADCAST));
        assert_eq!(Ipv4Prefix::DEFAULT.netmask(), Ipv4Addr::UNSPECIFIED);
        let host: Ipv4Prefix = "10.0.0.1".parse().unwrap();
        assert_eq!((host.length(), host.broadcast()), (32, None));
        assert_eq!(
            "10.0.0.1/31".parse::<Ipv4Prefix>().unwrap().broadcast(),
            None
        );
        for bad in [
            "",
            "10.0.0.1/33",
            "10.0.0/8",
            "10.0.0.1/",
            "10.0.0.1/-1",
            "x/8",
        ] {
            assert_eq!(bad.parse::<Ipv4Prefix>(), Err(BadPrefix), "{bad}");
        }
    }

    #[test]
    fn multicast_macs_keep_23_bits() {
        assert_eq!(
            multicast_mac(Ipv4Addr::new(224, 0, 0, 18)).to_string(),
            "01:00:5e:00:00:12"
        );
        assert_eq!(
            multicast_mac(Ipv4Addr::new(239, 255, 1, 2)).0,
            [0x01, 0x00, 0x5e, 0x7f, 1, 2]
        );
    }
}
