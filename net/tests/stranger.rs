//! A stack that is not ours, smoltcp's whole interface, on the same segment: it pings us, we ping it,
//! and UDP goes both ways. What two nodes of ours agree on wrongly shows here.

mod support;

use std::collections::VecDeque;

use net::{BindingKind, DatagramKind, Event};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpEndpoint,
};
use support::*;

const STRANGER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x99]);

/// The frames between the stranger and the node.
#[derive(Default)]
struct Wire {
    to_stranger: VecDeque<Vec<u8>>,
    to_node: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Transmit<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Transmit<'_>)> {
        let frame = self.to_stranger.pop_front()?;
        Some((Received(frame), Transmit(&mut self.to_node)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Transmit<'_>> {
        Some(Transmit(&mut self.to_node))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Lab {
    node: Node,
    wire: Wire,
    stranger: Interface,
    sockets: SocketSet<'static>,
}

impl Lab {
    fn new() -> Lab {
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ethernet(STRANGER_MAC));
        let mut stranger = Interface::new(config, &mut wire, Instant::ZERO);
        stranger.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddress::v4(192, 0, 2, 99), 24))
                .unwrap();
        });
        let node = Node::new(4, 1, "192.0.2.1/24");
        Lab {
            node,
            wire,
            stranger,
            sockets: SocketSet::new(Vec::new()),
        }
    }

    /// Lets a millisecond pass and carries frames both ways.
    fn step(&mut self) {
        let now_ns = self.node.now_ns + MILLISECOND_NS;
        self.node.advance(now_ns);
        self.wire.to_stranger.extend(self.node.sent.drain(..));
        let now = Instant::from_micros((now_ns / 1000) as i64);
        self.stranger.poll(now, &mut self.wire, &mut self.sockets);
        let cpus = self.node.stacks.len();
        while let Some(frame) = self.wire.to_node.pop_front() {
            self.node.receive_on(frame.len() % cpus, &frame);
        }
    }

    fn run_for(&mut self, milliseconds: usize) {
        (0..milliseconds).for_each(|_| self.step());
    }
}

#[test]
fn we_ping_the_stranger() {
    let mut lab = Lab::new();
    let socket = lab.node.bind(BindingKind::Echo, 2, "0.0.0.0", 0x1234);
    for sequence in 0..20 {
        lab.node.echo(socket, 2, "192.0.2.99", sequence);
        lab.run_for(5);
        let reply = lab.node.stacks[2].receive(socket).expect("an answer");
        assert_eq!(reply.kind, DatagramKind::EchoReply { sequence });
        assert_eq!(reply.payload(), [0x5a; 56]);
        assert_eq!(reply.remote.ip(), &ip("192.0.2.99"));
    }
    assert_eq!(lab.node.snapshot().dropped_total(), 0);
}

#[test]
fn the_stranger_pings_our_address_and_our_virtual_one() {
    let mut lab = Lab::new();
    lab.node.add_virtual(7, "192.0.2.10/24", true);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(0x55aa)).unwrap();
    let handle = lab.sockets.add(socket);
    let targets = [IpAddress::v4(192, 0, 2, 1), IpAddress::v4(192, 0, 2, 10)];
    for (seq_no, target) in (0..40).zip(targets.into_iter().cycle()) {
        let data = vec![seq_no as u8; usize::from(seq_no) * 30];
        let request = Icmpv4Repr::EchoRequest {
            ident: 0x55aa,
            seq_no,
            data: &data,
        };
        let checksums = smoltcp::phy::ChecksumCapabilities::default();
        let socket = lab.sockets.get_mut::<icmp::Socket>(handle);
        let bytes = socket.send(request.buffer_len(), target).unwrap();
        request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksums);
        // The stranger sends one ARP request a second at most, for all neighbours together.
        lab.run_for(if seq_no < 2 { 2500 } else { 5 });
        let (answer, from) = lab
            .sockets
            .get_mut::<icmp::Socket>(handle)
            .recv()
            .expect("an answer");
        assert_eq!(from, target);
        let packet = Icmpv4Packet::new_checked(answer).unwrap();
        let reply = Icmpv4Repr::parse(&packet, &checksums).unwrap();
        assert_eq!(
            reply,
            Icmpv4Repr::EchoReply {
                ident: 0x55aa,
                seq_no,
                data: &data
            }
        );
    }
    assert_eq!(lab.node.snapshot().events(Event::IcmpEchoReplySent), 40);
}

#[test]
fn udp_both_ways_and_our_unreachable_is_understood() {
    let mut lab = Lab::new();
    let ours = lab.node.bind(BindingKind::Udp, 3, "0.0.0.0", 7);
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5000).unwrap();
    let handle = lab.sockets.add(socket);
    let endpoint = |port| IpEndpoint::new(IpAddress::v4(192, 0, 2, 1), port);
    for length in [0, 1, 2, 511, 1472] {
        let data = vec![length as u8; length];
        let socket = lab.sockets.get_mut::<udp::Socket>(handle);
        socket.send_slice(&data, endpoint(7)).unwrap();
        lab.run_for(5);
        let question = lab.node.stacks[3].receive(ours).expect("a question");
        assert_eq!(question.payload(), data);
        lab.node
            .udp(ours, 3, &question.remote.to_string(), question.payload());
        lab.run_for(5);
        let socket = lab.sockets.get_mut::<udp::Socket>(handle);
        let (answer, from) = socket.recv().expect("an answer");
        assert_eq!((answer, from.endpoint), (&data[..], endpoint(7)));
    }
    // A closed port: smoltcp hands the error to an ICMP socket bound to its UDP port.
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut listener = icmp::Socket::new(buffer(), buffer());
    listener.bind(icmp::Endpoint::Udp(5000.into())).unwrap();
    let errors = lab.sockets.add(listener);
    lab.sockets
        .get_mut::<udp::Socket>(handle)
        .send_slice(b"?", endpoint(9))
        .unwrap();
    lab.run_for(5);
    let (error, _) = lab
        .sockets
        .get_mut::<icmp::Socket>(errors)
        .recv()
        .expect("an error");
    let packet = Icmpv4Packet::new_checked(error).unwrap();
    let parsed = Icmpv4Repr::parse(&packet, &smoltcp::phy::ChecksumCapabilities::default());
    assert!(
        matches!(parsed, Ok(Icmpv4Repr::DstUnreachable { .. })),
        "{parsed:?}"
    );
}
