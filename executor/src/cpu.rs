//! One CPU of a node: its run queue, its inbox, its timers, and the loop that runs its threads.
//!
//! A [`Cpu`] has two kinds of fields. Atomic ones may be used by anybody who has a `&Cpu`. All others belong to the
//! owner, the hardware CPU or host thread that called [`Cpu::enter`]: it alone reads and writes them, inside a
//! critical section where an interrupt handler of the same CPU might look too. The methods say which kind they are.
//!
//! The loop between two polls is the *poll point*: messages from other CPUs, due timers and interrupts that came
//! during a critical section are handled there, in this order, and nowhere else, so a thread never sees the world
//! change under its feet in the middle of a poll. See docs/decisions/poll-points.md.

use crate::{
    CpuId, Node,
    cpusync::Mastership,
    critical, current,
    inbox::{Inbox, OUTSIDE, SENDER_BITS},
    ipi::{self, Message, Outbound, Reminders},
    ring::Ring,
    runqueue::RunQueue,
    slab::Heap,
    stats::Stats,
    sync::CachePadded,
    thread::{Header, ThreadRef, flag},
    timer::Timers,
    token::WeakToken,
    trace,
};
use alloc::{boxed::Box, collections::BTreeMap, rc::Rc, vec::Vec};
use core::{
    any::Any,
    cell::{Cell, RefCell},
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence},
};
use crossbeam_queue::SegQueue;

/// A timer interrupt came and its work is still to be done.
const PENDING_TIMER: u32 = 1;
/// A device interrupt came during a critical section.
const PENDING_INTERRUPT: u32 = 2;

/// Why a CPU's loop polls no thread: the node stops.
const STOPPING: u8 = 1;
/// Why a CPU's loop polls no thread: a cpusync holds it.
pub(crate) const HELD: u8 = 2;

/// How many turns of a busy loop pass between two looks at clock and devices where no interrupt reaches it.
const POLL_TURNS: u32 = 64;

/// What a held token adds to a CPU's `inline_load`: more than any depth of inline handlers.
pub(crate) const TOKEN_LOAD: u32 = 1 << 8;

/// In a CPU's `watched`, beside the trace classes: the run time of threads is counted.
pub(crate) const ACCOUNTING: u32 = 1 << 31;

/// What a device's interrupt runs: acknowledge and wake, no more.
pub type InterruptHandler = Rc<dyn Fn()>;

mod ending;
mod idle;
mod interrupts;
mod memory;
mod observe;
mod step;

pub use interrupts::Overrun;
pub use observe::{Name, ThreadInfo};
pub use step::Broken;

/// One CPU.
pub struct Cpu {
    /// Critical-section depth of whatever runs now. Owner.
    pub(crate) critical: Cell<u32>,
    /// Depth of hard sections (interrupt handlers, IPI functions). Owner.
    pub(crate) hard: Cell<u32>,
    /// What an interrupt left to do. Owner and its interrupt handlers.
    pub(crate) pending: AtomicU32,
    pending_lines: [AtomicU64; 4],
    pub(crate) running: Cell<*const Header>,
    /// What the running thread ends with, once it has called `exit`. Owner.
    pub(crate) exit_with: Cell<Option<Box<dyn Any>>>,
    pub(crate) run_queue: RunQueue,
    /// What keeps a port call from its inline answer, in one word: the inline handlers in progress, and a
    /// [`TOKEN_LOAD`] for each token held. Owner.
    pub(crate) inline_load: Cell<u32>,
    /// Tokens shared by the poll in progress; a token's word names the CPU that holds it exclusively. Owner.
    pub(crate) shared_tokens: RefCell<Vec<*const ()>>,
    pub(crate) timers: Timers,
    /// What the hardware timer is set to; `u64::MAX` when disarmed. Owner.
    armed_ns: Cell<u64>,
    /// Set while the loop is about to set the hardware timer, for a timer interrupt that comes just then.
    setting_timer: Cell<bool>,
    watch_ns: Cell<u64>,
    watched_since_ns: Cell<u64>,
    watched_poll: Cell<u64>,
    polls: Cell<u64>,
    /// The last clock reading of the loop. Owner.
    pub(crate) now_ns: Cell<u64>,
    /// When the last poll ended, in ticks, if that was counted and nothing was done since. Else 0. Owner.
    poll_ended: Cell<u64>,
    /// The time as the running poll first asked for it; 0 while it has not, and between polls. Owner.
    pub(crate) poll_ns: Cell<u64>,
    all_threads: Cell<*const Header>,
    thread_count: Cell<u32>,
    /// The next number for a thread, and how many from there on are this CPU's. Owner.
    thread_ids: Cell<(u32, u32)>,
    handlers: RefCell<BTreeMap<u8, InterruptHandler>>,
    names: observe::Names,
    /// The tokens made here. Owner.
    pub(crate) tokens: RefCell<Vec<WeakToken>>,
    pub(crate) outbound: Box<[Outbound]>,
    pub(crate) backlog: Cell<u32>,
    /// Whom this CPU has sent passive messages to.
    pub(crate) reminders: Reminders,
    pub(crate) mastership: Mastership,
    /// [`STOPPING`] and [`HELD`]; 0 while threads are polled. Owner.
    pub(crate) gate: Cell<u8>,
    /// The loop or a step of it runs. Owner.
    looping: Cell<bool>,
    heap: Heap,
    /// What other CPUs read, away from what the owner writes.
    place: CachePadded<Place>,
    /// Trace classes that this CPU records, and [`ACCOUNTING`]: a copy of what the node wants.
    pub(crate) watched: AtomicU32,
    pub(crate) trace: trace::Ring,
    pub(crate) inbox: CachePadded<Inbox>,
    pub(crate) inbound: Box<[AtomicPtr<Ring<Message>>]>,
    pub(crate) outside: SegQueue<Message>,
    /// Counters; the owner writes, anybody may read.
    pub(crate) stats: CachePadded<Stats>,
}

/// Where a CPU belongs; written once.
struct Place {
    id: CpuId,
    node: AtomicPtr<Node>,
}

// SAFETY: fields marked Owner are touched by the CPU that entered, and by nobody else; the rest are atomics or
// structures that are Sync themselves.
unsafe impl Sync for Cpu {}
// SAFETY: a Cpu moves between threads only before it is entered and after its loop has ended.
unsafe impl Send for Cpu {}

impl Cpu {
    pub(crate) fn new(id: CpuId, count: usize) -> Self {
        Self {
            critical: Cell::new(1),
            hard: Cell::new(0),
            pending: AtomicU32::new(0),
            pending_lines: Default::default(),
            running: Cell::new(ptr::null()),
            exit_with: Cell::new(None),
            run_queue: RunQueue::new(),
            inline_load: Cell::new(0),
            // Room enough that taking a token does not allocate.
            shared_tokens: RefCell::new(Vec::with_capacity(32)),
            timers: Timers::new(),
            armed_ns: Cell::new(u64::MAX),
            setting_timer: Cell::new(false),
            watch_ns: Cell::new(u64::MAX),
            watched_since_ns: Cell::new(0),
            watched_poll: Cell::new(0),
            polls: Cell::new(0),
            now_ns: Cell::new(0),
            poll_ns: Cell::new(0),
            poll_ended: Cell::new(0),
            all_threads: Cell::new(ptr::null()),
            thread_count: Cell::new(0),
            thread_ids: Cell::new((0, 0)),
            handlers: RefCell::new(BTreeMap::new()),
            names: observe::Names::default(),
            tokens: RefCell::new(Vec::new()),
            outbound: (0..count).map(|_| Outbound::new()).collect(),
            backlog: Cell::new(0),
            reminders: Reminders::new(count),
            mastership: Mastership::new(),
            gate: Cell::new(0),
            looping: Cell::new(false),
            heap: Heap::new(),
            place: CachePadded(Place {
                id,
                node: AtomicPtr::new(ptr::null_mut()),
            }),
            watched: AtomicU32::new(0),
            trace: trace::Ring::new(),
            inbox: CachePadded(Inbox::new()),
            inbound: (0..count)
                .map(|_| AtomicPtr::new(ptr::null_mut()))
                .collect(),
            outside: SegQueue::new(),
            stats: CachePadded(Stats::default()),
        }
    }

    pub(crate) fn set_node(&self, node: *const Node) {
        self.place.node.store(node.cast_mut(), Ordering::Release);
    }

    /// This CPU's number.
    #[inline]
    pub fn id(&self) -> CpuId {
        self.place.id
    }

    /// The node that this CPU belongs to.
    #[inline]
    pub fn node(&self) -> &Node {
        // SAFETY: a node owns its CPUs and sets this before it hands one out.
        unsafe { &*self.place.node.load(Ordering::Relaxed) }
    }

    /// Counters of this CPU; readable by anybody, exact on the CPU itself.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// This CPU's trace ring, for a reader on any CPU.
    pub fn trace_ring(&self) -> &trace::Ring {
        &self.trace
    }

    /// This CPU's heap. Allocate from it on this CPU alone; see [`Heap`].
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Makes this CPU the current one of the hardware CPU or host thread that calls.
    ///
    /// # Safety
    /// At most one hardware CPU or host thread enters a given `Cpu`, and it stays entered while anything runs there.
    pub unsafe fn enter(&self) {
        // SAFETY: the caller's promise.
        unsafe { current::set(self) }
    }

    /// Takes [`enter`](Self::enter) back: no CPU is current any more. Before the node goes, where the host thread stays.
    ///
    /// # Panics
    /// On another CPU, or while the loop runs.
    pub fn leave(&self) {
        self.assert_current();
        assert!(!self.looping.get(), "a CPU does not leave its own loop");
        // SAFETY: nothing runs here, and whoever asks for the current CPU from now on finds none.
        unsafe { current::set(ptr::null()) }
    }

    /// True while the inbox is halted with nothing in it, and no interrupt is pending that would be handled now: what
    /// [`Platform::idle`] checks last, with interrupts off, before it sleeps. Owner.
    ///
    /// [`Platform::idle`]: crate::Platform::idle
    #[inline]
    pub fn may_sleep(&self) -> bool {
        self.inbox.may_sleep() && (self.pending.load(Ordering::Relaxed) == 0 || self.is_held())
    }

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
                self.drain();
            }
            if self.gate.get() != 0 {
                if self.gate.get() & STOPPING != 0 {
                    break;
                }
                self.stand_still();
                continue;
            }
            if self.pending.load(Ordering::Relaxed) != 0 {
                self.replay();
            }
            if self.backlog.get() != 0 {
                self.flush_backlog();
            }
            turns -= 1;
            if turns == 0 {
                turns = POLL_TURNS;
                if polled {
                    self.node().platform().poll_interrupts(self);
                    if self.next_due_ns() != u64::MAX {
                        self.fire_timers();
                    }
                }
            }
            match self.run_queue.pop() {
                // SAFETY: popped on the owner; queued threads are alive and unfinished.
                Some(thread) => unsafe { self.dispatch(&*thread) },
                None => self.idle(),
            }
        }
        self.abandon_threads();
        self.looping.set(false);
    }

    /// Panics unless the caller is this CPU. What is the owner's is not atomic.
    #[inline]
    #[track_caller]
    pub(crate) fn assert_current(&self) {
        assert!(
            ptr::eq(current::pointer(), self),
            "this is for the CPU itself: use run_on"
        );
    }

    #[track_caller]
    fn begin_loop(&self) {
        self.assert_current();
        assert!(!self.looping.replace(true), "a CPU's loop does not nest");
        self.poll_ended.set(0);
    }

    /// # Safety
    /// `thread` was just popped from this CPU's run queue.
    #[inline]
    unsafe fn dispatch(&self, thread: &Header) {
        thread.clear(flag::QUEUED);
        if thread.flags.get() != 0 {
            self.dispose(thread);
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
        thread.critical.set(self.critical.get());
        self.critical.set(1);
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

    /// A thread that came up and is not to be polled: it leaves, or it ended while it was queued.
    #[cold]
    fn dispose(&self, thread: &Header) {
        if thread.is(flag::FINISHED) {
            // SAFETY: the count that `exit` left with the queue.
            drop(unsafe { ThreadRef::from_raw(thread) });
        } else {
            thread.clear(flag::MOVING);
            self.depart(thread, thread.migrate_to.get());
        }
    }

    /// The clock, read once in a poll. Owner.
    #[inline]
    pub(crate) fn poll_ns(&self) -> u64 {
        match self.poll_ns.get() {
            0 => {
                let now_ns = self.node().clock_ns();
                if !self.running.get().is_null() {
                    self.poll_ns.set(now_ns);
                }
                now_ns
            }
            poll_ns => poll_ns,
        }
    }

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
        let depth = self.critical.get();
        if thread.flags.enter_and_queue(|| {
            self.critical.set(depth + 1);
            compiler_fence(Ordering::SeqCst);
        }) {
            // SAFETY: owner, in a critical section; not queued; the executor's count keeps it alive until it finishes.
            unsafe { self.run_queue.push(thread, false) };
            self.record_wake(thread, waker);
        } else {
            thread.spare_wakes.add(1);
        }
        compiler_fence(Ordering::SeqCst);
        self.critical.set(depth);
        if depth == 0 && self.pending.load(Ordering::Relaxed) != 0 {
            self.replay_interrupts();
        }
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
    fn disown(&self, thread: &Header) -> ThreadRef {
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
    fn exit(&self, thread: &Header, finished: bool) {
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

    /// A number for a thread that is made here. Owner, in a critical section.
    pub(crate) fn next_thread_id(&self) -> u32 {
        loop {
            let (next, left) = self.thread_ids.get();
            if left == 0 {
                self.thread_ids.set(self.node().take_thread_ids());
                continue;
            }
            self.thread_ids.set((next.wrapping_add(1), left - 1));
            if Node::is_thread_id(next) {
                return next;
            }
        }
    }

    fn depart(&self, thread: &Header, target: CpuId) {
        self.record(trace::Event::Migrate, target.0 as u8, thread.id, 0);
        let to = self.node().cpu(target);
        let thread_ref = self.disown(thread);
        thread
            .owner
            .hand_over(&thread.flags, to, || ipi::send_arrival(to, thread_ref));
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
            for _ in 0..crate::ring::CAPACITY {
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
            crate::ipi::tell(self, self.node().cpu(CpuId(sender as u16)));
        }
        if ring.has_messages() {
            // More came meanwhile; the next turn handles it, so that a storm cannot keep threads from running.
            let _ = self.inbox.tell(crate::inbox::sender_bit(sender));
        }
    }

    /// True if some messages found room. Owner.
    fn flush_backlog(&self) -> bool {
        let mut moved = false;
        for (target, outbound) in self.outbound.iter().enumerate() {
            if outbound.has_backlog() {
                moved |= outbound.flush(self, self.node().cpu(CpuId(target as u16)));
            }
        }
        moved
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
