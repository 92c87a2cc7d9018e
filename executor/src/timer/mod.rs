//! Time: the timers of one CPU, and what waits for them.
//!
//! Nothing ticks. A CPU's hardware timer is set to the earliest deadline it has and to nothing when it has none.
//! Equal deadlines fire in the order they were made, and none fires early. Timers lie in a [wheel](wheel), so that an
//! operation costs the same with two of them as with a million, on the average; an idle CPU does not wake for one that was
//! cancelled, but for once a level to part a crowd whose first it was. [`Sleep`] is the future, [`Interval`] its
//! repetition. A timer belongs to the CPU on which its future was polled last.
//!
//! [`Timers::next_ns`] is a bound, because the timer that is cancelled is so often the earliest: to look for the next
//! one each time would be work for nothing. It is exact whenever it matters, which is when a CPU goes to sleep and
//! when timers have fired. See docs/decisions/timers.md.

mod interval;
mod pool;
mod sleep;
mod slot;
mod wheel;

pub use interval::{Interval, interval};
pub use sleep::{Elapsed, Sleep, sleep, sleep_until, timeout};

use crate::current;
use core::{
    cell::{Cell, RefCell},
    mem,
    sync::atomic::{AtomicU64, Ordering},
    task::Waker,
};
use wheel::{Key, Wheel};

/// The timers of one CPU. Owner; an interrupt handler may ask for [`next_ns`](Self::next_ns), and for nothing else.
pub(crate) struct Timers {
    wheel: RefCell<Wheel<Waker>>,
    next_ns: Cell<u64>,
    /// Names this wheel among all there ever were: a [`Sleep`] may outlive its CPU, and an address be used again.
    name: AtomicU64,
}

fn next_name() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            wheel: RefCell::new(Wheel::new()),
            next_ns: Cell::new(u64::MAX),
            name: AtomicU64::new(next_name()),
        }
    }

    /// The wheel's name. Anybody.
    #[inline]
    fn name(&self) -> u64 {
        self.name.load(Ordering::Relaxed)
    }

    /// Nothing is due before this; `u64::MAX` if there is no timer.
    #[inline]
    pub(crate) fn next_ns(&self) -> u64 {
        self.next_ns.get()
    }

    /// What the hardware timer of a CPU that sleeps is set to: the earliest deadline, or where timers lie close together
    /// the moment to look at them again; `u64::MAX` if there is no timer.
    pub(crate) fn earliest_ns(&self) -> u64 {
        let earliest_ns = self.wheel.borrow_mut().next_ns();
        self.next_ns.set(earliest_ns);
        earliest_ns
    }

    fn insert(&self, now_ns: u64, deadline_ns: u64, waker: Waker) -> Key {
        self.next_ns.set(self.next_ns.get().min(deadline_ns));
        self.wheel.borrow_mut().insert(now_ns, deadline_ns, waker)
    }

    /// Gives a timer another deadline. None: it has fired.
    fn reset(&self, now_ns: u64, key: Key, deadline_ns: u64) -> Option<Key> {
        let key = self.wheel.borrow_mut().reset(now_ns, key, deadline_ns)?;
        self.next_ns.set(self.next_ns.get().min(deadline_ns));
        Some(key)
    }

    fn remove(&self, key: Key) -> Option<Waker> {
        let mut wheel = self.wheel.borrow_mut();
        let waker = wheel.remove(key);
        if wheel.is_empty() {
            self.next_ns.set(u64::MAX);
        }
        waker
    }

    /// Has a timer wake another. False: it has fired.
    fn update(&self, key: Key, waker: &Waker) -> bool {
        let old = match self.wheel.borrow_mut().value(key) {
            Some(old) if old.will_wake(waker) => return true,
            Some(old) => mem::replace(old, waker.clone()),
            None => return false,
        };
        // What a combinator's waker does as it goes may cancel a timer, so it goes after the borrow has ended.
        drop(old);
        true
    }

    /// Takes a timer that is due, with its deadline. To be called until there is none.
    pub(crate) fn pop_due(&self, now_ns: u64) -> Option<(u64, Waker)> {
        if self.next_ns.get() > now_ns {
            return None;
        }
        let due = self.wheel.borrow_mut().pop_due(now_ns);
        if due.is_none() {
            self.earliest_ns();
        }
        due
    }

    pub(crate) fn clear(&self) {
        self.next_ns.set(u64::MAX);
        // What has keys of the old wheel has none of the new one.
        self.name.store(next_name(), Ordering::Relaxed);
        drop(self.wheel.replace(Wheel::new()));
    }
}

/// Nanoseconds since boot.
///
/// # Panics
/// Outside of every CPU.
pub fn now_ns() -> u64 {
    current::current().node().clock_ns()
}

/// Nanoseconds since boot as the running poll first asked for them: one reading of the clock for all that a poll does.
/// For what needs to know when something happened no closer than to a poll, and asks often.
///
/// # Panics
/// Outside of every CPU.
pub fn poll_ns() -> u64 {
    current::current().poll_ns()
}
