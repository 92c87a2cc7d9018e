//! The LAN of the world: where a frame goes, when it arrives, and in what state.
//!
//! The switch is the project's own (`tools::lan::switch`), which learns addresses and knows cuts and parts; a [`Cable`]
//! adds what a seed may do to a frame on its way: loss, duplication, corruption, delay, reordering, one direction cut.

use std::time::Duration;

use tools::lan::switch::{Link, Port, Switch};

use crate::random::Random;

/// The usual time from one end to the other.
const USUAL_DELAY_NS: (u64, u64) = (2_000, 20_000);

/// The Ethernet header, which stays as it is.
const HEADER_BITS: u64 = 14 * 8;

/// What is wrong with a cable; nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cable {
    /// Frames lost, of a million, in each direction.
    pub loss_ppm: u32,
    /// Frames that arrive twice, of a million.
    pub duplicate_ppm: u32,
    /// IPv4 packets with one bit turned over, of a million. (A damaged frame does not pass a real card; what does pass is
    /// what a sum of the packet must catch, and ARP has none.)
    pub corrupt_ppm: u32,
    /// The longest further delay, nanoseconds.
    pub delay_ns: u64,
    /// A later frame may arrive earlier.
    pub reorder: bool,
    /// Nothing passes from the node.
    pub cut_out: bool,
    /// Nothing passes to the node.
    pub cut_in: bool,
    /// The part of the LAN that it leads to.
    pub part: u8,
}

impl Cable {
    /// Whether all of what is sent over it arrives, soon and as it was.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Self {
            loss_ppm,
            duplicate_ppm,
            corrupt_ppm,
            delay_ns,
            reorder,
            ..
        } = *self;
        loss_ppm + duplicate_ppm + corrupt_ppm == 0 && delay_ns == 0 && !reorder
    }
}

struct End {
    cable: Cable,
    /// When the newest frame to this port arrives, so that none overtakes it.
    last_arrival_ns: u64,
}

/// The LAN.
pub struct Lan {
    switch: Switch,
    ends: Vec<End>,
    random: Random,
    /// Frames that something was done to.
    pub injured: u64,
}

/// A frame on its way to a port.
#[derive(Debug)]
pub struct Flight {
    /// Where it goes.
    pub to: usize,
    /// When it arrives.
    pub at_ns: u64,
    /// The frame.
    pub frame: Vec<u8>,
}

impl Lan {
    /// A LAN without ports.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self {
            switch: Switch::new(1),
            ends: Vec::new(),
            random,
            injured: 0,
        }
    }

    /// Adds a port.
    pub fn add_port(&mut self, name: &str) -> usize {
        self.ends.push(End {
            cable: Cable::default(),
            last_arrival_ns: 0,
        });
        self.switch.add_port(name).0
    }

    /// The cable at a port.
    #[must_use]
    pub fn cable(&self, port: usize) -> Cable {
        self.ends[port].cable
    }

    /// Changes the cable at a port.
    pub fn set_cable(&mut self, port: usize, cable: Cable) {
        if self.ends[port].cable.part != cable.part {
            self.switch.set_link(
                Port(port),
                Link {
                    part: cable.part,
                    ..Link::default()
                },
            );
        }
        self.ends[port].cable = cable;
    }

    /// What is at the port has been switched off: the addresses behind it are forgotten.
    pub fn unplug(&mut self, port: usize) {
        self.switch.forget(Port(port));
    }

    /// Whether frames pass from one port to the other.
    #[must_use]
    pub fn hears(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.ends[from].cable, &self.ends[to].cable);
        from.part == to.part && !from.cut_out && !to.cut_in
    }

    /// Sends a frame from a port at `now_ns`; `fly` gets every copy that arrives somewhere.
    pub fn send(&mut self, from: usize, frame: &[u8], now_ns: u64, mut fly: impl FnMut(Flight)) {
        let Self {
            switch,
            ends,
            random,
            injured,
        } = self;
        let source = ends[from].cable;
        if source.cut_out || random.chance(source.loss_ppm) {
            *injured += 1;
            return;
        }
        let mut targets = [0_usize; 64];
        let mut count = 0;
        switch.forward(Port(from), frame, |Port(to), _: Duration| {
            if count < targets.len() {
                targets[count] = to;
                count += 1;
            }
        });
        for &to in &targets[..count] {
            let target = ends[to].cable;
            if target.cut_in || random.chance(target.loss_ppm) {
                *injured += 1;
                continue;
            }
            let twice = random.chance(source.duplicate_ppm.max(target.duplicate_ppm));
            for _ in 0..=u32::from(twice) {
                let mut copy = frame.to_vec();
                let corrupts = source.corrupt_ppm.max(target.corrupt_ppm);
                if copy.get(12..14) == Some(&[8, 0]) && random.chance(corrupts) {
                    let bit = HEADER_BITS + random.below(copy.len() as u64 * 8 - HEADER_BITS);
                    copy[bit as usize / 8] ^= 1 << (bit % 8);
                    *injured += 1;
                }
                let further = source.delay_ns + target.delay_ns;
                let usual = USUAL_DELAY_NS.0 + random.below(USUAL_DELAY_NS.1 - USUAL_DELAY_NS.0);
                let late = if further == 0 {
                    0
                } else {
                    random.below(further)
                };
                let mut at_ns = now_ns + usual + late;
                if !(source.reorder || target.reorder) {
                    at_ns = at_ns.max(ends[to].last_arrival_ns + 1);
                    ends[to].last_arrival_ns = at_ns;
                }
                fly(Flight {
                    to,
                    at_ns,
                    frame: copy,
                });
            }
            *injured += u64::from(twice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[8, 0], &[0; 50]].concat()
    }

    fn lan() -> Lan {
        let mut lan = Lan::new(Random::new(1, "lan"));
        for name in ["a", "b", "c"] {
            lan.add_port(name);
        }
        lan
    }

    fn sent(lan: &mut Lan, from: usize, now_ns: u64) -> Vec<Flight> {
        let mut flights = Vec::new();
        lan.send(from, &frame(), now_ns, |flight| flights.push(flight));
        flights
    }

    #[test]
    fn a_cut_direction_lets_the_other_through() {
        let mut lan = lan();
        lan.set_cable(
            1,
            Cable {
                cut_in: true,
                ..Cable::default()
            },
        );
        assert_eq!(
            sent(&mut lan, 0, 0)
                .iter()
                .map(|it| it.to)
                .collect::<Vec<_>>(),
            [2]
        );
        assert_eq!(sent(&mut lan, 1, 0).len(), 2);
        assert!(lan.hears(1, 0) && !lan.hears(0, 1));
    }

    #[test]
    fn frames_overtake_each_other_only_where_that_is_asked_for() {
        let mut lan = lan();
        let slow = Cable {
            delay_ns: 1_000_000,
            ..Cable::default()
        };
        let arrivals = |lan: &mut Lan| -> Vec<u64> {
            (0..200)
                .flat_map(|at| sent(lan, 0, at))
                .filter(|it| it.to == 1)
                .map(|it| it.at_ns)
                .collect()
        };
        lan.set_cable(1, slow);
        assert!(arrivals(&mut lan).is_sorted());
        lan.set_cable(
            1,
            Cable {
                reorder: true,
                ..slow
            },
        );
        assert!(!arrivals(&mut lan).is_sorted());
    }

    #[test]
    fn what_is_asked_for_happens_about_that_often() {
        let mut lan = lan();
        lan.set_cable(
            1,
            Cable {
                loss_ppm: 500_000,
                ..Cable::default()
            },
        );
        lan.set_cable(
            2,
            Cable {
                duplicate_ppm: 250_000,
                corrupt_ppm: 250_000,
                ..Cable::default()
            },
        );
        let (mut to_b, mut to_c, mut injured) = (0, 0, 0);
        for at in 0..1000 {
            for flight in sent(&mut lan, 0, at) {
                (to_b, to_c) = (
                    to_b + u32::from(flight.to == 1),
                    to_c + u32::from(flight.to == 2),
                );
                injured += u32::from(flight.frame != frame());
            }
        }
        assert!(
            (400..600).contains(&to_b) && (1200..1300).contains(&to_c),
            "{to_b} {to_c}"
        );
        assert!((250..400).contains(&injured), "{injured}");
    }
}
