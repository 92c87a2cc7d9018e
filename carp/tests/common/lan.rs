//! Several vhids on one virtual LAN with delay, loss, partition, crash and freeze.
//!
//! One seed decides everything. The next thing to happen is the earliest of all deliveries and
//! all timers; nothing waits, so a minute of three nodes takes a millisecond. At every step in
//! which the number of masters changes, it is written to [`Lan::history`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use carp::wire::LEN;
use carp::{Action, Actions, Config, Link, Password, Received, State, Vhid};

use super::Random;

pub const MS: u64 = 1_000_000;
/// The longest way of a packet in this LAN.
pub const DELAY_MAX_NS: u64 = MS;

pub struct Node {
    pub vhid: Vhid,
    address: Ipv4Addr,
    config: Config,
    /// Nodes hear each other only within one side of the LAN.
    pub side: u8,
    pub is_up: bool,
    /// Neither packets nor timers are handled; packets queue up.
    is_frozen: bool,
    queue: Vec<(Ipv4Addr, [u8; LEN])>,
    pub last_garp_ns: u64,
}

pub struct Lan {
    pub now_ns: u64,
    pub nodes: Vec<Node>,
    pub loss_percent: u64,
    /// (since, how many nodes that run are MASTER)
    pub history: Vec<(u64, usize)>,
    in_flight: BTreeMap<(u64, u64), (usize, Ipv4Addr, [u8; LEN])>,
    /// When the last packet from one node to another arrives: a LAN does not reorder.
    last_arrival_ns: BTreeMap<(usize, usize), u64>,
    sent: u64,
    pub random: Random,
}

impl Lan {
    /// All nodes come up within the first millisecond; node 0 has the lowest address.
    pub fn new(seed: u64, configs: impl IntoIterator<Item = Config>) -> Self {
        let nodes = configs.into_iter().enumerate().map(|(index, config)| Node {
            vhid: Vhid::new(1, [0; 8], Config::default()).unwrap(),
            address: Ipv4Addr::new(192, 0, 2, index as u8 + 1),
            config: Config {
                password: Password::new("secret").unwrap(),
                ..config
            },
            side: 0,
            is_up: false,
            is_frozen: false,
            queue: Vec::new(),
            last_garp_ns: 0,
        });
        let mut lan = Self {
            now_ns: 0,
            nodes: nodes.collect(),
            loss_percent: 0,
            history: vec![(0, 0)],
            in_flight: BTreeMap::new(),
            last_arrival_ns: BTreeMap::new(),
            sent: 0,
            random: Random::new(seed),
        };
        for index in 0..lan.nodes.len() {
            lan.now_ns = lan.random.below(MS).max(lan.now_ns);
            lan.boot(index);
        }
        lan
    }

    /// A node starts (again), with a new cookie.
    pub fn boot(&mut self, index: usize) {
        let (now_ns, cookie) = (self.now_ns, self.random.next().to_le_bytes());
        let node = &mut self.nodes[index];
        (node.is_up, node.is_frozen) = (true, false);
        node.queue.clear();
        node.vhid = Vhid::new(1, cookie, node.config.clone()).unwrap();
        let _ = node.vhid.on_interface(now_ns, Link::Up);
        let _ = node.vhid.on_link(now_ns, Link::Up);
        let _ = node.vhid.set_source(now_ns, Some(node.address));
        let _ = node
            .vhid
            .set_addresses(now_ns, vec![IpAddr::from([192, 0, 2, 100])]);
        self.note();
    }

    /// Power loss.
    pub fn crash(&mut self, index: usize) {
        self.nodes[index].is_up = false;
        self.note();
    }

    pub fn freeze(&mut self, index: usize) {
        self.nodes[index].is_frozen = true;
        self.note();
    }

    /// Runs again: either the timers or the queued packets come first.
    pub fn thaw(&mut self, index: usize) {
        if !self.nodes[index].is_up || !self.nodes[index].is_frozen {
            return;
        }
        self.nodes[index].is_frozen = false;
        let are_timers_first = self.random.chance(50);
        if are_timers_first {
            self.input(index, |vhid, now_ns| vhid.on_timer(now_ns));
        }
        for (source, bytes) in std::mem::take(&mut self.nodes[index].queue) {
            self.deliver(index, source, &bytes);
        }
        self.note();
    }

    /// Feeds a node an input and carries out what it asks for.
    pub fn input(&mut self, index: usize, input: impl FnOnce(&mut Vhid, u64) -> Actions) {
        let actions = input(&mut self.nodes[index].vhid, self.now_ns);
        for action in actions {
            match action {
                Action::SendAdvert(repr) | Action::SendFarewell(repr) => {
                    self.broadcast(index, repr.to_bytes());
                }
                Action::SendGratuitousArp(_) => self.nodes[index].last_garp_ns = self.now_ns,
                _ => {}
            }
        }
        self.note();
    }

    fn broadcast(&mut self, from: usize, bytes: [u8; LEN]) {
        let address = self.nodes[from].address;
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            if !self.random.chance(self.loss_percent) {
                self.sent += 1;
                let delay_ns = MS / 20 + self.random.below(DELAY_MAX_NS - MS / 20);
                let arrival_ns = self.last_arrival_ns.entry((from, to)).or_default();
                *arrival_ns = (self.now_ns + delay_ns).max(*arrival_ns);
                self.in_flight
                    .insert((*arrival_ns, self.sent), (to, address, bytes));
            }
        }
    }

    fn deliver(&mut self, to: usize, source: Ipv4Addr, bytes: &[u8; LEN]) {
        let received = Received {
            source,
            ttl: 255,
            payload: bytes,
        };
        self.input(to, |vhid, now_ns| vhid.on_packet(now_ns, &received));
    }

    /// Runs for a time.
    pub fn run(&mut self, for_ns: u64) {
        let until_ns = self.now_ns + for_ns;
        loop {
            let timer = (0..self.nodes.len())
                .filter(|index| self.nodes[*index].is_up && !self.nodes[*index].is_frozen)
                .filter_map(|index| Some((self.nodes[index].vhid.next_deadline_ns()?, index)))
                .min();
            let delivery = self.in_flight.first_key_value().map(|(key, _)| key.0);
            let timer_ns = timer.map_or(u64::MAX, |timer| timer.0);
            let next_ns = timer_ns.min(delivery.unwrap_or(u64::MAX));
            if next_ns > until_ns {
                self.now_ns = until_ns;
                return;
            }
            self.now_ns = self.now_ns.max(next_ns);
            if let (Some((at_ns, index)), true) = (timer, timer_ns == next_ns) {
                self.input(index, |vhid, now_ns| vhid.on_timer(now_ns));
                let rearmed = self.nodes[index].vhid.next_deadline_ns();
                assert!(rearmed > Some(at_ns), "a timer that stays due would spin");
            } else if let Some((_, (to, source, bytes))) = self.in_flight.pop_first() {
                // The cut is where the packet is, not where it was sent.
                let from = self.nodes.iter().find(|node| node.address == source);
                let is_cut = from.is_none_or(|from| from.side != self.nodes[to].side);
                let node = &mut self.nodes[to];
                match (is_cut || !node.is_up, node.is_frozen) {
                    (true, _) => {}
                    (false, true) => node.queue.push((source, bytes)),
                    (false, false) => self.deliver(to, source, &bytes),
                }
            }
        }
    }

    /// The running nodes that are MASTER.
    pub fn masters(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|index| {
                let node = &self.nodes[*index];
                node.is_up && !node.is_frozen && node.vhid.state() == State::Master
            })
            .collect()
    }

    /// Since when there has been exactly one master; `None` if there is not.
    pub fn single_since_ns(&self) -> Option<u64> {
        self.history
            .last()
            .filter(|(_, count)| *count == 1)
            .map(|(since_ns, _)| *since_ns)
    }

    fn note(&mut self) {
        let count = self.masters().len();
        match self.history.last_mut() {
            Some(last) if last.1 == count => {}
            Some(last) if last.0 == self.now_ns => last.1 = count,
            _ => self.history.push((self.now_ns, count)),
        }
    }
}
