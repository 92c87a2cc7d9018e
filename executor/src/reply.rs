//! The reply slot: where one reply waits for one caller, on whichever CPUs the two are, and where the caller says that it
//! would rather not have it.
//!
//! ```text
//!   caller                                      replier
//!   store waker                                 store reply, once
//!   |= WAITING         (fetch_or)               |= DONE            (fetch_or)
//!   it was DONE? the reply is here: take it     it was WAITING? take the waker and wake it
//!                                               it was GONE? take the reply back
//!   |= ABORTED         (fetch_or)               store watcher
//!   it was WATCHED? take the watcher, wake it   |= WATCHED         (fetch_or)
//!   with it |= GONE, to leave:                  it was ABORTED? know it at once
//!   it was DONE? the reply is mine to drop
//! ```
//!
//! One word, and only read-modify-writes change it, so of any two lines that face each other one comes first and the other
//! sees it. The waker belongs to the caller until WAITING and to the replier from then on; the watcher belongs to the replier
//! until WATCHED and to the caller from then on; each side takes its own back by clearing the bit. The reply belongs to the
//! replier until DONE, then to the caller, or to the replier again if the caller had gone. The replier's fetch_or releases
//! the reply and the caller acquires it (trap 43: a result is visible before DONE).
//!
//! To abort is to ask, never to promise: the memory is shared, and whoever comes last frees it (trap 39). Source: DragonFly
//! `lwkt_replymsg`, `lwkt_abortmsg`.

use crate::sync::{AtomicU8, Fault, Ordering, UnsafeCell, fault};
use core::task::{Poll, Waker};

/// The caller sleeps; its waker is the replier's.
const WAITING: u8 = 1;
/// The reply is stored.
const DONE: u8 = 2;
/// The caller has asked to abort.
const ABORTED: u8 = 4;
/// The replier wants to be told of an abort; its waker is the caller's.
const WATCHED: u8 = 8;
/// The caller has left.
const GONE: u8 = 16;

/// A slot for one reply.
#[derive(Debug)]
pub struct ReplySlot<R> {
    state: AtomicU8,
    reply: UnsafeCell<Option<R>>,
    waker: UnsafeCell<Option<Waker>>,
    watcher: UnsafeCell<Option<Waker>>,
}

// SAFETY: the table above says which side may touch which field in which state; R moves between threads.
unsafe impl<R: Send> Sync for ReplySlot<R> {}
// SAFETY: as above; wakers are Send.
unsafe impl<R: Send> Send for ReplySlot<R> {}

impl<R> Default for ReplySlot<R> {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(0),
            reply: UnsafeCell::new(None),
            waker: UnsafeCell::new(None),
            watcher: UnsafeCell::new(None),
        }
    }
}

/// What has become of a reply.
#[derive(Debug)]
#[must_use = "the caller sleeps until somebody uses the waker"]
pub enum Stored<R> {
    /// The caller will find it.
    Kept,
    /// The caller sleeps: to be woken by this, here or where it is.
    Wake(Waker),
    /// The caller has gone: here it is back.
    Refused(R),
}

/// The replier's side.
impl<R> ReplySlot<R> {
    /// Stores the reply and wakes the caller if it waits.
    ///
    /// # Safety
    /// Called at most once per slot.
    pub unsafe fn reply(&self, reply: R) {
        // SAFETY: the caller's promise.
        if let Stored::Wake(waker) = unsafe { self.store(reply) } {
            waker.wake();
        }
    }

    /// Stores the reply.
    ///
    /// # Safety
    /// Called at most once per slot, and not together with [`reply`](Self::reply).
    pub unsafe fn store(&self, reply: R) -> Stored<R> {
        // SAFETY: before DONE the reply field is the replier's, and there is one replier.
        self.reply.with_mut(|slot| unsafe { *slot = Some(reply) });
        let before = if fault(Fault::DoneWithoutSwap) {
            let seen = self.state.load(Ordering::Acquire);
            self.state.store(DONE, Ordering::Release);
            seen
        } else if fault(Fault::RelaxedDone) {
            self.state.fetch_or(DONE, Ordering::Relaxed)
        } else {
            self.state.fetch_or(DONE, Ordering::AcqRel)
        };
        debug_assert!(before & DONE == 0, "a message is replied to once");
        if before & GONE != 0 {
            // SAFETY: the caller left before DONE and will not look again.
            let back = self.reply.with_mut(|slot| unsafe { (*slot).take() });
            return back.map_or(Stored::Kept, Stored::Refused);
        }
        if before & WAITING == 0 {
            return Stored::Kept;
        }
        // SAFETY: the caller was WAITING when the reply was DONE: the waker is the replier's.
        let waker = self.waker.with_mut(|slot| unsafe { (*slot).take() });
        waker.map_or(Stored::Kept, Stored::Wake)
    }

    /// True if the caller has asked to abort, or has gone.
    pub fn is_aborted(&self) -> bool {
        self.state.load(Ordering::Acquire) & ABORTED != 0
    }

    /// True if the caller has gone: nobody waits for the reply.
    pub fn is_gone(&self) -> bool {
        self.state.load(Ordering::Acquire) & GONE != 0
    }

    /// Ready once the caller has asked to abort; else leaves `watcher` to be woken when it does.
    ///
    /// # Safety
    /// Only the slot's one replier calls this, before its reply, never from two threads at once.
    pub unsafe fn watch(&self, watcher: &Waker) -> Poll<()> {
        let mut state = self.state.load(Ordering::Acquire);
        if state & WATCHED != 0 && !fault(Fault::WatchWithoutTakingBack) {
            // Watched before: take the field back before touching it.
            state = self.state.fetch_and(!WATCHED, Ordering::AcqRel);
        }
        if state & ABORTED != 0 {
            return Poll::Ready(());
        }
        self.watcher.with_mut(|slot| {
            // SAFETY: not WATCHED, and not ABORTED while it was: the watcher is the replier's.
            keep(unsafe { &mut *slot }, watcher);
        });
        let before = self.state.fetch_or(WATCHED, Ordering::AcqRel);
        if before & ABORTED != 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// The caller's side.
impl<R> ReplySlot<R> {
    /// True once the reply is stored.
    pub fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) & DONE != 0
    }

    /// Takes the reply, or leaves `waker` to be woken when it comes.
    ///
    /// # Safety
    /// Only the slot's one caller calls this, never from two threads at once, and not after it has left.
    ///
    /// # Panics
    /// When called again after it returned the reply.
    pub unsafe fn poll(&self, waker: &Waker) -> Poll<R> {
        let mut state = self.state.load(Ordering::Acquire);
        if state & WAITING != 0 && state & DONE == 0 {
            // Polled again: take the waker field back before touching it.
            state = self.state.fetch_and(!WAITING, Ordering::AcqRel);
        }
        if state & DONE == 0 {
            self.waker.with_mut(|slot| {
                // SAFETY: not WAITING, and not DONE while it was: the waker is the caller's.
                keep(unsafe { &mut *slot }, waker);
            });
            if self.state.fetch_or(WAITING, Ordering::AcqRel) & DONE == 0 {
                return Poll::Pending;
            }
        }
        // SAFETY: DONE was read with acquire, and this is the caller.
        let reply = unsafe { self.take() };
        Poll::Ready(reply.expect("a call was polled after it had completed"))
    }

    /// # Safety
    /// The state was read DONE with acquire; the caller's side alone, which has not left before.
    unsafe fn take(&self) -> Option<R> {
        // SAFETY: the reply is the caller's.
        self.reply.with_mut(|slot| unsafe { (*slot).take() })
    }

    /// Asks the replier to abort, once, and goes on waiting. True: this has asked, and was neither the second to do so nor
    /// too late.
    pub fn abort(&self) -> bool {
        self.ask(ABORTED) & (ABORTED | DONE) == 0
    }

    /// Leaves for good, which asks to abort as well. Gives a reply that is here and was not taken.
    ///
    /// # Safety
    /// Only the slot's one caller calls this, once, and polls no more.
    pub unsafe fn leave(&self) -> Option<R> {
        let before = if fault(Fault::LeaveWithoutSwap) {
            let seen = self.state.load(Ordering::Acquire);
            self.ask(ABORTED | GONE);
            seen
        } else {
            self.ask(ABORTED | GONE)
        };
        if before & DONE == 0 {
            return None;
        }
        // SAFETY: DONE was read with acquire, and this is the caller.
        unsafe { self.take() }
    }

    /// Sets `bits`, tells a watcher that was not told yet, and gives the state before.
    fn ask(&self, bits: u8) -> u8 {
        let before = if fault(Fault::AbortWithoutSwap) {
            let seen = self.state.load(Ordering::Acquire);
            self.state.fetch_or(bits, Ordering::AcqRel);
            seen
        } else {
            self.state.fetch_or(bits, Ordering::AcqRel)
        };
        if before & (WATCHED | ABORTED | DONE) == WATCHED {
            // SAFETY: WATCHED when ABORTED was set, and the first to set it: the watcher is the caller's.
            let watcher = self.watcher.with_mut(|slot| unsafe { (*slot).take() });
            if let Some(watcher) = watcher {
                watcher.wake();
            }
        }
        before
    }
}

/// Puts a waker into its field, unless it is there already.
fn keep(field: &mut Option<Waker>, waker: &Waker) {
    if !field.as_ref().is_some_and(|old| old.will_wake(waker)) {
        *field = Some(waker.clone());
    }
}
