//! A thread: a future and its bookkeeping in one allocation, and the waker that names it.
//!
//! [`Header`] is what the rest of the executor sees; `Block<F>` is the allocation. Who may touch what:
//!
//! | fields | who |
//! |---|---|
//! | `life`, `mark`, `owner` | anybody, by atomic operations |
//! | `queued` ... `run_ns`, the future | the owner CPU alone |
//! | `id`, `name`, `site`, `vtable`, `cpu0` | written once, then read by anybody |
//!
//! Life of a thread, and what makes each step:
//!
//! ```text
//!   spawn ->  QUEUED  --dispatch-->  RUNNING  --Pending-->  WAITING  --wake-->  QUEUED ...
//!                ^                      |  \--wake during the poll--> QUEUED
//!                |                      |  \--migrate_to--> IN TRANSIT --arrive--> QUEUED on the new owner
//!                                       \--Ready--> FINISHED: the future is dropped here, on its owner
//! ```
//!
//! A waker used on the owner's CPU queues the thread. Anywhere else it sends one IPI message to the owner, and never
//! touches a queue (trap 74). The memory goes when the last reference goes, on whichever CPU that is (`life.rs`); the
//! future never outlives its poll on the owner.
//!
//! A wake against a move:
//!
//! ```text
//!   waker on another CPU                    old owner                            new owner
//!   make the condition true                 take it off the list
//!   mark := set            (swap)           owner := new        (release)
//!   read owner            (acquire)         send the arrival
//!   send it the message
//!                                           message: I am not owner? send it on  message: clear the mark, schedule
//!                                                                                arrival: put on the list, schedule
//! ```
//!
//! The owner is named before the thread leaves, and by its present owner alone, so a message that follows the name
//! arrives at last. One that overtakes the arrival finds the thread in transit and schedules nothing: the arrival
//! does, and its first poll sees the condition.

use crate::{
    Cpu, CpuId, Priority, current, ipi,
    life::Life,
    mark::WakeMark,
    sync::{AtomicPtr, Ordering},
};
use alloc::boxed::Box;
use core::{
    cell::{Cell, UnsafeCell},
    future::Future,
    mem::ManuallyDrop,
    panic::Location,
    pin::Pin,
    ptr,
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
};
use futures_util::task::AtomicWaker;

/// The part of a thread that does not depend on its future's type.
#[repr(C)]
pub(crate) struct Header {
    life: Life,
    pub(crate) mark: WakeMark,
    pub(crate) owner: AtomicPtr<Cpu>,
    vtable: &'static VTable,
    /// Next in the run queue.
    pub(crate) next: Cell<*const Header>,
    /// Neighbours in the owner's list of all threads.
    pub(crate) all_next: Cell<*const Header>,
    pub(crate) all_previous: Cell<*const Header>,
    pub(crate) queued: Cell<bool>,
    pub(crate) finished: Cell<bool>,
    pub(crate) in_transit: Cell<bool>,
    pub(crate) priority: Cell<Priority>,
    /// Critical-section depth while the thread does not run (trap 11: it belongs to the thread).
    pub(crate) critical: Cell<u32>,
    pub(crate) migrate_to: Cell<Option<CpuId>>,
    pub(crate) polls: Cell<u64>,
    pub(crate) run_ns: Cell<u64>,
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    pub(crate) site: &'static Location<'static>,
    /// Its whole future is Send.
    pub(crate) movable: bool,
    joiner: AtomicWaker,
}

struct VTable {
    poll: unsafe fn(*const Header, &mut Context<'_>) -> bool,
    /// Drops the future, or the output that nobody took.
    clear: unsafe fn(*const Header),
    free: unsafe fn(*const Header),
}

enum Stage<F: Future> {
    Running(F),
    Done(F::Output),
    Empty,
}

#[repr(C)]
struct Block<F: Future> {
    header: Header,
    stage: UnsafeCell<Stage<F>>,
}

/// A counted reference to a thread.
pub(crate) struct ThreadRef(*const Header);

// SAFETY: references are counted atomically, and the fields reachable through one from another CPU are atomic.
unsafe impl Send for ThreadRef {}

impl core::ops::Deref for ThreadRef {
    type Target = Header;
    fn deref(&self) -> &Header {
        // SAFETY: the count keeps the block alive.
        unsafe { &*self.0 }
    }
}

impl Clone for ThreadRef {
    fn clone(&self) -> Self {
        self.life.retain();
        Self(self.0)
    }
}

impl Drop for ThreadRef {
    fn drop(&mut self) {
        // SAFETY: this reference is one of those counted.
        unsafe { release(self.0) }
    }
}

impl ThreadRef {
    /// The thread behind a waker, with the waker's count.
    ///
    /// # Errors
    /// The waker, when it is somebody else's (a combinator's).
    pub(crate) fn from_waker(waker: Waker) -> Result<Self, Waker> {
        if ptr::eq(waker.vtable(), &raw const WAKER) {
            Ok(Self(ManuallyDrop::new(waker).data().cast()))
        } else {
            Err(waker)
        }
    }

    /// Gives the count to whoever holds the pointer from now on.
    pub(crate) fn into_raw(self) -> *const Header {
        ManuallyDrop::new(self).0
    }

    /// Takes a count back.
    ///
    /// # Safety
    /// `header` came from [`into_raw`](Self::into_raw), and its count was not taken back yet.
    pub(crate) unsafe fn from_raw(header: *const Header) -> Self {
        Self(header)
    }
}

/// # Safety
/// The caller owns one count of `header` and gives it up.
unsafe fn release(header: *const Header) {
    // SAFETY: alive until the count reaches zero, which is decided by this very operation.
    unsafe {
        if (*header).life.release() {
            ((*header).vtable.free)(header);
        }
    }
}

/// Makes the block of a thread owned by `cpu`, with one reference for the executor and one for the join handle.
pub(crate) fn create<F: Future + 'static>(
    cpu: &Cpu,
    id: u32,
    name: &'static str,
    site: &'static Location<'static>,
    priority: Priority,
    movable: bool,
    future: F,
) -> (ThreadRef, ThreadRef) {
    let block = Box::new(Block {
        header: Header {
            life: Life::new(),
            mark: WakeMark::new(),
            owner: AtomicPtr::new(ptr::from_ref(cpu).cast_mut()),
            vtable: &VTable {
                poll: poll::<F>,
                clear: clear::<F>,
                free: free::<F>,
            },
            next: Cell::new(ptr::null()),
            all_next: Cell::new(ptr::null()),
            all_previous: Cell::new(ptr::null()),
            queued: Cell::new(false),
            finished: Cell::new(false),
            in_transit: Cell::new(false),
            priority: Cell::new(priority),
            critical: Cell::new(0),
            migrate_to: Cell::new(None),
            polls: Cell::new(0),
            run_ns: Cell::new(0),
            id,
            name,
            site,
            movable,
            joiner: AtomicWaker::new(),
        },
        stage: UnsafeCell::new(Stage::Running(future)),
    });
    let header = Box::into_raw(block).cast_const().cast::<Header>();
    (ThreadRef(header), ThreadRef(header))
}

/// # Safety
/// `header` begins a `Block<F>`; the caller is its owner CPU, and the thread is not being polled.
unsafe fn poll<F: Future>(header: *const Header, context: &mut Context<'_>) -> bool {
    // SAFETY: the owner CPU alone touches the stage until it is Done; the block never moves, so pinning holds.
    let stage = unsafe { &mut *(*header.cast::<Block<F>>()).stage.get() };
    let Stage::Running(future) = stage else {
        return true;
    };
    // SAFETY: as above.
    match unsafe { Pin::new_unchecked(future) }.poll(context) {
        Poll::Pending => false,
        Poll::Ready(output) => {
            // The future is dropped here, before anybody is told that the thread has ended.
            *stage = Stage::Done(output);
            true
        }
    }
}

/// # Safety
/// `header` begins a `Block<F>` and the caller alone may touch its stage.
unsafe fn clear<F: Future>(header: *const Header) {
    // SAFETY: the caller's promise.
    unsafe { *(*header.cast::<Block<F>>()).stage.get() = Stage::Empty };
}

/// # Safety
/// `header` begins a `Block<F>` that has no references left.
unsafe fn free<F: Future>(header: *const Header) {
    // SAFETY: made by Box in `create`; the stage is Empty by now or holds an output whose handle gave up its count
    // without detaching, which cannot be (see JoinHandle's drop).
    drop(unsafe { Box::from_raw(header.cast_mut().cast::<Block<F>>()) });
}

impl Header {
    /// Runs one poll. True: the thread has finished.
    ///
    /// # Safety
    /// The caller is the owner CPU's loop, and the thread is not finished.
    #[inline]
    pub(crate) unsafe fn poll(&self) -> bool {
        // The waker borrows the executor's own count for the time of the poll.
        let waker = ManuallyDrop::new(unsafe_waker(self));
        let mut context = Context::from_waker(&waker);
        // SAFETY: the caller's promise; `self` begins its block.
        unsafe { (self.vtable.poll)(self, &mut context) }
    }

    /// Publishes the output and wakes whoever joins; drops it if nobody will.
    pub(crate) fn finish(&self) {
        self.finished.set(true);
        if self.life.finish() {
            // SAFETY: detached and done: this CPU is the last to touch the stage.
            unsafe { (self.vtable.clear)(self) };
        } else {
            self.joiner.wake();
        }
    }

    /// Drops the future of a thread that will never run again, as its CPU stops.
    ///
    /// # Safety
    /// The caller is the owner CPU, outside of any poll of this thread.
    pub(crate) unsafe fn abandon(&self) {
        self.finished.set(true);
        self.life.abandon();
        // SAFETY: the owner touches an unfinished stage alone.
        unsafe { (self.vtable.clear)(self) };
    }

    /// Makes the thread run again. Any CPU, any context, no CPU at all.
    #[inline]
    pub(crate) fn wake(&self) {
        let here = current::pointer();
        if !here.is_null() && ptr::eq(self.owner.load(Ordering::Acquire), here) {
            // SAFETY: `here` is the current CPU, hence alive.
            unsafe { &*here }.schedule(self);
        } else {
            self.wake_from_afar();
        }
    }

    #[cold]
    fn wake_from_afar(&self) {
        // A waker may outlive the thread's node; the owner that it names may be gone.
        if self.life.begin_wake(&self.mark) {
            // SAFETY: the count above travels with the message.
            let thread = unsafe { ThreadRef::from_raw(self) };
            ipi::send_wake(self.owner.load(Ordering::Acquire), thread);
        }
    }
}

fn unsafe_waker(header: *const Header) -> Waker {
    // SAFETY: the table below keeps RawWaker's contract: clone counts, drop releases, waking is thread-safe. The
    // caller owns (or borrows) the count this waker stands for.
    unsafe { Waker::from_raw(RawWaker::new(header.cast(), &WAKER)) }
}

static WAKER: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: the waker being cloned holds a count, so the header is alive.
        unsafe { (*data.cast::<Header>()).life.retain() };
        RawWaker::new(data, &WAKER)
    },
    |data| {
        // SAFETY: as above; the count is given up after the wake.
        unsafe {
            (*data.cast::<Header>()).wake();
            release(data.cast());
        }
    },
    // SAFETY: as above.
    |data| unsafe { (*data.cast::<Header>()).wake() },
    // SAFETY: as above.
    |data| unsafe { release(data.cast()) },
);

/// Waits for a thread to end and gives its output. Dropping it lets the thread run on alone.
///
/// The handle is Send when the output is: the future itself stays with its CPU either way.
#[must_use = "await it for the output, or call detach() to say that nobody waits"]
pub struct JoinHandle<T> {
    thread: ManuallyDrop<ThreadRef>,
    take: unsafe fn(*const Header) -> T,
    /// A handle to an output that is not Send must stay where the output is.
    _not_send: core::marker::PhantomData<*const ()>,
}

// SAFETY: the output moves to the handle's CPU, which T: Send allows; the rest is atomic.
unsafe impl<T: Send> Send for JoinHandle<T> {}
// SAFETY: a shared handle can do nothing but read the thread's name and id.
unsafe impl<T: Send> Sync for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    pub(crate) fn new<F: Future<Output = T>>(thread: ThreadRef) -> Self {
        /// # Safety
        /// The thread is done, begins a `Block<F>`, and the caller is its one handle.
        unsafe fn take<F: Future>(header: *const Header) -> F::Output {
            // SAFETY: once done the stage belongs to the handle.
            let stage = unsafe { &mut *(*header.cast::<Block<F>>()).stage.get() };
            match core::mem::replace(stage, Stage::Empty) {
                Stage::Done(output) => output,
                Stage::Running(_) | Stage::Empty => {
                    panic!("a join handle was polled after it had given the output")
                }
            }
        }
        Self {
            thread: ManuallyDrop::new(thread),
            take: take::<F>,
            _not_send: core::marker::PhantomData,
        }
    }

    /// Lets the thread run on without waiting for it.
    pub fn detach(self) {}

    /// The thread's number, unique in its node.
    pub fn id(&self) -> u32 {
        self.thread.id
    }

    /// True if the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.life.is_done()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if !self.is_finished() {
            self.thread.joiner.register(context.waker());
            if !self.is_finished() {
                return Poll::Pending;
            }
        }
        // SAFETY: that it is done was read with acquire, and `take` was made for this thread's future.
        Poll::Ready(unsafe { (self.take)(self.thread.0) })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if self.thread.life.detach() {
            // SAFETY: done, and this was the one handle: the stage is ours. An output that is not Send is dropped
            // where it was made, because then the handle could not leave.
            unsafe { (self.thread.vtable.clear)(self.thread.0) };
        }
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.thread) };
    }
}
