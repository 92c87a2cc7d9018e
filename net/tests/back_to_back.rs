//! Two and three nodes of several CPUs on one segment, at virtual time: ARP, ping, UDP, loss.

mod support;

use net::{BindingKind, Change, DatagramKind, DropReason, Event, SocketId};
use support::*;

fn pair(cpus: u16, seed: u64, loss: usize) -> Segment {
    let nodes = vec![
        Node::new(cpus, 1, "192.0.2.1/24"),
        Node::new(cpus, 2, "192.0.2.2/24"),
    ];
    Segment::new(nodes, seed, loss)
}

/// Sends `count` pings from node 0, CPU `cpu`, 10 ms apart; returns how many were answered.
fn ping(segment: &mut Segment, socket: SocketId, cpu: usize, to: &str, count: u16) -> usize {
    let mut answers = 0;
    for sequence in 0..count {
        segment.nodes[0].echo(socket, cpu, to, sequence);
        segment.run_for(10);
        while let Some(reply) = segment.nodes[0].stacks[cpu].receive(socket) {
            assert_eq!(reply.kind, DatagramKind::EchoReply { sequence });
            assert_eq!(reply.payload(), [0x5a; 56]);
            answers += 1;
        }
    }
    answers
}

#[test]
fn ping_from_every_cpu_costs_one_arp_request() {
    let mut segment = pair(4, 7, 0);
    for cpu in 0..4 {
        let socket = segment.nodes[0].bind(BindingKind::Echo, cpu, "0.0.0.0", 100 + cpu);
        assert_eq!(
            ping(&mut segment, socket, usize::from(cpu), "192.0.2.2", 5),
            5
        );
    }
    let here = segment.nodes[0].snapshot();
    assert_eq!(here.events(Event::ArpRequestSent), 1);
    assert_eq!(here.events(Event::IcmpEchoReplyReceived), 20);
    assert_eq!(
        segment.nodes[1].snapshot().events(Event::ArpRequestSent),
        0,
        "learned from ours"
    );
    assert_eq!(here.dropped_total(), 0, "{here}");
    assert_eq!(segment.nodes[1].snapshot().dropped_total(), 0);
}

#[test]
fn ping_to_ourselves_uses_no_wire() {
    let mut segment = pair(4, 7, 0);
    let socket = segment.nodes[0].bind(BindingKind::Echo, 2, "0.0.0.0", 9);
    assert_eq!(ping(&mut segment, socket, 2, "127.0.0.1", 3), 3);
    assert_eq!(ping(&mut segment, socket, 2, "192.0.2.1", 3), 3);
    let snapshot = segment.nodes[0].snapshot();
    let announced = snapshot.events(Event::ArpAnnouncementSent);
    assert_eq!(
        (snapshot.events(Event::FrameSent), snapshot.dropped_total()),
        (announced, 0)
    );
    assert_eq!(
        snapshot.events(Event::FrameReceived),
        snapshot.events(Event::FrameConsumed)
    );
}

/// The golden table: answered pings out of 200 by loss (per frame, out of 1000), fixed seed. The
/// first ping resolves the addresses before the loss begins.
#[test]
fn ping_under_loss_golden_table() {
    let table = [0, 10, 50, 200, 500].map(|loss| {
        let mut segment = pair(4, 42, 0);
        let socket = segment.nodes[0].bind(BindingKind::Echo, 1, "0.0.0.0", 77);
        assert_eq!(ping(&mut segment, socket, 1, "192.0.2.2", 1), 1);
        segment.loss = loss;
        let answers = ping(&mut segment, socket, 1, "192.0.2.2", 200);
        let expected = 200.0 * (1.0 - loss as f64 / 1000.0).powi(2);
        assert!(
            (answers as f64 - expected).abs() <= 40.0,
            "loss {loss}: {answers}"
        );
        answers
    });
    assert_eq!(table, GOLDEN);
}

const GOLDEN: [usize; 5] = [200, 195, 185, 120, 52];

/// Half of all frames are lost, ARP's too: whatever was asked is answered or counted in the end.
#[test]
fn lost_arp_is_repeated_and_held_packets_are_sent_or_counted() {
    for seed in 1..40 {
        let mut segment = pair(3, seed, 500);
        let socket = segment.nodes[0].bind(BindingKind::Echo, 2, "0.0.0.0", 77);
        for sequence in 0..5 {
            segment.nodes[0].echo(socket, 2, "192.0.2.2", sequence);
        }
        segment.run_for(7_000);
        let snapshot = segment.nodes[0].snapshot();
        let sent = snapshot.events(Event::FrameSent)
            - snapshot.events(Event::ArpRequestSent)
            - snapshot.events(Event::ArpAnnouncementSent);
        assert_eq!(
            sent + snapshot.drops(DropReason::ArpTimeout),
            5,
            "seed {seed}: {snapshot}"
        );
        assert_eq!(segment.nodes[0].next_deadline_ns(), None);
    }
}

#[test]
fn a_neighbor_that_does_not_answer_is_asked_ten_times() {
    let mut segment = pair(2, 1, 0);
    let socket = segment.nodes[0].bind(BindingKind::Echo, 1, "0.0.0.0", 77);
    for sequence in 0..10 {
        segment.nodes[0].echo(socket, 1, "192.0.2.99", sequence);
    }
    segment.run_for(10_000);
    let snapshot = segment.nodes[0].snapshot();
    assert_eq!(snapshot.events(Event::ArpRequestSent), 10);
    assert_eq!(snapshot.drops(DropReason::ArpQueueFull), 2);
    assert_eq!(snapshot.drops(DropReason::ArpTimeout), 8);
    assert_eq!(
        segment.nodes[0].next_deadline_ns(),
        None,
        "nothing ticks when nothing is due"
    );
}

#[test]
fn udp_echo_reaches_the_sockets_own_cpu() {
    let mut segment = pair(4, 3, 0);
    let client = segment.nodes[0].bind(BindingKind::Udp, 3, "0.0.0.0", 40000);
    let server = segment.nodes[1].bind(BindingKind::Udp, 1, "0.0.0.0", 7);
    for round in 0..50u8 {
        segment.nodes[0].udp(client, 3, "192.0.2.2:7", &[round; 100]);
        segment.run_for(5);
        let Some(request) = segment.nodes[1].stacks[1].receive(server) else {
            panic!("round {round} lost")
        };
        assert_eq!(request.remote.to_string(), "192.0.2.1:40000");
        assert_eq!(request.local.to_string(), "192.0.2.2:7");
        let back = request.remote.to_string();
        segment.nodes[1].udp(server, 1, &back, request.payload());
        segment.run_for(5);
        let reply = segment.nodes[0].stacks[3].receive(client).unwrap();
        assert_eq!(reply.payload(), [round; 100]);
    }
    // The flow's CPU is that of the address hash, on both nodes and for both directions.
    let cpu = net::hash::Flow::Addresses {
        source: ip("192.0.2.1"),
        destination: ip("192.0.2.2"),
    }
    .cpu(4);
    for node in &segment.nodes {
        for (index, stack) in node.stacks.iter().enumerate() {
            let received = stack.counters().events(Event::UdpReceived);
            assert_eq!(received, if index == usize::from(cpu) { 50 } else { 0 });
        }
    }
}

#[test]
fn a_closed_port_is_reported_and_the_reports_are_limited() {
    let mut segment = pair(2, 3, 0);
    let client = segment.nodes[0].bind(BindingKind::Udp, 0, "0.0.0.0", 40000);
    for _ in 0..150 {
        segment.nodes[0].udp(client, 0, "192.0.2.2:9", b"?");
        segment.run_for(2);
    }
    let there = segment.nodes[1].snapshot();
    assert_eq!(there.drops(DropReason::UdpNoPort), 150);
    assert_eq!(there.events(Event::IcmpUnreachableSent), 100);
    assert_eq!(there.drops(DropReason::IcmpRateLimited), 50);
    segment.run_for(1000);
    segment.nodes[0].udp(client, 0, "192.0.2.2:9", b"?");
    segment.run_for(2);
    assert_eq!(
        segment.nodes[1]
            .snapshot()
            .events(Event::IcmpUnreachableSent),
        101
    );
    assert_eq!(
        segment.nodes[0].snapshot().events(Event::IcmpErrorReceived),
        101
    );
}

#[test]
fn a_full_socket_loses_the_newest() {
    let mut segment = pair(1, 3, 0);
    let client = segment.nodes[0].bind(BindingKind::Udp, 0, "0.0.0.0", 40000);
    let server = segment.nodes[1].bind(BindingKind::Udp, 0, "0.0.0.0", 7);
    for round in 0..70u8 {
        segment.nodes[0].udp(client, 0, "192.0.2.2:7", &[round]);
        segment.run_for(2);
    }
    let limit = net::config::SOCKET_DATAGRAMS;
    assert_eq!(
        segment.nodes[1].drops(DropReason::SocketFull),
        70 - limit as u64
    );
    let first = segment.nodes[1].stacks[0].receive(server).unwrap();
    assert_eq!(first.payload(), [0]);
}

#[test]
fn gateway_and_broadcast() {
    let mut segment = pair(2, 3, 0);
    let route = net::Route {
        destination: net::Ipv4Prefix::DEFAULT,
        gateway: ip("192.0.2.2"),
    };
    segment.nodes[0].apply(Change::AddRoute(route));
    let client = segment.nodes[0].bind(BindingKind::Udp, 0, "0.0.0.0", 40000);
    let server = segment.nodes[1].bind(BindingKind::Udp, 0, "0.0.0.0", 7);
    segment.nodes[0].udp(client, 0, "203.0.113.9:7", b"far");
    segment.run_for(5);
    assert_eq!(
        segment.nodes[1].drops(DropReason::IpNotForUs),
        1,
        "hosts do not forward"
    );
    for (round, to) in ["192.0.2.255:7", "255.255.255.255:7"]
        .into_iter()
        .enumerate()
    {
        segment.nodes[0].udp(client, 0, to, &[round as u8]);
        segment.run_for(5);
        let heard = segment.nodes[1].stacks[0].receive(server).unwrap();
        assert_eq!(heard.payload(), [round as u8]);
    }
    // Nobody listens on port 8: a broadcast gets no unreachable.
    segment.nodes[0].udp(client, 0, "192.0.2.255:8", b"?");
    segment.run_for(5);
    assert_eq!(segment.nodes[1].drops(DropReason::UdpNoPortGroup), 1);
    assert_eq!(
        segment.nodes[1]
            .snapshot()
            .events(Event::IcmpUnreachableSent),
        0
    );
}

#[test]
fn too_long_and_unroutable_are_refused_with_their_reason() {
    let mut segment = pair(1, 3, 0);
    let client = segment.nodes[0].bind(BindingKind::Udp, 0, "0.0.0.0", 40000);
    let stack = &mut segment.nodes[0].stacks[0];
    let near = "192.0.2.2:7".parse().unwrap();
    let far = "203.0.113.1:7".parse().unwrap();
    assert_eq!(
        stack.udp_send(0, client, None, near, &[0; 1473]),
        Err(DropReason::MessageTooLong)
    );
    assert_eq!(stack.udp_send(0, client, None, near, &[0; 1472]), Ok(()));
    assert_eq!(
        stack.udp_send(0, client, None, near, &[0; 66000]),
        Err(DropReason::MessageTooLong)
    );
    assert_eq!(
        stack.udp_send(0, client, None, far, b"x"),
        Err(DropReason::NoRoute)
    );
    let foreign = Some(ip("192.0.2.50"));
    assert_eq!(
        stack.udp_send(0, client, foreign, near, b"x"),
        Err(DropReason::SourceNotOurs)
    );
    assert_eq!(stack.counters().dropped_total(), 4);
}
