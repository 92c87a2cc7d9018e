//! Random programs on the bare executor: threads that do everything a thread can do, at once, on every CPU.
//!
//! The cast: nodes without a kernel, each with a few ports, tokens and events, and two dozen threads. The plot: each
//! thread has a list of operations (sleep, yield, call, post, call and walk away, hold tokens over awaits, signal, run
//! functions elsewhere, send with and without a doorbell, hold other CPUs, pass memory to another CPU, spawn and join,
//! move). Some of the ports are desks (`desks.rs`): with many readers, of other CPUs too, with bounds and in sets, and
//! with senders that abort what they have asked for. The end: every thread has come to its own, every message was handled
//! once and in order, every node's memory is balanced.
//!
//! What must hold in the middle is checked by the threads themselves; what they find goes to the observer through
//! [`Ledger`].

mod desks;
mod ledger;
mod messages;
mod program;
mod threads;

use std::sync::Arc;

use executor::CpuId;

use super::{Options, Plan, Scenario};
use crate::act::{Act, Timed, node_name};
use crate::node::Settings;
use crate::promise::{Observer, Violation};
use crate::random::Random;
use crate::world::World;
use ledger::Ledger;
use program::{Operation, Program};

/// The story.
pub const SCENARIO: Scenario = Scenario {
    name: "executor",
    summary: "random programs of threads, ports, tokens, IPI messages and moves on bare executors",
    plan,
};

const MS: u64 = 1_000_000;
/// How often the observer looks at the ledgers.
const PULSE_NS: u64 = MS;
/// The longest that an operation may take: the longest sleep, and much patience.
const STUCK_NS: u64 = 500 * MS;

fn plan(random: &mut Random, options: &Options) -> Plan {
    let nodes = options
        .nodes
        .unwrap_or_else(|| random.within(1..=2) as usize);
    let cpus = options
        .cpus
        .unwrap_or_else(|| random.within(1..=5) as usize);
    let operations = random.within(4..=24);
    let mut programs = Vec::new();
    let mut acts = Vec::new();
    for node in 0..nodes {
        let program = Program::invent(random, cpus, operations);
        // Each thread is an act of its own, so that a failing program can lose threads.
        acts.extend(
            (0..program.threads.len())
                .map(|thread| (0, Act::Type(node, format!("thread {thread}")))),
        );
        programs.push(program);
    }
    let longest = programs.iter().map(Program::longest_ns).max().unwrap_or(0);
    let length_ns = options.length_ns.unwrap_or(longest + STUCK_NS + 100 * MS);
    let set_up = move |world: &mut World, acts: &[Timed]| {
        let mut ledgers = Vec::new();
        for (node, program) in programs.into_iter().enumerate() {
            let kept = |thread: usize| {
                let text = format!("thread {thread}");
                acts.iter().any(
                    |(_, act)| matches!(act, Act::Type(at, line) if *at == node && *line == text),
                )
            };
            let program = program.with_threads(kept);
            let ledger = Arc::new(Ledger::new(&program, cpus));
            ledgers.push(ledger.clone());
            let program = Arc::new(program);
            world.add_node(Settings {
                program: Some(Arc::new(move |kernel| {
                    threads::start(kernel, &program, &ledger)
                })),
                ..Settings::kernel(node, cpus, String::new())
            });
        }
        world.observe(Box::new(Promises { ledgers }), PULSE_NS);
        // The acts are the threads, which are there from the beginning.
        world.begin(&[])
    };
    Plan {
        nodes,
        cpus,
        acts,
        length_ns,
        set_up: Box::new(set_up),
    }
}

/// Looks at what the threads have noted.
struct Promises {
    ledgers: Vec<Arc<Ledger>>,
}

impl Promises {
    fn check(&self, world: &World) -> Result<(), Violation> {
        for (node, ledger) in self.ledgers.iter().enumerate() {
            if let Some((rule, seen)) = ledger.broken() {
                return Err(Violation::new(rule, format!("{}: {seen}", node_name(node))));
            }
            let host = world.host(node);
            for cpu in 0..host.settings.cpus {
                // One that a cpusync holds is awake to messages alone.
                let asleep = host
                    .running
                    .as_ref()
                    .filter(|running| !running.node().cpu(CpuId(cpu as u16)).is_held())
                    .and_then(|running| running.sleeps(cpu));
                let (Some(timer_ns), Some(earliest_ns)) = (asleep, ledger.earliest_ns(cpu as u16))
                else {
                    continue;
                };
                if timer_ns.is_none_or(|timer_ns| timer_ns > earliest_ns) {
                    return Err(Violation::new(
                        "a CPU that sleeps is woken at its threads' earliest deadline",
                        format!(
                            "{} cpu{cpu}: the timer is set to {timer_ns:?}, a thread sleeps until {earliest_ns}",
                            node_name(node)
                        ),
                    ));
                }
            }
            let now_ns = host.clock.at(world.now_ns());
            if let Some((thread, operation)) = ledger.stuck(now_ns, STUCK_NS) {
                return Err(Violation::new(
                    "a thread whose condition holds runs within a bound",
                    format!(
                        "{}: thread {thread} is stuck in its operation {operation}",
                        node_name(node)
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Observer for Promises {
    fn look(&mut self, world: &World) -> Result<u64, Violation> {
        self.check(world)?;
        Ok(world.now_ns() + PULSE_NS)
    }

    fn ended(&mut self, world: &World) -> Result<(), Violation> {
        self.check(world)?;
        for (node, ledger) in self.ledgers.iter().enumerate() {
            if let Some((rule, seen)) = ledger.unsettled() {
                return Err(Violation::new(rule, format!("{}: {seen}", node_name(node))));
            }
        }
        Ok(())
    }
}

/// Whether an operation needs a thread that stays on its CPU.
fn stays(operation: &Operation) -> bool {
    match operation {
        Operation::Hold { .. } | Operation::Section => true,
        Operation::Desk(operation) => operation.stays(),
        _ => false,
    }
}
