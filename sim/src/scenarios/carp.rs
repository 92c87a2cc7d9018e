//! Two to five nodes share an address, and everything that can happen to nodes and cables does.
//!
//! The cast: nodes with timers of their own (some equal, so that the tie must be broken), fast ones or slow ones, all
//! preempting or none; a client that pings the address. The plot: power cuts, shutdowns, freezes, clocks that drift and
//! leap, cut cables, one-way cables, a divided LAN, lossy, slow, duplicating and corrupting ones, demotions, planned
//! hand-overs. The end: everything is put right, and there is one master that the client reaches.

use std::net::Ipv4Addr;

use carp::Timing;

use super::{Options, Plan, Scenario};
use crate::act::{Act, Timed};
use crate::client::{Client, Question};
use crate::lan::Cable;
use crate::node::Settings;
use crate::random::Random;
use crate::watch::carp::{CarpWatch, Watched};

/// The story.
pub const SCENARIO: Scenario = Scenario {
    name: "carp",
    summary: "2-5 nodes share an address through power cuts, cuts of the LAN, bad cables, freezes and hand-overs",
    plan,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VHID: u8 = 1;
/// ICMP says no more than 100 times a second and CPU that nobody listens.
const ASK_NS: u64 = 50 * MS;
const CLOSED_PORT: u16 = 9;

fn plan(random: &mut Random, options: &Options) -> Plan {
    let nodes = options
        .nodes
        .unwrap_or_else(|| random.within(2..=5) as usize)
        .clamp(1, 8);
    let cpus = options
        .cpus
        .unwrap_or_else(|| *random.pick(&[1, 1, 2, 2, 4]));
    let fast = random.below(3) != 0;
    let timings = timings(random, nodes, fast);
    let preempt = random.below(4) != 0;
    let ping_ns = (!options.no_client).then(|| {
        options
            .ping_ns
            .unwrap_or(if fast { 10 * MS } else { 100 * MS })
    });
    // Some more ask a closed port, each from an address whose flow may be another CPU's.
    let askers: Vec<u8> = (0..random.within(0..=3))
        .map(|number| (101 + 33 * number + random.below(33)) as u8)
        .collect();
    let clients_ns = ping_ns
        .into_iter()
        .chain(askers.iter().filter(|_| ping_ns.is_some()).map(|_| ASK_NS))
        .collect();
    let watched = Watched {
        address: ADDRESS.octets(),
        vhid: VHID,
        timings,
        preempt,
        clients_ns,
    };
    let settle_ns = CarpWatch::settle_ns(&watched);
    let mut acts = Vec::new();
    let mut at_ns = settle_ns + settle_ns / 2;
    if !options.peaceful {
        for _ in 0..random.within(3..=10) {
            at_ns += random.below(2 * settle_ns);
            misfortune(random, nodes, at_ns, settle_ns, &mut acts);
        }
        at_ns += settle_ns;
        // Whatever was to be put right later is put right now.
        for (other_ns, _) in &mut acts {
            *other_ns = (*other_ns).min(at_ns - 1);
        }
        acts.push((at_ns, Act::Heal));
        acts.sort_by_key(|(at_ns, _)| *at_ns);
    }
    let length_ns = options
        .length_ns
        .unwrap_or(acts.last().map_or(at_ns, |(at_ns, _)| *at_ns) + 2 * settle_ns + SECOND);
    let set_up = move |world: &mut crate::world::World, acts: &[Timed]| {
        for node in 0..nodes {
            let rc = configuration(node, watched.timings[node], preempt);
            world.add_node(Settings::kernel(node, cpus, rc));
        }
        for (number, interval_ns) in watched.clients_ns.iter().enumerate() {
            let (last, question) = match number {
                0 => (100, Question::Ping),
                _ => (askers[number - 1], Question::ClosedPort(CLOSED_PORT)),
            };
            let own = Ipv4Addr::new(192, 0, 2, last);
            let mac = [2, 0, 0, 0, 0, 0xc0 + number as u8];
            world.add_client(Client::new(mac, own, ADDRESS, question), *interval_ns);
        }
        let watch = CarpWatch::new(watched);
        let first_look_ns = watch.pulse_ns();
        world.observe(Box::new(watch), first_look_ns);
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

/// Timers of all nodes: of one family, and sometimes two of them equal.
fn timings(random: &mut Random, nodes: usize, fast: bool) -> Vec<Timing> {
    let (advbase, skews): (u8, &[u8]) = if fast {
        (0, &[2, 4, 6, 8, 12, 16, 24])
    } else {
        (1, &[0, 20, 50, 100, 150, 200, 240])
    };
    let mut timings: Vec<Timing> = Vec::new();
    while timings.len() < nodes {
        let timing = Timing {
            advbase,
            advskew: *random.pick(skews),
        };
        if !timings.contains(&timing) || random.below(4) == 0 {
            timings.push(timing);
        }
    }
    timings
}

fn configuration(node: usize, timing: Timing, preempt: bool) -> String {
    let Timing { advbase, advskew } = timing;
    format!(
        "ifconfig vke0 192.0.2.{}/24 up\n\
         sysctl net.inet.carp.preempt={}\n\
         ifconfig carp0 create\n\
         ifconfig carp0 vhid {VHID} pass secret advbase {advbase} advskew {advskew} {ADDRESS}/24 up\n",
        node + 1,
        u8::from(preempt)
    )
}

/// Something bad, and sometimes the end of it.
fn misfortune(
    random: &mut Random,
    nodes: usize,
    at_ns: u64,
    settle_ns: u64,
    acts: &mut Vec<Timed>,
) {
    let node = random.below(nodes as u64) as usize;
    let later_ns = at_ns + 1 + random.below(2 * settle_ns);
    let undone = random.below(3) != 0;
    let sound = Act::Cable(node, Cable::default());
    let (act, undo) = match random.below(13) {
        0 | 1 => (Act::Crash(node), Act::Boot(node)),
        2 => (Act::PowerButton(node), Act::Boot(node)),
        3 => (Act::Freeze(node), Act::Thaw(node)),
        4 => (
            Act::Drift(node, random.below(2001) as i64 - 1000),
            Act::Drift(node, 0),
        ),
        5 => {
            acts.push((at_ns, Act::Leap(node, random.below(settle_ns))));
            return;
        }
        6 => (
            Act::Cable(
                node,
                Cable {
                    cut_in: true,
                    cut_out: true,
                    ..Cable::default()
                },
            ),
            sound,
        ),
        7 => {
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
                sound,
            )
        }
        8 => (
            Act::Cable(
                node,
                Cable {
                    part: 1,
                    ..Cable::default()
                },
            ),
            sound,
        ),
        9 => {
            let cable = Cable {
                loss_ppm: random.below(400_000) as u32,
                duplicate_ppm: random.below(100_000) as u32,
                corrupt_ppm: random.below(100_000) as u32,
                delay_ns: random.below(20 * MS),
                reorder: random.below(2) == 0,
                ..Cable::default()
            };
            (Act::Cable(node, cable), sound)
        }
        10 => (Act::Type(node, "reboot".to_owned()), Act::Boot(node)),
        11 => {
            let line = |weight: u64| format!("carp demote maintenance {weight}");
            (
                Act::Type(node, line(random.within(1..=240))),
                Act::Type(node, line(0)),
            )
        }
        _ => (
            Act::Type(node, "ifconfig carp0 down".to_owned()),
            Act::Type(node, "ifconfig carp0 up".to_owned()),
        ),
    };
    let must_be_undone = matches!(act, Act::Type(..) | Act::Drift(..));
    acts.push((at_ns, act));
    if undone || must_be_undone {
        acts.push((later_ns, undo));
    }
}
