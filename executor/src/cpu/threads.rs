//! The threads of a CPU: how they are queued, how they come, go and end.

use super::Cpu;
use crate::{
    CpuId, critical, ipi,
    thread::{Header, ThreadRef, flag},
    trace,
};
use core::ptr;

impl Cpu {
    /// Queues `thread` unless it is queued, gone or on its way elsewhere. Owner, any context.
    #[inline]
    pub(crate) fn schedule(&self, thread: &Header) {
        self.schedule_for(thread, None);
    }

    /// As [`schedule`](Self::schedule), for a waker elsewhere: its CPU and thread number, for the trace.
    #[inline]
    pub(crate) fn schedule_for(&self, thread: &Header, waker: Option<(u8, u32)>) {
        if ptr::eq(self.running.get(), thread) && !thread.is(flag::AGAIN) {
            // It gives up its turn, and is queued when its poll is over. No section: a handler that comes in between can
            // do no more than set the same flag.
            thread.set(flag::AGAIN);
            self.record_wake(thread, waker);
        } else {
            self.enqueue(thread, waker);
        }
    }

    /// Queues a thread that does not run, unless it is queued, gone or on its way elsewhere.
    fn enqueue(&self, thread: &Header, waker: Option<(u8, u32)>) {
        if thread.flags.enter_and_queue(|| critical::enter_on(self)) {
            // SAFETY: owner, in a critical section; not queued; the executor's count keeps it alive until it finishes.
            unsafe { self.run_queue.push(thread, false) };
            self.record_wake(thread, waker);
        } else {
            thread.spare_wakes.add(1);
        }
        critical::leave_on(self);
    }

    /// Takes a new or arriving thread in, with the executor's count, and queues it. Owner.
    pub(crate) fn adopt(&self, thread: ThreadRef) {
        critical::section_on(self, || {
            let header: &Header = &thread;
            header.all_previous.set(ptr::null());
            header.all_next.set(self.all_threads.get());
            // SAFETY: threads on the list are alive: the list holds the executor's count.
            if let Some(first) = unsafe { self.all_threads.get().as_ref() } {
                first.all_previous.set(header);
            }
            self.all_threads.set(header);
            self.thread_count.set(self.thread_count.get() + 1);
            header.clear(flag::IN_TRANSIT | flag::NEW);
            self.schedule(header);
            thread.into_raw();
        });
    }

    /// Takes a thread off the list and gives the executor's count back. Owner.
    pub(super) fn disown(&self, thread: &Header) -> ThreadRef {
        let (previous, next) = (thread.all_previous.get(), thread.all_next.get());
        // SAFETY: the neighbours are on the list, hence alive.
        unsafe {
            match previous.as_ref() {
                Some(previous) => previous.all_next.set(next),
                None => self.all_threads.set(next),
            }
            if let Some(next) = next.as_ref() {
                next.all_previous.set(previous);
            }
        }
        self.thread_count.set(self.thread_count.get() - 1);
        // SAFETY: the count that `adopt` put on the list.
        unsafe { ThreadRef::from_raw(thread) }
    }

    /// Ends a thread whose last poll is over: it has `finished`, or has called `exit`. Owner.
    pub(super) fn exit(&self, thread: &Header, finished: bool) {
        let output = self.exit_with.take();
        if let Some(output) = output.filter(|_| !finished) {
            // What is dropped here belongs to the thread, and so do its sections.
            self.running.set(thread);
            self.critical.set(1 + thread.critical.get());
            // SAFETY: owner, after its poll, not finished.
            unsafe { thread.exit(output) };
            self.critical.set(1);
            self.running.set(ptr::null());
        }
        self.record(trace::Event::ThreadExit, 0, thread.id, 0);
        let thread = self.disown(thread).into_raw();
        // SAFETY: owner, once, after its last poll, and off the list.
        unsafe { Header::finish(thread) };
    }

    /// A number for a thread that is made here. Owner.
    pub(crate) fn next_thread_id(&self) -> u32 {
        critical::section_on(self, || {
            let (next, left) = match self.thread_ids.get() {
                (_, 0) => self.node().take_thread_ids(),
                ids => ids,
            };
            self.thread_ids.set((next.wrapping_add(1), left - 1));
            next
        })
    }

    /// Sends a thread that came up where it wants to go. Owner.
    #[cold]
    pub(super) fn depart(&self, thread: &Header) {
        thread.clear(flag::MOVING);
        let target = thread.migrate_to.get();
        self.record(trace::Event::Migrate, target.0 as u8, thread.id, 0);
        let to = self.node().cpu(target);
        let thread_ref = self.disown(thread);
        thread
            .owner
            .hand_over(&thread.flags, to, || ipi::send_arrival(to, thread_ref));
    }

    /// Sends the running thread to `target` when its poll ends. Owner, in a poll.
    ///
    /// # Panics
    /// If the thread's future need not be Send: it must not move.
    pub(crate) fn request_migration(&self, target: CpuId) {
        // SAFETY: what runs is alive.
        match unsafe { self.running.get().as_ref() } {
            Some(thread) if thread.is_movable() => {
                thread.migrate_to.set(target);
                // A handler that wakes it meanwhile sets a flag, too.
                critical::section_on(self, || thread.set(flag::MOVING));
            }
            _ => panic!("only a thread made by spawn_movable can move"),
        }
    }
}
