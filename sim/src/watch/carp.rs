//! CARP's promises, as seen on the cable and in the nodes' logs.
//!
//! [`CarpWatch`] knows each node's state by the line its kernel logs at the very moment of a change, and everything else
//! by the frames that nodes send. Times in which a promise may be broken are those of the protocol's own timers, plus a
//! few milliseconds for the way of a packet ([`SLACK_NS`]), or for the chain that tells all CPUs of a node
//! ([`GRACE_NS`]).

use carp::{Reason, Timing};
use tools::carp::{State, parse_transition};

use crate::act::{Act, node_name};
use crate::promise::{Observer, Violation};
use crate::world::World;

/// The way of a few packets, through a few CPUs.
const SLACK_NS: u64 = 5_000_000;
/// After a change of state, answers that were under way may still leave.
const GRACE_NS: u64 = 1_000_000;
/// From power-on to a running CARP.
const BOOT_NS: u64 = 50_000_000;
/// A master whose question for the client's Ethernet address was lost asks again after this at the latest.
const ARP_NS: u64 = net::config::ARP_RETRY_NS;
/// A backup that hears a farewell is master within this.
const HAND_OVER_NS: u64 = 10_000_000;
/// Clocks are off by less than 1 in this.
const CLOCK_PART: u64 = 500;

/// The virtual host that is watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The virtual address.
    pub address: [u8; 4],
    /// Its virtual host id.
    pub vhid: u8,
    /// Each node's timers.
    pub timings: Vec<Timing>,
    /// Whether a better node takes the address back.
    pub preempt: bool,
    /// How often each client asks, nanoseconds.
    pub clients_ns: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct NodeState {
    state: State,
    since_ns: u64,
    /// What it says it is demoted by.
    demotion: u32,
    /// Its interface was taken down at the console.
    down: bool,
    /// It has said by when that it answers for the address; until then it owes the announcement.
    owes_announcement_by_ns: Option<u64>,
}

/// The observer.
pub struct CarpWatch {
    watched: Watched,
    nodes: Vec<NodeState>,
    /// When something was last done to the world, or a node came or went.
    disturbed_ns: u64,
    /// Pairs of masters that hear each other, and since when.
    rivals: Vec<(usize, usize, u64)>,
    /// A cable has been bad since everything was last put right: questions may have been lost.
    questions_lost: bool,
    /// By then another node than this one must be master: it was asked to go.
    hand_over_due: Option<(u64, usize)>,
    /// The client must have had an answer after the one time by the other.
    answer_due: Option<(u64, u64)>,
    /// How many times one node was alone master when it had to be: says that the watch had something to see.
    settled: u64,
}

impl CarpWatch {
    /// Watches from the beginning on.
    #[must_use]
    pub fn new(watched: Watched) -> Self {
        let state = NodeState {
            state: State::Off,
            since_ns: 0,
            demotion: 0,
            down: false,
            owes_announcement_by_ns: None,
        };
        Self {
            nodes: vec![state; watched.timings.len()],
            watched,
            disturbed_ns: 0,
            rivals: Vec::new(),
            questions_lost: false,
            hand_over_due: None,
            answer_due: None,
            settled: 0,
        }
    }

    /// How often it looks.
    #[must_use]
    pub fn pulse_ns(&self) -> u64 {
        (self.longest(Timing::interval_ns) / 16).max(1_000_000)
    }

    /// By when one node must be master after nothing more has happened.
    #[must_use]
    pub fn settle_ns(watched: &Watched) -> u64 {
        let longest =
            |of: fn(Timing) -> u64| watched.timings.iter().map(|it| of(*it)).max().unwrap_or(0);
        let timers_ns = longest(Timing::master_down_ns) + longest(Timing::interval_ns);
        timers_ns + timers_ns / CLOCK_PART + SLACK_NS + BOOT_NS
    }

    fn longest(&self, of: fn(Timing) -> u64) -> u64 {
        self.watched
            .timings
            .iter()
            .map(|it| of(*it))
            .max()
            .unwrap_or(0)
    }

    /// One advertisement of the slowest node.
    fn advert_ns(&self) -> u64 {
        let interval_ns = self.longest(Timing::interval_ns);
        interval_ns + interval_ns / CLOCK_PART + SLACK_NS
    }

    /// RFC 5798, 7.3, which CARP shares with VRRP.
    fn virtual_mac(&self) -> [u8; 6] {
        [0, 0, 0x5e, 0, 1, self.watched.vhid]
    }

    fn is_master(&self, node: usize) -> bool {
        self.nodes[node].state == State::Master
    }

    fn disturbed(&mut self, world: &World) {
        self.disturbed_ns = world.now_ns();
        // Who hears whom has changed, perhaps.
        self.rivals.clear();
        self.note_rivals(world);
    }

    fn note_rivals(&mut self, world: &World) {
        let now_ns = world.now_ns();
        let masters: Vec<_> = (0..self.nodes.len())
            .filter(|node| self.is_master(*node) && world.is_alive(*node))
            .collect();
        let mut rivals = Vec::new();
        for (at, &one) in masters.iter().enumerate() {
            for &other in &masters[at + 1..] {
                if world.lan_is_sound() && world.hears(one, other) && world.hears(other, one) {
                    let known = self
                        .rivals
                        .iter()
                        .find(|(a, b, _)| (*a, *b) == (one, other));
                    rivals.push((one, other, known.map_or(now_ns, |(.., since_ns)| *since_ns)));
                }
            }
        }
        self.rivals = rivals;
    }

    fn change(&mut self, node: usize, state: State, world: &World) {
        let now_ns = world.now_ns();
        let becomes_master = state == State::Master;
        self.nodes[node] = NodeState {
            state,
            since_ns: now_ns,
            owes_announcement_by_ns: becomes_master.then_some(now_ns + SLACK_NS),
            ..self.nodes[node]
        };
        self.note_rivals(world);
    }

    /// Whether the node may still speak for the address: it is master, or was until just now.
    fn may_speak(&self, node: usize, now_ns: u64) -> bool {
        let NodeState {
            state, since_ns, ..
        } = self.nodes[node];
        state == State::Master || now_ns.saturating_sub(since_ns) <= GRACE_NS
    }

    /// One master in each connected part, when it had time enough to be found.
    fn check_settled(&mut self, world: &World) -> Result<(), Violation> {
        let count = self.nodes.len();
        let quiet_ns = world.now_ns() - self.disturbed_ns;
        if quiet_ns <= Self::settle_ns(&self.watched) || !world.lan_is_sound() {
            return Ok(());
        }
        let nodes: Vec<usize> = (0..count)
            .filter(|node| world.is_alive(*node) && !self.nodes[*node].down)
            .collect();
        if let Some(node) = nodes
            .iter()
            .find(|node| self.nodes[**node].state == State::Init)
        {
            let since_ms = (world.now_ns() - self.nodes[*node].since_ns) / 1_000_000;
            return Err(Violation::new(
                "a node that is up takes part",
                format!("{} is INIT since {since_ms} ms", node_name(*node)),
            ));
        }
        let one_way = |a: usize, b: usize| world.hears(a, b) != world.hears(b, a);
        if nodes.iter().any(|a| nodes.iter().any(|b| one_way(*a, *b))) {
            return Ok(());
        }
        for &node in &nodes {
            let part: Vec<usize> = nodes
                .iter()
                .copied()
                .filter(|it| *it == node || world.hears(node, *it))
                .collect();
            let masters: Vec<usize> = part
                .iter()
                .copied()
                .filter(|it| self.is_master(*it))
                .collect();
            if masters.len() != 1 {
                let names = |nodes: &[usize]| {
                    nodes
                        .iter()
                        .map(|node| node_name(*node))
                        .collect::<String>()
                };
                return Err(Violation::new(
                    "one master in each connected part within its timers' bound",
                    format!(
                        "{} of {} are master, {} ms after the last disturbance",
                        if masters.is_empty() {
                            "none".to_owned()
                        } else {
                            names(&masters)
                        },
                        names(&part),
                        quiet_ns / 1_000_000
                    ),
                ));
            }
            self.settled += 1;
            self.check_best(masters[0], &part)?;
            if quiet_ns > Self::settle_ns(&self.watched) + ARP_NS {
                self.check_reached(masters[0], world)?;
            }
        }
        Ok(())
    }

    /// The least demoted is master, and where better nodes preempt the best of those.
    fn check_best(&self, master: usize, part: &[usize]) -> Result<(), Violation> {
        let rank = |node: usize| {
            let timing = self.watched.timings[node];
            let speed = if self.watched.preempt {
                timing.units()
            } else {
                0
            };
            (self.nodes[node].demotion, speed)
        };
        match part.iter().find(|node| rank(**node) < rank(master)) {
            None => Ok(()),
            Some(better) => Err(Violation::new(
                "the master is the least demoted, and where better nodes preempt the best",
                format!(
                    "{} is master, and {} is better",
                    node_name(master),
                    node_name(*better)
                ),
            )),
        }
    }

    /// A master that a client can reach answers it, on whichever CPU the client's flow is.
    fn check_reached(&self, master: usize, world: &World) -> Result<(), Violation> {
        for (number, interval_ns) in self.watched.clients_ns.iter().enumerate() {
            let answered_ns = world.client(number).last_answered_ns.unwrap_or(0);
            let silence_ns = world.now_ns().saturating_sub(answered_ns);
            if silence_ns > 3 * interval_ns + SLACK_NS && world.client_reaches(number, master) {
                return Err(Violation::new(
                    "the address is answered by the master",
                    format!(
                        "{} is master, and the newest answer to client {number} is {} ms old",
                        node_name(master),
                        silence_ns / 1_000_000
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Notes who has to take over when a lone master is asked to go.
    fn note_hand_over(&mut self, node: usize, world: &World) {
        let settled = world.now_ns() - self.disturbed_ns > Self::settle_ns(&self.watched);
        let others = |other: usize| {
            other != node
                && world.is_alive(other)
                && world.hears(node, other)
                && self.nodes[other].state == State::Backup
        };
        if settled
            && world.lan_is_sound()
            && self.is_master(node)
            && world.is_alive(node)
            && (0..self.nodes.len()).any(others)
        {
            self.hand_over_due = Some((world.now_ns() + HAND_OVER_NS, node));
        }
    }

    fn check_hand_over(&mut self, world: &World) -> Result<(), Violation> {
        let Some((due_ns, node)) = self
            .hand_over_due
            .filter(|(due_ns, _)| world.now_ns() > *due_ns)
        else {
            return Ok(());
        };
        self.hand_over_due = None;
        if (0..self.nodes.len()).any(|other| other != node && self.is_master(other)) {
            return Ok(());
        }
        let late_ms = (world.now_ns() - due_ns + HAND_OVER_NS) / 1_000_000;
        Err(Violation::new(
            "a master that stops in good order hands over at once",
            format!(
                "{late_ms} ms after {} was asked to stop there is no other master",
                node_name(node)
            ),
        ))
    }
}

impl Observer for CarpWatch {
    fn frame(&mut self, node: usize, frame: &[u8], world: &World) -> Result<(), Violation> {
        let Some((header, body)) = frame.split_first_chunk::<14>() else {
            return Ok(());
        };
        let now_ns = world.now_ns();
        let speaks = |what: &str, watch: &Self| {
            if watch.may_speak(node, now_ns) {
                return Ok(());
            }
            let NodeState {
                state, since_ns, ..
            } = watch.nodes[node];
            let since_us = (now_ns - since_ns) / 1000;
            Err(Violation::new(
                "the address is answered by a master and by nobody else",
                format!(
                    "{}, {state} since {since_us} us, sends {what}",
                    node_name(node)
                ),
            ))
        };
        if header[6..12] == self.virtual_mac() {
            speaks("from the virtual MAC address", self)?;
        }
        let address = self.watched.address;
        match (&header[12..], body) {
            ([8, 6], arp) if arp.len() >= 28 && arp[14..18] == address => {
                // A question for the address that it has claimed before would be one, too: nobody asks for it else.
                speaks("ARP for the address", self)?;
                if arp[8..14] != self.virtual_mac() {
                    return Err(Violation::new(
                        "the address is at the virtual MAC address",
                        format!("{} says that it is at another", node_name(node)),
                    ));
                }
                self.nodes[node].owes_announcement_by_ns = None;
            }
            ([8, 0], ip) if ip.len() >= 20 && ip[12..16] == address => {
                speaks("a packet from the address", self)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn logged(&mut self, node: usize, line: &str, world: &World) -> Result<(), Violation> {
        if let Some((state, reason)) = parse_transition(line) {
            self.change(node, state, world);
            if !self.watched.preempt && reason == Reason::PreemptingSlowerMaster.to_string() {
                let seen = format!("{} takes it from a slower one", node_name(node));
                return Err(Violation::new(
                    "without preemption the address stays where it is",
                    seen,
                ));
            }
        }
        // As `carp::action::DemotionChange` words it.
        if let Some((_, total)) = line
            .split_once("demoted by ")
            .and_then(|(_, rest)| rest.split_once(" to "))
            && let Some(total) = total.split(' ').next().and_then(|word| word.parse().ok())
        {
            self.nodes[node].demotion = total;
        }
        Ok(())
    }

    fn acted(&mut self, act: &Act, world: &World) -> Result<(), Violation> {
        let masters =
            (0..self.nodes.len()).any(|node| self.is_master(node) && world.is_alive(node));
        self.answer_due = None;
        self.hand_over_due = None;
        match act {
            Act::PowerButton(node) => self.note_hand_over(*node, world),
            // A node that stands still reads it when it goes on.
            Act::Type(node, line)
                if world.host(*node).running.is_some() && line == "ifconfig carp0 down" =>
            {
                self.note_hand_over(*node, world);
                self.nodes[*node].down = true;
            }
            Act::Type(node, line) if line == "ifconfig carp0 up" => self.nodes[*node].down = false,
            _ => {}
        }
        if let (Act::Heal, true, Some(ping_ns)) = (act, masters, self.watched.clients_ns.first()) {
            let healed_ns = world.now_ns();
            let asks_ns = if self.questions_lost { ARP_NS } else { 0 };
            let due_ns = healed_ns + self.advert_ns() + asks_ns + 2 * ping_ns + SLACK_NS;
            self.answer_due = Some((healed_ns, due_ns));
        }
        match act {
            Act::Cable(..) => self.questions_lost = true,
            Act::Heal => self.questions_lost = false,
            _ => {}
        }
        self.disturbed(world);
        Ok(())
    }

    fn powered(&mut self, node: usize, on: bool, world: &World) -> Result<(), Violation> {
        (self.nodes[node].demotion, self.nodes[node].down) = (0, false);
        self.change(node, if on { State::Init } else { State::Off }, world);
        self.disturbed(world);
        Ok(())
    }

    fn look(&mut self, world: &World) -> Result<u64, Violation> {
        let now_ns = world.now_ns();
        for (one, other, since_ns) in &self.rivals {
            if now_ns - since_ns > self.advert_ns() {
                let since_ms = (now_ns - since_ns) / 1_000_000;
                return Err(Violation::new(
                    "two masters that hear each other last no longer than one advertisement",
                    format!(
                        "{} and {} since {since_ms} ms",
                        node_name(*one),
                        node_name(*other)
                    ),
                ));
            }
        }
        for (node, state) in self.nodes.iter().enumerate() {
            let late = state
                .owes_announcement_by_ns
                .is_some_and(|by_ns| now_ns > by_ns);
            if late
                && world.is_alive(node)
                && self.is_master(node)
                && self.disturbed_ns < state.since_ns
            {
                return Err(Violation::new(
                    "who becomes master announces the address at once",
                    format!("{} has sent no gratuitous ARP", node_name(node)),
                ));
            }
        }
        if let Some((healed_ns, due_ns)) = self.answer_due
            && now_ns > due_ns
        {
            self.answer_due = None;
            if world
                .client(0)
                .last_reply_ns
                .is_none_or(|reply_ns| reply_ns < healed_ns)
            {
                return Err(Violation::new(
                    "after healing the client reaches the address within one advertisement",
                    format!(
                        "no answer {} ms after everything was put right",
                        (now_ns - healed_ns) / 1_000_000
                    ),
                ));
            }
        }
        self.check_hand_over(world)?;
        self.check_settled(world)?;
        Ok(now_ns + self.pulse_ns())
    }

    fn ended(&mut self, _: &World) -> Result<(), Violation> {
        if self.settled == 0 {
            return Err(Violation::new(
                "every run ends with a master",
                "the watch never saw the world settled",
            ));
        }
        Ok(())
    }
}
