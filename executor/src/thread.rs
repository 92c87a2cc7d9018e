//! A thread: a future and its bookkeeping in one allocation, and the waker that names it.
//!
//! [`Header`] is what the rest of the executor sees; `Block<F>` is the allocation. Who may touch what:
//!
//! | fields | who |
//! |---|---|
//! | `life`, `mark`, `owner` | anybody, as `life.rs`, `mark.rs` and `owner.rs` say; the home count and the joiner of `life` the owner alone |
//! | `next` ... `migrate_to`, the future | the owner CPU alone |
//! | `polls`, `spare_wakes`, `messages`, `run_ticks` | written by the owner, read by anybody |
//! | `id`, `name`, `site`, `vtable` | written once, then read by anybody |
//!
//! Life of a thread, and what makes each step:
//!
//! ```text
//!   spawn ->  QUEUED  --dispatch-->  RUNNING  --Pending-->  WAITING  --wake-->  QUEUED ...
//!                ^                      |  \--wake during the poll (AGAIN)--> QUEUED
//!                |                      |  \--migrate_to--> IN TRANSIT --arrive--> QUEUED on the new owner
//!                                       \--Ready, exit--> FINISHED: the future is dropped here, on its owner
//! ```
//!
//! A waker used on the owner's CPU queues the thread. Anywhere else it sends one IPI message to the owner, and never
//! touches a queue (trap 74). The memory goes when the last reference goes, on whichever CPU that is (`life.rs`); the
//! future never outlives its poll on the owner.
//!
//! How a wake finds a thread that moves is told in `owner.rs`.

use crate::{
    Counter, Cpu, CpuId, Priority, current, ipi,
    life::Life,
    mark::WakeMark,
    owner::{Flags, Owner},
};
use alloc::boxed::Box;
use core::{
    any::{Any, TypeId, type_name},
    cell::{Cell, UnsafeCell},
    future::Future,
    mem::ManuallyDrop,
    panic::Location,
    pin::Pin,
    ptr,
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
};

mod handle;
mod join;

pub use handle::{Account, Exit, Thread, exit, set_priority};
pub(crate) use join::Elsewhere;
pub use join::JoinHandle;

pub(crate) use crate::owner::flag;

/// The part of a thread that does not depend on its future's type. A million idle threads have a million of these, so
/// every byte is looked at: 144.
///
/// The order is one of words: a load may have to wait for an earlier store to the same eight bytes, even of others of them,
/// and each turn stores the flags and loads the priority.
#[repr(C)]
pub(crate) struct Header {
    pub(crate) life: Life,
    /// Neighbours in the owner's list of all threads.
    pub(crate) all_next: Cell<*const Header>,
    pub(crate) all_previous: Cell<*const Header>,
    pub(crate) name: &'static str,
    pub(crate) site: &'static Location<'static>,
    /// Wakes that came while it was queued, or too late.
    pub(crate) spare_wakes: Counter,
    pub(crate) messages: Counter,
    // From here on what each turn looks at, beside the future.
    pub(crate) run_ticks: Counter,
    pub(crate) polls: Counter,
    pub(crate) owner: Owner<Cpu>,
    vtable: &'static VTable,
    /// Next in the run queue.
    pub(crate) next: Cell<*const Header>,
    pub(crate) flags: Flags,
    pub(crate) mark: WakeMark,
    pub(crate) migrate_to: Cell<CpuId>,
    pub(crate) id: u32,
    pub(crate) priority: Cell<Priority>,
    /// Orders threads of equal priority; see [`Builder::user_priority`](crate::Builder::user_priority).
    pub(crate) user_priority: Cell<u16>,
    /// Critical-section depth while the thread does not run (trap 11: it belongs to the thread).
    // As wide as a CPU's: a half word got its first value from two stores that overlapped, just before the first poll reads it.
    pub(crate) critical: Cell<u32>,
}

#[cfg(all(target_pointer_width = "64", not(shuttle)))]
const _: () = assert!(size_of::<Header>() <= 144);

struct VTable {
    poll: unsafe fn(*const Header, &mut Context<'_>) -> bool,
    /// Drops the future, or the output that nobody took.
    clear: unsafe fn(*const Header),
    /// Puts an output in the future's place.
    exit: unsafe fn(*const Header, Box<dyn Any>),
    free: unsafe fn(*const Header),
    output: fn() -> (TypeId, &'static str),
    future_bytes: usize,
    /// Its whole future is Send.
    movable: bool,
}

impl VTable {
    const fn of<F: Future<Output: 'static>>(movable: bool) -> Self {
        Self {
            poll: poll::<F>,
            clear: clear::<F>,
            exit: exit_with::<F>,
            free: free::<F>,
            output: || (TypeId::of::<F::Output>(), type_name::<F::Output>()),
            future_bytes: size_of::<F>(),
            movable,
        }
    }
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

// SAFETY: who is not the owner counts atomically (`is_at_home`), and what is reachable through one from there is atomic.
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
        self.retain();
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
        if Self::is_waker(&waker) {
            Ok(Self(ManuallyDrop::new(waker).data().cast()))
        } else {
            Err(waker)
        }
    }

    /// True if the waker is a thread's.
    #[inline]
    pub(crate) fn is_waker(waker: &Waker) -> bool {
        ptr::eq(waker.vtable(), &raw const WAKER)
    }

    /// The thread's waker, with this count.
    #[inline]
    pub(crate) fn into_waker(self) -> Waker {
        unsafe_waker(self.into_raw())
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
    // SAFETY: the caller's count keeps it alive until it is given up, which is the last thing done to it, unless it was
    // the last: then the memory is ours.
    unsafe {
        if (*header).is_at_home() {
            (*header).life.release_at_home();
        } else if (*header).life.release() {
            ((*header).vtable.free)(header);
        }
    }
}

/// How a thread is made.
#[derive(Clone, Copy)]
pub(crate) struct Birth {
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    pub(crate) site: &'static Location<'static>,
    pub(crate) priority: Priority,
    pub(crate) user_priority: u16,
    /// The whole future is Send.
    pub(crate) movable: bool,
    /// Some of [`flag`].
    pub(crate) flags: u8,
}

/// Makes the block of a thread owned by `cpu`, with one reference for the executor and one for the join handle.
pub(crate) fn create<F: Future + 'static>(
    cpu: &Cpu,
    birth: Birth,
    future: F,
) -> (ThreadRef, ThreadRef) {
    let block = Box::new(Block {
        header: Header {
            // The executor's, and the handle's.
            life: Life::new(2),
            owner: Owner::new(cpu),
            vtable: if birth.movable {
                const { &VTable::of::<F>(true) }
            } else {
                const { &VTable::of::<F>(false) }
            },
            next: Cell::new(ptr::null()),
            all_next: Cell::new(ptr::null()),
            all_previous: Cell::new(ptr::null()),
            flags: Flags::new(birth.flags),
            priority: Cell::new(birth.priority),
            user_priority: Cell::new(birth.user_priority),
            critical: Cell::new(0),
            migrate_to: Cell::new(CpuId(0)),
            mark: WakeMark::new(),
            polls: Counter::default(),
            spare_wakes: Counter::default(),
            messages: Counter::default(),
            run_ticks: Counter::default(),
            id: birth.id,
            name: birth.name,
            site: birth.site,
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
/// As [`clear`], and the thread is not being polled. `output` is an `F::Output`.
unsafe fn exit_with<F: Future<Output: 'static>>(header: *const Header, output: Box<dyn Any>) {
    let output = *output
        .downcast::<F::Output>()
        .expect("checked where `exit` was polled");
    // SAFETY: the caller's promise. The future is dropped here, on its owner, as after its last poll.
    unsafe { *(*header.cast::<Block<F>>()).stage.get() = Stage::Done(output) };
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

    /// True if the caller is the owner, in no interrupt handler, and the thread has not ended: what the owner counts is
    /// counted without an atomic operation.
    #[inline]
    fn is_at_home(&self) -> bool {
        let here = current::pointer();
        if !self.owner.is(here) {
            return false;
        }
        // SAFETY: `here` is the current CPU, hence alive; no owner is null.
        unsafe { (*here).hard.get() == 0 && !self.is(flag::FINISHED) }
    }

    /// One more reference, by whoever has one.
    #[inline]
    fn retain(&self) {
        if self.is_at_home() {
            // SAFETY: it is.
            unsafe { self.life.retain_at_home() };
        } else {
            self.life.retain();
        }
    }

    /// True if all of these bits of [`flag`] are set. Owner.
    #[inline]
    pub(crate) fn is(&self, bits: u8) -> bool {
        self.flags.are(bits)
    }

    /// Sets bits of [`flag`]. Owner.
    #[inline]
    pub(crate) fn set(&self, bits: u8) {
        self.flags.set(bits);
    }

    /// Clears bits of [`flag`]. Owner.
    #[inline]
    pub(crate) fn clear(&self, bits: u8) {
        self.flags.clear(bits);
    }

    pub(crate) fn is_movable(&self) -> bool {
        self.vtable.movable
    }

    /// The size of the future, in bytes.
    pub(crate) fn future_bytes(&self) -> usize {
        self.vtable.future_bytes
    }

    /// Panics unless the thread's output is a T.
    fn assert_output<T: 'static>(&self) {
        let (id, name) = (self.vtable.output)();
        assert!(
            id == TypeId::of::<T>(),
            "thread {} ends with a {name}, not with a {}",
            self.name,
            type_name::<T>()
        );
    }

    /// Ends the thread with an output that [`assert_output`](Self::assert_output) has let pass.
    ///
    /// # Safety
    /// The caller is the owner CPU, outside of any poll of this thread, which has not finished.
    pub(crate) unsafe fn exit(&self, output: Box<dyn Any>) {
        // SAFETY: the owner touches an unfinished stage alone.
        unsafe { (self.vtable.exit)(self, output) }
    }

    /// Publishes the output and wakes whoever joins; drops it if nobody will. Gives the executor's count up.
    ///
    /// # Safety
    /// The owner, once, outside of any poll of this thread, which is on the list of all threads no more.
    pub(crate) unsafe fn finish(header: *const Self) {
        // SAFETY: the executor's count keeps it alive, until the handle is told, or is not there and the count is settled.
        unsafe {
            (*header).set(flag::FINISHED);
            let joiner = (*header).life.take_joiner();
            debug_assert!(!(*header).is(flag::QUEUED), "nobody queues what runs");
            if (*header).life.finish() {
                if let Some(joiner) = joiner {
                    joiner.wake();
                }
            } else {
                // This CPU is the last to touch the stage.
                ((*header).vtable.clear)(header);
                if (*header).life.settle(0) {
                    ((*header).vtable.free)(header);
                }
            }
        }
    }

    /// Ends a thread whose CPU is gone, with its future left as it is.
    ///
    /// # Safety
    /// Nobody polls it, and no CPU owns it any more; it has not ended.
    pub(crate) unsafe fn give_up(&self) {
        self.set(flag::FINISHED);
        // SAFETY: in the owner's place, once.
        unsafe { self.life.abandon() };
    }

    /// Drops the future of a thread that will never run again, as its CPU stops.
    ///
    /// # Safety
    /// The caller is the owner CPU, outside of any poll of this thread.
    pub(crate) unsafe fn abandon(&self) {
        // SAFETY: the owner, once; it touches an unfinished stage alone.
        unsafe {
            self.give_up();
            (self.vtable.clear)(self);
        }
    }

    /// Makes the thread run again. Any CPU, any context, no CPU at all.
    #[inline]
    pub(crate) fn wake(&self) {
        let here = current::pointer();
        if self.owner.is(here) {
            // SAFETY: an owner is not null, so `here` is the current CPU, hence alive.
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
            ipi::send_wake(self.owner.get(), thread);
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
        unsafe { (*data.cast::<Header>()).retain() };
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
