//! Memory: each CPU allocates from its own slabs with no atomic operation.
//!
//! A [`ZoneMap`] hands out 64 KiB zones of the kernel's memory. A [`Heap`] (one per CPU) carves zones into objects of
//! one of 36 sizes; larger requests get whole zones. Objects that another CPU frees go to the owner's [`RemoteList`] in
//! batches and come back in one swap. Running out is None, never a panic, so that packets, sockets and buffers can say
//! what they drop ([`try_box`], `try_reserve`); a debug build can have any request fail ([`Heap::fail_after`]).
//! An [`ObjectCache`] keeps objects constructed.
//!
//! Source: DragonFly `kern_slaballoc.c` (zones owned by a CPU, remote frees to the owner), `kern_objcache.c`. Where ours
//! differs, and why, is in docs/decisions/slab.md.

#[cfg(not(loom))]
mod cache;
#[cfg(not(loom))]
mod checks;
#[cfg(not(loom))]
mod classes;
#[cfg(not(loom))]
mod heap;
mod remote;
#[cfg(not(loom))]
mod zone;
mod zones;

#[cfg(not(loom))]
pub use cache::{CacheStats, ObjectCache};
#[cfg(not(loom))]
pub use heap::{ClassStats, Heap, HeapStats};
pub use remote::{FreeNode, RemoteList};
pub use zones::{ZONE_SIZE, ZoneMap};

/// `value` in a box, or back where there is no memory for one: `Box::try_new`, which is not stable.
///
/// # Errors
/// The value.
#[cfg(not(loom))]
pub fn try_box<T>(value: T) -> Result<alloc::boxed::Box<T>, T> {
    let layout = core::alloc::Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(alloc::boxed::Box::new(value));
    }
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc::alloc::alloc(layout) }.cast::<T>();
    if memory.is_null() {
        return Err(value);
    }
    // SAFETY: memory of the global allocator for one T, written before it is a box.
    unsafe {
        memory.write(value);
        Ok(alloc::boxed::Box::from_raw(memory))
    }
}
