//! Memory: each CPU allocates from its own slabs with no atomic operation.
//!
//! A [`ZoneMap`] hands out 64 KiB zones of the kernel's memory. A [`Heap`] (one per CPU) carves zones into objects of
//! one of 36 sizes; larger requests get whole zones. An object that another CPU frees goes to the owner's
//! [`RemoteList`] and comes back in one swap. Running out is None, never a panic, so that packets, sockets and buffers
//! can say what they drop.
//!
//! Source: DragonFly `kern_slaballoc.c` (zones owned by a CPU, remote frees to the owner); the size classes are finer
//! above 128 bytes: four to a doubling wastes at most a fifth where a power of two wastes a half.

#[cfg(not(loom))]
mod heap;
mod remote;
mod zones;

#[cfg(not(loom))]
pub use heap::{Heap, HeapStats};
pub use remote::{FreeNode, RemoteList};
pub use zones::{ZONE_SIZE, ZoneMap};
