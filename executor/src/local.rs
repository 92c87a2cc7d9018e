//! A value for each CPU of a node.

use crate::{CpuId, Node, critical, current};
use alloc::{boxed::Box, sync::Weak};
use core::{cell::UnsafeCell, ptr};

/// One `T` for each CPU. A CPU reaches its own, inside [`with`](Self::with), and no other.
///
/// `with` is a critical section, so no interrupt handler sees the value half-changed, and its closure cannot await, so
/// no other thread does.
#[derive(Debug)]
pub struct CpuLocal<T> {
    values: Box<[UnsafeCell<T>]>,
    /// Keeps the node's address, so that no other has it.
    node: Weak<Node>,
}

// SAFETY: each value is reached by its own CPU alone (`with`), and made and dropped where the CpuLocal is, hence T: Send.
unsafe impl<T: Send> Sync for CpuLocal<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for CpuLocal<T> {}

impl<T> CpuLocal<T> {
    /// Makes the value of every CPU of `node`.
    pub fn new(node: &Node, mut make: impl FnMut(CpuId) -> T) -> Self {
        Self {
            values: node
                .cpus()
                .map(|cpu| UnsafeCell::new(make(cpu.id())))
                .collect(),
            node: node.weak(),
        }
    }

    /// Runs `f` on this CPU's value. Calls may nest; `f` gets a shared reference, so use cells inside `T`.
    ///
    /// # Panics
    /// Outside of every CPU of the node it was made for.
    pub fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let cpu = current::current();
        assert!(
            ptr::eq(cpu.node(), self.node.as_ptr()),
            "a CpuLocal was used on another node's CPU"
        );
        critical::section_on(cpu, || {
            // SAFETY: only this CPU reaches this value, and only by shared references.
            f(unsafe { &*self.values[cpu.id().index()].get() })
        })
    }
}
