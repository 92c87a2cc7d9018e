//! The simulator: whole clusters of kernels in one process, from one seed, with virtual time.
//!
//! The same kernel that boots on hardware runs here, node by node, on `kernel::platform::sim`. [`world`] drives all CPUs of
//! all nodes and the LAN between them; [`scenarios`] invent what happens; [`watch`] looks after what must hold; [`run`]
//! makes one run of a seed, repeats it, and makes a failing one smaller; [`many`] makes many on all cores.
//!
//! Decision: a crate of its own above the kernel, not a part of it. What only a simulator knows (seeds, faults, promises)
//! is no machine's business; `kernel/src/platform/sim` is the machine alone.

pub mod act;
pub mod client;
pub mod clock;
pub mod crash;
pub mod lan;
pub mod many;
pub mod node;
pub mod promise;
pub mod random;
pub mod recorder;
pub mod report;
pub mod run;
pub mod scenarios;
pub mod shrink;
pub mod watch;
pub mod world;

/// The page on the simulator, whose example is run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../docs/simulator.md")]
pub struct Page;
