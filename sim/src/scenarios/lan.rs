//! Neighbours on a LAN that loses, doubles, damages, delays and reorders what they say to each other.
//!
//! The cast: two to four kernels. Each is pinged by a client of its own, with packets of all sizes; the first also sends
//! back every UDP datagram of another client; the rest ping each other at their consoles. The plot: bad cables, cuts,
//! power cuts, freezes. The end: everything is put right, everybody answers everybody, and nothing that arrived was ever
//! anything but what was sent.

use std::net::Ipv4Addr;

use super::{Options, Plan, Scenario};
use crate::act::{Act, Timed};
use crate::client::{Client, Question};
use crate::lan::Cable;
use crate::node::Settings;
use crate::random::Random;
use crate::watch::lan::LanWatch;
use crate::world::World;

/// The story.
pub const SCENARIO: Scenario = Scenario {
    name: "lan",
    summary: "ARP, ping and UDP echo between 2-4 nodes and clients over cables that do everything wrong",
    plan,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// The kernels are up by then, and their consoles read.
const UP_NS: u64 = 20 * MS;
const UDP_PORT: u16 = 7;

fn plan(random: &mut Random, options: &Options) -> Plan {
    let nodes = options
        .nodes
        .unwrap_or_else(|| random.within(2..=4) as usize)
        .clamp(1, 8);
    let cpus = options
        .cpus
        .unwrap_or_else(|| random.within(1..=4) as usize);
    let interval_ns = options
        .ping_ns
        .unwrap_or_else(|| random.within(5..=40) * MS);
    let mut acts = vec![(UP_NS, Act::Type(0, format!("udpecho {UDP_PORT}")))];
    let mut at_ns = 100 * MS;
    if !options.peaceful {
        for _ in 0..random.within(2..=8) {
            at_ns += random.below(300 * MS);
            misfortune(random, nodes, at_ns, &mut acts);
        }
    }
    acts.push((at_ns + 300 * MS, Act::Heal));
    for (other_ns, act) in &mut acts {
        if *act != Act::Heal {
            *other_ns = (*other_ns).min(at_ns + 300 * MS - 1);
        }
    }
    // Answers are due again when every question that was lost has been asked again.
    let pings_ns = at_ns + 300 * MS + LanWatch::RECOVERY_NS;
    for node in 1..nodes {
        let other = random.below(nodes as u64) as usize;
        let line = format!(
            "ping -q -c 5 -i 0.01 -s {} {}",
            random.below(1473),
            address(other)
        );
        acts.push((pings_ns, Act::Type(node, line)));
    }
    acts.sort_by_key(|(at_ns, _)| *at_ns);
    let length_ns = options.length_ns.unwrap_or(pings_ns + SECOND);
    let set_up = move |world: &mut World, acts: &[Timed]| {
        for node in 0..nodes {
            let rc = format!("ifconfig vke0 {}/24 up\n", address(node));
            world.add_node(Settings::kernel(node, cpus, rc));
        }
        for number in 0..=nodes {
            // The last one asks by UDP.
            let (target, question) = if number < nodes {
                (number, Question::PingAllSizes)
            } else {
                (0, Question::Udp(UDP_PORT))
            };
            let own = Ipv4Addr::new(192, 0, 2, 100 + number as u8);
            let client = Client::new(
                [2, 0, 0, 0, 2, number as u8 + 1],
                own,
                address(target),
                question,
            );
            world.add_client(client, interval_ns);
        }
        let watch = LanWatch::new(nodes, interval_ns);
        world.observe(Box::new(watch), interval_ns);
        world.begin(acts)
    };
    Plan {
        nodes,
        cpus,
        acts,
        length_ns,
        set_up: Box::new(set_up),
    }
}

fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node as u8 + 1)
}

fn misfortune(random: &mut Random, nodes: usize, at_ns: u64, acts: &mut Vec<Timed>) {
    let node = random.below(nodes as u64) as usize;
    let later_ns = at_ns + 1 + random.below(400 * MS);
    let (act, undo) = match random.below(6) {
        // The first would have to be told again to send datagrams back.
        0 if node != 0 => (Act::Crash(node), Act::Boot(node)),
        1 => (Act::Freeze(node), Act::Thaw(node)),
        2 => {
            let inwards = random.below(2) == 0;
            (
                Act::Cable(
                    node,
                    Cable {
                        cut_in: inwards,
                        cut_out: !inwards,
                        ..Cable::default()
                    },
                ),
                Act::Cable(node, Cable::default()),
            )
        }
        3 => {
            let other = random.below(nodes as u64) as usize;
            let line = format!(
                "ping -q -c 20 -i 0.01 -W 0.1 -s {} {}",
                random.below(1473),
                address(other)
            );
            // The first one's console is busy with sending datagrams back.
            acts.push((at_ns, Act::Type(node.max(1).min(nodes - 1), line)));
            return;
        }
        _ => {
            let cable = Cable {
                loss_ppm: random.below(500_000) as u32,
                duplicate_ppm: random.below(300_000) as u32,
                corrupt_ppm: random.below(300_000) as u32,
                delay_ns: random.below(30 * MS),
                reorder: random.below(2) == 0,
                ..Cable::default()
            };
            (Act::Cable(node, cable), Act::Cable(node, Cable::default()))
        }
    };
    acts.push((at_ns, act));
    if random.below(2) == 0 {
        acts.push((later_ns, undo));
    }
}
