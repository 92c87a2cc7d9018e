//! Requests that may fail.
//!
//! Packets, sockets, buffers and what users ask for can be refused, with an error and a counter; what the executor, the
//! protocols' own state and a half-done operation need cannot. The first kind says so, by [`may_fail`], and finds nothing
//! when all but the reserve of the [`ZoneMap`](super::ZoneMap) is in use. So whatever fills the memory is refused before
//! the kernel itself is, and lets go again.
//!
//! To be fallible everywhere was the alternative. But `BTreeMap`, `Rc` and `Arc` cannot fail on stable Rust, and of the
//! errors that each message and wake-up would have, nobody could make anything. (DragonFly marks requests, too: M_NULLOK
//! ones may fail, M_USE_RESERVE ones may use the last pages.)

use crate::{critical, current};
use alloc::{alloc::Layout, boxed::Box};
use core::hint;

/// Runs `f`, whose requests for memory may fail: they leave the reserve alone. In a critical section: keep it short, and
/// request nothing in it by anything but `try_reserve` and the like, which has an error.
///
/// Outside of every CPU it does nothing but to run `f`.
pub fn may_fail<R>(f: impl FnOnce() -> R) -> R {
    match current::try_current() {
        Some(here) => critical::section_on(here, || here.heap().while_may_fail(f)),
        None => f(),
    }
}

/// `value` in a box, or back where there is no memory that it may have: `Box::try_new`, which is not stable.
///
/// # Errors
/// The value.
pub fn try_box<T>(value: T) -> Result<Box<T>, T> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(Box::new(value));
    }
    // SAFETY: the size is not zero.
    let memory = may_fail(|| unsafe { alloc::alloc::alloc(layout) }).cast::<T>();
    if memory.is_null() {
        return Err(value);
    }
    // SAFETY: memory of the global allocator for one T, written before it is a box.
    unsafe {
        memory.write(value);
        Ok(Box::from_raw(memory))
    }
}

/// True if so much memory could be had. For what begins with a question whether it may, and then requests memory by what
/// has no error: the reserve is for that.
pub fn has_room(layout: Layout) -> bool {
    if layout.size() == 0 {
        return true;
    }
    may_fail(|| {
        // SAFETY: the size is not zero; freed as it was allocated.
        unsafe {
            // Seen by somebody, as far as the compiler knows: it may leave out what is allocated and freed unused.
            let memory = hint::black_box(alloc::alloc::alloc(layout));
            if memory.is_null() {
                return false;
            }
            alloc::alloc::dealloc(memory, layout);
        }
        true
    })
}
