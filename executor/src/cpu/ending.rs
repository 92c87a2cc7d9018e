//! The end of a CPU: what is left of its threads goes on the CPU itself, what was on its way goes with the node.
//!
//! A CPU that stops drops its threads, timers and handlers where they lived, because they need not be Send. Messages are
//! all Send: those that came too late, or never left a backlog, are dropped by whoever drops the node, and all of them
//! before the first CPU goes, because what is dropped may wake and send once more.

use super::{Cpu, STOPPING};
use crate::{current, sync::Ordering, thread::flag};
use alloc::boxed::Box;

impl Cpu {
    /// Ends the loop at its next turn. Owner; others use [`Node::stop`].
    pub(crate) fn stop(&self) {
        self.gate.set(self.gate.get() | STOPPING);
    }

    /// Drops the threads, timers and handlers that are left. Owner, outside of any poll.
    pub(super) fn abandon_threads(&self) {
        while self.run_queue.pop().is_some() {}
        // SAFETY: threads on the list are alive; this is the owner, outside of any poll.
        while let Some(thread) = unsafe { self.all_threads.get().as_ref() } {
            if !thread.is(flag::FINISHED) {
                // Its sections end with it.
                self.critical.set(1 + thread.critical.get());
                // SAFETY: owner, outside of a poll.
                unsafe { thread.abandon() };
                self.critical.set(1);
            }
            drop(self.disown(thread));
            while self.run_queue.pop().is_some() {}
        }
        self.timers.clear();
        // Not Send: they must not be left to whoever drops the node.
        drop(self.handlers.take());
        // What went there may have spawned.
        if !self.all_threads.get().is_null() {
            self.abandon_threads();
        }
    }

    /// Marks the threads that were never run to their end as ended, so that their handles ask nothing of this CPU, which
    /// goes. Their futures stay where they are: they need not be Send, and nobody runs here. For a node that goes.
    pub(crate) fn give_threads_up(&self) {
        let mut next = self.all_threads.replace(core::ptr::null());
        // SAFETY: threads on the list are alive by the executor's count, which is left with them.
        while let Some(thread) = unsafe { next.as_ref() } {
            next = thread.all_next.get();
            if !thread.is(flag::FINISHED) {
                // SAFETY: no CPU runs any more: nobody polls it or owns it but who drops the node.
                unsafe { thread.give_up() };
            }
        }
    }

    /// Drops, unrun, what was sent to this CPU and what it has not sent yet. For a node that goes. True: something did.
    pub(crate) fn discard_messages(&self) -> bool {
        let mut some = false;
        while let Some(message) = self.outside.pop() {
            some = true;
            drop(message);
        }
        for ring in &self.inbound {
            // SAFETY: as in `drain_ring`; no CPU runs any more, so this is the one consumer.
            unsafe {
                if let Some(ring) = ring.load(Ordering::Acquire).as_ref() {
                    let _ = ring.take_batch(|_, message| {
                        some = true;
                        drop(message);
                    });
                }
            }
        }
        some |= self.mastership.discard();
        self.outbound
            .iter()
            .fold(some, |some, outbound| outbound.discard() | some)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        for ring in &mut self.inbound {
            let ring = *ring.get_mut();
            if !ring.is_null() {
                // SAFETY: published by `Outbound`, which gave it to the target; nobody sends to a dropped CPU.
                drop(unsafe { Box::from_raw(ring) });
            }
        }
    }
}

/// True in a thread's poll, which answers for what is dropped in it: not while a panic drops what it finds, nor in
/// [`clear_up`].
pub(crate) fn is_in_poll() -> bool {
    current::try_current().is_some_and(|here| {
        let is_unwinding = || here.node().platform().is_unwinding();
        here.running_id() != 0 && !here.clears_up.get() && !is_unwinding()
    })
}

/// Runs `f`, which drops what a node leaves behind, wherever its last handle happens to go: the thread that runs here has
/// lost nothing of its own.
pub(crate) fn clear_up<R>(f: impl FnOnce() -> R) -> R {
    struct Before<'c>(Option<&'c Cpu>, bool);
    impl Drop for Before<'_> {
        fn drop(&mut self) {
            if let Some(here) = self.0 {
                here.clears_up.set(self.1);
            }
        }
    }
    let here = current::try_current();
    let _before = Before(here, here.is_some_and(|here| here.clears_up.replace(true)));
    f()
}
