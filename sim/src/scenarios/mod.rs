//! The scenarios. Each is one file that reads as a story: what there is, what may happen to it, what must hold.
//!
//! To add one: write a file with a [`Scenario`] in it, and name it in [`ALL`]. docs/simulator.md has the whole page.

mod carp;
mod executor;
mod lan;
mod memory;

use crate::act::Timed;
use crate::promise::Violation;
use crate::random::Random;
use crate::world::World;

/// What the command line says of a run beside its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Nodes; chosen by the seed if None.
    pub nodes: Option<usize>,
    /// CPUs of each node; chosen by the seed if None.
    pub cpus: Option<usize>,
    /// No client.
    pub no_client: bool,
    /// The client's interval, nanoseconds; the scenario's own if None.
    pub ping_ns: Option<u64>,
    /// How long the world goes on, nanoseconds; as long as the story needs if None.
    pub length_ns: Option<u64>,
    /// Nothing goes wrong.
    pub peaceful: bool,
}

/// A story that any seed tells differently.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about, in one line.
    pub summary: &'static str,
    /// Invents the run: how many nodes and CPUs, what happens. The same stream gives the same plan.
    pub plan: fn(&mut Random, &Options) -> Plan,
}

/// One run, invented and not yet begun.
pub struct Plan {
    /// Nodes.
    pub nodes: usize,
    /// CPUs of each.
    pub cpus: usize,
    /// What happens, in the order of time. May be made shorter.
    pub acts: Vec<Timed>,
    /// How long it takes, nanoseconds.
    pub length_ns: u64,
    /// Puts the nodes, the clients and the observers in place.
    pub set_up: SetUp,
}

/// What builds the world of a plan; gets the acts that are left.
pub type SetUp = Box<dyn FnOnce(&mut World, &[Timed]) -> Result<(), Violation>>;

/// All scenarios.
pub const ALL: &[Scenario] = &[
    executor::SCENARIO,
    carp::SCENARIO,
    lan::SCENARIO,
    memory::SCENARIO,
];

/// The scenario of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
