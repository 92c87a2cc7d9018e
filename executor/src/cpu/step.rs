//! The loop taken apart into steps, for a simulator that decides which CPU goes next.
//!
//! [`Cpu::run`] on hardware and on a host is: step while there is something, else fall asleep, sleep, wake up. A simulator
//! does the same through [`step`](Cpu::step), [`halt`](Cpu::halt) and [`wake`](Cpu::wake), whenever its seed says so.
//! Between two steps it may look at what must hold there: [`at_rest`](Cpu::at_rest), [`left_behind`](Cpu::left_behind).

use super::{BACKLOG, Cpu, STOPPING};
use crate::{inbox::sender_bit, ipi::Message, ring::Ring};
use core::sync::atomic::{AtomicPtr, Ordering};

/// What a CPU about to sleep would leave undone, or a CPU between two polls still holds: a broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A thread is queued to run.
    Runnable,
    /// A message is in a ring that nobody told of, or a passive one that nobody will remind this CPU of.
    Message,
    /// An interrupt's work is to be done.
    Interrupt,
    /// Messages wait for room, and their target does not know.
    Backlog,
    /// The hardware timer is not set to the earliest deadline.
    Timer,
    /// A token is held, though no thread runs.
    Token,
    /// A critical section is open, though no thread runs.
    Section,
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Runnable => "a CPU halts with a thread queued to run",
            Self::Message => "a CPU halts with a message in a ring",
            Self::Interrupt => "a CPU halts with an interrupt's work undone",
            Self::Backlog => "a CPU halts with a backlog that its target does not know of",
            Self::Timer => "a CPU halts with its timer not set to the earliest deadline",
            Self::Token => "a token is held by a thread that is not running",
            Self::Section => "a critical section is open while no thread runs",
        })
    }
}

impl Cpu {
    /// Runs at most one message batch, timer batch or thread. False: nothing to do. The step that finds the node
    /// stopped drops the threads that are left. Owner.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn step(&self) -> bool {
        self.begin_loop();
        let something = self.one_step();
        self.looping.set(false);
        something
    }

    fn one_step(&self) -> bool {
        if !self.inbox.is_quiet() {
            self.drain();
            return true;
        }
        if self.gate.get() & STOPPING != 0 {
            self.abandon_threads();
            return false;
        }
        if self.is_held() {
            return self.gate.get() & BACKLOG != 0 && self.flush_backlog();
        }
        if self.pending.load(Ordering::Relaxed) != 0 {
            self.replay();
            return true;
        }
        if self.gate.get() & BACKLOG != 0 && self.flush_backlog() {
            return true;
        }
        match self.run_queue.pop() {
            Some(thread) => {
                // SAFETY: as in `run`.
                unsafe { self.dispatch(&*thread) };
                true
            }
            None => false,
        }
    }

    /// Falls asleep: after a step that found nothing to do. From now on a sender rings the doorbell. None: something came
    /// in meanwhile, so step on. Otherwise the time, to be given to [`wake`](Self::wake). Owner.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn halt(&self) -> Option<u64> {
        self.begin_loop();
        let moved = self.gate.get() & BACKLOG != 0 && self.ask_for_room();
        let began_ns = if moved { None } else { self.fall_asleep() };
        self.looping.set(false);
        began_ns
    }

    /// Wakes up: a doorbell, an interrupt or the timer ended the sleep that began at `began_ns`. Drains the inbox. Owner.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn wake(&self, began_ns: u64) {
        self.begin_loop();
        self.wake_up(began_ns);
        self.looping.set(false);
    }

    /// Puts right what a step left behind that ended in a panic: the poll in progress is over, and its thread will not run
    /// again if the node is stopped now. Owner.
    ///
    /// # Panics
    /// On another CPU.
    ///
    /// # Safety
    /// The caller drives this CPU by [`step`](Self::step), [`halt`](Self::halt) and [`wake`](Self::wake), and is in none of
    /// them: no poll, handler or message is in progress further up the stack.
    pub unsafe fn recover(&self) {
        self.assert_current();
        self.looping.set(false);
        self.running.set(core::ptr::null());
        drop(self.exit_with.take());
        self.poll_ns.set(0);
        self.critical.set(1);
        self.hard.set(0);
        self.inline_load.set(0);
        self.shared_tokens.borrow_mut().clear();
    }

    /// What this CPU, between two steps, holds though it must not. Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn at_rest(&self) -> Option<Broken> {
        self.assert_current();
        if self.holds_tokens() {
            return Some(Broken::Token);
        }
        // Outside of any poll the loop's own section is open, and no other.
        (self.critical.get() != 1 || self.hard.get() != 0).then_some(Broken::Section)
    }

    /// What this CPU, halted and rung by nobody, would sleep over for ever. `armed_ns` is what the platform's timer is set
    /// to.
    ///
    /// # Safety
    /// No CPU of the node runs meanwhile: one host thread drives them all by steps, and this is that thread, between two
    /// of them.
    pub unsafe fn left_behind(&self, armed_ns: Option<u64>) -> Option<Broken> {
        let held = self.is_held();
        let broken = if !self.run_queue.is_empty() && !held {
            Broken::Runnable
        } else if self.pending.load(Ordering::Relaxed) != 0 && !held {
            Broken::Interrupt
        } else if self.sleeps_over_a_message() {
            Broken::Message
        } else if armed_ns.unwrap_or(u64::MAX)
            != if held {
                u64::MAX
            } else {
                self.earliest_due_ns()
            }
        {
            Broken::Timer
        } else if self.gate.get() & BACKLOG != 0
            && !self.outbound.iter().all(|out| out.is_expected())
        {
            Broken::Backlog
        } else {
            return None;
        };
        Some(broken)
    }

    /// True if there is a message that nobody will tell this CPU of, in time at least.
    fn sleeps_over_a_message(&self) -> bool {
        let told = self.inbox.told();
        // A passive message may lie here, if somebody has promised to remind this CPU of it.
        let reminded = || self.node().cpus().any(|cpu| cpu.reminders.has(self.id()));
        let in_time = self.inbox.may_sleep() || self.inbox.is_told_passively() && reminded();
        let untold = |(sender, ring): (usize, &AtomicPtr<Ring<Message>>)| {
            // SAFETY: a ring, once published, lives as long as its target.
            let ring = unsafe { ring.load(Ordering::Acquire).as_ref() };
            told & sender_bit(sender) == 0 && ring.is_some_and(Ring::has_messages)
        };
        !in_time || !self.outside.is_empty() || self.inbound.iter().enumerate().any(untold)
    }
}
