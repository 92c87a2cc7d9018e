//! Interrupts of one CPU: devices, the timer, doorbells, and the watchdog that the timer carries.
//!
//! A device's handler acknowledges and wakes, no more. It runs at once, or, when a critical section is open, at its
//! end; timers and messages wait for the poll point. The watchdog looks from the raw timer entry, so no critical
//! section hides a poll from it: it sees whether the poll that ran a budget ago still runs.

use super::{Cpu, InterruptHandler, PENDING_INTERRUPT, PENDING_TIMER};
use crate::{critical, trace};
use core::{panic::Location, sync::atomic::Ordering};

/// The watchdog is off: any value of `watch_ns` but MAX keeps its cold path away until the next idle.
const OFF: u64 = u64::MAX - 1;

/// A poll that has run longer than the watchdog's budget, as seen from the timer interrupt. Its `Display` is the report's
/// first line.
#[derive(Clone, Copy, Debug)]
pub struct Overrun {
    /// The thread's number.
    pub thread: u32,
    /// The thread's name.
    pub name: &'static str,
    /// Where it was spawned.
    pub site: &'static Location<'static>,
    /// How long the poll has run at least, in nanoseconds.
    pub ran_ns: u64,
}

impl core::fmt::Display for Overrun {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "thread {} ({}, spawned at {}) has run for {} ms without an await",
            self.thread,
            self.name,
            self.site,
            self.ran_ns / 1_000_000
        )
    }
}

impl Cpu {
    /// Does what interrupts left to do, in DragonFly's order: IPI (drained by the loop before this), timer, device.
    /// Owner, at a poll point.
    pub(super) fn replay(&self) {
        self.poll_ended.set(0);
        let pending = self.pending.load(Ordering::Relaxed);
        if pending & PENDING_TIMER != 0 {
            self.pending.fetch_and(!PENDING_TIMER, Ordering::Relaxed);
            self.fire_timers();
        }
        if pending & PENDING_INTERRUPT != 0 {
            self.replay_interrupts();
        }
    }

    /// Runs the device handlers that a critical section deferred. Owner.
    #[cold]
    pub(crate) fn replay_interrupts(&self) {
        if self.hard.get() != 0 {
            return;
        }
        // Until none came while the others were handled.
        while self.pending.load(Ordering::Relaxed) & PENDING_INTERRUPT != 0 {
            self.pending
                .fetch_and(!PENDING_INTERRUPT, Ordering::Relaxed);
            for (word, lines) in self.pending_lines.iter().enumerate() {
                let mut lines = lines.swap(0, Ordering::Relaxed);
                while lines != 0 {
                    let line = word as u32 * 64 + lines.trailing_zeros();
                    lines &= lines - 1;
                    self.handle_interrupt(line as u8);
                }
            }
        }
    }

    pub(super) fn handle_interrupt(&self, line: u8) {
        let depth = self.critical.get();
        self.critical.set(depth + 1);
        self.hard.set(self.hard.get() + 1);
        self.record(trace::Event::InterruptBegin, line, 0, 0);
        let handler = self.handlers.borrow().get(&line).cloned();
        match handler {
            Some(handler) => handler(),
            None => self.stats.stray_interrupts.add(1),
        }
        self.record(trace::Event::InterruptEnd, line, 0, 0);
        self.hard.set(self.hard.get() - 1);
        self.critical.set(depth);
    }

    /// Registers what device interrupt `line` of this CPU runs: acknowledge and wake, no more. Owner.
    ///
    /// The handler runs in a hard section, at once or, when the interrupt came in a critical section, at its end.
    ///
    /// It cannot await (trap 14):
    ///
    /// ```compile_fail
    /// # fn f(cpu: &executor::Cpu) {
    /// cpu.on_interrupt(1, std::rc::Rc::new(async || executor::yield_now().await));
    /// # }
    /// ```
    ///
    /// # Panics
    /// On another CPU.
    pub fn on_interrupt(&self, line: u8, handler: InterruptHandler) {
        self.assert_current();
        critical::section_on(self, || self.handlers.borrow_mut().insert(line, handler));
    }

    /// Called by the platform's raw entry, interrupts off: device interrupt `line` came. Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn interrupt(&self, line: u8) {
        self.assert_current();
        self.stats.interrupts.add(1);
        if self.critical.get() == 0 {
            self.handle_interrupt(line);
        } else {
            self.pending_lines[usize::from(line) / 64]
                .fetch_or(1 << (line % 64), Ordering::Relaxed);
            self.pending.fetch_or(PENDING_INTERRUPT, Ordering::Relaxed);
        }
    }

    /// Called by the platform's raw entry, interrupts off: the one-shot timer has run out. The timers fire at the next
    /// poll point. Returns the poll that has overrun the watchdog's budget, to be reported with where it is now. Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn interrupt_timer(&self) -> Option<Overrun> {
        self.assert_current();
        self.stats.timer_interrupts.add(1);
        // If the loop was interrupted while it set the timer, what it has noted holds when it goes on: either the timer
        // that has run out is the one before, or it is the new one, which `fire_timers` sees by its time.
        if !self.setting_timer.get() {
            self.armed_ns.set(u64::MAX);
        }
        self.pending.fetch_or(PENDING_TIMER, Ordering::Relaxed);
        self.check_watchdog()
    }

    /// Called by a platform whose timer interrupts nobody, from whatever interrupts a busy CPU there now and then: the poll
    /// that has overrun the watchdog's budget, as of [`interrupt_timer`](Self::interrupt_timer). Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn look_at_watchdog(&self) -> Option<Overrun> {
        self.assert_current();
        self.check_watchdog()
    }

    /// Called by the platform's raw entry: a doorbell came. The loop finds the message by itself. Owner.
    pub fn interrupt_doorbell(&self) {
        self.stats.doorbells_received.add(1);
    }

    /// Sets the hardware timer earlier if something is due earlier. Owner.
    pub(crate) fn arm_timer(&self) {
        let wanted_ns = self.wanted_ns();
        if wanted_ns < self.armed_ns.get() {
            self.set_hardware_timer(wanted_ns);
        }
    }

    /// When the timer must interrupt: for what is due, or for the watchdog's look.
    fn wanted_ns(&self) -> u64 {
        self.next_due_ns().min(match self.watch_ns.get() {
            never if never >= OFF => u64::MAX,
            watch => watch,
        })
    }

    pub(super) fn set_hardware_timer(&self, deadline_ns: u64) {
        self.setting_timer.set(true);
        self.armed_ns.set(deadline_ns);
        let deadline = (deadline_ns != u64::MAX).then_some(deadline_ns);
        self.node().platform().set_timer(deadline);
        self.setting_timer.set(false);
        if let Some(deadline) = deadline {
            let us = deadline.saturating_sub(self.now_ns.get()) / 1000;
            self.record(
                trace::Event::TimerArm,
                0,
                0,
                us.min(u64::from(u32::MAX)) as u32,
            );
        }
    }

    /// Wakes whom a due timer waits for. Owner, at a poll point.
    pub(crate) fn fire_timers(&self) {
        let now = self.node().clock_ns();
        self.now_ns.set(now);
        self.poll_ended.set(0);
        while let Some((due_ns, waker)) = self.timers.pop_due(now) {
            self.stats.timers_fired.add(1);
            let late_us = ((now - due_ns) / 1000).min(u64::from(u32::MAX));
            self.record(trace::Event::TimerFire, 0, 0, late_us as u32);
            waker.wake();
        }
        if self.reminders.due_ns() <= now {
            self.reminders.remind(self);
        }
        if self.armed_ns.get() <= now {
            // What it was set to is dealt with, or it has run out while it was being set, and nobody has noted that.
            self.set_hardware_timer(self.wanted_ns());
        } else {
            self.arm_timer();
        }
    }

    pub(super) fn check_watchdog(&self) -> Option<Overrun> {
        if self.watch_ns.get() == u64::MAX {
            return None;
        }
        let budget = self.node().watchdog_ns();
        if budget == 0 {
            self.watch_ns.set(OFF);
            return None;
        }
        let now = self.node().clock_ns();
        // SAFETY: what runs is alive.
        let thread = unsafe { self.running.get().as_ref() };
        let Some(thread) = thread.filter(|_| self.watched_poll.get() == self.polls.get()) else {
            // Another poll than the one we saw begin, or none: watch the current one from here.
            self.watched_poll.set(self.polls.get());
            if self.running.get().is_null() {
                self.watch_ns.set(u64::MAX);
            } else {
                self.watch_from(now, budget);
            }
            self.arm_from_interrupt();
            return None;
        };
        if now < self.watch_ns.get() {
            self.arm_from_interrupt();
            return None;
        }
        let ran_ns = now.saturating_sub(self.watched_since_ns.get());
        self.stats.overruns.add(1);
        if self.trace.is_made() {
            let ran_ms = (ran_ns / 1_000_000) as u32;
            self.record(trace::Event::WatchdogOverrun, 0, thread.id, ran_ms);
        }
        // Once for this poll: it is silent until the next one has begun.
        self.watched_poll.set(self.polls.get().wrapping_add(1));
        self.watch_ns.set(u64::MAX);
        Some(Overrun {
            thread: thread.id,
            name: thread.name,
            site: thread.site,
            ran_ns,
        })
    }

    fn arm_from_interrupt(&self) {
        if !self.setting_timer.get() {
            self.arm_timer();
        }
    }

    #[cold]
    pub(super) fn arm_watchdog(&self) {
        let budget = self.node().watchdog_ns();
        if budget == 0 {
            self.watch_ns.set(OFF);
            return;
        }
        self.watched_poll.set(self.polls.get() + 1);
        self.watch_from(self.node().clock_ns(), budget);
        self.arm_timer();
    }

    /// The budget may be changed before it has run out, so when it began is kept too.
    fn watch_from(&self, now_ns: u64, budget_ns: u64) {
        self.watched_since_ns.set(now_ns);
        self.watch_ns.set(now_ns.saturating_add(budget_ns).min(OFF));
    }
}
