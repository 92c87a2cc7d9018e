//! The flow hash: which CPU a packet belongs to.
//!
//! A Toeplitz hash whose key repeats the two bytes 6Dh 5Ah, so that both directions of a flow agree
//! (DragonFly: sys/net/toeplitz.c; Woo and Park, "Scalable TCP session monitoring with symmetric
//! receive-side scaling"). A key of period 16 bits makes the general algorithm collapse: the input's
//! 16-bit words can be XORed into one first, and the result is the XOR of the key rotated by each
//! set bit. That is 16 steps instead of 96 and needs no table; a test compares it with the
//! general algorithm. The halves of the 32-bit value are equal, hence only 16 bits are computed.

use core::net::Ipv4Addr;

/// The repeated part of the key.
const KEY: u16 = 0x6d5a;

/// What a packet's flow hash is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// A TCP segment that is not a fragment: addresses and ports.
    Tcp {
        /// One end.
        source: (Ipv4Addr, u16),
        /// The other.
        destination: (Ipv4Addr, u16),
    },
    /// A UDP datagram to a unicast address, or any fragment: addresses only, so that all
    /// fragments of a datagram meet on one CPU.
    Addresses {
        /// One end.
        source: Ipv4Addr,
        /// The other.
        destination: Ipv4Addr,
    },
    /// Everything else, UDP multicast and ARP included: CPU 0.
    Other,
}

impl Flow {
    /// The low 16 bits of the symmetric Toeplitz hash.
    pub fn hash(self) -> u16 {
        match self {
            Flow::Tcp {
                source,
                destination,
            } => toeplitz(fold(source.0) ^ fold(destination.0) ^ source.1 ^ destination.1),
            Flow::Addresses {
                source,
                destination,
            } => toeplitz(fold(source) ^ fold(destination)),
            Flow::Other => 0,
        }
    }

    /// The CPU, of `cpu_count` many, on which packets of this flow are handled.
    pub fn cpu(self, cpu_count: u16) -> u16 {
        (self.hash() & 127) % cpu_count.max(1)
    }

    /// The flow of an IPv4 packet given as bytes from its header on. Bytes that are no valid packet
    /// give some flow too; the checks are done on that flow's CPU.
    pub fn of_ipv4(bytes: &[u8]) -> Flow {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        let word = |offset: usize| {
            let pair = bytes.get(offset..offset + 2)?;
            Some(u16::from_be_bytes([pair[0], pair[1]]))
        };
        let address = |offset| {
            Some(Ipv4Addr::from_bits(
                (u32::from(word(offset)?) << 16) | u32::from(word(offset + 2)?),
            ))
        };
        let (Some(first), Some(fragment), Some(source), Some(destination)) =
            (bytes.first(), word(6), address(12), address(16))
        else {
            return Flow::Other;
        };
        if fragment & 0x3fff != 0 {
            return Flow::Addresses {
                source,
                destination,
            };
        }
        match bytes[9] {
            UDP if !destination.is_multicast() => Flow::Addresses {
                source,
                destination,
            },
            TCP => {
                let header = usize::from(first & 0xf) * 4;
                match (word(header), word(header + 2)) {
                    (Some(source_port), Some(destination_port)) => Flow::Tcp {
                        source: (source, source_port),
                        destination: (destination, destination_port),
                    },
                    _ => Flow::Other,
                }
            }
            _ => Flow::Other,
        }
    }
}

fn fold(address: Ipv4Addr) -> u16 {
    let bits = address.to_bits();
    (bits >> 16) as u16 ^ bits as u16
}

/// The hash of a message whose 16-bit words XOR to `word`: input bit `i` (counted from the most
/// significant) contributes the key shifted left by `i`, and shifting is rotating here.
fn toeplitz(word: u16) -> u16 {
    (0..16)
        .filter(|bit| word & (0x8000 >> bit) != 0)
        .fold(0, |hash, bit| hash ^ KEY.rotate_left(bit))
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
