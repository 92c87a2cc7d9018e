//! The run queue of one CPU: 32 FIFO lists and a bit for each that is not empty.
//!
//! Only the owner touches it, inside a critical section, so it has no lock and no atomic. A larger priority wins;
//! equals take turns. The links lie in the threads themselves. Source: DragonFly `lwkt_schedule`, whose one sorted
//! list has the same order; a list for each priority makes both ends O(1).
//!
//! Among threads of one priority a second key decides, the user priority: one that is woken goes before those with a
//! smaller key, one that gives up its turn goes behind all, whatever its key, so that all of them progress (trap 18:
//! DragonFly's tick does so; here every poll that ends with a wake of its own is a tick).

use crate::thread::Header;
use core::{cell::Cell, ptr};

/// An LWKT priority, 0 to 31; a larger one runs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// Work for idle times.
    pub const IDLE: Self = Self(1);
    /// A user thread in user mode.
    pub const USER: Self = Self(6);
    /// A user thread inside the kernel.
    pub const USER_IN_KERNEL: Self = Self(10);
    /// A kernel daemon: the default.
    pub const KERNEL: Self = Self(12);
    /// Soft interrupts: protocol tasks.
    pub const SOFT: Self = Self(14);
    /// Soft timers.
    pub const TIMER: Self = Self(16);
    /// What supports interrupt threads.
    pub const INTERRUPT_SUPPORT: Self = Self(20);
    /// Interrupt threads.
    pub const INTERRUPT: Self = Self(28);
    /// The largest.
    pub const MAX: Self = Self(31);

    /// The priority `value`, or None above 31.
    pub const fn new(value: u8) -> Option<Self> {
        if value <= 31 { Some(Self(value)) } else { None }
    }

    /// 0 to 31.
    pub const fn value(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::KERNEL
    }
}

/// Both null if it is empty.
struct List {
    first: Cell<*const Header>,
    last: Cell<*const Header>,
}

impl List {
    /// Puts `thread` before the first of a smaller user priority, of which there is one.
    ///
    /// # Safety
    /// As [`RunQueue::push`]; the list is not empty.
    #[cold]
    unsafe fn insert(&self, thread: &Header) {
        let mut previous: *const Header = ptr::null();
        let mut at = self.first.get();
        // SAFETY: queued threads are alive; the last one has a smaller key, so the walk ends before the list does.
        unsafe {
            while (*at).user_priority.get() >= thread.user_priority.get() {
                previous = at;
                at = (*at).next.get();
            }
            thread.next.set(at);
            match previous.as_ref() {
                Some(previous) => previous.next.set(thread),
                None => self.first.set(thread),
            }
        }
    }
}

/// The lists by rank, which is 0 for the largest priority: the first bit that is set is found faster than the last.
pub(crate) struct RunQueue {
    filled: Cell<u32>,
    lists: [List; 32],
}

/// Where threads of this priority are.
#[inline]
fn rank(priority: Priority) -> u32 {
    u32::from(!priority.value() & 31)
}

impl RunQueue {
    pub(crate) fn new() -> Self {
        Self {
            filled: Cell::new(0),
            lists: [const {
                List {
                    first: Cell::new(ptr::null()),
                    last: Cell::new(ptr::null()),
                }
            }; 32],
        }
    }

    /// Puts `thread` on the list of its priority: behind its equals by user priority, or, when `last`, behind all.
    ///
    /// # Safety
    /// The caller is the owner CPU in a critical section; `thread` is alive, stays so while queued, and is not queued.
    #[inline]
    pub(crate) unsafe fn push(&self, thread: &Header, last: bool) {
        let rank = rank(thread.priority.get());
        let list = &self.lists[rank as usize];
        // SAFETY: a non-empty list's last thread is queued, hence alive.
        if let Some(tail) = unsafe { list.last.get().as_ref() } {
            if !last && thread.user_priority.get() > tail.user_priority.get() {
                // SAFETY: the caller's promise.
                unsafe { list.insert(thread) };
                return;
            }
            tail.next.set(thread);
        } else {
            list.first.set(thread);
            self.filled.set(self.filled.get() | 1 << rank);
        }
        thread.next.set(ptr::null());
        list.last.set(thread);
    }

    /// Takes a queued thread off its list; O(n) in the list.
    ///
    /// # Safety
    /// The caller is the owner CPU in a critical section; `thread` is queued here, and its priority has not changed since.
    pub(crate) unsafe fn remove(&self, thread: &Header) {
        let rank = rank(thread.priority.get());
        let list = &self.lists[rank as usize];
        let next = thread.next.get();
        let mut previous: *const Header = ptr::null();
        let mut at = list.first.get();
        while !ptr::eq(at, thread) {
            previous = at;
            // SAFETY: the thread is on this list, so no thread before it is null; queued threads are alive.
            at = unsafe { (*at).next.get() };
        }
        // SAFETY: as above.
        match unsafe { previous.as_ref() } {
            Some(previous) => previous.next.set(next),
            None => list.first.set(next),
        }
        if next.is_null() {
            list.last.set(previous);
        }
        if list.first.get().is_null() {
            self.filled.set(self.filled.get() & !(1 << rank));
        }
    }

    /// Takes the first thread of the largest priority.
    #[inline]
    pub(crate) fn pop(&self) -> Option<*const Header> {
        let filled = self.filled.get();
        if filled == 0 {
            return None;
        }
        let rank = filled.trailing_zeros();
        let list = &self.lists[rank as usize];
        let thread = list.first.get();
        // SAFETY: the bit says that the list is not empty, and a queued thread is alive.
        let next = unsafe { (*thread).next.get() };
        list.first.set(next);
        if next.is_null() {
            list.last.set(ptr::null());
            self.filled.set(filled & !(1 << rank));
        }
        Some(thread)
    }

    /// How many are queued, or `limit` if there are more: they are counted.
    pub(crate) fn len(&self, limit: u32) -> u32 {
        let mut count = 0;
        let mut filled = self.filled.get();
        while filled != 0 {
            let mut at = self.lists[filled.trailing_zeros() as usize].first.get();
            filled &= filled - 1;
            // SAFETY: queued threads are alive.
            while let Some(thread) = unsafe { at.as_ref() }.filter(|_| count < limit) {
                count += 1;
                at = thread.next.get();
            }
        }
        count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled.get() == 0
    }
}
