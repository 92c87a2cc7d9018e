//! Passive messages: sent without a doorbell, found when the target looks for another reason.
//!
//! DragonFly leaves them to the target's next tick. Nothing ticks here, so a target that sleeps may not look for hours.
//! Awake, it finds them at its next poll point, and does not halt before. For one that sleeps the sender answers: the
//! first of those who tell it passively (the inbox word says which one that is) keeps a *reminder*, due one DragonFly
//! tick later, and rings then if the target still sleeps over it. A reminder is one deadline and a mask for each
//! sending CPU, so the deadline may come early for who was added late; it allocates nothing, because the sender may be
//! the allocator or an interrupt handler. A CPU that falls asleep forgets reminders of what has been found meanwhile, so
//! an idle node with nothing on its way sets no timer. See docs/decisions/passive-messages.md.

use super::{Message, Urgency};
use crate::{Cpu, CpuId, CpuMask, critical, inbox::sender_bit, ring::Ring};
use core::cell::{Cell, RefCell};

/// How long a passive message may wait for a CPU that sleeps, in nanoseconds: a tick at DragonFly's 100 Hz.
const TICK_NS: u64 = 10_000_000;

/// With more messages than this in its ring a passive send is active, the new one included: DragonFly's quarter.
const FULL: usize = crate::ring::CAPACITY / 4;

/// Which targets one CPU has to remind of passive messages, and when. Owner, in a critical section.
pub(crate) struct Reminders {
    of: RefCell<CpuMask>,
    due_ns: Cell<u64>,
}

impl Reminders {
    /// None, of a node with so many CPUs.
    pub(crate) fn new(cpu_count: usize) -> Self {
        Self {
            of: RefCell::new(CpuMask::with_room_for(cpu_count)),
            due_ns: Cell::new(u64::MAX),
        }
    }

    /// When the targets are reminded; `u64::MAX` if there are none.
    #[inline]
    pub(crate) fn due_ns(&self) -> u64 {
        self.due_ns.get()
    }

    /// True if `target` will be reminded.
    pub(crate) fn has(&self, target: CpuId) -> bool {
        self.of.borrow().contains(target)
    }

    /// Reminds those who still sleep over a passive message.
    #[cold]
    pub(crate) fn remind(&self, here: &Cpu) {
        critical::section_on(here, || {
            self.due_ns.set(u64::MAX);
            self.of.borrow_mut().retain(|target| {
                if here.node().cpu(target).inbox.remind() {
                    here.stats.doorbells_rung.add(1);
                    here.node().platform().doorbell(target);
                }
                false
            });
        });
    }

    /// Drops the reminders of what was found since: `here` is about to sleep.
    #[cold]
    pub(crate) fn forget_found(&self, here: &Cpu) {
        critical::section_on(here, || {
            let mut of = self.of.borrow_mut();
            of.retain(|target| here.node().cpu(target).inbox.is_told_passively());
            if of.is_empty() {
                self.due_ns.set(u64::MAX);
            }
        });
    }
}

/// What becomes of a message that was just pushed.
///
/// # Safety
/// The caller is the ring's one producer.
#[inline]
pub(super) unsafe fn urgency(ring: &Ring<Message>, asked: Urgency) -> Urgency {
    // SAFETY: the caller's promise.
    if asked == Urgency::Passive && unsafe { ring.fill_above(FULL) } {
        return Urgency::Active;
    }
    asked
}

/// Tells `target` without a doorbell, and remembers to remind it if nobody else has to. In a critical section.
pub(super) fn announce(here: &Cpu, target: &Cpu) {
    here.stats.ipi_passive.add(1);
    if target.inbox.tell_passively(sender_bit(here.id().index())) {
        let reminders = &here.reminders;
        reminders.of.borrow_mut().insert(target.id());
        if reminders.due_ns() == u64::MAX {
            let due_ns = here.node().clock_ns().saturating_add(TICK_NS);
            reminders.due_ns.set(due_ns);
            here.arm_timer();
        }
    }
}
