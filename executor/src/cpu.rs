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
    current,
    inbox::Inbox,
    ipi::{Message, Outbound, Reminders},
    ring::Ring,
    runqueue::RunQueue,
    slab::Heap,
    stats::Stats,
    sync::CachePadded,
    thread::Header,
    timer::Timers,
    token::WeakToken,
    trace,
};
use alloc::{boxed::Box, collections::BTreeMap, rc::Rc, vec::Vec};
use core::{
    any::Any,
    cell::{Cell, RefCell},
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
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
/// Why a CPU's loop looks up between two polls: messages wait for room.
pub(crate) const BACKLOG: u8 = 4;

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
mod run;
mod step;
mod threads;

pub(crate) use ending::{clear_up, is_in_poll};
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
    /// Whom this CPU has sent passive messages to.
    pub(crate) reminders: Reminders,
    pub(crate) mastership: Mastership,
    /// [`STOPPING`], [`HELD`] and [`BACKLOG`]; mostly 0, and one look at it is all that they cost. Owner.
    pub(crate) gate: Cell<u8>,
    /// The loop or a step of it runs. Owner.
    looping: Cell<bool>,
    /// In [`clear_up`]. Owner.
    clears_up: Cell<bool>,
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
            reminders: Reminders::new(count),
            mastership: Mastership::new(),
            gate: Cell::new(0),
            looping: Cell::new(false),
            clears_up: Cell::new(false),
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

    /// Panics unless the caller is this CPU. What is the owner's is not atomic.
    #[inline]
    #[track_caller]
    pub(crate) fn assert_current(&self) {
        assert!(
            ptr::eq(current::pointer(), self),
            "this is for the CPU itself: use run_on"
        );
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
}
