//! Time: sleeps, deadlines and the timers of one CPU.
//!
//! Nothing ticks. A CPU's hardware timer is set to the earliest deadline it has and to nothing when it has none.
//! Timers are ordered by (deadline, creation), so equal deadlines fire in the order they were made. They are kept in a
//! B-tree: every operation is O(log n) and the earliest is at hand; a cancelled timer is really gone, so an idle CPU
//! wakes for nothing. A timer belongs to the CPU on which its future was polled last.

use crate::{Cpu, CpuId, critical, current, ipi};
use alloc::collections::BTreeMap;
use core::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};
use futures_util::future::{Either, select};

/// Deadline in nanoseconds since boot, then order of creation on its CPU.
type Key = (u64, u64);

pub(crate) struct Timers {
    waiting: RefCell<BTreeMap<Key, Waker>>,
    earliest: Cell<u64>,
    created: Cell<u64>,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            waiting: RefCell::new(BTreeMap::new()),
            earliest: Cell::new(u64::MAX),
            created: Cell::new(0),
        }
    }

    /// The earliest deadline; `u64::MAX` if there is none.
    #[inline]
    pub(crate) fn next_ns(&self) -> u64 {
        self.earliest.get()
    }

    fn note_earliest(&self, waiting: &BTreeMap<Key, Waker>) {
        self.earliest.set(
            waiting
                .first_key_value()
                .map_or(u64::MAX, |((deadline, _), _)| *deadline),
        );
    }

    fn insert(&self, deadline_ns: u64, waker: Waker) -> Key {
        let key = (deadline_ns, self.created.get());
        self.created.set(key.1 + 1);
        let mut waiting = self.waiting.borrow_mut();
        waiting.insert(key, waker);
        self.note_earliest(&waiting);
        key
    }

    fn remove(&self, key: Key) -> Option<Waker> {
        let mut waiting = self.waiting.borrow_mut();
        let waker = waiting.remove(&key);
        self.note_earliest(&waiting);
        waker
    }

    fn update(&self, key: Key, waker: &Waker) -> bool {
        let mut new = waker.clone();
        // What a combinator's waker does as it goes may cancel a timer, so it goes after the borrow has ended.
        match self.waiting.borrow_mut().get_mut(&key) {
            Some(old) => mem::swap(old, &mut new),
            None => return false,
        }
        true
    }

    pub(crate) fn pop_due(&self, now_ns: u64) -> Option<(u64, Waker)> {
        if self.earliest.get() > now_ns {
            return None;
        }
        let mut waiting = self.waiting.borrow_mut();
        let ((deadline, _), waker) = waiting.pop_first()?;
        self.note_earliest(&waiting);
        Some((deadline, waker))
    }

    pub(crate) fn clear(&self) {
        let waiting = self.waiting.take();
        self.earliest.set(u64::MAX);
        drop(waiting);
    }
}

/// A future that is ready at a deadline. Made by [`sleep`] and [`sleep_until`].
#[derive(Debug)]
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    deadline_ns: u64,
    /// Where it is registered, once it was polled.
    timer: Option<(CpuId, Key)>,
}

impl Sleep {
    /// The deadline, in nanoseconds since boot.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    fn cancel(&mut self) {
        let Some((cpu, key)) = self.timer.take() else {
            return;
        };
        // After the node has stopped there is no timer left to cancel.
        let Some(here) = current::try_current() else {
            return;
        };
        if here.id() == cpu {
            drop(here.timers.remove(key));
        } else {
            // Nobody waits for it: fired before it is found, it wakes a thread once too often.
            ipi::send_passive(here.node().cpu(cpu), move |cpu: &Cpu| {
                drop(cpu.timers.remove(key))
            });
        }
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let here = current::current();
        if let Some((cpu, key)) = self.timer {
            if cpu == here.id() && here.timers.update(key, context.waker()) {
                return Poll::Pending;
            }
            if cpu == here.id() {
                // It fired: only a due timer leaves the list without `cancel`.
                self.timer = None;
                return Poll::Ready(());
            }
            // A movable thread took it to another CPU.
            self.cancel();
        }
        if here.node().clock_ns() >= self.deadline_ns {
            return Poll::Ready(());
        }
        critical::assert_may_wait();
        let key = here
            .timers
            .insert(self.deadline_ns, context.waker().clone());
        self.timer = Some((here.id(), key));
        here.arm_timer();
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
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

/// Waits for `duration`. A zero duration is ready at once; use [`yield_now`](crate::yield_now) to let others run.
pub fn sleep(duration: Duration) -> Sleep {
    let wait_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    sleep_until(now_ns().saturating_add(wait_ns))
}

/// Waits until `deadline_ns` nanoseconds since boot.
pub fn sleep_until(deadline_ns: u64) -> Sleep {
    // u64::MAX means "no timer" inside; 584 years will do.
    Sleep {
        deadline_ns: deadline_ns.min(u64::MAX - 2),
        timer: None,
    }
}

/// The time ran out before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timed out")
    }
}

impl core::error::Error for Elapsed {}

/// Waits for `future`, but no longer than `duration`; then the future is dropped.
///
/// # Errors
/// [`Elapsed`] when the time ran out first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    match select(pin!(future), pin!(sleep(duration))).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(_) => Err(Elapsed),
    }
}
