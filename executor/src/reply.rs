//! The reply slot: where one reply waits for one caller, on whichever CPUs the two are.
//!
//! ```text
//!   caller (polls)                          replier (once)
//!   store waker                             store reply
//!   EMPTY -> WAITING   (compare_exchange)   state := DONE   (swap)
//!   failed? the reply is there: take it     it was WAITING? take the waker and wake it
//! ```
//!
//! The waker belongs to the caller while the state is EMPTY and to the replier once it is WAITING; the reply belongs
//! to the replier until DONE and to the caller after it. The swap releases the reply, the caller's acquire sees it
//! (trap 43: a result is visible before DONE). A caller that goes away only marks the slot: the memory is shared and
//! stays valid, and dropping a call is a request to abort, never a promise.

use crate::sync::{AtomicU8, Fault, Ordering, UnsafeCell, fault};
use core::task::{Poll, Waker};

const EMPTY: u8 = 0;
const WAITING: u8 = 1;
const DONE: u8 = 2;
const STATE: u8 = 3;
const ABORTED: u8 = 4;

/// A slot for one reply.
#[derive(Debug)]
pub struct ReplySlot<R> {
    state: AtomicU8,
    reply: UnsafeCell<Option<R>>,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the table above says which side may touch which field in which state; R moves between threads.
unsafe impl<R: Send> Sync for ReplySlot<R> {}
// SAFETY: as above; the waker is Send.
unsafe impl<R: Send> Send for ReplySlot<R> {}

impl<R> Default for ReplySlot<R> {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            reply: UnsafeCell::new(None),
            waker: UnsafeCell::new(None),
        }
    }
}

impl<R> ReplySlot<R> {
    /// Stores the reply and wakes the caller if it waits.
    ///
    /// # Safety
    /// Called at most once per slot.
    pub unsafe fn reply(&self, reply: R) {
        // SAFETY: the caller's promise.
        if let Some(waker) = unsafe { self.store(reply) } {
            waker.wake();
        }
    }

    /// Stores the reply. Gives the waker of a caller that waits, to be used here or where the caller is.
    ///
    /// # Safety
    /// Called at most once per slot, and not together with [`reply`](Self::reply).
    #[must_use = "the caller sleeps until somebody uses the waker"]
    pub unsafe fn store(&self, reply: R) -> Option<Waker> {
        // SAFETY: before DONE the reply field is the replier's, and there is one replier.
        self.reply.with_mut(|slot| unsafe { *slot = Some(reply) });
        if fault(Fault::DoneWithoutSwap) {
            let seen = self.state.load(Ordering::Acquire);
            self.state.store(DONE, Ordering::Release);
            return self.waker_if(seen & STATE == WAITING);
        }
        let order = if fault(Fault::RelaxedDone) {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        // WAITING and EMPTY both become DONE; ABORTED stays as it is.
        let before = self.state.fetch_or(DONE, order);
        debug_assert!(before & DONE == 0, "a message is replied to once");
        self.waker_if(before & STATE == WAITING)
    }

    fn waker_if(&self, was_waiting: bool) -> Option<Waker> {
        if !was_waiting {
            return None;
        }
        // SAFETY: the state was WAITING and is DONE now: the waker is the replier's.
        self.waker.with_mut(|slot| unsafe { (*slot).take() })
    }

    /// True once the reply is stored.
    pub fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) & DONE != 0
    }

    /// Takes the reply, or leaves `waker` to be woken when it comes.
    ///
    /// # Safety
    /// Only the slot's one caller calls this, never from two threads at once.
    ///
    /// # Panics
    /// When called again after it returned the reply.
    pub unsafe fn poll(&self, waker: &Waker) -> Poll<R> {
        let state = self.state.load(Ordering::Acquire);
        if state & DONE != 0 {
            return Poll::Ready(self.take());
        }
        if state & STATE == WAITING {
            // Polled again: take the waker field back before touching it.
            let back = (state & ABORTED) | EMPTY;
            if self
                .state
                .compare_exchange(state, back, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                return Poll::Ready(self.take());
            }
        }
        self.waker.with_mut(|slot| {
            // SAFETY: the state is EMPTY: the waker is the caller's.
            let slot = unsafe { &mut *slot };
            if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
                *slot = Some(waker.clone());
            }
        });
        match self
            .state
            .compare_exchange(EMPTY, WAITING, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Poll::Pending,
            Err(_) => Poll::Ready(self.take()),
        }
    }

    fn take(&self) -> R {
        // SAFETY: DONE was read with acquire: the reply is the caller's.
        let reply = self.reply.with_mut(|slot| unsafe { (*slot).take() });
        reply.expect("a call was polled after it had completed")
    }

    /// Called by a caller that goes away: asks the server to abort.
    pub fn abort(&self) {
        self.state.fetch_or(ABORTED, Ordering::AcqRel);
    }

    /// True if the caller has gone away.
    pub fn is_aborted(&self) -> bool {
        self.state.load(Ordering::Acquire) & ABORTED != 0
    }
}
