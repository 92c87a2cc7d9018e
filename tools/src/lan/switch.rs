//! The switch's decisions: learn, look up, flood, and the faults a test wants.
//!
//! A [`Port`] is where a cable goes; its [`Link`] is the state of the cable. Learning follows the
//! newest frame: when a virtual MAC moves from one port to another, the first frame from there
//! moves the entry, as in real switches. IEEE 802.1D is the model, without the spanning tree.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Addresses remembered at most; beyond that new ones are flooded instead (real switches do so).
const TABLE_LIMIT: usize = 4096;
/// Two addresses and a type: nothing shorter is an Ethernet frame.
const HEADER_LEN: usize = 14;

/// A port's number, in the order of their creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub usize);

/// The state of the cable at a port. Faults hold in both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Nothing passes.
    pub cut: bool,
    /// Frames lost, of a million.
    pub loss_ppm: u32,
    /// Time a frame spends on this cable.
    pub delay: Duration,
    /// The part of the LAN this port is in: frames stay within one part.
    pub part: u8,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            cut: false,
            loss_ppm: 0,
            delay: Duration::ZERO,
            part: 0,
        }
    }
}

/// What a port has seen. Frames are counted where they enter (`received`) and leave (`sent`);
/// every drop has its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came in from the cable.
    pub received: u64,
    /// Frames handed to the cable.
    pub sent: u64,
    /// Frames flooded because the destination was unknown, multicast or broadcast.
    pub flooded: u64,
    /// Times a known address moved to this port.
    pub moves: u64,
    /// Dropped: the link was cut.
    pub dropped_cut: u64,
    /// Dropped: loss was asked for.
    pub dropped_loss: u64,
    /// Dropped: the destination is on the port the frame came from.
    pub dropped_filtered: u64,
    /// Dropped: shorter than an Ethernet header.
    pub dropped_runt: u64,
    /// Dropped: the receiver did not keep up.
    pub dropped_full: u64,
    /// Dropped: nothing is connected there.
    pub dropped_unplugged: u64,
    /// Connections closed because their framing made no sense.
    pub bad_framing: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "received {} sent {} flooded {}",
            self.received, self.sent, self.flooded
        )?;
        for (reason, count) in [
            ("moves", self.moves),
            ("cut", self.dropped_cut),
            ("loss", self.dropped_loss),
            ("filtered", self.dropped_filtered),
            ("runt", self.dropped_runt),
            ("full", self.dropped_full),
            ("unplugged", self.dropped_unplugged),
            ("bad-framing", self.bad_framing),
        ] {
            if count > 0 {
                write!(f, " {reason} {count}")?;
            }
        }
        Ok(())
    }
}

struct PortState {
    name: String,
    link: Link,
    counters: Counters,
}

/// The switch itself.
pub struct Switch {
    ports: Vec<PortState>,
    /// By part, as the parts of a divided LAN are switches of their own: two masters with one virtual
    /// MAC, one in each, must not move each other's entry.
    table: HashMap<(u8, [u8; 6]), Port>,
    random: u64,
}

impl Switch {
    /// A switch without ports. The same `seed` loses the same frames.
    pub fn new(seed: u64) -> Switch {
        Switch {
            ports: Vec::new(),
            table: HashMap::new(),
            random: seed | 1,
        }
    }

    /// Adds a port.
    pub fn add_port(&mut self, name: &str) -> Port {
        let (link, counters) = (Link::default(), Counters::default());
        self.ports.push(PortState {
            name: name.to_owned(),
            link,
            counters,
        });
        Port(self.ports.len() - 1)
    }

    /// How many ports there are.
    pub fn port_count(&self) -> usize {
        self.ports.len()
    }

    /// The port of that name.
    pub fn find(&self, name: &str) -> Option<Port> {
        self.ports
            .iter()
            .position(|port| port.name == name)
            .map(Port)
    }

    /// A port's name.
    pub fn name(&self, port: Port) -> &str {
        &self.ports[port.0].name
    }

    /// A port's counters, which the byte mover adds to as well.
    pub fn counters(&mut self, port: Port) -> &mut Counters {
        &mut self.ports[port.0].counters
    }

    /// The state of a port's cable.
    pub fn link(&self, port: Port) -> &Link {
        &self.ports[port.0].link
    }

    /// Changes the cable. A port that is cut or moves to another part is forgotten, as a switch
    /// that loses carrier does; so that no frame follows a stale entry into the cut.
    pub fn set_link(&mut self, port: Port, link: Link) {
        let old = std::mem::replace(&mut self.ports[port.0].link, link);
        let new = &self.ports[port.0].link;
        if old.part != new.part {
            self.table.clear();
        } else if new.cut {
            self.forget(port);
        }
    }

    /// Forgets the addresses learned on a port: its cable came out.
    pub fn forget(&mut self, port: Port) {
        self.table.retain(|_, at| *at != port);
    }

    /// Where an address was last seen in a part of the LAN.
    pub fn locate(&self, part: u8, mac: [u8; 6]) -> Option<Port> {
        self.table.get(&(part, mac)).copied()
    }

    /// Takes a frame in from `from` and calls `deliver` with each port it leaves by and the time
    /// it spends on the way.
    pub fn forward(&mut self, from: Port, frame: &[u8], mut deliver: impl FnMut(Port, Duration)) {
        self.counters(from).received += 1;
        let Some((header, _)) = frame.split_first_chunk::<HEADER_LEN>() else {
            self.counters(from).dropped_runt += 1;
            return;
        };
        if !self.passes(from) {
            return;
        }
        let [destination, source] = [0, 6].map(|at| {
            let mut mac = [0; 6];
            mac.copy_from_slice(&header[at..at + 6]);
            mac
        });
        let (part, delay) = (self.link(from).part, self.link(from).delay);
        self.learn((part, source), from);

        let known = if is_group(&destination) {
            None
        } else {
            self.locate(part, destination)
        };
        match known {
            Some(to) if to == from => {
                self.counters(from).dropped_filtered += 1;
            }
            Some(to) => {
                if self.passes(to) {
                    deliver(to, delay + self.link(to).delay);
                }
            }
            None => {
                self.counters(from).flooded += 1;
                for to in (0..self.ports.len()).map(Port) {
                    if to != from && self.link(to).part == part && self.passes(to) {
                        deliver(to, delay + self.link(to).delay);
                    }
                }
            }
        }
    }

    /// Whether the cable at `port` lets one frame through.
    fn passes(&mut self, port: Port) -> bool {
        let link = self.link(port);
        if link.cut {
            self.counters(port).dropped_cut += 1;
            return false;
        }
        let loss = link.loss_ppm;
        if loss > 0 && self.next_random() % 1_000_000 < u64::from(loss) {
            self.counters(port).dropped_loss += 1;
            return false;
        }
        true
    }

    fn learn(&mut self, source: (u8, [u8; 6]), from: Port) {
        if is_group(&source.1) {
            return;
        }
        let full = self.table.len() >= TABLE_LIMIT;
        match self.table.get_mut(&source) {
            Some(at) if *at != from => {
                *at = from;
                self.counters(from).moves += 1;
            }
            None if !full => {
                self.table.insert(source, from);
            }
            Some(_) | None => {}
        }
    }

    /// Marsaglia's xorshift64: losses need no better randomness, but must repeat.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Multicast or broadcast.
fn is_group(mac: &[u8; 6]) -> bool {
    mac[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROADCAST: [u8; 6] = [0xff; 6];

    fn frame(destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
        [&destination[..], &source, &[8, 0], b"payload"].concat()
    }

    fn mac(last: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, last]
    }

    fn three_ports() -> (Switch, Port, Port, Port) {
        let mut switch = Switch::new(1);
        let [a, b, c] = ["a", "b", "c"].map(|name| switch.add_port(name));
        (switch, a, b, c)
    }

    fn outputs(switch: &mut Switch, from: Port, frame: &[u8]) -> Vec<Port> {
        let mut ports = Vec::new();
        switch.forward(from, frame, |port, _| ports.push(port));
        ports
    }

    #[test]
    fn unknown_is_flooded_and_known_goes_to_one_port() {
        let (mut switch, a, b, c) = three_ports();
        assert_eq!(outputs(&mut switch, a, &frame(mac(2), mac(1))), [b, c]);
        assert_eq!(outputs(&mut switch, b, &frame(mac(1), mac(2))), [a]);
        assert_eq!(outputs(&mut switch, a, &frame(BROADCAST, mac(1))), [b, c]);
        assert_eq!(switch.counters(a).flooded, 2);
    }

    #[test]
    fn a_virtual_mac_follows_its_newest_frame() {
        let (mut switch, a, b, c) = three_ports();
        outputs(&mut switch, a, &frame(BROADCAST, mac(9)));
        assert_eq!(outputs(&mut switch, c, &frame(mac(9), mac(3))), [a]);
        outputs(&mut switch, b, &frame(BROADCAST, mac(9)));
        assert_eq!(outputs(&mut switch, c, &frame(mac(9), mac(3))), [b]);
        assert_eq!(switch.counters(b).moves, 1);
    }

    #[test]
    fn a_cut_port_neither_sends_nor_receives_and_is_forgotten() {
        let (mut switch, a, b, c) = three_ports();
        outputs(&mut switch, b, &frame(BROADCAST, mac(2)));
        switch.set_link(
            b,
            Link {
                cut: true,
                ..Link::default()
            },
        );
        assert_eq!(switch.locate(0, mac(2)), None);
        assert_eq!(outputs(&mut switch, a, &frame(mac(2), mac(1))), [c]);
        assert_eq!(outputs(&mut switch, b, &frame(BROADCAST, mac(2))), []);
        assert_eq!(switch.counters(b).dropped_cut, 2);
    }

    #[test]
    fn parts_of_a_divided_lan_do_not_hear_each_other() {
        let (mut switch, a, b, c) = three_ports();
        outputs(&mut switch, a, &frame(BROADCAST, mac(1)));
        switch.set_link(
            a,
            Link {
                part: 1,
                ..Link::default()
            },
        );
        assert_eq!(outputs(&mut switch, a, &frame(BROADCAST, mac(1))), []);
        assert_eq!(outputs(&mut switch, b, &frame(BROADCAST, mac(2))), [c]);
        assert_eq!(outputs(&mut switch, b, &frame(mac(1), mac(2))), [c]);
        // Two masters speak from one address, one in each part: neither takes the other's clients.
        outputs(&mut switch, b, &frame(BROADCAST, mac(9)));
        outputs(&mut switch, a, &frame(BROADCAST, mac(9)));
        assert_eq!(outputs(&mut switch, c, &frame(mac(9), mac(3))), [b]);
        switch.set_link(a, Link::default());
        assert_eq!(outputs(&mut switch, b, &frame(mac(1), mac(2))), [a, c]);
    }

    #[test]
    fn loss_repeats_with_its_seed_and_delay_adds_up() {
        let lost = |seed| {
            let mut switch = Switch::new(seed);
            let (a, b) = (switch.add_port("a"), switch.add_port("b"));
            switch.set_link(
                a,
                Link {
                    loss_ppm: 500_000,
                    ..Link::default()
                },
            );
            let far = Link {
                delay: Duration::from_millis(3),
                ..Link::default()
            };
            switch.set_link(b, far);
            let mut passed = Vec::new();
            for number in 0..1000 {
                switch.forward(a, &frame(BROADCAST, mac(1)), |_, delay| {
                    passed.push((number, delay))
                });
            }
            assert_eq!(switch.counters(a).dropped_loss + passed.len() as u64, 1000);
            assert!(
                passed
                    .iter()
                    .all(|(_, delay)| *delay == Duration::from_millis(3))
            );
            passed
        };
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(9));
        assert!((400..600).contains(&lost(7).len()));
    }

    #[test]
    fn runts_are_counted_and_the_table_is_bounded() {
        let (mut switch, a, ..) = three_ports();
        assert_eq!(outputs(&mut switch, a, &[0; 13]), []);
        assert_eq!(switch.counters(a).dropped_runt, 1);
        for number in 0..2 * TABLE_LIMIT as u32 {
            let [x, y, z, w] = number.to_be_bytes();
            outputs(&mut switch, a, &frame(BROADCAST, [2, 0, x, y, z, w]));
        }
        assert_eq!(switch.table.len(), TABLE_LIMIT);
    }
}
