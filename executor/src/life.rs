//! The life of a thread's memory: who still refers to it, whether the thread has ended, who waits for that.
//!
//! One atomic word has a count and four flags. Beside it the owner keeps a count of its own, with no atomic operation:
//! most references to a thread (wakers that it leaves on its own CPU) come and go there. The sum of the two counts is
//! what counts; either may be negative, for a reference may be made here and dropped there. Nobody asks for the sum
//! before the thread has ended, because until then the executor has a reference itself. At the end the owner adds its
//! count to the word, for good:
//!
//! ```text
//!   anybody else                            owner
//!   word += 1, word -= 1                    local += 1, local -= 1
//!                                           the thread ends:
//!                                           word += local, DONE or ABANDONED (fetch_add)
//!   word -= 1: it was 1, and the end?       word -= 1: it was 1, and the end?
//!   free                                    free
//! ```
//!
//! The join handle and the owner meet in the flags:
//!
//! ```text
//!   handle (polls, then goes)               owner (once)
//!   store waker                             store output
//!   WAITING |=         (fetch_or)           DONE                (the fetch_add above)
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
//!
//! Source: biased reference counting (Choi, Shull, Torrellas, PACT 2018); there the owner may lose its bias at any
//! moment, here a thread's end is that moment, which spares the queue of objects to be merged.

use crate::{
    mark::WakeMark,
    sync::{AtomicUsize, Fault, Ordering, UnsafeCell, fault},
};
use core::task::Waker;

/// The output is stored.
const DONE: usize = 1;
/// Nobody will ask for the output.
const DETACHED: usize = 2;
/// Its CPU has stopped, or it never arrived there: there will be no output.
const ABANDONED: usize = 4;
/// The handle's waker is stored.
const WAITING: usize = 8;
/// The thread will not run again.
const ENDED: usize = DONE | ABANDONED;
/// One reference.
const ONE: usize = 16;

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

/// The word, the owner's count, and the waker of a handle that waits.
#[derive(Debug)]
pub struct Life {
    word: AtomicUsize,
    /// Owner; not used any more once the thread has ended.
    local: UnsafeCell<usize>,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the module's description says who may touch which field when.
unsafe impl Sync for Life {}
// SAFETY: as above.
unsafe impl Send for Life {}

impl Life {
    /// Of a thread that runs, with `references` of the owner's.
    pub fn new(references: usize) -> Self {
        Self {
            word: AtomicUsize::new(0),
            local: UnsafeCell::new(references),
            waker: UnsafeCell::new(None),
        }
    }

    /// One more reference, by the owner of a thread that has not ended.
    ///
    /// # Safety
    /// The caller is the owner, no interrupt handler of it, and the thread has not ended.
    #[inline]
    pub unsafe fn retain_at_home(&self) {
        // SAFETY: the caller's promise.
        self.local
            .with_mut(|local| unsafe { *local = (*local).wrapping_add(1) });
    }

    /// One reference less, by the owner of a thread that has not ended: there is another, the executor's.
    ///
    /// # Safety
    /// As [`retain_at_home`](Self::retain_at_home); the reference is the caller's.
    #[inline]
    pub unsafe fn release_at_home(&self) {
        // SAFETY: the caller's promise.
        self.local
            .with_mut(|local| unsafe { *local = (*local).wrapping_sub(1) });
    }

    /// One more reference, by anybody who has one.
    #[inline]
    pub fn retain(&self) {
        self.word.fetch_add(ONE, Ordering::Relaxed);
    }

    /// True if the caller must send the wake message, with the reference that was counted for it. Nobody else's need last
    /// until it arrives: the waker may give up its own at once, and the thread may end before. That it has ended already
    /// saves a message; the owner looks again.
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

    /// One reference less. True: it was the last, and the memory is the caller's.
    #[must_use = "when true, the memory is the caller's to free"]
    #[inline]
    pub fn release(&self) -> bool {
        // The last reference of all has nobody beside it who could make another.
        if Self::is_last(self.word.load(Ordering::Acquire)) {
            return true;
        }
        Self::is_last(self.word.fetch_sub(ONE, Ordering::AcqRel))
    }

    fn is_last(word: usize) -> bool {
        word / ONE == 1 && word & ENDED != 0
    }

    /// The thread will not run again: from now on its references are counted in the word, the executor's own among them.
    ///
    /// # Safety
    /// Once, by the owner.
    unsafe fn end(&self, flag: usize) -> usize {
        let order = if fault(Fault::RelaxedFinish) {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        // SAFETY: the caller's promise.
        let local = self.local.with(|local| unsafe { *local });
        if fault(Fault::EndWithoutMerge) {
            return self.word.fetch_add(ONE + flag, order);
        }
        self.word
            .fetch_add(local.wrapping_mul(ONE).wrapping_add(flag), order)
    }

    /// Called by the owner once the output is stored. It still has its reference.
    ///
    /// # Safety
    /// Once, and [`abandon`](Self::abandon) is not called.
    pub unsafe fn finish(&self) -> Finish {
        // SAFETY: the caller's promise.
        let before = unsafe { self.end(DONE) };
        if before & DETACHED != 0 {
            return Finish::Detached;
        }
        if before & WAITING == 0 {
            return Finish::Nobody;
        }
        // SAFETY: WAITING under DONE: the waker is the owner's.
        let waker = self.waker.with_mut(|waker| unsafe { (*waker).take() });
        waker.map_or(Finish::Nobody, Finish::Waiting)
    }

    /// Called by the owner of a thread that will not run again. It still has its reference.
    ///
    /// # Safety
    /// Once, and [`finish`](Self::finish) is not called.
    pub unsafe fn abandon(&self) {
        // SAFETY: the caller's promise.
        if unsafe { self.end(ABANDONED) } & WAITING != 0 {
            // Nobody will wake it, and kept it might keep a thread that keeps this one.
            // SAFETY: WAITING under ABANDONED: the waker is the owner's.
            drop(self.waker.with_mut(|waker| unsafe { (*waker).take() }));
        }
    }

    /// Called by the handle. True: the thread is done and its output the handle's; false: the waker is kept.
    ///
    /// # Safety
    /// Only the thread's one handle calls this, never from two threads at once.
    pub unsafe fn poll(&self, waker: &Waker) -> bool {
        let word = self.word.load(Ordering::Acquire);
        if word & ENDED != 0 {
            return word & DONE != 0;
        }
        if word & WAITING != 0 && !fault(Fault::KeepWaiting) {
            let before = self.word.fetch_and(!WAITING, Ordering::AcqRel);
            if before & ENDED != 0 {
                return before & DONE != 0;
            }
        }
        self.waker.with_mut(|kept| {
            // SAFETY: WAITING is clear: the waker is the handle's.
            let kept = unsafe { &mut *kept };
            if !kept.as_ref().is_some_and(|old| old.will_wake(waker)) {
                *kept = Some(waker.clone());
            }
        });
        let before = self.word.fetch_or(WAITING, Ordering::AcqRel);
        if before & ABANDONED != 0 {
            // SAFETY: the end came before WAITING: the waker is still the handle's, and nobody will use it.
            drop(self.waker.with_mut(|kept| unsafe { (*kept).take() }));
        }
        before & DONE != 0
    }

    /// Called by the handle as it goes. True: the thread is done, and the handle drops what is left of the output.
    #[must_use = "when true, the output is the caller's to drop"]
    pub fn detach(&self) -> bool {
        if fault(Fault::DetachWithoutSwap) {
            let before = self.word.load(Ordering::Acquire);
            self.word.store(before | DETACHED, Ordering::Release);
            return before & DONE != 0;
        }
        self.is_done() || self.word.fetch_or(DETACHED, Ordering::AcqRel) & DONE != 0
    }

    /// True once the output is stored.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.word.load(Ordering::Acquire) & DONE != 0
    }

    /// True once the thread will not run again.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.word.load(Ordering::Acquire) & ENDED != 0
    }
}
