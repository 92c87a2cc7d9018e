//! The sender's side of one (sender, target) pair.

use super::{Message, Urgency, announce};
use crate::{Cpu, cpu::BACKLOG, ring::Ring, trace::Class};
use alloc::{boxed::Box, collections::VecDeque};
use core::{
    cell::{Cell, RefCell},
    ptr,
    sync::atomic::Ordering,
};

/// The sending side of one pair: the ring (made at the first send) and what found no room in it. Sender only.
pub(crate) struct Outbound {
    ring: Cell<*const Ring<Message>>,
    backlog: RefCell<VecDeque<Message>>,
}

impl Outbound {
    /// Nothing sent yet.
    pub(crate) fn new() -> Self {
        Self {
            ring: Cell::new(ptr::null()),
            backlog: RefCell::new(VecDeque::new()),
        }
    }

    /// The ring to `target`, which is made if there is none.
    pub(super) fn ring(&self, here: &Cpu, target: &Cpu) -> &Ring<Message> {
        if self.ring.get().is_null() {
            // 64 CPUs have 4032 pairs, of which few ever talk: a ring is made when its first message is.
            let ring = Box::into_raw(Box::new(Ring::new()));
            self.ring.set(ring);
            target.inbound[here.id().index()].store(ring, Ordering::Release);
        }
        // SAFETY: just made, or made earlier; the target frees it when the node goes.
        unsafe { &*self.ring.get() }
    }

    /// How many messages were ever sent to the target.
    pub(super) fn sent(&self) -> usize {
        // SAFETY: as in `ring`.
        let pushed = unsafe { self.ring.get().as_ref() }.map_or(0, Ring::pushed);
        pushed.wrapping_add(self.backlog.borrow().len())
    }

    /// Puts a message behind those that wait for room. In a critical section of the sender.
    pub(super) fn keep(&self, here: &Cpu, message: Message) {
        here.gate.set(here.gate.get() | BACKLOG);
        here.stats.ipi_backlogged.add(1);
        self.backlog.borrow_mut().push_back(message);
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.borrow().is_empty()
    }

    pub(crate) fn ask_for_room(&self) {
        if self.has_backlog() {
            // SAFETY: a backlog exists, so the ring does.
            unsafe { &*self.ring.get() }.ask_for_room();
        }
    }

    /// True if nothing waits here for room, or the target will tell when there is some.
    pub(crate) fn is_expected(&self) -> bool {
        // SAFETY: a backlog exists, so the ring does.
        !self.has_backlog() || unsafe { &*self.ring.get() }.room_is_wanted()
    }

    /// Drops the backlog, when the node goes. True: there was one.
    pub(crate) fn discard(&self) -> bool {
        let backlog = self.backlog.take();
        !backlog.is_empty()
    }

    /// Moves what fits from the backlog into the ring. True: something did.
    pub(crate) fn flush(&self, here: &Cpu, target: &Cpu) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        let before = backlog.len();
        while let Some(message) = backlog.pop_front() {
            let sent_ns = here.traced_ns(Class::Ipi);
            // SAFETY: this CPU is the ring's one producer.
            match unsafe { self.ring(here, target).push(message) } {
                Ok(sequence) => announce(here, target, sequence, sent_ns, Urgency::Active),
                Err(message) => {
                    backlog.push_front(message);
                    break;
                }
            }
        }
        backlog.len() < before
    }
}
