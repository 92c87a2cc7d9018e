//! The remote free list of a heap: what other CPUs have freed, until the owner takes it back.
//!
//! Freers gather objects of one zone in a [`Batch`], a chain of their own, and push the whole of it with one
//! compare-and-swap; the owner takes everything in one swap, so there is no ABA: nobody ever pops a single batch.
//!
//! ```text
//!   freer                                       owner
//!   link object to object  (plain stores)       head := null, taking the list   (swap, acquire)
//!   last object: summary, link := head          each batch: splice its chain into its zone
//!   head := last object    (cas, release)
//! ```
//!
//! The compare-and-swap releases the links of the whole chain, and the swap acquires them; the batches below it were
//! released by earlier ones of the same word (a release sequence, since only read-modify-writes touch it). Taking a
//! batch back costs the owner two objects' cache lines, however many are in it.
//!
//! Each heap has one such list for all its zones, which makes a stranded slab impossible: DragonFly keeps a list per
//! zone and must signal the owner when it last looked at an exhausted one (trap 51). Gathering by zone is BatchIt's
//! (Filardo and Parkinson, "BatchIt: Optimizing Message-Passing Allocators", ISMM 2024).

use crate::sync::{AtomicPtr, Fault, Ordering, UnsafeCell, fault};
use core::ptr;

/// What debug builds fill a free object with: 0xdeadc0de twice (DragonFly: `WEIRD_ADDR`).
pub(super) const POISON: u64 = 0xdead_c0de_dead_c0de;

/// The two words that a freed object carries.
#[derive(Debug)]
#[repr(C)]
pub struct FreeNode {
    /// The next free object of the same chain; of the last object of a batch, the batch below on the remote list.
    pub(crate) next: UnsafeCell<*mut FreeNode>,
    /// Of the last object of a batch on the remote list: what the batch is.
    pub(crate) summary: UnsafeCell<u64>,
}

impl FreeNode {
    /// A node that is on no list.
    pub fn new() -> Self {
        Self {
            next: UnsafeCell::new(ptr::null_mut()),
            summary: UnsafeCell::new(0),
        }
    }

    /// Links `node` in front of `next`.
    ///
    /// # Safety
    /// `node` is valid for writes and the caller's alone.
    #[inline(always)]
    pub unsafe fn link(node: *mut Self, next: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { (*node).next.with_mut(|link| *link = coded(next)) }
    }

    /// What `node` is linked in front of.
    ///
    /// # Safety
    /// `node` is a node that was linked and the caller's alone.
    #[inline(always)]
    pub unsafe fn next(node: *mut Self) -> *mut Self {
        // SAFETY: the caller's promise.
        coded(unsafe { (*node).next.with(|link| *link) })
    }
}

impl Default for FreeNode {
    fn default() -> Self {
        Self::new()
    }
}

/// A link as it lies in memory, or back: in debug builds such that null is the poison, and what is written over it is no
/// likely address.
#[inline(always)]
fn coded(link: *mut FreeNode) -> *mut FreeNode {
    if cfg!(debug_assertions) {
        link.map_addr(|address| address ^ POISON as usize)
    } else {
        link
    }
}

/// Many freers, one taker.
#[derive(Debug)]
pub struct RemoteList {
    head: AtomicPtr<FreeNode>,
}

impl RemoteList {
    /// An empty list.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// An empty list.
    #[cfg(loom)]
    #[expect(clippy::new_without_default, reason = "the other build's is const")]
    pub fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Gives a batch back to the list's owner: the chain that ends with `last`, and what the owner should know of it.
    ///
    /// # Safety
    /// The chain's nodes are valid for writes, on no list, and from here on belong to the list.
    pub unsafe fn push(&self, last: *mut FreeNode, summary: u64) {
        let order = if fault(Fault::RelaxedPush) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        // SAFETY: the chain is the caller's until the exchange below publishes it.
        unsafe { (*last).summary.with_mut(|slot| *slot = summary) };
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: as above.
            unsafe { FreeNode::link(last, head) };
            match self
                .head
                .compare_exchange_weak(head, last, order, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// True if nothing waits; a hint.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Takes everything and runs `each` over the batches, newest first: the last node of each, and its summary.
    ///
    /// # Safety
    /// The nodes of the batches handed to `each` are the caller's again; what `push` promised about them must have held.
    pub unsafe fn take_all(&self, mut each: impl FnMut(*mut FreeNode, u64)) {
        let mut node = if fault(Fault::TakeWithoutSwap) {
            let head = self.head.load(Ordering::Acquire);
            self.head.store(ptr::null_mut(), Ordering::Release);
            head
        } else {
            self.head.swap(ptr::null_mut(), Ordering::Acquire)
        };
        while !node.is_null() {
            // SAFETY: the swap made the batches ours, and the release of each push made its words visible.
            let (below, summary) = unsafe {
                (
                    FreeNode::next(node),
                    (*node).summary.with(|summary| *summary),
                )
            };
            each(node, summary);
            node = below;
        }
    }
}

#[cfg(not(loom))]
impl Default for RemoteList {
    fn default() -> Self {
        Self::new()
    }
}
