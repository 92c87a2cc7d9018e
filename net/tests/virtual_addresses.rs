//! CARP's seam: what a master does, and what a backup must not do (carp fact sheet, 8 and 9).

mod support;

use net::{
    ArpState, BindingKind, Change, DropReason, Event, MacAddress, NetworkEvent, RawIpv4,
    virtual_mac,
};
use support::*;

const VHID: u8 = 7;
const VIRTUAL: &str = "192.0.2.10";

fn node(master: bool) -> Node {
    let mut node = Node::new(4, 1, "192.0.2.1/24");
    node.add_virtual(VHID, "192.0.2.10/24", master);
    node
}

fn set_master(node: &mut Node, master: bool) {
    node.apply(Change::SetMaster {
        interface: ETHERNET,
        vhid: VHID,
        master,
    });
}

/// A peer, used as a source of well-formed frames.
fn peer() -> Node {
    Node::new(1, 2, "192.0.2.2/24")
}

fn source_mac(frame: &[u8]) -> MacAddress {
    MacAddress(frame[6..12].try_into().unwrap())
}

fn destination_mac(frame: &[u8]) -> MacAddress {
    MacAddress(frame[..6].try_into().unwrap())
}

/// The peer pings the virtual address; returns what the node sent back.
fn ping(peer: &mut Node, node: &mut Node) -> Vec<Vec<u8>> {
    let socket = peer.bind(BindingKind::Echo, 0, "0.0.0.0", 1);
    peer.echo(socket, 0, VIRTUAL, 1);
    peer.apply(Change::Unbind(socket));
    let mut answers = Vec::new();
    while let Some(frame) = peer.sent.pop_front() {
        node.receive(&frame);
        for answer in node.sent.drain(..) {
            peer.receive(&answer);
            answers.push(answer);
        }
    }
    answers
}

#[test]
fn a_master_answers_arp_and_ping_from_the_virtual_mac_only() {
    let (mut peer, mut node) = (peer(), node(true));
    let answers = ping(&mut peer, &mut node);
    assert_eq!(answers.len(), 2, "an ARP reply and an echo reply");
    for answer in &answers {
        assert_eq!(source_mac(answer), virtual_mac(VHID));
    }
    assert_eq!(
        answers[0][22..28],
        virtual_mac(VHID).0,
        "ARP sender hardware address"
    );
    let (_, mac, _) = peer.stacks[0].neighbors(0).next().unwrap();
    assert_eq!(mac, Some(virtual_mac(VHID)));
}

#[test]
fn a_backup_is_silent_and_deaf() {
    let (mut peer, mut node) = (peer(), node(false));
    assert!(ping(&mut peer, &mut node).is_empty());
    assert_eq!(node.drops(DropReason::ArpVirtualBackup), 1);
    // A peer that still believes in us sends to the virtual MAC address.
    let mut peer = Node::new(1, 3, "192.0.2.3/24");
    set_master(&mut node, true);
    assert_eq!(ping(&mut peer, &mut node).len(), 2);
    set_master(&mut node, false);
    assert!(ping(&mut peer, &mut node).is_empty());
    assert_eq!(node.drops(DropReason::FrameVirtualBackup), 1);
    // Even with the real MAC address as its destination the packet is not ours.
    let socket = peer.bind(BindingKind::Echo, 0, "0.0.0.0", 2);
    peer.echo(socket, 0, VIRTUAL, 1);
    let mut frame = peer.sent.pop_back().unwrap();
    frame[..6].copy_from_slice(&node.mac.0);
    node.receive(&frame);
    assert_eq!(node.drops(DropReason::IpVirtualBackup), 1);
    assert!(node.sent.is_empty());
}

#[test]
fn a_backup_sends_nothing_from_the_virtual_mac() {
    let mut node = node(false);
    let raw = RawIpv4 {
        protocol: 112,
        ttl: 255,
        tos: 0x10,
        dont_fragment: true,
        source: ip("192.0.2.1"),
        destination: ip("224.0.0.18"),
        payload: &[0; 36],
    };
    let refused = Err(DropReason::SendVirtualBackup);
    assert_eq!(node.stacks[0].announce(0, ETHERNET, VHID), refused);
    assert_eq!(
        node.stacks[0].send_from_virtual(0, ETHERNET, VHID, &raw),
        refused
    );
    let socket = node.bind(BindingKind::Udp, 1, VIRTUAL, 53);
    let to = "192.0.2.2:53".parse().unwrap();
    let refused = Err(DropReason::SourceVirtualBackup);
    assert_eq!(node.stacks[1].udp_send(0, socket, None, to, b"x"), refused);
    node.run();
    assert!(node.sent.is_empty());

    set_master(&mut node, true);
    node.stacks[0].announce(0, ETHERNET, VHID).unwrap();
    node.stacks[0]
        .send_from_virtual(0, ETHERNET, VHID, &raw)
        .unwrap();
    node.stacks[1].udp_send(0, socket, None, to, b"x").unwrap();
    node.run();
    let frames: Vec<Vec<u8>> = node.sent.drain(..).collect();
    assert_eq!(frames.len(), 3);
    let by_type = |protocol: [u8; 2]| frames.iter().filter(move |frame| frame[12..14] == protocol);
    let announcement = by_type([8, 6])
        .find(|frame| source_mac(frame) == virtual_mac(VHID))
        .unwrap();
    assert_eq!(destination_mac(announcement), MacAddress::BROADCAST);
    assert_eq!(announcement[20..22], [0, 1], "a request");
    assert_eq!(announcement[22..28], virtual_mac(VHID).0);
    assert_eq!(
        (&announcement[28..32], &announcement[38..42]),
        (&[192, 0, 2, 10][..], &[192, 0, 2, 10][..])
    );
    let advert = by_type([8, 0]).next().unwrap();
    assert_eq!(source_mac(advert), virtual_mac(VHID));
    assert_eq!(destination_mac(advert).to_string(), "01:00:5e:00:00:12");
    assert_eq!(advert.len(), 70);
    assert_eq!(
        (advert[15], advert[20], advert[22], advert[23]),
        (0x10, 0x40, 255, 112)
    );
}

/// Mastership is lost while a packet from the virtual address waits for ARP: it must not leave.
#[test]
fn a_packet_that_waited_over_the_loss_of_mastership_is_dropped() {
    let (mut peer, mut node) = (peer(), node(true));
    let socket = node.bind(BindingKind::Udp, 1, VIRTUAL, 53);
    let to = "192.0.2.2:53".parse().unwrap();
    node.stacks[1].udp_send(0, socket, None, to, b"x").unwrap();
    node.run();
    let request = node.sent.pop_front().unwrap();
    assert_eq!(
        source_mac(&request),
        node.mac,
        "we ask from our own address"
    );
    peer.receive(&request);
    let reply = peer.sent.pop_front().unwrap();
    set_master(&mut node, false);
    node.receive(&reply);
    assert!(node.sent.is_empty());
    assert_eq!(node.drops(DropReason::SendVirtualBackup), 1);
}

#[test]
fn a_backups_own_traffic_to_the_virtual_address_goes_to_the_wire() {
    let mut node = node(false);
    let socket = node.bind(BindingKind::Echo, 2, "0.0.0.0", 5);
    node.echo(socket, 2, VIRTUAL, 1);
    let request = node.sent.pop_front().unwrap();
    assert_eq!(
        (source_mac(&request), &request[12..14]),
        (node.mac, &[8, 6][..])
    );
    assert_eq!(
        request[28..32],
        [192, 0, 2, 1],
        "asked from the real address"
    );
    // The master's announcement resolves it on the CPU that waits.
    let mut master = Node::new(1, 2, "192.0.2.2/24");
    master.add_virtual(VHID, "192.0.2.10/24", true);
    master.receive(&request);
    node.receive(&master.sent.pop_front().unwrap());
    let echo = node.sent.pop_front().unwrap();
    assert_eq!(
        (source_mac(&echo), destination_mac(&echo)),
        (node.mac, virtual_mac(VHID))
    );
    // Once master, we are the destination, on every CPU.
    set_master(&mut node, true);
    assert_eq!(node.stacks[2].neighbors(0).count(), 0);
    node.echo(socket, 2, VIRTUAL, 2);
    assert!(node.sent.is_empty());
    assert!(node.stacks[2].receive(socket).is_some());
}

#[test]
fn another_master_is_reported_and_not_learned() {
    let mut node = node(true);
    let mut other = Node::new(1, 2, "192.0.2.2/24");
    other.add_virtual(VHID, "192.0.2.10/24", true);
    other.stacks[0].announce(0, ETHERNET, VHID).unwrap();
    other.run();
    let announcement = other.sent.pop_front().unwrap();
    node.receive_on(3, &announcement);
    let conflict = NetworkEvent::AddressConflict {
        interface: ETHERNET,
        address: ip(VIRTUAL),
        vhid: Some(VHID),
        mac: virtual_mac(VHID),
    };
    assert_eq!(node.events, [conflict]);
    assert_eq!(node.drops(DropReason::ArpConflict), 1);
    assert_eq!(node.stacks[0].neighbors(0).count(), 0);
    // As backup the same frame is the master's good right.
    node.events.clear();
    set_master(&mut node, false);
    node.receive(&announcement);
    assert!(node.events.is_empty());
}

#[test]
fn a_stolen_real_address_is_reported_and_defended_once_in_ten_seconds() {
    let mut node = Node::new(2, 1, "192.0.2.1/24");
    let mut thief = Node::new(1, 2, "192.0.2.1/24");
    thief.apply(Change::SetUp {
        interface: ETHERNET,
        up: true,
    });
    let announcement = thief.sent.pop_front().unwrap();
    for second in 0..11 {
        node.advance(second * SECOND_NS);
        node.receive(&announcement);
    }
    assert_eq!(node.events.len(), 11);
    assert_eq!(node.sent.len(), 2, "defended at 0 and at 10 s");
    assert_eq!(node.snapshot().events(Event::ArpAnnouncementSent), 1 + 2);
}

/// A failover: every CPU of a client follows the announcement, in both forms of its target field.
#[test]
fn an_announcement_corrects_every_copy() {
    for target_hardware in [[0; 6], [2, 0, 0, 0, 0, 9]] {
        let mut client = Node::new(4, 3, "192.0.2.3/24");
        let mut server = Node::new(1, 2, "192.0.2.2/24");
        for cpu in 0..4 {
            let socket = client.bind(BindingKind::Echo, cpu, "0.0.0.0", cpu + 1);
            client.echo(socket, cpu.into(), "192.0.2.2", 1);
        }
        server.receive(&client.sent.pop_front().unwrap());
        client.receive(&server.sent.pop_front().unwrap());
        server.apply(Change::SetUp {
            interface: ETHERNET,
            up: true,
        });
        let mut announcement = server.sent.pop_back().unwrap();
        let new_mac = [2, 0, 0, 0, 0, 9];
        announcement[6..12].copy_from_slice(&new_mac);
        announcement[22..28].copy_from_slice(&new_mac);
        announcement[32..38].copy_from_slice(&target_hardware);
        client.receive_on(2, &announcement);
        for stack in &client.stacks {
            let known: Vec<_> = stack.neighbors(0).collect();
            assert_eq!(known.len(), 1);
            assert_eq!(known[0].1, Some(MacAddress(new_mac)));
            assert!(matches!(known[0].2, ArpState::Reachable { .. }));
        }
        assert_eq!(client.snapshot().events(Event::ArpMoved), 1);
    }
}

#[test]
fn carp_packets_reach_the_protocol_with_everything_it_checks() {
    let (mut node, mut other) = (node(false), Node::new(1, 2, "192.0.2.2/24"));
    other.add_virtual(VHID, "192.0.2.10/24", true);
    let raw = RawIpv4 {
        protocol: 112,
        ttl: 254,
        tos: 0xe0,
        dont_fragment: true,
        source: ip("192.0.2.2"),
        destination: ip("224.0.0.18"),
        payload: b"advert",
    };
    other.stacks[0]
        .send_from_virtual(0, ETHERNET, VHID, &raw)
        .unwrap();
    other.run();
    let frame = other.sent.pop_front().unwrap();
    node.receive_on(3, &frame);
    // Our own packet, echoed by a switch: seeing it is CARP's affair.
    let mut echoed = frame.clone();
    echoed[26..30].copy_from_slice(&[192, 0, 2, 1]);
    echoed[24..26].copy_from_slice(&[0, 0]);
    let sum = !internet_checksum(&echoed[14..34]);
    echoed[24..26].copy_from_slice(&sum.to_be_bytes());
    node.receive(&echoed);
    assert_eq!(node.raw.len(), 2);
    let input = &node.raw[0];
    assert_eq!(
        (input.ttl, input.tos, input.source),
        (254, 0xe0, ip("192.0.2.2"))
    );
    assert_eq!(
        (input.frame.interface, input.frame.source_mac),
        (ETHERNET, virtual_mac(VHID))
    );
    assert_eq!(input.packet.data(), b"advert");
    assert_eq!(node.raw[1].source, ip("192.0.2.1"));
    assert_eq!(node.snapshot().dropped_total(), 0);
}

fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}
