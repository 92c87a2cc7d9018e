//! A CPU's memory, as the kernel's global allocator uses it.
//!
//! A heap knows nothing of other CPUs but their addresses. Here is what needs more: no interrupt handler comes between,
//! nothing that was freed waits for a CPU to wake up, and a CPU that finds no memory asks the others for theirs. What
//! asks is no message, which would need memory, but a mark and a doorbell.
//!
//! DragonFly sends a passive IPI for the first object that it frees to another CPU's exhausted zone, and looks through
//! all zones every 10 seconds. Here the owner looks when it needs memory, when it goes to sleep, and when it is asked.

use super::Cpu;
use crate::{critical, ipi, slab::ZoneMap};
use core::{
    alloc::Layout,
    mem,
    ptr::{self, NonNull},
};

impl Cpu {
    /// Allocates from this CPU's heap, or asks all CPUs to give back what they do not need and gives None: a later
    /// request may find some. Any context, interrupt handlers included. Owner.
    ///
    /// # Safety
    /// This is the current CPU, and `zones` are those of its node ([`Node::set_zones`](crate::Node::set_zones)).
    #[inline]
    pub unsafe fn allocate(&self, zones: &ZoneMap, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the owner, with its interrupt handlers kept out.
        let memory = self.on_heap(|| unsafe { self.heap.allocate(zones, layout) });
        if memory.is_none() {
            self.ask_for_memory();
        }
        memory
    }

    /// Frees to whichever heap it came from. Any context. Owner.
    ///
    /// # Safety
    /// As [`allocate`](Self::allocate), and `object` was allocated on a CPU of this node with this `layout` and is not
    /// used any more.
    #[inline]
    pub unsafe fn free(&self, zones: &ZoneMap, object: NonNull<u8>, layout: Layout) {
        // SAFETY: the owner, with its interrupt handlers kept out; the rest is the caller's promise.
        self.on_heap(|| unsafe { self.heap.free(zones, object, layout) });
    }

    /// Runs `f` with this CPU's interrupt handlers kept out. What a check of the heap has to say it says in a panic, which
    /// must not unwind out of a global allocator: a second one makes it the end.
    #[inline]
    fn on_heap<R>(&self, f: impl FnOnce() -> R) -> R {
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                panic!("the memory of this CPU is not to be trusted any more");
            }
        }
        let end = End;
        let result = critical::section_on(self, f);
        mem::forget(end);
        result
    }

    /// Tells every other CPU that memory is short.
    #[cold]
    fn ask_for_memory(&self) {
        critical::section_on(self, || {
            for other in self.node().cpus() {
                if !ptr::eq(other, self) && other.heap.want() {
                    ipi::tell(self, other);
                }
            }
        });
    }

    /// Before this CPU sleeps. Owner.
    #[inline]
    pub(super) fn settle_memory(&self) {
        if let Some(zones) = self.node().zones() {
            // SAFETY: the owner; the section keeps its interrupt handlers out.
            critical::section_on(self, || unsafe { self.heap.settle(zones) });
        }
    }

    /// Gives back what is not needed. Owner.
    #[cold]
    pub(super) fn tidy_memory(&self) {
        if let Some(zones) = self.node().zones() {
            // SAFETY: as in `settle_memory`.
            critical::section_on(self, || unsafe { self.heap.tidy(zones) });
        }
    }
}
