//! What a CPU lets others see: its threads, its counters, and the trace it records.

use super::{ACCOUNTING, Cpu};
use crate::{
    Account, CpuId, Priority, critical,
    thread::{Header, flag},
    token::TokenInfo,
    trace,
};
use alloc::{collections::BTreeMap, vec::Vec};
use core::{cell::RefCell, panic::Location, ptr, sync::atomic::Ordering};

/// What `ps` shows of a thread.
#[derive(Clone, Debug)]
pub struct ThreadInfo {
    /// Number, unique in the node.
    pub id: u32,
    /// The CPU it belongs to.
    pub cpu: CpuId,
    /// Its name.
    pub name: &'static str,
    /// Where it was spawned.
    pub site: &'static Location<'static>,
    /// Its priority.
    pub priority: Priority,
    /// Running or queued to run, as opposed to waiting.
    pub runnable: bool,
    /// Orders it among those of the same priority.
    pub user_priority: u16,
    /// What it has used.
    pub account: Account,
    /// The size of its future, in bytes: what it keeps between two polls.
    pub future_bytes: usize,
}

/// A thread's name and where it was spawned.
pub type Name = (&'static str, &'static Location<'static>);

/// The names that this CPU's spawn records refer to. Numbers are given in the order of first use, so they do not depend
/// on addresses although the lookup does.
#[derive(Default)]
pub(super) struct Names {
    numbers: RefCell<BTreeMap<(usize, usize), u32>>,
    list: RefCell<Vec<Name>>,
}

impl Names {
    fn number(&self, (name, site): Name) -> u32 {
        let key = (name.as_ptr().addr(), ptr::from_ref(site).addr());
        if let Some(number) = self.numbers.borrow().get(&key) {
            return *number;
        }
        let mut list = self.list.borrow_mut();
        list.push((name, site));
        let number = list.len() as u32;
        self.numbers.borrow_mut().insert(key, number);
        number
    }
}

impl Cpu {
    /// A poll begins. Its time in ticks, if they are counted: where the last one ended, if nothing was done in between.
    pub(super) fn run_begins(&self, thread: &Header, watched: u32) -> u64 {
        if watched & trace::Class::Sched as u32 != 0 {
            let now_ns = self.node().clock_ns();
            self.now_ns.set(now_ns);
            let depth = self.run_queue.len(255) as u8;
            self.record_at(now_ns, trace::Event::RunBegin, depth, thread.id, 0);
        }
        match (watched & ACCOUNTING, self.poll_ended.get()) {
            (0, _) => 0,
            (_, 0) => self.node().platform().ticks(),
            (_, ended) => ended,
        }
    }

    /// The poll that began at `began` is over.
    pub(super) fn run_ended(&self, thread: &Header, watched: u32, began: u64, finished: bool) {
        if watched & ACCOUNTING != 0 {
            let ended = self.node().platform().ticks();
            self.poll_ended.set(ended);
            thread.run_ticks.add(ended.saturating_sub(began));
        }
        if watched & trace::Class::Sched as u32 != 0 {
            self.record_end(thread, finished);
        }
    }

    #[cold]
    fn record_end(&self, thread: &Header, finished: bool) {
        let why = match thread.flags.get() {
            _ if finished => 2,
            flags if flags & flag::EXITING != 0 => 2,
            flags if flags & flag::MOVING != 0 => 3,
            flags if flags & flag::AGAIN != 0 => 1,
            _ => 0,
        };
        let now_ns = self.node().clock_ns();
        self.now_ns.set(now_ns);
        self.record_at(now_ns, trace::Event::RunEnd, why, thread.id, 0);
    }

    #[inline]
    pub(super) fn record_wake(&self, thread: &Header, waker: Option<(u8, u32)>) {
        if self.traces(trace::Event::Wake) {
            self.record_wake_slow(thread, waker);
        }
    }

    #[cold]
    fn record_wake_slow(&self, thread: &Header, waker: Option<(u8, u32)>) {
        let (cpu, waker) = waker.unwrap_or_else(|| (self.place.id.0 as u8, self.running_id()));
        self.record(trace::Event::Wake, cpu, thread.id, waker);
    }

    /// The number of the thread being polled, 0 between polls. Owner, any context.
    pub(crate) fn running_id(&self) -> u32 {
        // SAFETY: what runs is alive.
        unsafe { self.running.get().as_ref() }.map_or(0, |thread| thread.id)
    }

    /// The running thread has taken a message from a port. Owner.
    #[inline]
    pub(crate) fn count_message(&self) {
        // SAFETY: what runs is alive.
        if let Some(thread) = unsafe { self.running.get().as_ref() } {
            thread.messages.add(1);
        }
    }

    /// How many threads this CPU owns. Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn thread_count(&self) -> u32 {
        self.assert_current();
        self.thread_count.get()
    }

    /// How many threads are queued to run. Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn run_queue_length(&self) -> u32 {
        self.assert_current();
        self.run_queue.len(u32::MAX)
    }

    /// How many polls this CPU has made. Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn poll_count(&self) -> u64 {
        self.assert_current();
        self.polls.get()
    }

    /// The thread being polled now: number, name and spawn site. Owner, any context.
    ///
    /// # Panics
    /// On another CPU.
    pub fn running_thread(&self) -> Option<(u32, &'static str, &'static Location<'static>)> {
        self.assert_current();
        // SAFETY: what runs is alive.
        unsafe { self.running.get().as_ref() }.map(|thread| (thread.id, thread.name, thread.site))
    }

    /// What `ps` shows, newest thread first. Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn threads(&self) -> Vec<ThreadInfo> {
        self.assert_current();
        // Allocated before the walk: the list must not change under it.
        let mut list = Vec::with_capacity(self.thread_count.get() as usize + 4);
        let mut next = self.all_threads.get();
        // SAFETY: threads on the list are alive, and only this CPU changes the list.
        while let Some(thread) = unsafe { next.as_ref() } {
            next = thread.all_next.get();
            if list.len() < list.capacity() {
                list.push(ThreadInfo {
                    id: thread.id,
                    cpu: self.id(),
                    name: thread.name,
                    site: thread.site,
                    priority: thread.priority.get(),
                    runnable: thread.is(flag::QUEUED) || ptr::eq(self.running.get(), thread),
                    user_priority: thread.user_priority.get(),
                    account: thread.account(self.node().platform()),
                    future_bytes: thread.future_bytes(),
                });
            }
        }
        list
    }

    /// Records a trace event if its class is on. Owner.
    ///
    /// # Panics
    /// On another CPU, if the class is on.
    #[inline]
    pub fn record(&self, event: trace::Event, small: u8, thread: u32, arg: u32) {
        if self.watched.load(Ordering::Relaxed) & event.class() as u32 != 0 {
            self.record_now(trace::Record::new(0, event, small, thread as u16, arg));
        }
    }

    /// True if events of this kind are recorded, for what is worth looking up only then. Owner.
    #[inline]
    pub(crate) fn traces(&self, event: trace::Event) -> bool {
        self.watched.load(Ordering::Relaxed) & event.class() as u32 != 0
    }

    /// Records an event of the running thread, whose number is looked up only if somebody records. Owner.
    #[inline]
    pub(crate) fn record_running(&self, event: trace::Event) {
        if self.watched.load(Ordering::Relaxed) & event.class() as u32 != 0 {
            let thread = self.running_id() as u16;
            self.record_now(trace::Record::new(0, event, 0, thread, 0));
        }
    }

    #[inline]
    pub(crate) fn record_at(
        &self,
        now_ns: u64,
        event: trace::Event,
        small: u8,
        thread: u32,
        arg: u32,
    ) {
        if self.watched.load(Ordering::Relaxed) & event.class() as u32 != 0 {
            self.push_record(trace::Record::new(now_ns, event, small, thread as u16, arg));
        }
    }

    /// Records what happens now. It is packed by the caller, who knows most of it while it is compiled: one word to keep
    /// while the clock is read.
    #[cold]
    #[inline(never)]
    fn record_now(&self, record: trace::Record) {
        let time_ns = self.node().clock_ns();
        self.push_record(trace::Record { time_ns, ..record });
    }

    #[inline]
    fn push_record(&self, record: trace::Record) {
        self.assert_current();
        // A handler that interrupts here would write the same slot.
        critical::section_on(self, || self.trace.push(record));
    }

    /// The time, if `class` is recorded; 0 if not. Owner.
    #[inline]
    pub(crate) fn traced_ns(&self, class: trace::Class) -> u64 {
        if self.watched.load(Ordering::Relaxed) & class as u32 == 0 {
            0
        } else {
            self.node().clock_ns()
        }
    }

    /// Records that a thread was made here, and makes sure that its name has a number. Owner.
    #[inline]
    pub(crate) fn record_spawn(&self, thread: &Header) {
        if self.watched.load(Ordering::Relaxed) & trace::Class::Sched as u32 != 0 {
            self.record_spawn_slow(thread, 0);
        }
    }

    #[cold]
    fn record_spawn_slow(&self, thread: &Header, flag: u8) {
        let small = thread.priority.get().value() | flag;
        let name = self.name_id(critical::section_on(self, || {
            self.names.number((thread.name, thread.site))
        }));
        self.record(trace::Event::ThreadSpawn, small, thread.id, name);
    }

    /// Name numbers are unique in a node: the CPU in the top twelve bits.
    fn name_id(&self, number: u32) -> u32 {
        u32::from(self.id().0) << 20 | (number & 0xf_ffff)
    }

    /// Writes a spawn record, marked as an announcement, for each thread that is alive: for a reader that begins late.
    /// Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn announce_threads(&self) {
        self.assert_current();
        let mut next = self.all_threads.get();
        // SAFETY: threads on the list are alive, and only this CPU changes the list, which recording does not.
        while let Some(thread) = unsafe { next.as_ref() } {
            next = thread.all_next.get();
            self.record_spawn_slow(thread, trace::record::ANNOUNCED);
        }
    }

    /// The names that spawn records of this CPU refer to, from the `known`-th on, each with its number in the records.
    /// Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn names_since(&self, known: usize) -> Vec<(u32, Name)> {
        self.assert_current();
        critical::section_on(self, || {
            let list = self.names.list.borrow();
            let new = list.iter().enumerate().skip(known);
            new.map(|(index, name)| (self.name_id(index as u32 + 1), *name))
                .collect()
        })
    }

    /// The tokens made on this CPU that are still alive. Owner.
    ///
    /// # Panics
    /// On another CPU.
    pub fn tokens(&self) -> Vec<TokenInfo> {
        self.assert_current();
        self.tokens
            .borrow()
            .iter()
            .filter_map(crate::token::WeakToken::info)
            .collect()
    }
}
