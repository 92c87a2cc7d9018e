//! The in-flight mark of a thread: at most one wake message for a thread is on its way at any time.
//!
//! ```text
//!   waker on another CPU                    owner, handling the message
//!   make the condition true                 mark := clear   (swap)   <- before the thread is scheduled
//!   mark := set        (swap)               schedule the thread, poll it
//!   it was clear? send the message
//! ```
//!
//! A waker that finds the mark set sends nothing: its swap comes before the owner's in the word's order, so the
//! owner's swap acquires the condition, and the poll that follows sees it. Clearing the mark *after* the poll would
//! lose exactly that wake. Because there is one message per thread, wakes never flood a ring.

use crate::sync::{AtomicBool, Fault, Ordering, fault};

/// The mark.
#[derive(Debug)]
pub struct WakeMark(AtomicBool);

impl WakeMark {
    /// Clear.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// True if the caller must send the wake message.
    #[must_use = "when true, send the wake message or the wake is lost"]
    #[inline]
    pub fn set(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Called by the owner that handles the message: clears the mark, then runs `schedule`.
    #[inline]
    pub fn clear(&self, schedule: impl FnOnce()) {
        if fault(Fault::ClearMarkAfterPoll) {
            schedule();
            self.0.swap(false, Ordering::AcqRel);
            return;
        }
        self.0.swap(false, Ordering::AcqRel);
        schedule();
    }
}
