//! A made-up machine whose trace is known: the test data of the trace converter.
//!
//! [`Machine`] is a small discrete-event model of the executor: CPUs with run queues, IPI rings
//! with doorbells, timers, port servers, one contended token, a spawn tree, device interrupts. It
//! writes records as the kernel would. Given the same [`Options`] it writes the same bytes.
//!
//! Decision: a model and not random records, because pairing wakes, sends and replies can only be
//! tested on a trace in which they pair, and because the page must be judged on something that
//! looks like a kernel.
#![allow(dead_code, reason = "each test program uses a part of this module")]

use std::collections::VecDeque;

use executor::trace::record::{Event, Record};
use executor::trace::stream::Encoder;

/// What to make.
pub struct Options {
    /// How many CPUs.
    pub cpus: usize,
    /// How many records each CPU writes, about.
    pub records_per_cpu: usize,
    /// The sequence of chances.
    pub seed: u64,
}

/// The data set of the large tests: 4 CPUs, 50,000 records each.
pub const LARGE: Options = Options {
    cpus: 4,
    records_per_cpu: 50_000,
    seed: 7,
};

/// Thread names and spawn sites by name id.
const NAMES: [(&str, &str); 9] = [
    ("init", "kernel/src/start.rs:88"),
    ("netisr ip", "net/src/ip/task.rs:61"),
    ("virtio-net rx", "kernel/src/drivers/virtio_net.rs:204"),
    ("udp echo", "kernel/src/workload/udp.rs:33"),
    ("ping-pong", "kernel/src/workload/ports.rs:52"),
    ("token hammer", "kernel/src/workload/tokens.rs:27"),
    ("yielder", "kernel/src/workload/yields.rs:19"),
    ("carp vhid 1", "carp/src/task.rs:47"),
    ("leaf", "kernel/src/workload/tree.rs:40"),
];
const INIT: u32 = 0;
const NETISR: u32 = 1;
const RX: u32 = 2;
const ECHO: u32 = 3;
const PING: u32 = 4;
const HAMMER: u32 = 5;
const YIELDER: u32 = 6;
const CARP: u32 = 7;
const LEAF: u32 = 8;
const TOKEN_ROUTES: u32 = 3;

/// Chances: xorshift64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// A duration whose logarithm is spread evenly from `low` to `high`.
    fn span(&mut self, low: f64, high: f64) -> u64 {
        let share = self.below(1 << 20) as f64 / (1 << 20) as f64;
        (low * (high / low).powf(share)) as u64
    }
}

#[derive(Clone, Copy)]
enum Payload {
    Wake {
        thread: u16,
        from: usize,
        waker: u16,
    },
    Message {
        id: u32,
        from: usize,
        caller: u16,
    },
    Spawn,
}

struct Thread {
    id: u16,
    name: u32,
    queue: VecDeque<Payload>,
    lives: u32,
}

struct Cpu {
    now_ns: u64,
    records: Vec<Record>,
    threads: Vec<Thread>,
    runnable: VecDeque<u16>,
    /// Arrival time, sender, sequence number, what.
    inbox: VecDeque<(u64, usize, u32, Payload)>,
    timers: Vec<(u64, u16)>,
    next_device_ns: u64,
    idle: bool,
    next_id: u16,
    next_message: u32,
}

/// The machine.
pub struct Machine {
    cpus: Vec<Cpu>,
    chance: Chance,
    sequences: Vec<u32>,
    token_free_ns: u64,
    token_cpu: usize,
}

impl Machine {
    /// Runs the model until every CPU has its records.
    pub fn run(options: &Options) -> Self {
        let start_ns = 31_415_926;
        let cpus = (0..options.cpus).map(|number| Cpu {
            now_ns: start_ns + number as u64 * 1_700,
            records: Vec::new(),
            threads: Vec::new(),
            runnable: VecDeque::new(),
            inbox: VecDeque::new(),
            timers: Vec::new(),
            next_device_ns: start_ns + 40_000 * (number as u64 + 1),
            idle: false,
            next_id: 1,
            next_message: 0,
        });
        let mut machine = Self {
            cpus: cpus.collect(),
            chance: Chance(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            sequences: vec![0; options.cpus * options.cpus],
            token_free_ns: 0,
            token_cpu: 0,
        };
        for cpu in 0..options.cpus {
            let names: &[u32] = match cpu {
                0 => &[INIT, NETISR, RX, CARP, ECHO, PING, HAMMER],
                1 => &[NETISR, RX, PING, HAMMER, ECHO],
                2 => &[NETISR, PING, YIELDER, YIELDER],
                _ => &[NETISR, PING, ECHO],
            };
            names.iter().for_each(|name| machine.spawn(cpu, *name));
        }
        // Step the CPU that is furthest behind, until all have enough.
        loop {
            let times = (0..options.cpus).map(|cpu| (machine.next_time(cpu), cpu));
            let Some((_, cpu)) = times.min() else { break };
            if machine
                .cpus
                .iter()
                .all(|cpu| cpu.records.len() >= options.records_per_cpu)
            {
                break;
            }
            machine.step(cpu);
        }
        for cpu in &mut machine.cpus {
            cpu.records.truncate(options.records_per_cpu);
        }
        machine
    }

    /// The records of each CPU.
    pub fn records(&self) -> Vec<Vec<Record>> {
        self.cpus.iter().map(|cpu| cpu.records.clone()).collect()
    }

    /// The stream as the kernel sends it, as frames: HELLO, names, records of all CPUs in turn,
    /// END.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new();
        let mut frames = vec![
            encoder
                .hello(self.cpus.len() as u32, 31_000_000, "anax")
                .to_vec(),
        ];
        for (id, (name, site)) in NAMES.iter().enumerate() {
            frames.push(encoder.name(id as u32, name, site).to_vec());
        }
        frames.push(encoder.token_name(TOKEN_ROUTES, "routes").to_vec());
        for number in 0..self.cpus.len() {
            frames.push(encoder.stats(number as u8, 0, 0).to_vec());
        }
        let mut sent = vec![0; self.cpus.len()];
        loop {
            let mut any = false;
            for (number, cpu) in self.cpus.iter().enumerate() {
                let mut rest = cpu.records[sent[number]..].iter().copied();
                let first = sent[number] as u64;
                let (bytes, taken) = encoder.records(number as u8, first, 0, &mut rest);
                if taken > 0 {
                    frames.push(bytes.to_vec());
                    sent[number] += taken;
                    any = true;
                }
            }
            if !any {
                break;
            }
        }
        for (number, sent) in sent.into_iter().enumerate() {
            frames.push(encoder.stats(number as u8, sent as u64, 0).to_vec());
        }
        frames.push(encoder.end().to_vec());
        frames
    }

    /// The stream in one piece.
    pub fn stream(&self) -> Vec<u8> {
        self.frames().concat()
    }

    fn log(&mut self, cpu: usize, event: Event, small: usize, thread: u16, arg: u32) {
        let cpu = &mut self.cpus[cpu];
        cpu.records
            .push(Record::new(cpu.now_ns, event, small as u8, thread, arg));
        cpu.now_ns += 25;
    }

    fn pass(&mut self, cpu: usize, low: f64, high: f64) {
        self.cpus[cpu].now_ns += self.chance.span(low, high);
    }

    fn spawn(&mut self, cpu: usize, name: u32) {
        let id = self.cpus[cpu].next_id;
        self.cpus[cpu].next_id += 1;
        let priority = if name == RX { 20 } else { 12 };
        self.log(cpu, Event::ThreadSpawn, priority, id, name);
        let thread = Thread {
            id,
            name,
            queue: VecDeque::new(),
            lives: 3,
        };
        self.cpus[cpu].threads.push(thread);
        self.cpus[cpu].runnable.push_back(id);
    }

    /// When this CPU can do its next step.
    fn next_time(&self, number: usize) -> u64 {
        let cpu = &self.cpus[number];
        if !cpu.idle {
            return cpu.now_ns;
        }
        let timers = cpu.timers.iter().map(|(at_ns, _)| *at_ns);
        let inbox = cpu.inbox.iter().map(|entry| entry.0);
        timers
            .chain(inbox)
            .chain([cpu.next_device_ns])
            .min()
            .unwrap_or(u64::MAX)
            .max(cpu.now_ns)
    }

    fn step(&mut self, cpu: usize) {
        if self.cpus[cpu].idle {
            self.cpus[cpu].now_ns = self.next_time(cpu);
            self.interrupts(cpu);
            self.cpus[cpu].idle = false;
            self.log(cpu, Event::IdleEnd, 0, 0, 0);
        } else {
            self.interrupts(cpu);
        }
        self.drain(cpu);
        match self.cpus[cpu].runnable.pop_front() {
            Some(thread) => self.poll(cpu, thread),
            None => {
                self.log(cpu, Event::IdleBegin, 0, 0, 0);
                self.cpus[cpu].idle = true;
            }
        }
    }

    fn interrupts(&mut self, cpu: usize) {
        let now_ns = self.cpus[cpu].now_ns;
        if self.cpus[cpu].next_device_ns <= now_ns {
            self.log(cpu, Event::InterruptBegin, 11, 0, 0);
            self.pass(cpu, 200.0, 900.0);
            if let Some(rx) = self.find(cpu, RX) {
                self.wake_here(cpu, rx, cpu, 0);
            }
            self.log(cpu, Event::InterruptEnd, 11, 0, 0);
            let period = self.chance.span(60_000.0, 400_000.0);
            self.cpus[cpu].next_device_ns = self.cpus[cpu].now_ns + period;
        }
        let due: Vec<(u64, u16)> = self.cpus[cpu]
            .timers
            .iter()
            .copied()
            .filter(|timer| timer.0 <= now_ns)
            .collect();
        if !due.is_empty() {
            self.cpus[cpu].timers.retain(|timer| timer.0 > now_ns);
            self.log(cpu, Event::InterruptBegin, 32, 0, 0);
            let late_us = (now_ns - due[0].0) / 1_000;
            self.log(cpu, Event::TimerFire, 0, 0, late_us as u32);
            for (_, thread) in due {
                self.wake_here(cpu, thread, cpu, 0);
            }
            self.log(cpu, Event::InterruptEnd, 32, 0, 0);
        }
    }

    fn drain(&mut self, cpu: usize) {
        while let Some(entry) = self.cpus[cpu].inbox.front().copied()
            && entry.0 <= self.cpus[cpu].now_ns
        {
            self.cpus[cpu].inbox.pop_front();
            let (_, from, sequence, payload) = entry;
            self.log(cpu, Event::IpiReceive, from, 0, sequence);
            match payload {
                Payload::Wake {
                    thread,
                    from,
                    waker,
                } => self.wake_here(cpu, thread, from, waker),
                Payload::Message { from, caller, .. } => {
                    if let Some(server) = self.find(cpu, NETISR) {
                        self.thread(cpu, server).queue.push_back(payload);
                        self.wake_here(cpu, server, from, caller);
                    }
                }
                Payload::Spawn => self.spawn(cpu, LEAF),
            }
        }
    }

    fn find(&self, cpu: usize, name: u32) -> Option<u16> {
        self.cpus[cpu]
            .threads
            .iter()
            .find(|thread| thread.name == name)
            .map(|thread| thread.id)
    }

    fn thread(&mut self, cpu: usize, id: u16) -> &mut Thread {
        let mut threads = self.cpus[cpu].threads.iter_mut();
        threads
            .find(|thread| thread.id == id)
            .expect("a thread that is alive")
    }

    fn wake_here(&mut self, cpu: usize, thread: u16, from: usize, waker: u16) {
        if self.cpus[cpu].runnable.contains(&thread) {
            return;
        }
        self.log(cpu, Event::Wake, from, thread, u32::from(waker));
        self.cpus[cpu].runnable.push_back(thread);
    }

    fn send(&mut self, from: usize, to: usize, payload: Payload) {
        let slot = from * self.cpus.len() + to;
        let sequence = self.sequences[slot];
        self.sequences[slot] += 1;
        let idle = self.cpus[to].idle;
        let event = if idle {
            Event::IpiSend
        } else {
            Event::IpiDoorbellSaved
        };
        self.log(from, event, to, 0, sequence);
        let travel = if idle { 1_400 } else { 150 };
        let at_ns = self.cpus[from].now_ns + travel;
        let inbox = &mut self.cpus[to].inbox;
        let place = inbox
            .iter()
            .position(|entry| entry.0 > at_ns)
            .unwrap_or(inbox.len());
        inbox.insert(place, (at_ns, from, sequence, payload));
    }

    /// Calls the IP task of `to`, queued here or by IPI.
    fn call(&mut self, cpu: usize, to: usize, caller: u16) {
        let id = (cpu as u32) << 26 | self.cpus[cpu].next_message;
        self.cpus[cpu].next_message += 1;
        let payload = Payload::Message {
            id,
            from: cpu,
            caller,
        };
        self.log(cpu, Event::PortQueue, to, caller, id);
        if to != cpu {
            self.send(cpu, to, payload);
        } else if let Some(server) = self.find(cpu, NETISR) {
            self.thread(cpu, server).queue.push_back(payload);
            self.wake_here(cpu, server, cpu, caller);
        }
    }

    fn poll(&mut self, cpu: usize, id: u16) {
        let depth = self.cpus[cpu].runnable.len().min(255);
        let name = self.thread(cpu, id).name;
        self.log(cpu, Event::RunBegin, depth, id, 0);
        let count = self.cpus.len();
        let elsewhere = (cpu + 1 + self.chance.below(count as u64 - 1) as usize) % count;
        let mut end = 0;
        match name {
            NETISR => {
                while let Some(Payload::Message {
                    id: message,
                    from,
                    caller,
                }) = self.thread(cpu, id).queue.pop_front()
                {
                    self.log(cpu, Event::PortDequeue, 0, id, message);
                    self.pass(cpu, 400.0, 6_000.0);
                    self.log(cpu, Event::PortReply, 0, id, message);
                    if from == cpu {
                        self.wake_here(cpu, caller, cpu, id);
                    } else {
                        let wake = Payload::Wake {
                            thread: caller,
                            from: cpu,
                            waker: id,
                        };
                        self.send(cpu, from, wake);
                    }
                }
            }
            RX => {
                self.pass(cpu, 800.0, 9_000.0);
                if let Some(echo) = self.find(cpu, ECHO) {
                    self.wake_here(cpu, echo, cpu, id);
                }
                self.log(cpu, Event::SlabRemoteDrain, 0, 0, 4);
            }
            ECHO | PING => {
                self.pass(cpu, 300.0, 4_000.0);
                // The echo server waits for a packet again after its reply has left; the other
                // takes a rest now and then.
                let turn = self.thread(cpu, id);
                turn.lives = (turn.lives + 1) % 2;
                let replied = name == ECHO && turn.lives == 1;
                if replied || (name == PING && self.chance.below(6) == 0) {
                    if !replied {
                        self.sleep(cpu, id, 15_000.0, 150_000.0);
                    }
                    self.log(cpu, Event::RunEnd, 0, id, 0);
                    return;
                }
                if self.chance.below(4) == 0 {
                    self.log(cpu, Event::PortInline, 0, id, 0);
                }
                let to = if name == PING { elsewhere } else { cpu };
                self.call(cpu, to, id);
                self.pass(cpu, 100.0, 500.0);
            }
            HAMMER => {
                self.pass(cpu, 200.0, 1_000.0);
                let now_ns = self.cpus[cpu].now_ns;
                if self.token_free_ns > now_ns && self.token_cpu != cpu {
                    self.log(cpu, Event::TokenContended, 0, id, TOKEN_ROUTES);
                    end = 1;
                } else {
                    self.log(cpu, Event::TokenTaken, 0, id, TOKEN_ROUTES);
                    self.pass(cpu, 1_000.0, 12_000.0);
                    self.token_free_ns = self.cpus[cpu].now_ns;
                    self.token_cpu = cpu;
                    self.log(cpu, Event::TokenReleased, 0, id, TOKEN_ROUTES);
                    self.sleep(cpu, id, 20_000.0, 90_000.0);
                }
            }
            YIELDER => {
                self.pass(cpu, 150.0, 2_500.0);
                if self.chance.below(30) == 0 {
                    self.sleep(cpu, id, 30_000.0, 300_000.0);
                } else {
                    end = 1;
                }
            }
            LEAF => {
                self.pass(cpu, 500.0, 5_000.0);
                self.thread(cpu, id).lives -= 1;
                end = if self.thread(cpu, id).lives == 0 {
                    2
                } else {
                    1
                };
            }
            CARP => {
                self.pass(cpu, 2_000.0, 20_000.0);
                self.log(cpu, Event::Mark, 0, id, 1);
                self.sleep(cpu, id, 900_000.0, 1_100_000.0);
            }
            _ => {
                // Now and then init does something that takes its time.
                self.pass(cpu, 5_000.0, 180_000.0);
                (0..count).for_each(|to| match to == cpu {
                    true => self.spawn(cpu, LEAF),
                    false => self.send(cpu, to, Payload::Spawn),
                });
                self.sleep(cpu, id, 400_000.0, 1_500_000.0);
            }
        }
        self.log(cpu, Event::RunEnd, end, id, 0);
        match end {
            1 => self.cpus[cpu].runnable.push_back(id),
            2 => {
                self.log(cpu, Event::ThreadExit, 0, id, 0);
                self.cpus[cpu].threads.retain(|thread| thread.id != id);
            }
            _ => {}
        }
    }

    fn sleep(&mut self, cpu: usize, thread: u16, low: f64, high: f64) {
        let span_ns = self.chance.span(low, high);
        let at_ns = self.cpus[cpu].now_ns + span_ns;
        self.cpus[cpu].timers.push((at_ns, thread));
        self.log(cpu, Event::TimerArm, 0, thread, (span_ns / 1_000) as u32);
    }
}
