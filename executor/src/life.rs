//! The life of a thread's memory: who still refers to it, whether the thread has ended, who waits for that.
//!
//! A reference is counted in one of two words: `home`, which its keeper alone changes, by plain loads and stores, or
//! `others`, which anybody changes, by locked ones. Most references (the executor's, the join handle's, wakers that a
//! thread leaves on its own CPU) come and go at home. The sum of the two counts is what counts; either may be negative,
//! for a reference may be made here and dropped there.
//!
//! The keeper always has a reference itself, so nobody asks for the sum before the keeper's last word. It is the owner
//! until the thread ends; from then on the join handle, wherever it is, or nobody, if there is no handle any more:
//!
//! ```text
//!   anybody else                    owner                           join handle
//!                                   home += 1, home -= 1            (at home it is the owner, away it asks it
//!   others += 1                                                     by message: to wait, to go)
//!   others -= 1                     the thread ends:
//!                                   store output
//!                                   home := count, DONE  (release)  DONE?  (acquire)
//!                                   wake who waits                  take the output
//!                                                                   the last word, as it goes:
//!                                                                   home + others = 1? free
//!   others -= 1: it was 1,                                          others += home - 1, MERGED
//!   and MERGED? free                                                it is 0? free
//! ```
//!
//! Why the keeper may believe a sum of 1 that it has only loaded: if there were another reference, some thread would have
//! it, that got it from one that had it before, and so back to one that was counted where the keeper sees it, and whose
//! end it does not see. That one is in the sum. So where nobody else ever had a reference a thread lives and dies without
//! a locked operation, and DONE needs none, because no one but the owner writes its word.
//!
//! Who joins is the owner's affair: the waker lies here, and the owner alone touches it. A handle on another CPU sends the
//! owner a message; one that comes after the end finds DONE. Of the output, that is the owner's until DONE and then the
//! handle's, nothing is left when the handle goes.
//!
//! Source: biased reference counting (Choi, Shull, Torrellas, PACT 2018); there the owner may lose its bias at any
//! moment, which takes a queue of objects to be merged; here the bias is handed on, with the output.

use crate::{
    mark::WakeMark,
    sync::{AtomicUsize, Fault, Ordering, UnsafeCell, fault},
};
use core::task::Waker;

/// In `home`: the output is stored.
const DONE: usize = 1;
/// In `home`: its CPU has stopped, or it never arrived there: there will be no output.
const ABANDONED: usize = 2;
/// In `home`: there is no handle.
const DETACHED: usize = 4;
/// The thread will not run again.
const ENDED: usize = DONE | ABANDONED;
/// In `others`: `home` was added, and means nothing any more.
const MERGED: usize = 1;
/// One reference.
const ONE: usize = 8;
/// The count of a word.
const COUNT: usize = !(ONE - 1);

/// The two words, and the waker of a handle that waits.
#[derive(Debug)]
pub struct Life {
    /// Written by the keeper.
    home: AtomicUsize,
    others: AtomicUsize,
    /// Owner, until the thread ends.
    joiner: UnsafeCell<Option<Waker>>,
}

// SAFETY: the module's description says who may touch which field when.
unsafe impl Sync for Life {}
// SAFETY: as above.
unsafe impl Send for Life {}

impl Life {
    /// Of a thread that runs and has a handle, with `references` of the owner's.
    pub fn new(references: usize) -> Self {
        Self {
            home: AtomicUsize::new(references * ONE),
            others: AtomicUsize::new(0),
            joiner: UnsafeCell::new(None),
        }
    }

    /// One more reference, by the owner of a thread that has not ended.
    ///
    /// # Safety
    /// The caller is the owner, no interrupt handler of it, and the thread has not ended.
    #[inline]
    pub unsafe fn retain_at_home(&self) {
        let home = self.home.load(Ordering::Relaxed);
        self.home.store(home.wrapping_add(ONE), Ordering::Relaxed);
    }

    /// One reference less, by the owner of a thread that has not ended: there is another, the executor's.
    ///
    /// # Safety
    /// As [`retain_at_home`](Self::retain_at_home); the reference is the caller's.
    #[inline]
    pub unsafe fn release_at_home(&self) {
        let home = self.home.load(Ordering::Relaxed);
        self.home.store(home.wrapping_sub(ONE), Ordering::Relaxed);
    }

    /// One more reference, by anybody who has one.
    #[inline]
    pub fn retain(&self) {
        self.others.fetch_add(ONE, Ordering::Relaxed);
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

    /// One reference less, by anybody but the keeper. True: it was the last, and the memory is the caller's.
    #[must_use = "when true, the memory is the caller's to free"]
    #[inline]
    pub fn release(&self) -> bool {
        // The last reference of all has nobody beside it who could make another.
        if self.others.load(Ordering::Acquire) == ONE + MERGED {
            return true;
        }
        self.others.fetch_sub(ONE, Ordering::AcqRel) == ONE + MERGED
    }

    /// Leaves `waker` to be woken at the end.
    ///
    /// # Safety
    /// The caller is the owner, no interrupt handler of it, and the thread has not ended.
    #[inline]
    pub unsafe fn wait(&self, waker: &Waker) {
        let before = self.joiner.with_mut(|joiner| {
            // SAFETY: the caller's promise.
            let joiner = unsafe { &mut *joiner };
            if joiner.as_ref().is_some_and(|old| old.will_wake(waker)) {
                None
            } else {
                joiner.replace(waker.clone())
            }
        });
        drop(before);
    }

    /// The handle goes, with its reference, and nobody waits any more: here is whom it had left.
    ///
    /// # Safety
    /// As [`wait`](Self::wait), once.
    pub unsafe fn detach(&self) -> Option<Waker> {
        let home = self.home.load(Ordering::Relaxed);
        self.home
            .store(home.wrapping_sub(ONE) | DETACHED, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.take_joiner() }
    }

    /// Who waits.
    ///
    /// # Safety
    /// As [`wait`](Self::wait).
    #[inline]
    pub unsafe fn take_joiner(&self) -> Option<Waker> {
        // SAFETY: the caller's promise.
        self.joiner.with_mut(|joiner| unsafe { (*joiner).take() })
    }

    /// The thread has ended, and gives `given_up` of the owner's references up. True: the handle is the keeper now, and may
    /// have freed the memory already. False: there is no handle, and the caller goes on with [`settle`](Self::settle).
    ///
    /// # Safety
    /// Once, by the owner.
    #[must_use = "when false, the count is still to be settled"]
    #[inline]
    unsafe fn end(&self, flag: usize, given_up: usize) -> bool {
        let order = if fault(Fault::RelaxedFinish) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        let home = self.home.load(Ordering::Relaxed);
        let ended = home.wrapping_sub(given_up * ONE) | flag;
        self.home.store(ended, order);
        home & DETACHED == 0
    }

    /// Called by the owner once the output is stored, as [`end`](Self::end) says. Gives the executor's reference up.
    ///
    /// # Safety
    /// Once, by the owner, and [`abandon`](Self::abandon) is not called.
    #[must_use = "when false, the output is to be dropped, and the count to be settled"]
    #[inline]
    pub unsafe fn finish(&self) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.end(DONE, 1) }
    }

    /// Called by the owner of a thread that will not run again. It still has its reference.
    ///
    /// # Safety
    /// Once, by the owner, and [`finish`](Self::finish) is not called.
    pub unsafe fn abandon(&self) {
        // SAFETY: the caller's promise. Nobody will wake who joins, and kept it might keep a thread that keeps this one.
        unsafe {
            let joiner = self.take_joiner();
            if !self.end(ABANDONED, 0) {
                let last = self.settle(0);
                debug_assert!(!last, "the owner's reference is counted");
            }
            drop(joiner);
        }
    }

    /// True if the keeper, who asks, has the only reference.
    ///
    /// # Safety
    /// The thread has ended, the caller is the keeper and gives up `given_up` references.
    #[inline]
    unsafe fn is_last(&self, given_up: usize) -> bool {
        let home = self.home.load(Ordering::Relaxed) & COUNT;
        let others = self.others.load(Ordering::Acquire);
        home.wrapping_add(others) == given_up * ONE || fault(Fault::SettleWithoutLooking)
    }

    /// True if the handle that asks has the only reference to a thread that has ended.
    ///
    /// # Safety
    /// The caller is the handle, and has seen the end.
    #[inline]
    pub unsafe fn is_alone(&self) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.is_last(1) }
    }

    /// The keeper's last word on a thread that has ended: gives up so many references, and leaves what is counted at home
    /// to the others. True: there are none, and the memory is the caller's.
    ///
    /// # Safety
    /// Once, by the keeper.
    #[must_use = "when true, the memory is the caller's to free"]
    pub unsafe fn settle(&self, given_up: usize) -> bool {
        // SAFETY: the caller's promise.
        if unsafe { self.is_last(given_up) } {
            return true;
        }
        let home = self.home.load(Ordering::Relaxed) & COUNT;
        let left = home.wrapping_sub(given_up * ONE);
        let left = if fault(Fault::EndWithoutMerge) {
            0
        } else {
            left
        };
        let before = self
            .others
            .fetch_add(left.wrapping_add(MERGED), Ordering::AcqRel);
        before.wrapping_add(left) == 0
    }

    /// True once the output is stored.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.home.load(Ordering::Acquire) & DONE != 0
    }

    /// True once the thread will not run again.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.home.load(Ordering::Acquire) & ENDED != 0
    }
}
