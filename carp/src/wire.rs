//! The advertisement on the wire: 36 bytes behind an IPv4 header of protocol 112.
//!
//! [`Packet`] reads and writes the bytes in place, [`Repr`] is the parsed form. As in smoltcp,
//! no accessor panics once a length check has passed; the constructors for received bytes make
//! that check and return a [`DropReason`], because `netstat -s` wants to know why. Type and
//! authentication length are not checked on input: no implementation ever did, and a stricter
//! one would only lose peers. Bytes after the 36 are ignored, and not summed (OpenBSD, DragonFly).
//!
//! Source: OpenBSD `sys/netinet/ip_carp.h`, struct carp_header.

use core::fmt;

use crate::counters::DropReason;
use crate::timers::Timing;

/// The IPv4 protocol number (shared with VRRP; the version nibble tells them apart).
pub const PROTOCOL: u8 = 112;
/// The TTL of every advertisement: it cannot have been routed.
pub const TTL: u8 = 255;
/// The IPv4 group advertisements are sent to.
pub const GROUP: [u8; 4] = [224, 0, 0, 18];
/// The Ethernet address of [`GROUP`].
pub const GROUP_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x00, 0x12];
/// The protocol version we speak.
pub const VERSION: u8 = 2;
/// The only packet type: an advertisement.
pub const TYPE_ADVERTISEMENT: u8 = 1;
/// 32-bit words after the first eight bytes: counter and digest.
pub const AUTH_LEN_WORDS: u8 = 7;

/// Length of the counter (FreeBSD, ucarp) or cookie (OpenBSD, we) in bytes.
pub const COOKIE_LEN: usize = 8;
/// Length of the HMAC-SHA1 digest in bytes.
pub const DIGEST_LEN: usize = 20;

mod field {
    use core::ops::Range;

    pub const VERSION_TYPE: usize = 0;
    pub const VHID: usize = 1;
    pub const ADVSKEW: usize = 2;
    pub const AUTH_LEN: usize = 3;
    /// A pad byte for FreeBSD, DragonFly and ucarp; OpenBSD's demotion count.
    pub const DEMOTION: usize = 4;
    pub const ADVBASE: usize = 5;
    pub const CHECKSUM: Range<usize> = 6..8;
    pub const COOKIE: Range<usize> = 8..8 + super::COOKIE_LEN;
    pub const DIGEST: Range<usize> = COOKIE.end..COOKIE.end + super::DIGEST_LEN;
}

/// Length of an advertisement in bytes.
pub const LEN: usize = field::DIGEST.end;

/// The virtual Ethernet address of a vhid (the block VRRP uses for IPv4).
#[must_use]
pub const fn virtual_mac(vhid: u8) -> [u8; 6] {
    [0x00, 0x00, 0x5e, 0x00, 0x01, vhid]
}

/// Whether an advertisement must arrive with TTL 255.
///
/// `Off` is for a vhid with a unicast peer behind a router, where the operator asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TtlCheck {
    /// Anything but 255 is dropped: the rule.
    #[default]
    Required,
    /// Accept any TTL.
    Off,
}

/// An advertisement in a buffer.
///
/// Having one from [`Packet::new_checked`] or [`Packet::receive`] tells you that it is at least
/// [`LEN`] bytes, so no accessor panics. It tells you nothing about who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<T: AsRef<[u8]>> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Wraps a buffer whose length the caller vouches for: accessors panic on a shorter one.
    pub const fn new_unchecked(buffer: T) -> Self {
        Self { buffer }
    }

    /// Wraps a buffer after the length check.
    pub fn new_checked(buffer: T) -> Result<Self, DropReason> {
        if buffer.as_ref().len() < LEN {
            return Err(DropReason::Length);
        }
        Ok(Self { buffer })
    }

    /// The checks that need no vhid, in the order of the BSDs: TTL, length, checksum.
    ///
    /// The caller then looks the vhid up ([`DropReason::Vhid`] if unknown) and gives the packet
    /// to [`Vhid::on_advert`](crate::Vhid::on_advert), which checks version and digest.
    pub fn receive(buffer: T, ttl: u8, check: TtlCheck) -> Result<Self, DropReason> {
        if ttl != TTL && check == TtlCheck::Required {
            return Err(DropReason::Ttl);
        }
        let packet = Self::new_checked(buffer)?;
        if !packet.verify_checksum() {
            return Err(DropReason::Checksum);
        }
        Ok(packet)
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref()
    }

    /// The version nibble.
    pub fn version(&self) -> u8 {
        self.bytes()[field::VERSION_TYPE] >> 4
    }

    /// The type nibble.
    pub fn packet_type(&self) -> u8 {
        self.bytes()[field::VERSION_TYPE] & 0x0f
    }

    /// The virtual host id.
    pub fn vhid(&self) -> u8 {
        self.bytes()[field::VHID]
    }

    /// The sender's effective skew, in 1/256 s.
    pub fn advskew(&self) -> u8 {
        self.bytes()[field::ADVSKEW]
    }

    /// The number of 32-bit words of authentication data.
    pub fn auth_len(&self) -> u8 {
        self.bytes()[field::AUTH_LEN]
    }

    /// The sender's demotion count (zero from a peer that knows none).
    pub fn demotion(&self) -> u8 {
        self.bytes()[field::DEMOTION]
    }

    /// The sender's advertisement base, in seconds.
    pub fn advbase(&self) -> u8 {
        self.bytes()[field::ADVBASE]
    }

    /// The checksum field.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes(array(&self.bytes()[field::CHECKSUM]))
    }

    /// The counter or cookie, as sent.
    pub fn cookie(&self) -> [u8; COOKIE_LEN] {
        array(&self.bytes()[field::COOKIE])
    }

    /// The HMAC-SHA1 digest.
    pub fn digest(&self) -> [u8; DIGEST_LEN] {
        array(&self.bytes()[field::DIGEST])
    }

    /// Whether the 36 bytes, checksum included, sum to all ones.
    pub fn verify_checksum(&self) -> bool {
        ones_complement_sum(&self.bytes()[..LEN]) == 0xffff
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Computes and stores the checksum; to be called last, as it covers the digest.
    pub fn fill_checksum(&mut self) {
        self.buffer.as_mut()[field::CHECKSUM].fill(0);
        let checksum = !ones_complement_sum(&self.bytes()[..LEN]);
        self.buffer.as_mut()[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// An advertisement, parsed. Its digest may or may not be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// The virtual host id.
    pub vhid: u8,
    /// What the sender says of its speed: base in seconds and skew in 1/256 s.
    pub timing: Timing,
    /// The sender's demotion count (zero from a peer that knows none).
    pub demotion: u8,
    /// Counter or cookie.
    pub cookie: [u8; COOKIE_LEN],
    /// HMAC-SHA1 of version, type, vhid, virtual addresses and cookie.
    pub digest: [u8; DIGEST_LEN],
}

impl Repr {
    /// Parses a packet; the one thing that can be wrong here is the version.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Result<Self, DropReason> {
        if packet.version() != VERSION {
            return Err(DropReason::Version);
        }
        Ok(Self {
            vhid: packet.vhid(),
            timing: Timing {
                advbase: packet.advbase(),
                advskew: packet.advskew(),
            },
            demotion: packet.demotion(),
            cookie: packet.cookie(),
            digest: packet.digest(),
        })
    }

    /// The bytes to put behind the IP header, checksum filled in.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[field::VERSION_TYPE] = VERSION << 4 | TYPE_ADVERTISEMENT;
        bytes[field::VHID] = self.vhid;
        bytes[field::ADVSKEW] = self.timing.advskew;
        bytes[field::AUTH_LEN] = AUTH_LEN_WORDS;
        bytes[field::DEMOTION] = self.demotion;
        bytes[field::ADVBASE] = self.timing.advbase;
        bytes[field::COOKIE].copy_from_slice(&self.cookie);
        bytes[field::DIGEST].copy_from_slice(&self.digest);
        let mut packet = Packet::new_unchecked(&mut bytes);
        packet.fill_checksum();
        bytes
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CARPv2 vhid {} advbase {} advskew {} demote {}",
            self.vhid, self.timing.advbase, self.timing.advskew, self.demotion
        )
    }
}

/// Copies a field whose length the caller fixed by its range.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut copy = [0; N];
    copy.copy_from_slice(bytes);
    copy
}

/// RFC 1071 sum of an even number of bytes, folded to 16 bits.
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks_exact(2)
        .map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    // 18 words cannot carry twice past 16 bits, so the second fold is the last.
    (folded + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPR: Repr = Repr {
        vhid: 42,
        timing: Timing {
            advbase: 1,
            advskew: 100,
        },
        demotion: 3,
        cookie: [1, 2, 3, 4, 5, 6, 7, 8],
        digest: [0xa5; DIGEST_LEN],
    };

    #[test]
    fn emit_and_parse_are_inverse() {
        let bytes = REPR.to_bytes();
        let packet = Packet::receive(&bytes, TTL, TtlCheck::Required).unwrap();
        assert_eq!(Repr::parse(&packet), Ok(REPR));
        assert_eq!((packet.packet_type(), packet.auth_len()), (1, 7));
    }

    #[test]
    fn checks_come_in_the_order_ttl_length_checksum_version() {
        let mut bytes = REPR.to_bytes();
        let drop = |bytes: &[u8], ttl| {
            Packet::receive(bytes, ttl, TtlCheck::Required)
                .and_then(|p| Repr::parse(&p))
                .err()
        };
        bytes[0] = 0x31;
        assert_eq!(drop(&bytes[..35], 254), Some(DropReason::Ttl));
        assert_eq!(drop(&bytes[..35], 255), Some(DropReason::Length));
        assert_eq!(drop(&[], 255), Some(DropReason::Length));
        assert_eq!(drop(&bytes, 255), Some(DropReason::Checksum));
        Packet::new_unchecked(&mut bytes).fill_checksum();
        assert_eq!(drop(&bytes, 255), Some(DropReason::Version));
    }

    #[test]
    fn ttl_check_can_be_off_for_a_unicast_peer() {
        assert!(Packet::receive(REPR.to_bytes(), 7, TtlCheck::Off).is_ok());
    }

    #[test]
    fn every_single_bit_error_fails_the_checksum() {
        let bytes = REPR.to_bytes();
        for bit in 0..LEN * 8 {
            let mut broken = bytes;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !Packet::new_unchecked(&broken).verify_checksum(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn bytes_behind_the_advertisement_are_not_summed() {
        let mut padded = [0xff; 46];
        padded[..LEN].copy_from_slice(&REPR.to_bytes());
        assert!(Packet::receive(&padded[..], TTL, TtlCheck::Required).is_ok());
    }
}
