//! Memory: each CPU allocates from its own slabs with no atomic operation.
//!
//! A [`ZoneMap`] hands out 64 KiB zones of the kernel's memory. A [`Heap`] (one per CPU) carves zones into objects of
//! one of 36 sizes; larger requests get whole zones. Objects that another CPU frees go to the owner's [`RemoteList`] in
//! batches and come back in one swap. Running out is None, never a panic: what can do without ([`may_fail`])
//! leaves the last zones to what cannot, and says what it drops. An [`ObjectCache`] keeps objects constructed.
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
mod fallible;
#[cfg(not(loom))]
mod heap;
mod remote;
#[cfg(not(loom))]
mod zone;
mod zones;

#[cfg(not(loom))]
pub use cache::{CacheStats, ObjectCache};
#[cfg(not(loom))]
pub use fallible::{has_room, may_fail, try_box};
#[cfg(not(loom))]
pub use heap::{ClassStats, Heap, HeapStats};
pub use remote::{FreeNode, RemoteList};
pub use zones::{ZONE_SIZE, ZoneMap};
