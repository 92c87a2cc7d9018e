//! What whole-system tests share: the kernel under test, a place in the queue, and being skipped.
//!
//! A test takes a [`Turn`] before it starts nodes, so that however many threads the test runner has,
//! no more run than the host can carry: a starved node is slow, and slow looks like broken. A node
//! itself is [`tools::running::RunningNode`], the same that the demonstration uses.
//!
//! Decision: a test that needs no hardware is a function of the kind of node, and [`on_both`] makes two
//! tests of it. So there is one list of what a node must do, and no kind can fall behind.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tools::node::{NodeKind, NodeSpec};
use tools::running::RunningNode;

/// Booting takes a tenth of a second; this is for a host under load.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// For commands that answer at once.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// Turns in all: what two cores carry.
const TURNS: usize = 2;

static TAKEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Having a `Turn` tells you: no more than [`TURNS`] are out, this one among them.
pub struct Turn(usize);

impl Turn {
    /// Waits for a turn.
    pub fn take() -> Turn {
        Turn::of(1)
    }

    /// Waits until this test has the host to itself: for what measures time, or has 64 CPUs.
    pub fn alone() -> Turn {
        Turn::of(TURNS)
    }

    fn of(count: usize) -> Turn {
        let taken = TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut usize| *taken + count > TURNS;
        let mut taken = TAKEN
            .1
            .wait_while(taken, full)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += count;
        Turn(count)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        TAKEN.1.notify_all();
    }
}

/// Makes two tests of each function that takes a [`NodeKind`]: `name::vm` and `name::vkernel`.
#[macro_export]
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => { $(
        mod $test {
            use tools::node::NodeKind;

            #[test]
            fn vm() {
                super::$test(NodeKind::VM);
            }

            #[test]
            fn vkernel() {
                super::$test(NodeKind::Vkernel);
            }
        }
    )+ };
}

/// The kernel under test for this kind of node, built once.
pub fn kernel(kind: NodeKind) -> &'static Path {
    static BARE: OnceLock<PathBuf> = OnceLock::new();
    static HOSTED: OnceLock<PathBuf> = OnceLock::new();
    let kernel = match kind {
        NodeKind::Vm(_) => &BARE,
        NodeKind::Vkernel => &HOSTED,
    };
    kernel.get_or_init(|| kind.build().expect("the kernel builds"))
}

/// A node with the kernel under test and the hostname `anax`.
pub fn node(kind: NodeKind) -> NodeSpec {
    NodeSpec::new("anax", kind, kernel(kind).to_owned())
}

/// Starts `spec`, waits for its prompt.
pub fn boot(spec: &NodeSpec) -> RunningNode {
    let node = spec.start(None).expect("the node starts");
    node.wait_for_prompt(BOOT_LIMIT)
        .unwrap_or_else(|error| panic!("{error:#}"));
    node
}

/// Starts `spec` with the hostname `name`, waits for its prompt.
pub fn boot_as(name: &str, spec: &NodeSpec) -> RunningNode {
    boot(&NodeSpec {
        name: name.to_owned(),
        ..spec.clone()
    })
}

/// Runs a command that answers at once.
pub fn run(node: &mut RunningNode, line: &str) -> String {
    node.command(line, COMMAND_LIMIT)
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// Says that the calling test cannot run here, and why. `./run.sh test` counts these lines.
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
}
