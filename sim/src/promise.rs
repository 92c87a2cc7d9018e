//! Promises: what is broken when one is, and who looks after them while the world goes on.

use crate::act::Act;
use crate::node::NEVER;
use crate::world::World;

/// A kernel's panic, told as a promise.
pub const NO_PANIC: &str = "no kernel panics";

/// The simulator's own limit, told as a promise.
pub const NO_MEMORY: &str = "the simulator has memory for another node";

/// A promise was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub rule: String,
    /// What was seen instead.
    pub seen: String,
}

impl Violation {
    /// A broken promise.
    pub fn new(rule: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            rule: rule.into(),
            seen: seen.into(),
        }
    }
}

/// Looks after promises while the world goes on. Every call may find one broken.
pub trait Observer {
    /// A node has put a frame on its cable.
    fn frame(&mut self, node: usize, frame: &[u8], world: &World) -> Result<(), Violation> {
        let _ = (node, frame, world);
        Ok(())
    }

    /// A node's kernel has written this to its log.
    fn logged(&mut self, node: usize, line: &str, world: &World) -> Result<(), Violation> {
        let _ = (node, line, world);
        Ok(())
    }

    /// A node's console has shown this.
    fn shown(&mut self, node: usize, bytes: &[u8], world: &World) -> Result<(), Violation> {
        let _ = (node, bytes, world);
        Ok(())
    }

    /// This has just happened.
    fn acted(&mut self, act: &Act, world: &World) -> Result<(), Violation> {
        let _ = (act, world);
        Ok(())
    }

    /// A node has gone down or come up, for whatever reason.
    fn powered(&mut self, node: usize, on: bool, world: &World) -> Result<(), Violation> {
        let _ = (node, on, world);
        Ok(())
    }

    /// The time that was asked for by the call before has come; when it wants to be called again.
    fn look(&mut self, world: &World) -> Result<u64, Violation> {
        let _ = world;
        Ok(NEVER)
    }

    /// The run has come to its end.
    fn ended(&mut self, world: &World) -> Result<(), Violation> {
        let _ = world;
        Ok(())
    }

    /// What there is to say of a run that was kept to its end, in one line.
    fn summary(&self) -> Option<String> {
        None
    }
}
