//! The remote free list of a heap: what other CPUs have freed, until the owner takes it back.
//!
//! Freers push with a compare-and-swap; the owner takes the whole list in one swap, so there is no ABA: nobody ever
//! pops a single object. Each heap has one such list for all its size classes, which makes a stranded slab impossible:
//! DragonFly keeps a list per zone and must signal the owner when it last looked at an exhausted one (trap 51).

use crate::sync::{AtomicPtr, Fault, Ordering, UnsafeCell, fault};
use core::ptr;

/// The link that a freed object carries in its first word.
#[derive(Debug)]
#[repr(C)]
pub struct FreeNode {
    pub(crate) next: UnsafeCell<*mut FreeNode>,
}

impl FreeNode {
    /// A node that is on no list.
    pub fn new() -> Self {
        Self {
            next: UnsafeCell::new(ptr::null_mut()),
        }
    }
}

impl Default for FreeNode {
    fn default() -> Self {
        Self::new()
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

    /// Gives `node` back to the list's owner.
    ///
    /// # Safety
    /// `node` is valid for writes, on no list, and from here on belongs to the list.
    pub unsafe fn push(&self, node: *mut FreeNode) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the node is the caller's until the exchange below publishes it.
            unsafe { (*node).next.with_mut(|next| *next = head) };
            match self
                .head
                .compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed)
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

    /// Takes everything and runs `each` over it, newest first. Returns how many there were.
    ///
    /// # Safety
    /// Each node handed to `each` is the caller's again; what `push` promised about it must have held.
    pub unsafe fn take_all(&self, mut each: impl FnMut(*mut FreeNode)) -> usize {
        let mut node = if fault(Fault::TakeWithoutSwap) {
            let head = self.head.load(Ordering::Acquire);
            self.head.store(ptr::null_mut(), Ordering::Release);
            head
        } else {
            self.head.swap(ptr::null_mut(), Ordering::Acquire)
        };
        let mut count = 0;
        while !node.is_null() {
            // SAFETY: the swap made the chain ours, and the release of each push made its link visible.
            let next = unsafe { (*node).next.with(|next| *next) };
            each(node);
            node = next;
            count += 1;
        }
        count
    }
}

#[cfg(not(loom))]
impl Default for RemoteList {
    fn default() -> Self {
        Self::new()
    }
}
