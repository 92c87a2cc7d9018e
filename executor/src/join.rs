//! The join word of a thread: whether it has ended, and whether somebody waits for its output.
//!
//! ```text
//!   handle (polls, then goes)               owner (once)
//!   store waker                             store output
//!   WAITING |=         (fetch_or)           DONE |=            (fetch_or)
//!   DONE was set? take the output           WAITING was set? take the waker and wake it
//!   before it touches the waker again:      DETACHED was set? drop the output
//!   WAITING &= not     (fetch_and)
//!   DETACHED |=        (fetch_or)
//!   DONE was set? drop the output
//! ```
//!
//! The waker belongs to the handle while WAITING is clear, and to the owner once it has set DONE over WAITING. The output
//! belongs to the owner until DONE and to the handle after it; of the two that set DONE and DETACHED the second finds
//! the other's bit, and is the one who drops an output that nobody took.

use crate::sync::{AtomicU8, Fault, Ordering, UnsafeCell, fault};
use core::task::Waker;

/// The output is stored.
const DONE: u8 = 1;
/// Nobody will ask for the output.
const DETACHED: u8 = 2;
/// Its CPU has stopped: there will be no output.
const ABANDONED: u8 = 4;
/// The handle's waker is stored.
const WAITING: u8 = 8;

/// What the owner has to do after a thread's last poll.
#[derive(Debug)]
#[must_use]
pub enum Finish {
    /// Nothing: the handle will come for the output.
    Nobody,
    /// Wake the handle.
    Waiting(Waker),
    /// The handle is gone: drop the output.
    Detached,
}

/// The waker of a handle that waits: beside the word, for a thread's header has no byte to spare between the two.
#[derive(Debug)]
pub struct JoinWaker(UnsafeCell<Option<Waker>>);

impl JoinWaker {
    /// Nobody waits.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self(UnsafeCell::new(None))
    }
}

/// The word.
#[derive(Debug)]
pub struct JoinWord(AtomicU8);

impl JoinWord {
    /// Of a thread that runs.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// Called by the owner once the output is stored.
    pub fn finish(&self, waker: &JoinWaker) -> Finish {
        let order = if fault(Fault::RelaxedFinish) {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        let before = self.0.fetch_or(DONE, order);
        if before & DETACHED != 0 {
            return Finish::Detached;
        }
        if before & WAITING == 0 {
            return Finish::Nobody;
        }
        // SAFETY: WAITING under DONE: the waker is the owner's.
        let waker = waker.0.with_mut(|waker| unsafe { (*waker).take() });
        waker.map_or(Finish::Nobody, Finish::Waiting)
    }

    /// Called by the owner of a thread that will not run again.
    pub fn abandon(&self) {
        self.0.fetch_or(ABANDONED, Ordering::AcqRel);
    }

    /// Called by the handle. True: the thread is done and its output the handle's; false: the waker is kept.
    ///
    /// # Safety
    /// Only the thread's one handle calls this, never from two threads at once.
    pub unsafe fn poll(&self, kept: &JoinWaker, waker: &Waker) -> bool {
        let state = self.0.load(Ordering::Acquire);
        if state & DONE != 0 {
            return true;
        }
        if state & WAITING != 0
            && !fault(Fault::KeepWaiting)
            && self.0.fetch_and(!WAITING, Ordering::AcqRel) & DONE != 0
        {
            return true;
        }
        kept.0.with_mut(|kept| {
            // SAFETY: WAITING is clear: the waker is the handle's.
            let kept = unsafe { &mut *kept };
            if !kept.as_ref().is_some_and(|old| old.will_wake(waker)) {
                *kept = Some(waker.clone());
            }
        });
        self.0.fetch_or(WAITING, Ordering::AcqRel) & DONE != 0
    }

    /// Called by the handle as it goes. True: the thread is done, and the handle drops what is left of the output.
    #[must_use = "when true, the output is the caller's to drop"]
    pub fn detach(&self) -> bool {
        self.0.fetch_or(DETACHED, Ordering::AcqRel) & DONE != 0
    }

    /// True once the output is stored.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire) & DONE != 0
    }

    /// True once the thread will not run again.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire) & (DONE | ABANDONED) != 0
    }
}
