//! The life of a thread's memory: how many refer to it, and who drops the output that it has left.
//!
//! ```text
//!   waker on another CPU             owner, at the thread's exit      join handle
//!   ended? nothing to wake           store the output
//!   mark := set         (swap)       join |= DONE      (fetch_or)     join |= DETACHED   (fetch_or)
//!   count += 1, the message's        DETACHED was set? drop it        DONE was set? drop it
//!   send the message                 else wake who joins
//!   count -= 1, its own              count -= 1                       count -= 1
//! ```
//!
//! Of the two `fetch_or`s on one word one comes second, and it alone sees the other's bit: the output is dropped once, and
//! by somebody who sees all of it. Who takes the count to 0 frees the memory; the AcqRel of each decrement puts what
//! the others did before that. The message has a count of its own because nobody else's need last until it
//! arrives: the waker may give up its own at once, and the thread may have ended before. That a thread has ended is only
//! a hint to its wakers, which saves a message; the owner looks again.

use crate::{
    mark::WakeMark,
    sync::{AtomicU8, AtomicUsize, Fault, Ordering, fault},
};

/// The output is stored.
const DONE: u8 = 1;
/// Nobody will ask for the output.
const DETACHED: u8 = 2;
/// Its CPU has stopped: there will be no output.
const ABANDONED: u8 = 4;

/// The counted references to a thread, and how far it has come.
#[derive(Debug)]
pub struct Life {
    refs: AtomicUsize,
    join: AtomicU8,
}

impl Life {
    /// A thread to which its executor and its join handle refer.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self {
            refs: AtomicUsize::new(2),
            join: AtomicU8::new(0),
        }
    }

    /// Counts one more reference; by somebody who has one.
    #[inline]
    pub fn retain(&self) {
        // A count cannot overflow before memory does.
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives one reference up. True: it was the last, free the memory.
    #[must_use = "when true, the memory is nobody's: free it"]
    #[inline]
    pub fn release(&self) -> bool {
        self.refs.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// True if the caller must send the wake message, with the reference that was counted for it.
    #[must_use = "when true, send the wake message or the wake is lost"]
    pub fn begin_wake(&self, mark: &WakeMark) -> bool {
        if self.has_ended() || !mark.set() {
            return false;
        }
        if !fault(Fault::WakeWithoutCount) {
            self.retain();
        }
        true
    }

    /// Called by the owner when the output is stored. True: nobody wants it, drop it.
    #[must_use = "when true, drop the output"]
    pub fn finish(&self) -> bool {
        self.join.fetch_or(DONE, Ordering::AcqRel) & DETACHED != 0
    }

    /// Called by the join handle as it goes. True: the output is stored, drop it.
    #[must_use = "when true, drop the output"]
    pub fn detach(&self) -> bool {
        let before = if fault(Fault::DetachWithoutSwap) {
            let before = self.join.load(Ordering::Acquire);
            self.join.store(before | DETACHED, Ordering::Release);
            before
        } else {
            self.join.fetch_or(DETACHED, Ordering::AcqRel)
        };
        before & DONE != 0
    }

    /// Called by the owner when there will be no output.
    pub fn abandon(&self) {
        self.join.fetch_or(ABANDONED, Ordering::AcqRel);
    }

    /// True once the output is stored: then it is the join handle's.
    pub fn is_done(&self) -> bool {
        self.join.load(Ordering::Acquire) & DONE != 0
    }

    /// True once the thread will not run again.
    pub fn has_ended(&self) -> bool {
        self.join.load(Ordering::Acquire) & (DONE | ABANDONED) != 0
    }
}
