//! The world: nodes, a LAN, clients, and one clock that jumps from event to event.
//!
//! [`World::run_until`] is the whole of it: the earliest of all CPUs' next steps and of all events happens, at its own
//! time, and says when what follows from it will happen. Time costs nothing; whatever waits is simply not the earliest.
//! Two events never happen at once: a step of one CPU is atomic for all others, which is what the executor's own loop
//! promises above the level of single instructions (below it, the loom models look).
//!
//! What must hold all the time is looked after by [`Observer`]s, and after each step by the world itself. What is done
//! to it from outside is in [`World::act`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

mod acts;

use crate::act::{Act, Timed};
use crate::client::Client;
use crate::lan::{Flight, Lan};
use crate::node::{Host, NEVER, Settings, Stepped};
use crate::promise::{NO_PANIC, Observer, Violation};
use crate::random::Random;
use crate::recorder::Recorder;

enum Event {
    Arrive { port: usize, frame: Vec<u8> },
    Tick(usize),
    Act(Act),
    Look(usize),
    Boot(usize),
}

/// A client and where it is plugged in.
struct Attached {
    client: Client,
    port: usize,
    interval_ns: u64,
}

/// What is at a port of the LAN.
#[derive(Clone, Copy)]
enum At {
    Node(usize),
    Client(usize),
}

/// What a run has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Steps of CPUs.
    pub steps: u64,
    /// Acts that broke something, and frames that something was done to.
    pub faults: u64,
    /// Frames sent by nodes and clients.
    pub frames: u64,
    /// Virtual nanoseconds.
    pub virtual_ns: u64,
}

/// The world.
pub struct World {
    now_ns: u64,
    hosts: Vec<Host>,
    ports: Vec<usize>,
    at: Vec<At>,
    lan: Lan,
    clients: Vec<Attached>,
    /// When each CPU goes next, those of all nodes in a row.
    next_ns: Vec<u64>,
    /// Node and CPU of each of them.
    place: Vec<(usize, usize)>,
    /// Where each node's CPUs begin in the row.
    first: Vec<usize>,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    waiting: Vec<Option<Event>>,
    spare: Vec<usize>,
    numbered: u64,
    random: Random,
    observers: Vec<Box<dyn Observer>>,
    tally: Tally,
    sent: Vec<Vec<u8>>,
    /// What is traced, if anything.
    pub recorder: Option<Recorder>,
    /// What has happened, in words.
    pub story: Vec<(u64, String)>,
    /// What the observers say of it all, at the end.
    pub summaries: Vec<String>,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now_ns: 0,
            hosts: Vec::new(),
            ports: Vec::new(),
            at: Vec::new(),
            lan: Lan::new(Random::new(seed, "lan")),
            clients: Vec::new(),
            next_ns: Vec::new(),
            place: Vec::new(),
            first: Vec::new(),
            events: BinaryHeap::new(),
            waiting: Vec::new(),
            spare: Vec::new(),
            numbered: 0,
            random: Random::new(seed, "steps"),
            observers: Vec::new(),
            tally: Tally::default(),
            sent: Vec::new(),
            recorder: None,
            story: Vec::new(),
            summaries: Vec::new(),
        }
    }

    /// Adds a node, switched off; its number.
    pub fn add_node(&mut self, settings: Settings) -> usize {
        let number = self.hosts.len();
        self.first.push(self.next_ns.len());
        self.place
            .extend((0..settings.cpus).map(|cpu| (number, cpu)));
        self.next_ns.resize(self.place.len(), NEVER);
        self.ports.push(self.lan.add_port(&settings.name));
        self.at.push(At::Node(number));
        let mut host = Host::new(settings);
        host.trace = self.recorder.as_ref().map(Recorder::classes);
        self.hosts.push(host);
        number
    }

    /// Adds a client, which sends something each `interval_ns`; its number.
    pub fn add_client(&mut self, client: Client, interval_ns: u64) -> usize {
        let number = self.clients.len();
        let port = self.lan.add_port("client");
        self.at.push(At::Client(number));
        self.clients.push(Attached {
            client,
            port,
            interval_ns,
        });
        self.schedule(self.now_ns + 1, Event::Tick(number));
        number
    }

    /// Adds an observer, to be asked first at `look_ns`.
    pub fn observe(&mut self, observer: Box<dyn Observer>, look_ns: u64) {
        let number = self.observers.len();
        self.observers.push(observer);
        self.schedule(look_ns, Event::Look(number));
    }

    /// Plans these acts, and switches every node on.
    ///
    /// # Errors
    /// A promise that is broken already.
    pub fn begin(&mut self, acts: &[Timed]) -> Result<(), Violation> {
        for (at_ns, act) in acts {
            self.schedule(*at_ns, Event::Act(act.clone()));
        }
        (0..self.hosts.len()).try_for_each(|node| self.act(&Act::Boot(node)))
    }

    /// The time, nanoseconds since the beginning.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.hosts.len()
    }

    /// A node.
    #[must_use]
    pub fn host(&self, node: usize) -> &Host {
        &self.hosts[node]
    }

    /// A client.
    #[must_use]
    pub fn client(&self, number: usize) -> &Client {
        &self.clients[number].client
    }

    /// Whether the client's frames reach a node, and the node's the client.
    #[must_use]
    pub fn client_reaches(&self, number: usize, node: usize) -> bool {
        let (port, other) = (self.clients[number].port, self.ports[node]);
        self.lan.hears(port, other) && self.lan.hears(other, port)
    }

    /// Whether a node runs: switched on and not frozen.
    #[must_use]
    pub fn is_alive(&self, node: usize) -> bool {
        let host = &self.hosts[node];
        host.running.is_some() && !host.frozen
    }

    /// Whether what one node sends reaches another.
    #[must_use]
    pub fn hears(&self, from: usize, to: usize) -> bool {
        self.lan.hears(self.ports[from], self.ports[to])
    }

    /// Whether all cables do what cables should, but for cuts and parts.
    #[must_use]
    pub fn lan_is_sound(&self) -> bool {
        self.ports
            .iter()
            .all(|port| self.lan.cable(*port).is_sound())
    }

    /// What was done so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let Tally { faults, .. } = self.tally;
        Tally {
            faults: faults + self.lan.injured,
            virtual_ns: self.now_ns,
            ..self.tally
        }
    }

    fn schedule(&mut self, at_ns: u64, event: Event) {
        let slot = match self.spare.pop() {
            Some(slot) => {
                self.waiting[slot] = Some(event);
                slot
            }
            None => {
                self.waiting.push(Some(event));
                self.waiting.len() - 1
            }
        };
        self.numbered += 1;
        self.events.push(Reverse((at_ns, self.numbered, slot)));
    }

    /// Lets the world go on until `end_ns`.
    ///
    /// # Errors
    /// The first promise that is broken. The world must not be used after that but to be looked at.
    pub fn run_until(&mut self, end_ns: u64) -> Result<(), Violation> {
        loop {
            let (index, step_ns) = self.earliest_cpu();
            let event_ns = self
                .events
                .peek()
                .map_or(NEVER, |Reverse((at_ns, ..))| *at_ns);
            if step_ns.min(event_ns) > end_ns {
                self.now_ns = end_ns;
                return Ok(());
            }
            if step_ns < event_ns {
                // A timer may be set to what is over by now: it interrupts at once, and time does not go back.
                self.now_ns = step_ns.max(self.now_ns);
                let (node, cpu) = self.place[index];
                self.step(index, node, cpu)?;
            } else if let Some(Reverse((at_ns, _, slot))) = self.events.pop() {
                self.now_ns = at_ns;
                self.spare.push(slot);
                if let Some(event) = self.waiting[slot].take() {
                    self.happen(event)?;
                }
            }
        }
    }

    #[inline]
    fn earliest_cpu(&self) -> (usize, u64) {
        let mut earliest = (0, NEVER);
        for (index, at_ns) in self.next_ns.iter().enumerate() {
            if *at_ns < earliest.1 {
                earliest = (index, *at_ns);
            }
        }
        earliest
    }

    fn step(&mut self, index: usize, node: usize, cpu: usize) -> Result<(), Violation> {
        self.tally.steps += 1;
        let now_ns = self.now_ns;
        let Host { running, clock, .. } = &mut self.hosts[node];
        let Some(running) = running else {
            self.next_ns[index] = NEVER;
            return Ok(());
        };
        let (next_ns, stepped) = running.step(cpu, now_ns, clock, &mut self.random);
        self.next_ns[index] = next_ns;
        if let Some(recorder) = &mut self.recorder {
            // A CPU that fell asleep did nothing else in this step.
            let end_ns = if running.sleeps(cpu).is_some() {
                now_ns
            } else {
                next_ns
            };
            recorder.take(node, cpu, (now_ns, end_ns), running.node());
        }
        match stepped {
            Stepped::On => {}
            Stepped::Panicked(text) => {
                return Err(Violation::new(
                    NO_PANIC,
                    format!("{}: {text}", self.name(node)),
                ));
            }
            Stepped::Ended(how) => return self.go_down(node, Some(how)),
            Stepped::Holds(broken) => return Err(self.never(broken, node, cpu)),
        }
        self.answer(node)?;
        let Some(running) = &self.hosts[node].running else {
            return Ok(());
        };
        if let Some(broken) = running.left_behind() {
            return Err(self.never(broken, node, cpu));
        }
        if let Some(misuse) = running.arena().misuse() {
            let seen = format!(
                "{}: {misuse:?} (in or before a step of cpu{cpu})",
                self.name(node)
            );
            return Err(Violation::new("memory has one owner", seen));
        }
        Ok(())
    }

    fn never(&self, broken: executor::Broken, node: usize, cpu: usize) -> Violation {
        let seen = format!("{}, in or after a step of its cpu{cpu}", self.name(node));
        Violation::new(format!("never: {broken}"), seen)
    }

    /// Carries out what a node has asked its machine for.
    fn answer(&mut self, node: usize) -> Result<(), Violation> {
        let now_ns = self.now_ns;
        let Host {
            running, frozen, ..
        } = &mut self.hosts[node];
        let Some(running) = running else {
            return Ok(());
        };
        let mut rung = running.machine.take_rung();
        while rung != 0 {
            let target = rung.trailing_zeros() as usize;
            rung &= rung - 1;
            let wake_ns = running.ring(target, now_ns, &mut self.random);
            // One that is frozen looks when it goes on.
            if let Some(wake_ns) = wake_ns.filter(|_| !*frozen) {
                let next_ns = &mut self.next_ns[self.first[node] + target];
                *next_ns = wake_ns.min(*next_ns);
            }
        }
        let (shown, logged) = running.machine.take_words();
        let mut sent = std::mem::take(&mut self.sent);
        running.cable.take_sent(&mut sent);
        for line in logged {
            self.tell(|observer, world| observer.logged(node, &line, world))?;
            if self.recorder.is_some() {
                self.story
                    .push((now_ns, format!("{}: {line}", self.name(node))));
            }
        }
        if !shown.is_empty() {
            self.tell(|observer, world| observer.shown(node, &shown, world))?;
            self.hosts[node].screen.extend_from_slice(&shown);
        }
        let port = self.ports[node];
        for frame in sent.drain(..) {
            self.tell(|observer, world| observer.frame(node, &frame, world))?;
            self.send(port, &frame);
        }
        self.sent = sent;
        Ok(())
    }

    fn send(&mut self, port: usize, frame: &[u8]) {
        self.tally.frames += 1;
        let mut flights = Vec::new();
        self.lan
            .send(port, frame, self.now_ns, |flight| flights.push(flight));
        for Flight { to, at_ns, frame } in flights {
            self.schedule(at_ns, Event::Arrive { port: to, frame });
        }
    }

    fn tell(
        &mut self,
        mut each: impl FnMut(&mut dyn Observer, &World) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        // Taken out, so that they may look at the rest.
        let mut observers = std::mem::take(&mut self.observers);
        let result = observers
            .iter_mut()
            .try_for_each(|observer| each(&mut **observer, self));
        self.observers = observers;
        result
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Arrive { port, frame } => self.arrive(port, &frame),
            Event::Tick(number) => {
                let Attached {
                    client,
                    port,
                    interval_ns,
                } = &mut self.clients[number];
                let (frame, port, next_ns) =
                    (client.tick(self.now_ns), *port, self.now_ns + *interval_ns);
                self.send(port, &frame);
                self.schedule(next_ns, Event::Tick(number));
                Ok(())
            }
            Event::Act(act) => self.act(&act),
            Event::Boot(node) => self.boot(node),
            Event::Look(number) => {
                let mut observers = std::mem::take(&mut self.observers);
                let again_ns = observers[number].look(self);
                self.observers = observers;
                let again_ns = again_ns?;
                if again_ns != NEVER {
                    self.schedule(again_ns.max(self.now_ns + 1), Event::Look(number));
                }
                Ok(())
            }
        }
    }

    fn arrive(&mut self, port: usize, frame: &[u8]) -> Result<(), Violation> {
        match self.at[port] {
            At::Client(number) => {
                if let Some(answer) = self.clients[number].client.receive(self.now_ns, frame) {
                    self.send(port, &answer);
                }
                Ok(())
            }
            At::Node(node) => {
                let Some(running) = &self.hosts[node].running else {
                    return Ok(());
                };
                running.cable.deliver(frame);
                self.answer(node)
            }
        }
    }

    /// Ends the run: every node goes down, and what must be balanced is looked at.
    ///
    /// # Errors
    /// A promise that was not kept.
    pub fn end(&mut self) -> Result<(), Violation> {
        self.tell(|observer, world| observer.ended(world))?;
        let summaries = self
            .observers
            .iter()
            .filter_map(|observer| observer.summary());
        self.summaries = summaries.collect();
        (0..self.hosts.len()).try_for_each(|node| self.go_down(node, None))
    }

    /// Takes everything down, whatever is broken.
    pub fn discard(&mut self) {
        self.observers.clear();
        for host in &mut self.hosts {
            let _ = host.kill();
        }
    }

    fn name(&self, node: usize) -> &str {
        &self.hosts[node].settings.name
    }
}
