//! The one place that names atomics and cells: core's, or loom's under `--cfg loom`, or shuttle's under `--cfg shuttle`.
//!
//! Every lock-free structure of this crate is written against these types, so that a model checker drives the
//! very code that runs: loom each structure alone, in all schedules and memory orders; shuttle the whole executor, in many
//! random schedules of sequentially consistent steps. Under both, [`fault`] can break a structure on purpose: a model that
//! does not catch its broken twin proves nothing.

#[cfg(loom)]
pub(crate) use loom::{
    cell::{Cell, UnsafeCell},
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(loom))]
pub(crate) use core::cell::Cell;

/// `core::cell::UnsafeCell` with loom's closure interface, so that loom can see each access.
#[cfg(not(loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Keeps its content on a cache line of its own (128 bytes: the adjacent-line prefetcher pairs lines).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

impl<T> core::ops::Deref for CachePadded<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A defect that a model plants to show that it would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The inbox's owner halts with a plain store instead of a compare-and-swap.
    HaltWithoutCheck = 1,
    /// The ring publishes its tail before the slot is written.
    PublishBeforeWrite,
    /// The owner clears the in-flight mark after the poll instead of before it.
    ClearMarkAfterPoll,
    /// A wake message has no reference of its own to the thread.
    WakeWithoutCount,
    /// The owner of a thread does not look whether it ended before a message of who joins came.
    JoinWithoutLooking,
    /// A thread that moves is handed over before its new owner is named.
    ArrivalBeforeOwner,
    /// A replier looks for a waker before it stores DONE, not with it.
    DoneWithoutSwap,
    /// A caller leaves its waker without looking for the reply with it.
    WaitWithoutExchange,
    /// A replier that has no reply looks for the caller before it goes, not with it.
    LoseWithoutSwap,
    /// The reply's DONE is stored with relaxed ordering, before the result is visible.
    RelaxedDone,
    /// The owner takes the remote free list with a load and a store.
    TakeWithoutSwap,
    /// A batch of freed objects is pushed with relaxed ordering.
    RelaxedPush,
    /// Two takers may both see a token free.
    TakeWithoutExchange,
    /// A token is given back before what its holder did is visible.
    RelaxedRelease,
    /// A reader shares a token without looking whether somebody holds it.
    ShareWithoutLooking,
    /// Two readers that leave may count as one.
    UnshareWithoutExchange,
    /// A zone is claimed by a load and a store of its bitmap word.
    ClaimWithoutExchange,
    /// The trace reader does not check whether the writer came round.
    ReadWithoutRecheck,
    /// A full ring's sender sleeps without asking for room.
    SleepWithoutAsking,
    /// A thread's end is published with relaxed ordering, before its output is visible.
    RelaxedFinish,
    /// A thread's keeper goes without adding its count of references to the others.
    EndWithoutMerge,
    /// A thread's keeper frees it without looking at the references of others.
    SettleWithoutLooking,
    /// A passive teller makes the others believe that somebody has rung.
    PassiveTakesTheBell,
    /// The consumer says that messages are done before it has run them.
    DoneBeforeRun,
    /// A countdown's steps are relaxed: the last one does not see what the others did.
    RelaxedCountdown,
    /// An abort looks whether the server watches before it is set, not with it.
    AbortWithoutSwap,
    /// A server that watches for an abort changes its waker without taking it back first.
    WatchWithoutTakingBack,
    /// A caller looks for its reply before it leaves, not with it.
    LeaveWithoutSwap,
    /// A sender takes a place by a look and an addition.
    EnterWithoutExchange,
    /// A thread's new owner is named with relaxed ordering, before what the old one left is visible.
    RelaxedOwner,
    /// A thread moves without a mark that it is on its way.
    MoveUnmarked,
    /// A wake message that finds its thread moved does not follow it.
    WakeLeftBehind,
    /// Whether a thread is queued is looked up before the section that queues it.
    LookBeforeSection,
}

/// True if the running model has planted `fault`.
#[cfg(any(loom, shuttle))]
pub(crate) fn fault(fault: Fault) -> bool {
    planted::CURRENT.load(core::sync::atomic::Ordering::Relaxed) == fault as u8
}

/// Never, outside of a model.
#[cfg(not(any(loom, shuttle)))]
#[inline(always)]
pub(crate) const fn fault(_: Fault) -> bool {
    false
}

/// What a model uses to plant a defect.
#[cfg(any(loom, shuttle))]
pub mod planted {
    use super::Fault;
    use core::sync::atomic::{AtomicU8, Ordering};

    pub(super) static CURRENT: AtomicU8 = AtomicU8::new(0);

    /// Plants `fault` in every structure until [`clear`]. Models run one at a time.
    pub fn plant(fault: Fault) {
        CURRENT.store(fault as u8, Ordering::Relaxed);
    }

    /// Takes the planted defect back.
    pub fn clear() {
        CURRENT.store(0, Ordering::Relaxed);
    }
}
