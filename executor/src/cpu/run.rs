//! The loop: poll points, and polls between them. See docs/decisions/poll-points.md.

use super::{BACKLOG, Cpu, HELD, POLL_TURNS, STOPPING};
use crate::{
    CpuId,
    inbox::{self, OUTSIDE, SENDER_BITS},
    ipi::{self, Outbound},
    ring,
    thread::{Header, flag},
    trace,
};
use core::{
    hint, ptr,
    sync::atomic::{Ordering, compiler_fence},
};

impl Cpu {
    /// Runs this CPU's threads until the node stops, then drops what is left of them. Owner.
    ///
    /// # Panics
    /// When called anywhere but on this CPU, or from within a thread, a handler or a message.
    // A frame of its own, where a backtrace ends.
    #[inline(never)]
    pub fn run(&self) {
        self.begin_loop();
        self.critical.set(1);
        self.now_ns.set(self.node().clock_ns());
        let polled = self.node().platform().interrupts_are_polled();
        let mut turns = POLL_TURNS;
        loop {
            if !self.inbox.is_quiet() {
                hint::cold_path();
                self.drain();
            }
            if self.gate.get() != 0 {
                hint::cold_path();
                if self.gate.get() & STOPPING != 0 {
                    break;
                }
                if self.gate.get() & HELD != 0 {
                    self.stand_still();
                    continue;
                }
                self.flush_backlog();
            }
            if self.pending.load(Ordering::Relaxed) != 0 {
                hint::cold_path();
                self.replay();
            }
            turns -= 1;
            if turns == 0 {
                turns = POLL_TURNS;
                self.look_around(polled);
            }
            match self.run_queue.pop() {
                // SAFETY: popped on the owner; queued threads are alive and unfinished.
                Some(thread) => unsafe { self.dispatch(&*thread) },
                None => {
                    hint::cold_path();
                    self.idle();
                }
            }
        }
        self.abandon_threads();
        self.looping.set(false);
    }

    /// What a busy loop does now and then: where no interrupt reaches it, it asks for the time and the devices.
    #[cold]
    #[inline(never)]
    fn look_around(&self, polled: bool) {
        if polled {
            self.node().platform().poll_interrupts(self);
            if self.next_due_ns() != u64::MAX {
                self.fire_timers();
            }
        }
    }

    #[track_caller]
    pub(super) fn begin_loop(&self) {
        self.assert_current();
        assert!(!self.looping.replace(true), "a CPU's loop does not nest");
        self.poll_ended.set(0);
    }

    /// # Safety
    /// `thread` was just popped from this CPU's run queue.
    #[inline]
    pub(super) unsafe fn dispatch(&self, thread: &Header) {
        thread.clear(flag::QUEUED);
        if thread.is(flag::MOVING) {
            hint::cold_path();
            self.depart(thread);
            return;
        }
        if self.watch_ns.get() == u64::MAX {
            self.arm_watchdog();
        }
        // Any class, or accounting.
        let finished = match self.watched.load(Ordering::Relaxed) {
            0 => self.poll(thread),
            watched => {
                let began = self.run_begins(thread, watched);
                let finished = self.poll(thread);
                self.run_ended(thread, watched, began, finished);
                finished
            }
        };
        if finished || thread.flags.get() & (flag::AGAIN | flag::MOVING | flag::EXITING) != 0 {
            self.after_poll(thread, finished);
        }
    }

    /// Runs one poll of `thread`, which was popped. True: it has finished.
    #[inline(always)]
    fn poll(&self, thread: &Header) -> bool {
        self.polls.set(self.polls.get() + 1);
        thread.polls.add(1);
        self.running.set(thread);
        self.critical.set(thread.critical.get());
        // SAFETY: popped, so neither finished nor running; this is the owner's loop.
        let finished = unsafe { thread.poll() };
        let depth = self.critical.replace(1);
        if depth != thread.critical.get() {
            hint::cold_path();
            thread.critical.set(depth);
        }
        // From here on no handler changes the thread's flags.
        compiler_fence(Ordering::SeqCst);
        self.running.set(ptr::null());
        self.poll_ns.set(0);
        finished
    }

    /// A thread that does not just wait after its poll: it has `finished` or has called `exit`, it was woken meanwhile, or it
    /// leaves when it comes up.
    #[inline(always)]
    fn after_poll(&self, thread: &Header, finished: bool) {
        if finished || thread.is(flag::EXITING) {
            self.exit(thread, finished);
        } else {
            thread.clear(flag::AGAIN);
            thread.set(flag::QUEUED);
            // SAFETY: owner, in the loop's critical section; it was popped, and who wakes a running thread does not queue
            // it; the executor's count keeps it alive until it finishes.
            unsafe { self.run_queue.push(thread, true) };
        }
    }

    /// Handles the messages of everybody who told this CPU. Owner, at a poll point.
    pub(crate) fn drain(&self) {
        self.poll_ended.set(0);
        let bits = self.inbox.collect();
        if self.heap.is_wanted() {
            self.tidy_memory();
        }
        let mut senders = bits & !OUTSIDE;
        self.hard.set(self.hard.get() + 1);
        while senders != 0 {
            let first = senders.trailing_zeros() as usize;
            senders &= senders - 1;
            for sender in (first..self.inbound.len()).step_by(SENDER_BITS) {
                self.drain_ring(sender);
            }
        }
        if bits & OUTSIDE != 0 {
            for _ in 0..ring::CAPACITY {
                let Some(message) = self.outside.pop() else {
                    break;
                };
                // SAFETY: a message is run once, on its target.
                unsafe { message.run(self) };
            }
            if !self.outside.is_empty() {
                let _ = self.inbox.tell(OUTSIDE);
            }
        }
        self.hard.set(self.hard.get() - 1);
    }

    fn drain_ring(&self, sender: usize) {
        // SAFETY: a ring, once published, lives as long as its target.
        let Some(ring) = (unsafe { self.inbound[sender].load(Ordering::Acquire).as_ref() }) else {
            return;
        };
        let traced = self.watched.load(Ordering::Relaxed) & trace::Class::Ipi as u32 != 0;
        let mut count = 0;
        // SAFETY: this CPU is the ring's one consumer.
        let wants_room = unsafe {
            ring.take_batch(|sequence, message| {
                count += 1;
                if traced {
                    self.record(trace::Event::IpiReceive, sender as u8, 0, sequence as u32);
                }
                message.run(self);
            })
        };
        self.stats.ipi_received.add(count);
        if wants_room {
            ipi::tell(self, self.node().cpu(CpuId(sender as u16)));
        }
        if ring.has_messages() {
            // More came meanwhile; the next turn handles it, so that a storm cannot keep threads from running.
            let _ = self.inbox.tell(inbox::sender_bit(sender));
        }
    }

    /// True if some messages found room. Owner.
    pub(super) fn flush_backlog(&self) -> bool {
        let mut moved = false;
        for (target, outbound) in self.outbound.iter().enumerate() {
            if outbound.has_backlog() {
                moved |= outbound.flush(self, self.node().cpu(CpuId(target as u16)));
            }
        }
        if !self.outbound.iter().any(Outbound::has_backlog) {
            self.gate.set(self.gate.get() & !BACKLOG);
        }
        moved
    }
}
