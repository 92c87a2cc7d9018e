//! The golden table of input: one change to a good frame, and the one reason it is dropped for.

mod support;

use net::{BindingKind, DatagramKind, DropReason, Event};
use support::*;

/// From 192.0.2.2 to 192.0.2.1: UDP, port 5000 to 7, "data".
fn udp_frame() -> Vec<u8> {
    let mut sender = Node::new(1, 2, "192.0.2.2/24");
    let socket = sender.bind(BindingKind::Udp, 0, "0.0.0.0", 5000);
    sender.udp(socket, 0, "192.0.2.255:7", b"data");
    let mut frame = sender.sent.pop_front().unwrap();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    // The UDP checksum is off: the tests change addresses.
    frame[40..42].fill(0);
    frame[33] = 1;
    fix_header(&mut frame);
    frame
}

fn fix_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let end = 14 + usize::from(frame[14] & 15) * 4;
    let mut sum: u32 = frame[14..end]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !(sum as u16);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// Our node: 192.0.2.1 is ours, 192.0.2.10 the master's, a socket on port 7.
fn node() -> (Node, net::SocketId) {
    let mut node = Node::new(1, 1, "192.0.2.1/24");
    node.add_virtual(7, "192.0.2.10/24", false);
    let socket = node.bind(BindingKind::Udp, 0, "0.0.0.0", 7);
    (node, socket)
}

/// Offset and bytes put there.
type Patch = (usize, &'static [u8]);

#[test]
fn each_defect_has_its_reason() {
    use DropReason::*;
    let patches: &[(Patch, DropReason)] = &[
        ((0, &[2, 0, 0, 0, 0, 9]), FrameNotForUs),
        ((0, &[0, 0, 0x5e, 0, 1, 7]), FrameVirtualBackup),
        ((6, &[1]), FrameBadSource),
        ((6, &[0; 6]), FrameBadSource),
        ((6, &[2, 0, 0, 0, 0, 1]), FrameOwnSource),
        ((12, &[0x86, 0xdd]), FrameUnknownType),
        ((12, &[0x81, 0x00]), FrameUnknownType),
        ((14, &[0x65]), IpBadVersion),
        ((14, &[0x44]), IpBadHeaderLength),
        ((16, &[0, 19]), IpBadTotalLength),
        ((16, &[0xff, 0xff]), IpBadTotalLength),
        ((20, &[0x20]), IpFragment),
        ((21, &[1]), IpFragment),
        ((23, &[89]), IpUnknownProtocol),
        ((26, &[0, 0, 0, 0]), IpMartianSource),
        ((26, &[127, 0, 0, 1]), IpMartianSource),
        ((26, &[224, 0, 0, 1]), IpMartianSource),
        ((26, &[255, 255, 255, 255]), IpMartianSource),
        ((26, &[240, 0, 0, 1]), IpMartianSource),
        ((26, &[192, 0, 2, 255]), IpMartianSource),
        ((26, &[192, 0, 2, 1]), IpOwnSource),
        ((30, &[192, 0, 2, 10]), IpVirtualBackup),
        ((30, &[203, 0, 113, 1]), IpNotForUs),
        ((30, &[127, 0, 0, 1]), IpNotForUs),
        ((30, &[0, 0, 0, 0]), IpNotForUs),
        ((30, &[224, 0, 0, 5]), IpNotForUs),
        ((36, &[0, 8]), UdpNoPort),
        ((38, &[0, 7]), UdpBadLength),
        ((38, &[0, 13]), UdpBadLength),
        ((40, &[1, 2]), UdpBadChecksum),
    ];
    for &((offset, bytes), reason) in patches {
        let (mut node, socket) = node();
        let mut frame = udp_frame();
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        fix_header_if_sound(&mut frame);
        node.receive(&frame);
        let snapshot = node.snapshot();
        let what = format!("{offset}: {bytes:x?}\n{snapshot}");
        assert_eq!(
            (snapshot.drops(reason), snapshot.dropped_total()),
            (1, 1),
            "{what}"
        );
        assert!(node.stacks[0].receive(socket).is_none());
    }
}

fn fix_header_if_sound(frame: &mut [u8]) {
    if frame[14] & 15 >= 5 {
        fix_header(frame);
    }
}

#[test]
fn lengths_and_checksums() {
    use DropReason::*;
    let sized = |length: usize| {
        let mut frame = udp_frame();
        frame.resize(length, 0);
        frame
    };
    let mut bad_checksum = udp_frame();
    bad_checksum[24] ^= 1;
    let mut group_frame = udp_frame();
    group_frame[..6].fill(0xff);
    let frames = [
        (vec![], FrameTooShort),
        (sized(13), FrameTooShort),
        (sized(14), IpTooShort),
        (sized(33), IpTooShort),
        (sized(34), IpBadTotalLength),
        (sized(1515), FrameTooLong),
        (bad_checksum, IpBadChecksum),
        (group_frame, IpUnicastInGroupFrame),
    ];
    for (frame, reason) in frames {
        let (mut node, _) = node();
        node.receive(&frame);
        assert_eq!(
            (node.drops(reason), node.snapshot().dropped_total()),
            (1, 1),
            "{reason:?}"
        );
    }
}

#[test]
fn options_are_stepped_over_and_source_routes_refused() {
    use DropReason::*;
    let options: [(&[u8], Option<DropReason>); 6] = [
        (&[1, 1, 1, 0], None),
        (&[7, 4, 4, 0], None),
        (&[131, 4, 4, 0], Some(IpSourceRoute)),
        (&[1, 137, 3, 0], Some(IpSourceRoute)),
        (&[7, 0, 0, 0], Some(IpBadOptions)),
        (&[7, 9, 0, 0], Some(IpBadOptions)),
    ];
    for (bytes, reason) in options {
        let (mut node, socket) = node();
        let mut frame = udp_frame();
        frame[14] = 0x46;
        frame.splice(34..34, bytes.iter().copied());
        frame[17] += 4;
        fix_header(&mut frame);
        node.receive(&frame);
        let received = node.stacks[0].receive(socket);
        assert_eq!(received.is_some(), reason.is_none(), "{bytes:?}");
        if let Some(reason) = reason {
            assert_eq!(node.drops(reason), 1, "{bytes:?}");
        }
    }
}

/// Ethernet pads short frames, and an IP packet may be longer than the datagram in it: neither is
/// the reader's business. A time to live of 0 or 1 is no reason for a host to drop (RFC 1122).
#[test]
fn what_is_behind_the_datagram_is_not_delivered() {
    let (mut node, socket) = node();
    let mut frame = udp_frame();
    frame.extend([0xee; 18]);
    node.receive(&frame);
    frame[17] += 5;
    frame[22] = 0;
    fix_header(&mut frame);
    node.receive(&frame);
    for ttl in [64, 0] {
        let datagram = node.stacks[0].receive(socket).unwrap();
        assert_eq!((datagram.payload(), datagram.ttl), (&b"data"[..], ttl));
        assert_eq!(datagram.kind, DatagramKind::Udp);
    }
    assert_eq!(node.snapshot().events(Event::UdpNoChecksum), 2);
}

#[test]
fn an_interface_that_is_down_takes_nothing() {
    let (mut node, _) = node();
    node.apply(net::Change::SetUp {
        interface: ETHERNET,
        up: false,
    });
    node.receive(&udp_frame());
    assert_eq!(node.drops(DropReason::FrameInterfaceDown), 1);
}
