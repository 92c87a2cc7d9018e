//! The vectors of the fact sheet, and the fast hash against the general Toeplitz algorithm.

use super::*;
use alloc::vec::Vec;

/// Toeplitz as Microsoft defines it: for each set input bit, XOR the 32 key bits that start there.
fn reference(key: &[u8], input: &[u8]) -> u32 {
    let key_bit = |index: usize| (key[index / 8] >> (7 - index % 8)) & 1;
    let mut hash = 0;
    for position in 0..input.len() * 8 {
        if (input[position / 8] >> (7 - position % 8)) & 1 == 1 {
            let window = (0..32).fold(0u32, |bits, i| {
                (bits << 1) | u32::from(key_bit(position + i))
            });
            hash ^= window;
        }
    }
    hash
}

fn bytes(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), ports: bool) -> Vec<u8> {
    let mut input = Vec::new();
    input.extend(source.0.octets());
    input.extend(destination.0.octets());
    if ports {
        input.extend(source.1.to_be_bytes());
        input.extend(destination.1.to_be_bytes());
    }
    input
}

fn end(text: &str) -> (Ipv4Addr, u16) {
    let address: core::net::SocketAddrV4 = text.parse().unwrap();
    (*address.ip(), address.port())
}

/// Flow, hash with ports, hash of addresses, CPU of a TCP and of a UDP flow out of 4, 8 and 12.
type Vector = (&'static str, &'static str, u16, u16, [u16; 3], [u16; 3]);
const VECTORS: [Vector; 4] = [
    (
        "66.9.149.187:2794",
        "161.142.100.80:1766",
        0x9fcc,
        0x0a59,
        [0, 4, 4],
        [1, 1, 5],
    ),
    (
        "199.92.111.2:14230",
        "65.69.140.83:4739",
        0x60d7,
        0x7ba9,
        [3, 7, 3],
        [1, 1, 5],
    ),
    (
        "10.0.0.1:12345",
        "10.0.0.2:80",
        0x3f56,
        0xadfb,
        [2, 6, 2],
        [3, 3, 3],
    ),
    (
        "10.0.0.1:12346",
        "10.0.0.2:80",
        0x92ad,
        0xadfb,
        [1, 5, 9],
        [3, 3, 3],
    ),
];

#[test]
fn vectors_of_the_fact_sheet() {
    for (source, destination, tcp, addresses, tcp_cpus, udp_cpus) in VECTORS {
        let (source, destination) = (end(source), end(destination));
        let flow = Flow::Tcp {
            source,
            destination,
        };
        let udp = Flow::Addresses {
            source: source.0,
            destination: destination.0,
        };
        assert_eq!(flow.hash(), tcp);
        assert_eq!(udp.hash(), addresses);
        assert_eq!([4, 8, 12].map(|cpus| flow.cpu(cpus)), tcp_cpus);
        assert_eq!([4, 8, 12].map(|cpus| udp.cpu(cpus)), udp_cpus);
    }
}

#[test]
fn reference_reproduces_microsofts_published_values() {
    const MICROSOFT_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];
    let (source, destination) = (end(VECTORS[0].0), end(VECTORS[0].1));
    assert_eq!(
        reference(&MICROSOFT_KEY, &bytes(source, destination, true)),
        0x51cc_c178
    );
    assert_eq!(
        reference(&MICROSOFT_KEY, &bytes(source, destination, false)),
        0x323e_8fc2
    );
}

#[test]
fn equals_the_general_algorithm_and_is_symmetric() {
    let key: Vec<u8> = [0x6d, 0x5a].repeat(20);
    let mut random = 0x243f_6a88_85a3_08d3_u64;
    for _ in 0..2000 {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let source = (
            Ipv4Addr::from_bits((random >> 32) as u32),
            (random >> 16) as u16,
        );
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let destination = (
            Ipv4Addr::from_bits((random >> 32) as u32),
            (random >> 16) as u16,
        );
        let general = reference(&key, &bytes(source, destination, true));
        assert_eq!(general >> 16, general & 0xffff, "halves are equal");
        let there = Flow::Tcp {
            source,
            destination,
        };
        let back = Flow::Tcp {
            source: destination,
            destination: source,
        };
        assert_eq!(u32::from(there.hash()), general & 0xffff);
        assert_eq!(there.hash(), back.hash());
    }
}

/// A minimal IPv4 header (and first payload bytes) from 10.0.0.1 to 10.0.0.2.
fn header(protocol: u8, fragment: u16, destination: [u8; 4]) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[0] = 0x45;
    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
    bytes[9] = protocol;
    bytes[12..16].copy_from_slice(&[10, 0, 0, 1]);
    bytes[16..20].copy_from_slice(&destination);
    bytes[20..22].copy_from_slice(&12345u16.to_be_bytes());
    bytes[22..24].copy_from_slice(&80u16.to_be_bytes());
    bytes
}

#[test]
fn each_kind_of_packet_hashes_what_it_should() {
    const HERE: [u8; 4] = [10, 0, 0, 2];
    assert_eq!(Flow::of_ipv4(&header(6, 0, HERE)).hash(), 0x3f56);
    assert_eq!(Flow::of_ipv4(&header(17, 0, HERE)).hash(), 0xadfb);
    assert_eq!(Flow::of_ipv4(&header(17, 0, [224, 0, 0, 9])), Flow::Other);
    assert_eq!(Flow::of_ipv4(&header(1, 0, HERE)), Flow::Other);
    // First and later fragments, and a packet that merely forbids fragmentation.
    assert_eq!(Flow::of_ipv4(&header(6, 0x2000, HERE)).hash(), 0xadfb);
    assert_eq!(Flow::of_ipv4(&header(6, 0x0001, HERE)).hash(), 0xadfb);
    assert_eq!(Flow::of_ipv4(&header(6, 0x4000, HERE)).hash(), 0x3f56);
    assert_eq!(Flow::of_ipv4(&header(6, 0, HERE)[..22]), Flow::Other);
    assert_eq!(Flow::of_ipv4(&[]), Flow::Other);
}
