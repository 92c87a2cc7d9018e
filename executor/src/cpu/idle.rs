//! A CPU with nothing to run, and one that a cpusync holds: how it falls asleep, and what its timer is set to.
//!
//! The order is what matters: the timer is set, then the inbox is halted, then the platform looks once more. Whatever
//! comes between two of these is seen by the later one. See `inbox.rs`.

use super::{BACKLOG, Cpu, HELD, STOPPING};
use crate::{ipi::Outbound, trace};
use core::sync::atomic::Ordering;

/// How often an idle CPU looks at its inbox between two pauses.
const LOOKS_PER_PAUSE: u32 = 16;
/// And between two looks at the clock, where it waits for a timer and nothing interrupts it.
const LOOKS_PER_CLOCK: u32 = 1024;

impl Cpu {
    /// True while a cpusync holds this CPU: nothing but messages is handled. Owner.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.gate.get() & HELD != 0
    }

    /// When the timer must interrupt next, to the nanosecond; `u64::MAX` for never. Owner.
    pub(super) fn earliest_due_ns(&self) -> u64 {
        self.timers.earliest_ns().min(self.reminders.due_ns())
    }

    /// A time before which the timer need not interrupt; `u64::MAX` for never. Owner.
    #[inline]
    pub(super) fn next_due_ns(&self) -> u64 {
        self.timers.next_ns().min(self.reminders.due_ns())
    }

    /// A turn of the loop of a CPU that is held. Owner.
    #[cold]
    pub(super) fn stand_still(&self) {
        if self.gate.get() & BACKLOG != 0 {
            self.flush_backlog();
        }
        self.sleep();
    }

    /// Nothing is runnable: sleep until something is. Owner.
    pub(super) fn idle(&self) {
        let polled = self.node().platform().interrupts_are_polled();
        if polled && self.next_due_ns() != u64::MAX {
            self.fire_timers();
            if !self.run_queue.is_empty() {
                return;
            }
        }
        if self.sleep() && polled && self.gate.get() & (STOPPING | HELD) == 0 {
            self.fire_timers();
        }
    }

    /// Sleeps until there is something to do. False: there was something. Owner.
    fn sleep(&self) -> bool {
        let platform = self.node().platform();
        for look in 1..=platform.idle_spin() {
            let pending = self.pending.load(Ordering::Relaxed) != 0 && !self.is_held();
            if !self.inbox.is_quiet() || pending {
                return false;
            }
            if look.is_multiple_of(LOOKS_PER_PAUSE) {
                core::hint::spin_loop();
            }
            // No interrupt ends the spinning where they are polled.
            let may_look = look.is_multiple_of(LOOKS_PER_CLOCK) && !self.is_held();
            if may_look
                && platform.interrupts_are_polled()
                && self.next_due_ns() <= self.node().clock_ns()
            {
                return false;
            }
        }
        if self.gate.get() & BACKLOG != 0 && self.ask_for_room() {
            return false;
        }
        let Some(began_ns) = self.fall_asleep() else {
            return false;
        };
        platform.idle(self);
        self.wake_up(began_ns);
        true
    }

    /// Has the targets of the backlog tell this CPU when there is room. True: there was some already. Owner.
    pub(super) fn ask_for_room(&self) -> bool {
        for outbound in &self.outbound {
            outbound.ask_for_room();
        }
        self.flush_backlog()
    }

    /// Gets ready to sleep: the hardware timer is set to what is due next, the inbox is halted. The time, or None if
    /// something came in and must be drained instead.
    pub(super) fn fall_asleep(&self) -> Option<u64> {
        debug_assert_eq!(
            self.gate.get() & BACKLOG != 0,
            self.outbound.iter().any(Outbound::has_backlog)
        );
        // Asleep, only what is really due may ring: the watchdog has nothing to watch.
        self.watch_ns.set(u64::MAX);
        self.settle_memory();
        if self.reminders.due_ns() != u64::MAX {
            self.reminders.forget_found(self);
        }
        // Held, nothing fires: the timer is set when it is let go.
        let due_ns = if self.is_held() {
            u64::MAX
        } else {
            self.earliest_due_ns()
        };
        if due_ns != self.armed_ns.get() {
            self.set_hardware_timer(due_ns);
        }
        if !self.inbox.try_halt() {
            return None;
        }
        let began_ns = self.node().clock_ns();
        self.record_at(began_ns, trace::Event::IdleBegin, 0, 0, 0);
        self.stats.halts.add(1);
        Some(began_ns)
    }

    /// Awake again since now; asleep since `began_ns`.
    pub(super) fn wake_up(&self, began_ns: u64) {
        let ended_ns = self.node().clock_ns();
        self.now_ns.set(ended_ns);
        self.stats.idle_ns.add(ended_ns.saturating_sub(began_ns));
        self.record_at(ended_ns, trace::Event::IdleEnd, 0, 0, 0);
        // Takes HALTED back, and whatever came with it.
        self.drain();
    }
}
