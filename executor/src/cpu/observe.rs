//! What a CPU lets others see: its threads, its counters, and the trace it records.

use super::Cpu;
use crate::{CpuId, Priority, critical, thread::Header, token::TokenInfo, trace};
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
    /// How often it was polled.
    pub polls: u64,
    /// Nanoseconds spent in polls; counted while accounting or tracing is on.
    pub run_ns: u64,
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
    #[cold]
    pub(super) fn run_begins(&self, thread: &Header) -> u64 {
        let now = self.node().clock_ns();
        self.now_ns.set(now);
        let depth = self.run_queue.len().min(255) as u8;
        self.record_at(now, trace::Event::RunBegin, depth, thread.id, 0);
        now
    }

    #[cold]
    pub(super) fn run_ended(&self, thread: &Header, began_ns: u64, finished: bool) {
        let now = self.node().clock_ns();
        self.now_ns.set(now);
        if began_ns != 0 {
            thread
                .run_ns
                .set(thread.run_ns.get() + now.saturating_sub(began_ns));
        }
        let why = match (finished, thread.migrate_to.get(), thread.queued.get()) {
            (true, ..) => 2,
            (_, Some(_), _) => 3,
            (.., true) => 1,
            _ => 0,
        };
        self.record_at(now, trace::Event::RunEnd, why, thread.id, 0);
    }

    #[cold]
    pub(super) fn record_wake(&self, thread: &Header, waker: Option<(u8, u32)>) {
        let (cpu, waker) = waker.unwrap_or_else(|| (self.place.id.0 as u8, self.running_id()));
        self.record(trace::Event::Wake, cpu, thread.id, waker);
    }

    /// The number of the thread being polled, 0 between polls. Owner, any context.
    pub(crate) fn running_id(&self) -> u32 {
        // SAFETY: what runs is alive.
        unsafe { self.running.get().as_ref() }.map_or(0, |thread| thread.id)
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
        self.run_queue.len()
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
                    runnable: thread.queued.get() || ptr::eq(self.running.get(), thread),
                    polls: thread.polls.get(),
                    run_ns: thread.run_ns.get(),
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
        if self.trace_mask.load(Ordering::Relaxed) & event.class() as u32 != 0 {
            self.record_slow(None, event, small, thread, arg);
        }
    }

    /// True if events of this kind are recorded, for what is worth looking up only then. Owner.
    #[inline]
    pub(crate) fn traces(&self, event: trace::Event) -> bool {
        self.trace_mask.load(Ordering::Relaxed) & event.class() as u32 != 0
    }

    /// Records an event of the running thread, whose number is looked up only if somebody records. Owner.
    #[inline]
    pub(crate) fn record_running(&self, event: trace::Event) {
        if self.trace_mask.load(Ordering::Relaxed) & event.class() as u32 != 0 {
            self.record_slow(None, event, 0, self.running_id(), 0);
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
        if self.trace_mask.load(Ordering::Relaxed) & event.class() as u32 != 0 {
            self.record_slow(Some(now_ns), event, small, thread, arg);
        }
    }

    #[cold]
    pub(super) fn record_slow(
        &self,
        now_ns: Option<u64>,
        event: trace::Event,
        small: u8,
        thread: u32,
        arg: u32,
    ) {
        self.assert_current();
        let now = now_ns.unwrap_or_else(|| self.node().clock_ns());
        // A handler that interrupts here would write the same slot.
        critical::section_on(self, || {
            self.trace
                .push(trace::Record::new(now, event, small, thread as u16, arg));
        });
    }

    /// The time, if `class` is recorded; 0 if not. Owner.
    #[inline]
    pub(crate) fn traced_ns(&self, class: trace::Class) -> u64 {
        if self.trace_mask.load(Ordering::Relaxed) & class as u32 == 0 {
            0
        } else {
            self.node().clock_ns()
        }
    }

    /// Records that a thread was made here, and makes sure that its name has a number. Owner.
    #[inline]
    pub(crate) fn record_spawn(&self, thread: &Header) {
        if self.trace_mask.load(Ordering::Relaxed) & trace::Class::Sched as u32 != 0 {
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
