//! A reply on its way: where it waits for its caller, on whichever CPUs the two sides are, and where the caller says that
//! it would rather not have it.
//!
//! There are two ends, each used up by its last word: the caller's [`Awaited`] and the replier's [`Owed`]. What either says
//! last is an exchange of one word, from which it learns whether the other has spoken last before; so nothing is counted,
//! and the second of them frees the memory.
//!
//! ```text
//!   caller                                     replier
//!   word := its waker  (compare_exchange)      store reply
//!   it was DONE? take the reply, free          word := DONE           (swap)
//!                                              it was a waker? wake it
//!   leaves: word := GONE  (swap)               it was GONE? take the reply back, free
//!   it was DONE or LOST? free                  is dropped: word := LOST  (swap): it was GONE? free
//!
//!   asked |= ABORTED   (fetch_or)              store watcher
//!   it was WATCHED? take the watcher, wake it  asked |= WATCHED       (fetch_or)
//!                                              it was ABORTED? know it at once
//! ```
//!
//! The waker is in the word itself (`packed.rs`): after DONE the replier touches nothing, because the caller may find the
//! reply and free it all without having been woken. The reply belongs to the replier until DONE, then to the caller, or to
//! the replier again if the caller had gone. The replier's swap releases the reply and the caller acquires it (trap 43: a
//! result is visible before DONE). The watcher belongs to the replier until WATCHED and to the caller from then on; the
//! replier takes it back by clearing the bit.
//!
//! To abort is to ask, never to promise (trap 39: the memory of an aborted message). Source: DragonFly `lwkt_replymsg`,
//! `lwkt_abortmsg`.

use crate::{
    packed::{is_thread, pack, unpack},
    sync::{AtomicPtr, AtomicU8, Fault, Ordering, UnsafeCell, fault},
};
use alloc::boxed::Box;
use core::{
    fmt,
    marker::PhantomData,
    mem,
    ptr::{self, NonNull},
    task::{Poll, Waker},
};

/// The word, if it is no waker: nobody waits yet.
const EMPTY: *mut () = ptr::null_mut();
/// The reply is stored; the replier has gone.
const DONE: *mut () = ptr::without_provenance_mut(2);
/// The replier has gone without a reply.
const LOST: *mut () = ptr::without_provenance_mut(4);
/// The caller has gone.
const GONE: *mut () = ptr::without_provenance_mut(6);

/// In `asked`: the caller has asked to abort.
const ABORTED: u8 = 1;
/// In `asked`: the replier wants to be told of an abort; its waker is the caller's.
const WATCHED: u8 = 2;

/// What the two ends share.
struct Shared<R> {
    word: AtomicPtr<()>,
    asked: AtomicU8,
    reply: UnsafeCell<Option<R>>,
    watcher: UnsafeCell<Option<Waker>>,
    /// Where the caller waits, for the replier to know.
    place: *const (),
    free: unsafe fn(NonNull<Shared<R>>),
}

/// The allocation: what the ends share, and what the caller sends along.
#[repr(C)]
struct Whole<R, C> {
    shared: Shared<R>,
    cargo: C,
}

/// The caller's end. Dropped, it leaves, which asks to abort.
pub struct Awaited<R> {
    /// None once it has the reply, or has left.
    shared: Option<NonNull<Shared<R>>>,
    _owns: PhantomData<R>,
}

/// The replier's end: one reply is owed.
pub struct Owed<R> {
    shared: NonNull<Shared<R>>,
    _owns: PhantomData<R>,
}

// SAFETY: the table above says which side may touch which field in which state; R moves between CPUs, and so does what
// is sent along.
unsafe impl<R: Send> Send for Awaited<R> {}
// SAFETY: as above; by reference it is asked and told what has become of it, by atomic operations.
unsafe impl<R: Send> Sync for Awaited<R> {}
// SAFETY: as above.
unsafe impl<R: Send> Send for Owed<R> {}
// SAFETY: as above.
unsafe impl<R: Send> Sync for Owed<R> {}

/// What has become of a reply.
#[derive(Debug)]
#[must_use = "the caller sleeps until somebody uses the waker"]
pub enum Stored<R> {
    /// The caller will find it.
    Kept,
    /// The caller sleeps: to be woken by this, here or at its place.
    Wake(Waker, *const ()),
    /// The caller has gone: here it is back.
    Refused(R),
}

/// The two ends of a reply. `place` is where the caller waits; `cargo` goes with the replier's end, and lasts as long as
/// the two.
///
/// What is left of the cargo is dropped by the end that goes last, wherever that is.
#[inline]
pub fn pair<R, C: Send + 'static>(place: *const (), cargo: C) -> (Awaited<R>, Owed<R>) {
    /// # Safety
    /// `shared` begins a `Whole<R, C>` whose ends have both gone.
    unsafe fn free<R, C>(shared: NonNull<Shared<R>>) {
        // SAFETY: made by Box below; the caller's promise.
        drop(unsafe { Box::from_raw(shared.cast::<Whole<R, C>>().as_ptr()) });
    }
    let whole = Box::new(Whole {
        shared: Shared {
            word: AtomicPtr::new(EMPTY),
            asked: AtomicU8::new(0),
            reply: UnsafeCell::new(None),
            watcher: UnsafeCell::new(None),
            place,
            free: free::<R, C>,
        },
        cargo,
    });
    // A box is not null.
    let shared = NonNull::from(Box::leak(whole)).cast();
    (
        Awaited {
            shared: Some(shared),
            _owns: PhantomData,
        },
        Owed {
            shared,
            _owns: PhantomData,
        },
    )
}

/// How much memory a pair takes.
#[cfg(not(loom))]
pub const fn layout<R, C>() -> core::alloc::Layout {
    core::alloc::Layout::new::<Whole<R, C>>()
}

impl<R> Shared<R> {
    /// # Safety
    /// The reply is the caller's.
    unsafe fn take_reply(&self) -> Option<R> {
        // SAFETY: the caller's promise.
        self.reply.with_mut(|reply| unsafe { (*reply).take() })
    }

    fn swap_last(&self, last: *mut (), broken: Fault) -> *mut () {
        if fault(broken) {
            let seen = self.word.load(Ordering::Acquire);
            self.word.store(last, Ordering::Release);
            seen
        } else if last == DONE && fault(Fault::RelaxedDone) {
            self.word.swap(last, Ordering::Relaxed)
        } else {
            self.word.swap(last, Ordering::AcqRel)
        }
    }

    /// True if a word that was exchanged was a waker.
    fn is_waker(word: *mut ()) -> bool {
        word.addr() > GONE.addr()
    }
}

/// # Safety
/// Both ends have gone, but for the caller, who is one of them.
unsafe fn free<R>(shared: NonNull<Shared<R>>) {
    // SAFETY: the caller's promise; the function was made with the memory.
    unsafe { (shared.as_ref().free)(shared) };
}

impl<R> Owed<R> {
    fn shared(&self) -> &Shared<R> {
        // SAFETY: this end has not gone, so nobody has freed it.
        unsafe { self.shared.as_ref() }
    }

    /// Stores the reply.
    #[inline]
    pub fn store(self, reply: R) -> Stored<R> {
        let shared = mem::ManuallyDrop::new(self).shared;
        // SAFETY: this end has not spoken its last word, so nobody frees it yet.
        let (place, before) = unsafe {
            let shared = shared.as_ref();
            // SAFETY: before DONE the reply field is the replier's.
            shared.reply.with_mut(|slot| *slot = Some(reply));
            (shared.place, shared.swap_last(DONE, Fault::DoneWithoutSwap))
        };
        if before == GONE {
            // SAFETY: the caller left before DONE: all of it is this end's.
            let back = unsafe {
                let back = shared.as_ref().take_reply();
                free(shared);
                back
            };
            return back.map_or(Stored::Kept, Stored::Refused);
        }
        if Shared::<R>::is_waker(before) {
            // SAFETY: a waker that was taken out of the word, once.
            return Stored::Wake(unsafe { unpack(before) }, place);
        }
        Stored::Kept
    }

    /// True if the caller has asked to abort, or has gone.
    pub fn is_aborted(&self) -> bool {
        self.shared().asked.load(Ordering::Acquire) & ABORTED != 0
    }

    /// True if the caller has gone: nobody waits for the reply.
    pub fn is_gone(&self) -> bool {
        self.shared().word.load(Ordering::Acquire) == GONE
    }

    /// Ready once the caller has asked to abort; else leaves `watcher` to be woken when it does.
    pub fn watch(&mut self, watcher: &Waker) -> Poll<()> {
        let shared = self.shared();
        let mut asked = shared.asked.load(Ordering::Acquire);
        if asked & WATCHED != 0 && !fault(Fault::WatchWithoutTakingBack) {
            // Watched before: take the field back before touching it.
            asked = shared.asked.fetch_and(!WATCHED, Ordering::AcqRel);
        }
        if asked & ABORTED != 0 {
            return Poll::Ready(());
        }
        let old = shared.watcher.with_mut(|field| {
            // SAFETY: not WATCHED, and not ABORTED while it was: the watcher is the replier's.
            let field = unsafe { &mut *field };
            match field {
                Some(old) if old.will_wake(watcher) => None,
                _ => field.replace(watcher.clone()),
            }
        });
        drop(old);
        let before = shared.asked.fetch_or(WATCHED, Ordering::AcqRel);
        if before & ABORTED != 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// This end in one word.
    #[cfg(not(loom))]
    pub(crate) fn into_raw(self) -> usize {
        mem::ManuallyDrop::new(self)
            .shared
            .as_ptr()
            .expose_provenance()
    }

    /// This end again.
    ///
    /// # Safety
    /// `raw` came from [`into_raw`](Self::into_raw) of such an end, and was not taken back yet.
    #[cfg(not(loom))]
    pub(crate) unsafe fn from_raw(raw: usize) -> Self {
        let shared = ptr::with_exposed_provenance_mut(raw);
        Self {
            // SAFETY: the caller's promise.
            shared: unsafe { NonNull::new_unchecked(shared) },
            _owns: PhantomData,
        }
    }

    /// What was sent along.
    ///
    /// # Safety
    /// The pair was made with such a cargo, which this CPU may touch.
    #[cfg(not(loom))]
    pub(crate) unsafe fn cargo<C>(&self) -> &C {
        // SAFETY: the caller's promise: the shared part begins the whole.
        unsafe { &(*self.shared.cast::<Whole<R, C>>().as_ptr()).cargo }
    }
}

impl<R> Drop for Owed<R> {
    /// The caller waits for ever, or until it leaves.
    fn drop(&mut self) {
        let before = self.shared().swap_last(LOST, Fault::LoseWithoutSwap);
        if before == GONE {
            // SAFETY: the caller has gone, and this is the end.
            unsafe { free(self.shared) };
        } else if Shared::<R>::is_waker(before) {
            // SAFETY: a waker that was taken out of the word, once.
            drop(unsafe { unpack(before) });
        }
    }
}

impl<R> Awaited<R> {
    fn shared(&self) -> Option<&Shared<R>> {
        // SAFETY: this end has not gone, so nobody has freed it.
        self.shared.map(|shared| unsafe { shared.as_ref() })
    }

    /// True once the reply is stored.
    pub fn is_done(&self) -> bool {
        self.shared()
            .is_none_or(|shared| shared.word.load(Ordering::Acquire) == DONE)
    }

    /// True if this end has asked to abort.
    pub fn is_aborted(&self) -> bool {
        self.shared()
            .is_some_and(|shared| shared.asked.load(Ordering::Acquire) & ABORTED != 0)
    }

    /// Takes the reply, or leaves `waker` to be woken when it comes. A thread that polls again for nothing leaves nothing
    /// new.
    ///
    /// # Panics
    /// When called again after it returned the reply.
    // Not inlined with an inline answer beside it: what it keeps in registers would cost that more than it takes.
    #[inline(never)]
    pub fn poll(&mut self, waker: &Waker) -> Poll<R> {
        let shared = self.shared();
        let shared = shared.expect("a call was polled after it had completed");
        let mut word = shared.word.load(Ordering::Acquire);
        if word != DONE {
            if word == LOST || is_thread(word, waker) {
                return Poll::Pending;
            }
            let new = pack(waker.clone());
            let result = if fault(Fault::WaitWithoutExchange) {
                shared.word.store(new, Ordering::Release);
                Ok(word)
            } else {
                // Once: only the replier's last word can come between.
                shared
                    .word
                    .compare_exchange(word, new, Ordering::AcqRel, Ordering::Acquire)
            };
            let spare = match result {
                Ok(old) => old,
                Err(last) => {
                    word = last;
                    new
                }
            };
            if Shared::<R>::is_waker(spare) {
                // SAFETY: it is in the word no more, or never was.
                drop(unsafe { unpack(spare) });
            }
            if word != DONE {
                return Poll::Pending;
            }
        }
        let reply = self.take();
        Poll::Ready(reply.expect("stored before DONE, and taken once"))
    }

    /// The reply and the end of it all. DONE was read with acquire, or LOST.
    fn take(&mut self) -> Option<R> {
        let shared = self.shared.take()?;
        // SAFETY: the replier has gone, and this is the caller.
        unsafe {
            let reply = shared.as_ref().take_reply();
            free(shared);
            reply
        }
    }

    /// Asks the replier to abort, once, and goes on waiting. True: this has asked, and was neither the second to do so nor
    /// too late.
    pub fn abort(&self) -> bool {
        let Some(shared) = self.shared() else {
            return false;
        };
        if shared.word.load(Ordering::Acquire) == DONE {
            return false;
        }
        let before = if fault(Fault::AbortWithoutSwap) {
            let seen = shared.asked.load(Ordering::Acquire);
            shared.asked.fetch_or(ABORTED, Ordering::AcqRel);
            seen
        } else {
            shared.asked.fetch_or(ABORTED, Ordering::AcqRel)
        };
        if before & (WATCHED | ABORTED) == WATCHED {
            // SAFETY: WATCHED when ABORTED was set, and the first to set it: the watcher is the caller's.
            let watcher = shared.watcher.with_mut(|field| unsafe { (*field).take() });
            if let Some(watcher) = watcher {
                watcher.wake();
            }
        }
        before & ABORTED == 0
    }

    /// Leaves for good, which asks to abort as well. Gives a reply that is here and was not taken.
    pub fn leave(mut self) -> Option<R> {
        self.go()
    }

    #[inline(never)]
    fn go(&mut self) -> Option<R> {
        if self.is_done() {
            return self.take();
        }
        self.abort();
        let shared = self.shared()?;
        let before = shared.swap_last(GONE, Fault::LeaveWithoutSwap);
        if before == DONE || before == LOST {
            return self.take();
        }
        // From here on the replier may free it.
        self.shared = None;
        if Shared::<R>::is_waker(before) {
            // SAFETY: a waker that was taken out of the word, once.
            drop(unsafe { unpack(before) });
        }
        None
    }
}

impl<R> Drop for Awaited<R> {
    #[inline]
    fn drop(&mut self) {
        if self.shared.is_some() {
            drop(self.go());
        }
    }
}

impl<R> fmt::Debug for Awaited<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited")
            .field("done", &self.is_done())
            .finish()
    }
}

impl<R> fmt::Debug for Owed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owed")
            .field("gone", &self.is_gone())
            .finish()
    }
}
