//! A random program: what it is made of.

use super::desks::plan::{DeskOperation, DeskPlan, OfficePlan};
use super::stays;
use crate::random::Random;

const MS: u64 = 1_000_000;

/// One thing that a thread does.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Sleeps so many nanoseconds.
    Sleep(u64),
    /// Lets others run, so many times.
    Yield(u64),
    /// Calls a port and waits for the reply, which is due at once or later.
    Call { port: usize, later: bool },
    /// Sends to a port so many times and does not wait; more than a ring holds, now and then.
    Post {
        port: usize,
        count: u32,
        urgent: bool,
    },
    /// Has an IPI function on that CPU send to a port.
    Relay { cpu: u16, port: usize },
    /// Calls a port, waits a little, and walks away.
    WalkAway { port: usize },
    /// Holds one or two tokens over a few awaits.
    Hold {
        first: usize,
        second: usize,
        awaits: u64,
    },
    /// Awaits inside a critical section.
    Section,
    /// Signals an event.
    Signal(usize),
    /// Runs a function on a CPU.
    RunOn(u16),
    /// Runs a function on every CPU in a row.
    Chain,
    /// Allocates so many pieces of memory here, keeps them over an await, frees every other one here and the rest there.
    Pass {
        cpu: u16,
        bytes: usize,
        count: usize,
    },
    /// Spawns a thread there and waits for its end.
    Spawn { cpu: u16, sleeps: bool },
    /// Sends so many messages to a CPU, with or without a doorbell.
    Tell { cpu: u16, count: u32, passive: bool },
    /// Waits until that CPU, or every CPU, has run what this one had sent it.
    Settle { cpu: u16, everybody: bool },
    /// Runs a function on every CPU at once.
    Everywhere,
    /// Holds these CPUs and its own while a function runs, or runs one on each of them without.
    HoldStill { others: u64, quick: bool },
    /// Something with a desk.
    Desk(DeskOperation),
    /// Moves.
    Move(u16),
}

/// A thread of a program.
#[derive(Clone, Debug)]
pub struct ThreadPlan {
    pub cpu: u16,
    pub priority: u8,
    pub movable: bool,
    pub operations: Vec<Operation>,
}

/// A whole program.
#[derive(Clone, Debug)]
pub struct Program {
    pub threads: Vec<ThreadPlan>,
    /// The CPU of each port.
    pub ports: Vec<u16>,
    /// The CPU on which each event's waiter lives.
    pub events: Vec<u16>,
    pub tokens: usize,
    /// Desks, some of them in sets.
    pub offices: Vec<OfficePlan>,
}

impl Program {
    /// Invents one for `cpus` CPUs; each thread has about so many operations.
    pub fn invent(random: &mut Random, cpus: usize, operations: u64) -> Self {
        let cpu = |random: &mut Random| random.below(cpus as u64) as u16;
        let (ports, events) = (random.within(1..=4), random.within(1..=4));
        let ports: Vec<u16> = (0..ports).map(|_| cpu(random)).collect();
        let events: Vec<u16> = (0..events).map(|_| cpu(random)).collect();
        let tokens = random.within(1..=3) as usize;
        let offices = random.within(1..=3);
        let offices: Vec<OfficePlan> = (0..offices)
            .map(|_| OfficePlan::invent(random, cpus))
            .collect();
        let desks: Vec<&DeskPlan> = offices.iter().flat_map(|office| &office.desks).collect();
        let threads = (0..random.within(3..=20)).map(|_| {
            let movable = random.below(4) == 0;
            let operation = |random: &mut Random| loop {
                let invented = if random.below(4) == 0 {
                    Operation::Desk(DeskOperation::invent(random, cpus, &desks))
                } else {
                    invent(random, cpus, ports.len(), events.len(), tokens)
                };
                let fits = if movable {
                    !stays(&invented)
                } else {
                    !matches!(invented, Operation::Move(_))
                };
                if fits {
                    return invented;
                }
            };
            ThreadPlan {
                cpu: cpu(random),
                priority: *random.pick(&[1, 6, 12, 12, 12, 14, 20, 28]),
                movable,
                operations: (0..random.within(1..=2 * operations))
                    .map(|_| operation(random))
                    .collect(),
            }
        });
        let threads = threads.collect();
        Self {
            threads,
            ports,
            events,
            tokens,
            offices,
        }
    }

    /// How many papers its threads write.
    pub fn papers(&self) -> usize {
        let operations = self.threads.iter().flat_map(|thread| &thread.operations);
        let papers = operations.map(|operation| match operation {
            Operation::Desk(operation) => operation.papers(),
            _ => 0,
        });
        papers.sum()
    }

    /// The same with these threads only; the others are there, and do nothing.
    pub fn with_threads(mut self, kept: impl Fn(usize) -> bool) -> Self {
        for (number, thread) in self.threads.iter_mut().enumerate() {
            if !kept(number) {
                thread.operations.clear();
            }
        }
        self
    }

    /// What its longest thread sleeps, and some more.
    pub fn longest_ns(&self) -> u64 {
        let takes = |operation: &Operation| match operation {
            Operation::Sleep(ns) => *ns,
            Operation::Desk(_) => 40 * MS,
            _ => MS,
        };
        let thread = |thread: &ThreadPlan| thread.operations.iter().map(takes).sum();
        self.threads.iter().map(thread).max().unwrap_or(0)
    }
}

fn invent(
    random: &mut Random,
    cpus: usize,
    ports: usize,
    events: usize,
    tokens: usize,
) -> Operation {
    let cpu = random.below(cpus as u64) as u16;
    let port = random.below(ports as u64) as usize;
    match random.below(22) {
        0 => {
            let limit_ns = *random.pick(&[1_000, 100_000, 5 * MS]);
            Operation::Sleep(random.below(limit_ns))
        }
        1 => Operation::Sleep(random.below(50_000)),
        2 => Operation::Yield(random.within(1..=5)),
        3..=5 => Operation::Call {
            port,
            later: random.below(2) == 0,
        },
        6 => Operation::Post {
            port,
            count: *random.pick(&[1, 1, 2, 5, 300]),
            urgent: random.below(3) == 0,
        },
        7 => Operation::WalkAway { port },
        8 | 9 => Operation::Hold {
            first: random.below(tokens as u64) as usize,
            second: random.below(tokens as u64) as usize,
            awaits: random.below(4),
        },
        10 => Operation::Section,
        11 => Operation::Signal(random.below(events as u64) as usize),
        12 => Operation::RunOn(cpu),
        13 if random.below(3) == 0 => Operation::Chain,
        13 => Operation::Pass {
            cpu,
            bytes: *random.pick(&[1, 16, 100, 300, 2_000, 12_000, 20_000, 100_000]),
            count: *random.pick(&[1, 1, 2, 40]),
        },
        14 => Operation::Relay { cpu, port },
        15 => Operation::Spawn {
            cpu,
            sleeps: random.below(2) == 0,
        },
        16 | 17 => Operation::Tell {
            cpu,
            count: *random.pick(&[1, 1, 2, 10, 70, 300]),
            passive: random.below(3) != 0,
        },
        18 => Operation::Settle {
            cpu,
            everybody: random.below(3) == 0,
        },
        19 if random.below(4) == 0 => Operation::Everywhere,
        19 => Operation::HoldStill {
            others: random.below(1 << cpus),
            quick: random.below(4) == 0,
        },
        _ => Operation::Move(cpu),
    }
}
