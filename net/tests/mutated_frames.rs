//! A million damaged frames through the whole input path: nothing panics, every frame is counted
//! exactly once, and nothing they say changes the configuration.
//!
//! Each frame is a well-formed one with a few bytes changed, cut, extended, or with its checksums
//! corrected after the change so that it gets past them and into the deeper checks.

mod support;

use net::{BindingKind, DropReason, Event, MacAddress, virtual_mac};
use support::*;

const FRAMES: usize = 1_000_000;

/// What a node on this segment may hear, all well-formed.
fn seeds() -> Vec<Vec<u8>> {
    let mut node = Node::new(1, 2, "192.0.2.2/24");
    node.add_virtual(9, "192.0.2.20/24", true);
    let echo = node.bind(BindingKind::Echo, 0, "0.0.0.0", 1);
    let udp = node.bind(BindingKind::Udp, 0, "0.0.0.0", 7);
    // Two ARP packets: the request for the victim and an announcement.
    node.echo(echo, 0, "192.0.2.1", 1);
    node.stacks[0].announce(0, ETHERNET, 9).unwrap();
    node.run();
    // The victim's answer lets the echo request out.
    let mut victim = Node::new(1, 1, "192.0.2.1/24");
    victim.receive(&node.sent[0].clone());
    let reply = victim.sent.pop_front().unwrap();
    node.receive(&reply);
    node.udp(udp, 0, "192.0.2.1:7", b"datagram");
    node.udp(udp, 0, "192.0.2.1:9", b"to a closed port");
    node.udp(udp, 0, "192.0.2.255:7", b"broadcast");
    node.udp(udp, 0, "224.0.0.18:7", b"group");
    let raw = net::RawIpv4 {
        protocol: 112,
        ttl: 255,
        tos: 0,
        dont_fragment: true,
        source: ip("192.0.2.2"),
        destination: ip("224.0.0.18"),
        payload: &[0x21; 36],
    };
    node.stacks[0]
        .send_from_virtual(0, ETHERNET, 9, &raw)
        .unwrap();
    node.run();
    let mut frames: Vec<Vec<u8>> = node.sent.drain(..).collect();
    let request = frames
        .iter()
        .find(|frame| frame[12..14] == [8, 0])
        .unwrap()
        .clone();
    // An echo reply to the victim's own ping, a TCP segment, options, an ICMP error.
    for (offset, bytes) in [(34, &[0u8, 0][..]), (23, &[6][..]), (34, &[3, 3][..])] {
        let mut frame = request.clone();
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        frames.push(frame);
    }
    let mut options = request.clone();
    options[14] = 0x47;
    options.splice(34..34, [7, 7, 4, 0, 0, 0, 0, 1]);
    let length = (options.len() - 14) as u16;
    options[16..18].copy_from_slice(&length.to_be_bytes());
    let mut routed = options.clone();
    routed[34] = 131;
    frames.extend([options, routed]);
    // An ARP question for the address the victim is backup for, and an answer nobody asked for.
    let mut question = frames[0].clone();
    question[38..42].copy_from_slice(&[192, 0, 2, 10]);
    question[28..32].copy_from_slice(&[192, 0, 2, 77]);
    let mut answer = frames[0].clone();
    answer[21] = 2;
    answer[28..32].copy_from_slice(&[192, 0, 2, 78]);
    answer[38..42].copy_from_slice(&[192, 0, 2, 77]);
    frames.extend([question, answer]);
    let mut to_virtual = request;
    to_virtual[..6].copy_from_slice(&virtual_mac(7).0);
    to_virtual[30..34].copy_from_slice(&[192, 0, 2, 10]);
    frames.push(to_virtual);
    frames.iter_mut().for_each(|frame| fix_checksums(frame));
    frames
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes the checksums of an IPv4 frame right, as far as its lengths make sense.
fn fix_checksums(frame: &mut [u8]) {
    if frame.len() < 34 || frame[12..14] != [8, 0] {
        return;
    }
    let header = usize::from(frame[14] & 15) * 4;
    if header < 20 || 14 + header > frame.len() {
        return;
    }
    frame[24..26].fill(0);
    let checksum = sum(&frame[14..14 + header], 0).to_be_bytes();
    frame[24..26].copy_from_slice(&checksum);
    let end = frame
        .len()
        .min(14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])));
    let start = 14 + header;
    if end < start + 8 {
        return;
    }
    let (offset, pseudo) = match frame[23] {
        1 => (2, 0),
        17 => {
            let length = u32::from(u16::from_be_bytes([frame[start + 4], frame[start + 5]]));
            let addresses: u32 = frame[26..34]
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
                .sum();
            (6, addresses + 17 + length)
        }
        _ => return,
    };
    frame[start + offset..start + offset + 2].fill(0);
    let checksum = sum(&frame[start..end], pseudo).to_be_bytes();
    frame[start + offset..start + offset + 2].copy_from_slice(&checksum);
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let at = random.below(frame.len().max(1));
        match random.below(8) {
            0 => frame.truncate(at),
            1 => frame.resize(frame.len() + random.below(64), random.next() as u8),
            2 => frame.resize(1400 + random.below(200), 0),
            3..=4 if at < frame.len() => frame[at] ^= 1 << random.below(8),
            5..=6 if at < frame.len() => frame[at] = random.next() as u8,
            // The headers are where the interesting bytes are.
            _ if frame.len() > 42 => frame[12 + random.below(30)] = random.next() as u8,
            _ => {}
        }
    }
    if random.below(2) == 0 {
        fix_checksums(frame);
    }
}

#[test]
fn a_million_mutated_frames_are_counted_once_each() {
    let seeds = seeds();
    let mut node = Node::new(4, 1, "192.0.2.1/24");
    node.add_virtual(7, "192.0.2.10/24", false);
    node.add_virtual(8, "192.0.2.11/24", true);
    let socket = node.bind(BindingKind::Udp, 2, "0.0.0.0", 7);
    let echo = node.bind(BindingKind::Echo, 3, "0.0.0.0", 1);
    let configuration = format!("{:?}", node.stacks[3].tables());
    let own_macs = [node.mac, virtual_mac(8)];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut frame = Vec::new();
    for round in 0..FRAMES {
        frame.clone_from(&seeds[random.below(seeds.len())]);
        mutate(&mut random, &mut frame);
        node.receive_on(random.below(4), &frame);
        if round % 1024 == 0 {
            node.advance(round as u64 * MILLISECOND_NS);
            while node.stacks[2].receive(socket).is_some() {}
            while node.stacks[3].receive(echo).is_some() {}
        }
        for sent in node.sent.drain(..) {
            let source = MacAddress(sent[6..12].try_into().unwrap());
            assert!(own_macs.contains(&source), "a backup spoke: {source}");
        }
        node.events.clear();
        node.raw.clear();
        node.posts.clear();
    }
    let snapshot = node.snapshot();
    let input_drops: u64 = DropReason::ALL
        .iter()
        .filter(|reason| !reason.is_output())
        .map(|&reason| snapshot.drops(reason))
        .sum();
    assert_eq!(snapshot.events(Event::FrameReceived), FRAMES as u64);
    assert_eq!(
        snapshot.events(Event::FrameConsumed) + input_drops,
        FRAMES as u64,
        "{snapshot}"
    );
    assert_eq!(format!("{:?}", node.stacks[3].tables()), configuration);
    // The mutations reach every check that a frame can fail.
    let unreached: Vec<DropReason> = DropReason::ALL
        .iter()
        .copied()
        .filter(|reason| !reason.is_output() && snapshot.drops(*reason) == 0)
        .collect();
    let elsewhere = [
        DropReason::FrameQueueFull,
        DropReason::NoMemory,
        DropReason::FrameInterfaceDown,
        DropReason::SocketNoMemory,
        DropReason::SocketClosed,
    ];
    assert_eq!(unreached, elsewhere, "{snapshot}");
}
