//! A node: everything one kernel is. There are no globals; whoever has a [`Cpu`] has the node.

use crate::{
    Builder, Cpu, CpuId, JoinHandle, Platform,
    cpu::{ACCOUNTING, clear_up},
    ipi,
    slab::ZoneMap,
    trace::{ClassMask, Record},
};
use alloc::{
    boxed::Box,
    sync::{Arc, Weak},
    vec::Vec,
};
use conquer_once::noblock::OnceCell;
use core::{
    any::Any,
    future::Future,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// How many thread numbers a CPU takes at once; a divisor of 65,536.
const THREAD_IDS: u32 = 64;

/// A kernel: its CPUs and what they share. Lives until its last `Arc` goes, which must be after every CPU's loop has
/// ended, and after every other thread of the host has returned from a wake, a send, or the poll or drop of a join handle.
/// Wakers, port and join handles may be kept, and used, for longer.
pub struct Node {
    this: Weak<Self>,
    /// See [`Node::set_kernel_data`]. Before the CPUs, so that it goes before the heaps that it may come from.
    kernel: OnceCell<Box<dyn Any + Send + Sync>>,
    /// Shared with nobody; weakly by what keeps a CPU's address to compare it.
    cpus: Arc<[Cpu]>,
    /// What `_platform` keeps, to be called without a look at how an `Arc` is laid out: clocks are read often.
    platform: &'static dyn Platform,
    _platform: Arc<dyn Platform>,
    /// [`ACCOUNTING`] or 0.
    accounting: AtomicU32,
    trace_mask: AtomicU32,
    watchdog_ns: AtomicU64,
    next_token: AtomicU32,
    next_thread: AtomicU32,
    /// See [`Node::next_cpu`].
    rotor: AtomicU32,
    /// See [`Node::set_zones`].
    zones: OnceCell<&'static ZoneMap>,
}

impl Node {
    /// A node of `cpu_count` CPUs on `platform`. The CPUs do not run yet: each hardware CPU or host thread calls
    /// [`Cpu::enter`] and [`Cpu::run`] on its own.
    ///
    /// # Panics
    /// If `cpu_count` is 0 or above 4096.
    pub fn new(cpu_count: usize, platform: Arc<dyn Platform>) -> Arc<Self> {
        assert!(
            (1..=4096).contains(&cpu_count),
            "a node has 1 to 4096 CPUs, not {cpu_count}"
        );
        let node = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            cpus: (0..cpu_count)
                .map(|id| Cpu::new(CpuId(id as u16), cpu_count))
                .collect(),
            // SAFETY: as long as this node, which keeps it, has it; it is lent no longer than the node is (`platform`).
            platform: unsafe { &*Arc::as_ptr(&platform) },
            _platform: platform,
            accounting: AtomicU32::new(0),
            trace_mask: AtomicU32::new(0),
            watchdog_ns: AtomicU64::new(0),
            next_token: AtomicU32::new(1),
            zones: OnceCell::uninit(),
            kernel: OnceCell::uninit(),
            next_thread: AtomicU32::new(1),
            rotor: AtomicU32::new(0),
        });
        for cpu in node.cpus() {
            cpu.set_node(Arc::as_ptr(&node));
        }
        node
    }

    /// This node, for what may outlive it.
    pub(crate) fn weak(&self) -> Weak<Self> {
        self.this.clone()
    }

    /// Keeps the addresses of the CPUs, not the CPUs: none of another node will have one of them.
    pub(crate) fn addresses(&self) -> Weak<[Cpu]> {
        Arc::downgrade(&self.cpus)
    }

    /// CPU `id`.
    ///
    /// # Panics
    /// If the node has no such CPU.
    #[inline]
    pub fn cpu(&self, id: CpuId) -> &Cpu {
        &self.cpus[id.index()]
    }

    /// All CPUs, in order.
    pub fn cpus(&self) -> impl ExactSizeIterator<Item = &Cpu> {
        self.cpus.iter()
    }

    /// True if `cpu` is one of this node's, and so alive.
    #[inline]
    pub(crate) fn has(&self, cpu: *const Cpu) -> bool {
        self.cpus.as_ptr_range().contains(&cpu)
    }

    /// How many CPUs there are.
    #[inline]
    pub fn cpu_count(&self) -> usize {
        self.cpus.len()
    }

    /// The machine below.
    #[inline]
    pub fn platform(&self) -> &dyn Platform {
        self.platform
    }

    /// Gives this node the memory that its CPUs' heaps allocate from, for the kernel's global allocator to find. Once;
    /// false if it has some already.
    pub fn set_zones(&self, zones: &'static ZoneMap) -> bool {
        let mut given = Some(zones);
        let _ = self
            .zones
            .try_init_once(|| given.take().expect("initialised once"));
        given.is_none()
    }

    /// The memory that the CPUs' heaps allocate from, where it is the node's own.
    #[inline]
    pub fn zones(&self) -> Option<&'static ZoneMap> {
        self.zones.try_get().ok().copied()
    }

    /// Hangs the kernel's own state on this node, so that code which has nothing but a CPU finds it (a log backend has
    /// not even that much). Once; false if there was something already.
    pub fn set_kernel_data(&self, data: Box<dyn Any + Send + Sync>) -> bool {
        let mut data = Some(data);
        let _ = self
            .kernel
            .try_init_once(|| data.take().expect("initialised once"));
        data.is_none()
    }

    /// What [`set_kernel_data`](Self::set_kernel_data) has hung here. Any context: takes no lock.
    #[inline]
    pub fn kernel_data(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.kernel.try_get().ok().map(|data| &**data)
    }

    /// Nanoseconds since boot.
    #[inline]
    pub fn clock_ns(&self) -> u64 {
        self.platform.clock_ns()
    }

    /// Counts each thread's run time from now on, at the price of one clock reading a poll, two after the first of a row.
    pub fn set_accounting(&self, on: bool) {
        let bit = if on { ACCOUNTING } else { 0 };
        self.accounting.store(bit, Ordering::Relaxed);
        self.tell_what_to_watch();
    }

    /// Whether run time is counted.
    pub fn is_accounting(&self) -> bool {
        self.accounting.load(Ordering::Relaxed) != 0
    }

    fn tell_what_to_watch(&self) {
        let watched =
            self.trace_mask.load(Ordering::Relaxed) | self.accounting.load(Ordering::Relaxed);
        for cpu in self.cpus() {
            cpu.watched.store(watched, Ordering::Relaxed);
        }
    }

    /// The longest that a poll may take before the watchdog reports it, in nanoseconds; 0 when it is off.
    #[inline]
    pub fn watchdog_ns(&self) -> u64 {
        self.watchdog_ns.load(Ordering::Relaxed)
    }

    /// Sets the watchdog's budget; 0 turns it off.
    pub fn set_watchdog_ns(&self, budget_ns: u64) {
        self.watchdog_ns.store(budget_ns, Ordering::Relaxed);
    }

    pub(crate) fn next_token_id(&self) -> u32 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    /// Numbers for a CPU, or whoever is on none, to give to threads: the first, and how many. They begin at 1, wrap, and leave
    /// out the last of each block: a number whose low half is 0 would mean "none" in a trace.
    pub(crate) fn take_thread_ids(&self) -> (u32, u32) {
        let first = self.next_thread.fetch_add(THREAD_IDS, Ordering::Relaxed);
        (first, THREAD_IDS - 1)
    }

    /// The CPU whose turn it is to get a thread that may live anywhere: one after the other, whoever asks (DragonFly:
    /// `lwkt_create` with CPU -1).
    pub fn next_cpu(&self) -> CpuId {
        let turn = self.rotor.fetch_add(1, Ordering::Relaxed) as usize;
        CpuId((turn % self.cpu_count()) as u16)
    }

    /// The trace classes that are recorded.
    pub fn trace_mask(&self) -> ClassMask {
        ClassMask(self.trace_mask.load(Ordering::Relaxed))
    }

    /// Records these trace classes from now on, on every CPU.
    pub fn set_trace_mask(&self, mask: ClassMask) {
        self.trace_mask.store(mask.0, Ordering::Relaxed);
        self.tell_what_to_watch();
    }

    /// The newest `count` trace records of every CPU, merged by time: for a panic, when the CPUs have stopped.
    pub fn last_trace_records(&self, count: usize) -> Vec<(CpuId, Record)> {
        let mut all = Vec::new();
        for cpu in self.cpus() {
            cpu.trace_ring()
                .last(count, |record| all.push((cpu.id(), record)));
        }
        all.sort_by_key(|(cpu, record)| (record.time_ns, *cpu));
        all
    }

    /// Spawns a thread on `cpu` from anywhere, also from outside of every CPU. See [`crate::spawn_on`].
    #[track_caller]
    pub fn spawn_on<T, F, B>(&self, cpu: CpuId, name: &'static str, build: B) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        B: FnOnce() -> F + Send + 'static,
    {
        Builder::new(name).spawn_to(self.cpu(cpu), build)
    }

    /// Ends every CPU's loop at its next turn. What threads remain are dropped by their own CPUs.
    pub fn stop(&self) {
        for cpu in self.cpus() {
            ipi::send_to(cpu, Cpu::stop);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What was on its way wakes and sends as it is dropped, so all of it goes before the first CPU does.
        clear_up(|| {
            while self
                .cpus
                .iter()
                .fold(false, |some, cpu| cpu.discard_messages() | some)
            {}
        });
        for cpu in self.cpus.iter() {
            cpu.give_threads_up();
        }
    }
}
