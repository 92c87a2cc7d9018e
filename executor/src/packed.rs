//! A waker in one word, so that one atomic operation can leave or take it: a thread's is the thread, any other lies in a box.

#[cfg(not(loom))]
use crate::thread::ThreadRef;
use alloc::boxed::Box;
use core::task::Waker;

/// In a word: it is a box. Both kinds of pointer are multiples of 8.
const BOXED: usize = 1;

/// The word of a waker: at least 8, and no null.
#[inline]
pub(crate) fn pack(waker: Waker) -> *mut () {
    #[cfg(not(loom))]
    let waker = match ThreadRef::from_waker(waker) {
        Ok(thread) => return thread.into_raw().cast_mut().cast(),
        Err(waker) => waker,
    };
    const { assert!(align_of::<Waker>() >= 8) };
    let boxed: *mut () = Box::into_raw(Box::new(waker)).cast();
    boxed.map_addr(|address| address | BOXED)
}

/// The waker of a word.
///
/// # Safety
/// `word` came from [`pack`], and its waker was not taken yet.
#[inline]
pub(crate) unsafe fn unpack(word: *mut ()) -> Waker {
    #[cfg(not(loom))]
    if word.addr() & BOXED == 0 {
        // SAFETY: the caller's promise: a thread's word is the raw reference.
        return unsafe { ThreadRef::from_raw(word.cast_const().cast()) }.into_waker();
    }
    // SAFETY: the caller's promise.
    *unsafe { Box::from_raw(word.map_addr(|address| address & !BOXED).cast::<Waker>()) }
}

/// True if the word is of this thread. What lies in a box is not looked at, for that may be somebody else's already.
#[inline]
pub(crate) fn is_thread(word: *mut (), waker: &Waker) -> bool {
    #[cfg(loom)]
    let is_thread = false && !word.is_null() && waker.data().is_null();
    #[cfg(not(loom))]
    let is_thread = word.cast_const() == waker.data() && ThreadRef::is_waker(waker);
    is_thread
}
