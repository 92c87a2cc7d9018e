//! Frames from a hostile segment, through the whole input path of a node of four CPUs.
//!
//! The input is a list of records: one byte whose low bits name the receiving CPU and whose top bit lets a second
//! pass, two bytes of length, then the frame. Under `cfg(fuzzing)` the wire views take every checksum
//! for right, so the fuzzer gets to the checks behind them. What must hold: no panic, every frame counted exactly
//! once, and nothing sent from the virtual MAC address that this node is backup for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use net::{
    Action, Binding, BindingKind, Change, CpuStack, DropReason, Event, InterfaceIndex, MacAddress,
    Packet, Snapshot, SocketId, VirtualAddress, virtual_mac,
};

const CPUS: u16 = 4;
const ETHERNET: InterfaceIndex = InterfaceIndex(1);
const SECOND_NS: u64 = 1_000_000_000;

fuzz_target!(|data: &[u8]| run(data));

fn changes() -> Vec<Change> {
    let interface = ETHERNET;
    let virtual_address = |vhid, address: &str, master| {
        Change::SetVirtual(VirtualAddress {
            interface,
            address: address.parse().expect("a prefix"),
            vhid,
            mac: virtual_mac(vhid),
            master,
        })
    };
    let bind = |socket, kind, port, owner| {
        let address = std::net::Ipv4Addr::UNSPECIFIED;
        Change::Bind(Binding {
            socket: SocketId(socket),
            kind,
            address,
            port,
            owner,
        })
    };
    vec![
        Change::Attach {
            name: "vtnet0".into(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            mtu_bytes: 1500,
            link: true,
        },
        Change::SetUp {
            interface,
            up: true,
        },
        Change::AddAddress {
            interface,
            address: "192.0.2.1/24".parse().expect("a prefix"),
        },
        Change::JoinGroup {
            interface,
            group: "224.0.0.18".parse().expect("an address"),
        },
        virtual_address(7, "192.0.2.10/24", false),
        virtual_address(8, "192.0.2.11/24", true),
        bind(1, BindingKind::Udp, 7, 2),
        bind(2, BindingKind::Echo, 1, 3),
    ]
}

/// Carries out all actions; what is sent must not come from the backup's address.
fn settle(stacks: &mut [CpuStack], now_ns: u64) {
    let mut idle = false;
    while !idle {
        idle = true;
        for cpu in 0..stacks.len() {
            while let Some(action) = stacks[cpu].take_action() {
                idle = false;
                match action {
                    Action::Transmit { packet, .. } => {
                        assert_ne!(packet[6..12], virtual_mac(7).0, "a backup spoke");
                    }
                    Action::Post { cpu, message } => {
                        stacks[usize::from(cpu)].message(now_ns, message);
                    }
                    Action::Protocol(_) | Action::Event(_) => {}
                }
            }
        }
    }
}

fn run(mut data: &[u8]) {
    let mut stacks: Vec<CpuStack> = (0..CPUS).map(|cpu| CpuStack::new(cpu, CPUS, 1)).collect();
    stacks[0].register_protocol(112);
    for change in changes() {
        for stack in &mut stacks {
            stack.apply(0, &change).expect("a change that is right");
        }
    }
    settle(&mut stacks, 0);
    let (mut now_ns, mut frames) = (0, 0);
    while let [control, high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (frame, next) = rest.split_at(length);
        data = next;
        if control & 0x80 != 0 {
            now_ns += SECOND_NS;
            stacks.iter_mut().for_each(|stack| stack.poll(now_ns));
        }
        let packet = Packet::copy_from(0, frame).expect("memory");
        stacks[usize::from(control & 3)].input(now_ns, ETHERNET, packet);
        frames += 1;
        settle(&mut stacks, now_ns);
    }
    let mut snapshot = Snapshot::default();
    stacks
        .iter()
        .for_each(|stack| snapshot.add(stack.counters()));
    let input_drops: u64 = DropReason::ALL
        .iter()
        .filter(|reason| !reason.is_output())
        .map(|&reason| snapshot.drops(reason))
        .sum();
    assert_eq!(snapshot.events(Event::FrameReceived), frames);
    assert_eq!(
        snapshot.events(Event::FrameConsumed) + input_drops,
        frames,
        "{snapshot}"
    );
}
