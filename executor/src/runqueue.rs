//! The run queue of one CPU: 32 FIFO lists and a bit for each that is not empty.
//!
//! Only the owner touches it, inside a critical section, so it has no lock and no atomic. A larger priority wins;
//! equals take turns. The links lie in the threads themselves. Source: DragonFly `lwkt_schedule`, whose one sorted
//! list has the same order; a list for each priority makes both ends O(1).

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

struct List {
    first: Cell<*const Header>,
    last: Cell<*const Header>,
}

pub(crate) struct RunQueue {
    filled: Cell<u32>,
    length: Cell<u32>,
    lists: [List; 32],
}

impl RunQueue {
    pub(crate) fn new() -> Self {
        Self {
            filled: Cell::new(0),
            length: Cell::new(0),
            lists: [const {
                List {
                    first: Cell::new(ptr::null()),
                    last: Cell::new(ptr::null()),
                }
            }; 32],
        }
    }

    /// Appends `thread` to the list of its priority.
    ///
    /// # Safety
    /// The caller is the owner CPU in a critical section; `thread` is alive, stays so while queued, and is not queued.
    #[inline]
    pub(crate) unsafe fn push(&self, thread: &Header) {
        let priority = thread.priority.get().value();
        let list = &self.lists[usize::from(priority & 31)];
        thread.next.set(ptr::null());
        if list.first.get().is_null() {
            list.first.set(thread);
            self.filled.set(self.filled.get() | 1 << priority);
        } else {
            // SAFETY: a non-empty list's last thread is queued, hence alive.
            unsafe { (*list.last.get()).next.set(thread) };
        }
        list.last.set(thread);
        self.length.set(self.length.get() + 1);
    }

    /// Takes the first thread of the largest priority.
    #[inline]
    pub(crate) fn pop(&self) -> Option<*const Header> {
        let filled = self.filled.get();
        if filled == 0 {
            return None;
        }
        let priority = 31 - filled.leading_zeros();
        let list = &self.lists[priority as usize];
        let thread = list.first.get();
        // SAFETY: the bit says that the list is not empty, and a queued thread is alive.
        let next = unsafe { (*thread).next.get() };
        list.first.set(next);
        if next.is_null() {
            self.filled.set(filled & !(1 << priority));
        }
        self.length.set(self.length.get() - 1);
        Some(thread)
    }

    pub(crate) fn len(&self) -> u32 {
        self.length.get()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled.get() == 0
    }
}
