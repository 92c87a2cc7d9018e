//! The authenticator of an advertisement: HMAC-SHA1 over version, type, vhid, addresses, cookie.
//!
//! [`Authenticator`] is rebuilt when password or addresses change and holds the HMAC state up to
//! the cookie, so a digest costs two SHA-1 blocks however many addresses there are. There are two
//! forms, with and without link-local IPv6 addresses: every OpenBSD carp interface owns a
//! link-local address that no other system knows of, so it sends the form without and accepts
//! both. We do the same. HMAC itself is the `hmac` crate's; a digest is compared in constant time.
//! Not done: OpenBSD's extra bytes for a carp interface with a hand-set Ethernet address.
//!
//! Source: OpenBSD `sys/netinet/ip_carp.c`, carp_hmac_prepare and carp_hmac_verify; RFC 2104.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::config::ConfigError;
use crate::wire::{COOKIE_LEN, DIGEST_LEN, TYPE_ADVERTISEMENT, VERSION};

/// HMAC's key size for SHA-1, in bytes.
const SHA1_BLOCK_LEN: usize = 64;

/// The shared secret of a vhid: at most 19 bytes, no NUL.
///
/// The key field is 20 bytes, NUL-filled, and every front end keeps room for one NUL. Filling is
/// what HMAC does with a short key anyway, so we need only the bytes. An empty password is a key
/// of zeros, and still checked. Never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Password {
    bytes: [u8; Password::MAX_LEN],
    len: u8,
}

impl Password {
    /// The longest password all implementations agree on, in bytes.
    pub const MAX_LEN: usize = 19;

    /// Takes a password, or says why it cannot work.
    pub fn new(text: &str) -> Result<Self, ConfigError> {
        if text.len() > Self::MAX_LEN {
            return Err(ConfigError::PasswordTooLong(text.len()));
        }
        if text.bytes().any(|byte| byte == 0) {
            return Err(ConfigError::PasswordNul);
        }
        let mut bytes = [0; Self::MAX_LEN];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self {
            bytes,
            len: text.len() as u8,
        })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.len == 0 {
            "Password(none)"
        } else {
            "Password(set)"
        })
    }
}

/// Whether link-local IPv6 virtual addresses are part of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LinkLocal {
    /// Left out: what OpenBSD sends, and what interoperates.
    #[default]
    LeftOut,
    /// Included: only for a FreeBSD peer whose vhid has a link-local address.
    Included,
}

/// The keyed HMAC states of one vhid.
#[derive(Clone)]
pub struct Authenticator {
    without_link_local: Hmac<Sha1>,
    /// Kept only where it differs from the other form.
    with_link_local: Option<Hmac<Sha1>>,
    send: LinkLocal,
}

impl Authenticator {
    /// Prepares the digests for these addresses; their order and repetitions do not matter.
    #[must_use]
    pub fn new(password: &Password, vhid: u8, addresses: &[IpAddr], send: LinkLocal) -> Self {
        let keyed = |prefix: &[u8]| {
            // A whole block: the fill with zeros is what the BSDs and HMAC do to a short key.
            let mut key = [0; SHA1_BLOCK_LEN];
            key[..password.as_bytes().len()].copy_from_slice(password.as_bytes());
            let mut hmac = <Hmac<Sha1> as KeyInit>::new(&key.into());
            hmac.update(prefix);
            hmac
        };
        let without = hashed_prefix(vhid, addresses, LinkLocal::LeftOut);
        let with = hashed_prefix(vhid, addresses, LinkLocal::Included);
        Self {
            without_link_local: keyed(&without),
            with_link_local: (with != without).then(|| keyed(&with)),
            send,
        }
    }

    /// The digest to send with this cookie.
    #[must_use]
    pub fn digest(&self, cookie: &[u8; COOKIE_LEN]) -> [u8; DIGEST_LEN] {
        let state = match (self.send, &self.with_link_local) {
            (LinkLocal::Included, Some(with)) => with,
            _ => &self.without_link_local,
        };
        let mut hmac = state.clone();
        hmac.update(cookie);
        hmac.finalize().into_bytes().into()
    }

    /// Whether a received digest is right in either form. Constant time per form.
    #[must_use]
    pub fn verify(&self, cookie: &[u8; COOKIE_LEN], digest: &[u8; DIGEST_LEN]) -> bool {
        let matches = |state: &Hmac<Sha1>| {
            let mut hmac = state.clone();
            hmac.update(cookie);
            hmac.verify_slice(digest).is_ok()
        };
        matches(&self.without_link_local) || self.with_link_local.as_ref().is_some_and(matches)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("send", &self.send)
            .finish_non_exhaustive()
    }
}

/// The hashed bytes before the cookie: version, type, vhid, then every IPv4 address ascending,
/// then every IPv6 address ascending, each once.
#[must_use]
pub fn hashed_prefix(vhid: u8, addresses: &[IpAddr], link_local: LinkLocal) -> Vec<u8> {
    let mut v4: Vec<[u8; 4]> = Vec::new();
    let mut v6: Vec<[u8; 16]> = Vec::new();
    for address in addresses {
        match *address {
            IpAddr::V4(address) if is_hashed_v4(address) => v4.push(address.octets()),
            IpAddr::V6(address) if is_hashed_v6(address, link_local) => {
                v6.push(without_scope(address));
            }
            _ => {}
        }
    }
    v4.sort_unstable();
    v4.dedup();
    v6.sort_unstable();
    v6.dedup();
    let mut prefix = Vec::with_capacity(3 + v4.len() * 4 + v6.len() * 16);
    prefix.extend_from_slice(&[VERSION, TYPE_ADVERTISEMENT, vhid]);
    prefix.extend(v4.iter().flatten());
    prefix.extend(v6.iter().flatten());
    prefix
}

/// The BSDs search the next larger address from one sentinel to the other: those two never match.
fn is_hashed_v4(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast()
}

fn is_hashed_v6(address: Ipv6Addr, link_local: LinkLocal) -> bool {
    let is_sentinel = address.is_unspecified() || address.octets() == [0xff; 16];
    let is_left_out = link_local == LinkLocal::LeftOut && address.is_unicast_link_local();
    !is_sentinel && !is_left_out
}

/// KAME stacks keep a scope in bytes 2 and 3 of scoped addresses; it is local, so not hashed.
fn without_scope(address: Ipv6Addr) -> [u8; 16] {
    let mut octets = address.octets();
    let is_local_multicast = octets[0] == 0xff && matches!(octets[1] & 0x0f, 1 | 2);
    if address.is_unicast_link_local() || is_local_multicast {
        octets[2..4].fill(0);
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_longer_than_19_is_refused_not_cut() {
        assert!(Password::new("abcdefghijklmnopqrs").is_ok());
        assert_eq!(
            Password::new("abcdefghijklmnopqrst"),
            Err(ConfigError::PasswordTooLong(20))
        );
        assert_eq!(Password::new("a\0b"), Err(ConfigError::PasswordNul));
    }

    #[test]
    fn password_is_not_in_debug_output() {
        let text = alloc::format!("{:?}", Password::new("sesame"));
        assert!(!text.contains("sesame"), "{text}");
    }

    #[test]
    fn scope_and_sentinels_stay_out_of_the_hash() {
        let hashed = |text: &str, link_local| {
            hashed_prefix(1, &[text.parse().unwrap()], link_local)[3..].to_vec()
        };
        assert_eq!(
            hashed("fe80:7::1", LinkLocal::Included)[..4],
            [0xfe, 0x80, 0, 0]
        );
        assert_eq!(
            hashed("ff02:7::1", LinkLocal::LeftOut)[..4],
            [0xff, 0x02, 0, 0]
        );
        assert_eq!(
            hashed("2001:db8::1", LinkLocal::LeftOut)[..4],
            [0x20, 0x01, 0x0d, 0xb8]
        );
        for nothing in ["0.0.0.0", "255.255.255.255", "::", "fe80::1"] {
            assert!(hashed(nothing, LinkLocal::LeftOut).is_empty(), "{nothing}");
        }
    }
}
