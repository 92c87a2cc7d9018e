//! The memory of a port: what it keeps lives, works and dies on one CPU; handles to it go anywhere.
//!
//! [`Home`] is a counted handle. What the owner CPU alone touches is behind [`here`](Home::here), which looks whether this
//! is the owner, and behind [`visit`](Home::visit), which goes there by IPI message. Whoever drops the last handle, the
//! content is dropped on its own CPU, because it need not be Send; only if the node is gone it goes where it is.

use crate::{Cpu, CpuId, Node, cpu::clear_up, current, ipi};
use alloc::{
    boxed::Box,
    sync::{Arc, Weak},
};
use core::{mem::ManuallyDrop, ptr};

/// Two parts on cache lines of their own: the handles' count and what is `shared`, which every CPU touches, and, 128 bytes
/// from the start of the allocation, what is the owner's. Small ones fit in 256 bytes.
#[repr(C)]
struct Inner<A: 'static, T: 'static> {
    cpu: CpuId,
    /// A handle may outlive the node, and with it the owner.
    node: Weak<Node>,
    /// Keeps the owner's address from naming a CPU of another node.
    _addresses: Weak<[Cpu]>,
    shared: A,
    own: Own<T>,
}

/// Begins on a cache line, as the counts before it do.
#[repr(align(64))]
struct Own<T>(T);

/// A counted handle to an `A` for every CPU and a `T` for one.
///
/// The owner's address is in the handle: a call on the port's own CPU reads nothing of what every CPU touches, and a
/// million ports cost it one line each.
pub(super) struct Home<A: 'static, T: 'static> {
    owner: *const Cpu,
    inner: ManuallyDrop<Arc<Inner<A, T>>>,
}

// SAFETY: `own` is touched on the owner CPU alone, its drop included: every path checks, goes there by IPI message, or has
// promised (`own`).
unsafe impl<A: Send + Sync, T> Send for Home<A, T> {}
// SAFETY: as above.
unsafe impl<A: Send + Sync, T> Sync for Home<A, T> {}

impl<A, T> Clone for Home<A, T> {
    fn clone(&self) -> Self {
        Self {
            owner: self.owner,
            inner: self.inner.clone(),
        }
    }
}

impl<A: Send + Sync, T> Home<A, T> {
    /// Its allocation: two counts, and what they count the handles of.
    #[cfg(test)]
    pub(super) const BYTES: usize = {
        let align = align_of::<Inner<A, T>>();
        (2 * size_of::<usize>()).next_multiple_of(align) + size_of::<Inner<A, T>>()
    };

    /// A home on this CPU.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub(super) fn new(shared: A, own: T) -> Self {
        let here = current::current();
        Self {
            owner: ptr::from_ref(here),
            inner: ManuallyDrop::new(Arc::new(Inner {
                cpu: here.id(),
                node: here.node().weak(),
                _addresses: here.node().addresses(),
                shared,
                own: Own(own),
            })),
        }
    }

    /// The owner's number.
    pub(super) fn cpu(&self) -> CpuId {
        self.inner.cpu
    }

    /// What every CPU may touch.
    pub(super) fn shared(&self) -> &A {
        &self.inner.shared
    }

    /// The owner and what is its own, if it is the current CPU.
    #[inline(always)]
    pub(super) fn here(&self) -> Option<(&Cpu, &T)> {
        // SAFETY: the current CPU is alive.
        ptr::eq(self.owner, current::pointer())
            .then(|| (unsafe { &*self.owner }, &self.inner.own.0))
    }

    /// What is the owner's.
    ///
    /// # Safety
    /// The current CPU is the owner.
    #[inline(always)]
    pub(super) unsafe fn own(&self) -> &T {
        &self.inner.own.0
    }

    /// True if `cpu` is one of the owner's node.
    pub(super) fn is_home_of(&self, cpu: &Cpu) -> bool {
        // The Weak keeps the node's address from being used again, so that an equal address is the same node.
        ptr::eq(cpu.node(), self.inner.node.as_ptr())
    }

    /// The current CPU, as the one that waits for a reply from here: null outside of every CPU of the owner's node, for
    /// any other may be gone before the reply comes.
    pub(super) fn caller(&self) -> *const Cpu {
        current::try_current()
            .filter(|here| self.is_home_of(here))
            .map_or(ptr::null(), ptr::from_ref)
    }

    /// Gives the owner to `f`, unless its node is gone.
    pub(super) fn with_owner(&self, f: impl FnOnce(&Cpu)) {
        with_owner(self.owner, &self.inner.node, f);
    }

    /// Runs `f` on the owner with what is its own, by IPI message: in a hard section, and at once if it is the current CPU.
    /// Drops it unrun if the node is gone.
    pub(super) fn visit(&self, f: impl FnOnce(&Cpu, &T) + Send + 'static) {
        let home = self.clone();
        self.with_owner(|owner| {
            // SAFETY: the message runs on the owner.
            ipi::send_to(owner, move |cpu| f(cpu, unsafe { home.own() }));
        });
    }
}

impl<A, T> Drop for Home<A, T> {
    fn drop(&mut self) {
        // SAFETY: taken once, here, where it is not used again.
        let inner = unsafe { ManuallyDrop::take(&mut self.inner) };
        if ptr::eq(self.owner, current::pointer()) {
            return;
        }
        // Not the owner: if this is the last handle, the content must die over there.
        let Some(last) = Arc::into_inner(inner).map(Box::new) else {
            return;
        };
        struct Moved<A: 'static, T: 'static>(
            #[expect(dead_code, reason = "carried only to be dropped")] Box<Inner<A, T>>,
        );
        // SAFETY: the last handle is gone, so the box moves to the owner CPU with nobody else looking.
        unsafe impl<A, T> Send for Moved<A, T> {}
        let node = last.node.clone();
        let mut moved = Some(Moved(last));
        with_owner(self.owner, &node, |owner| {
            let moved = moved.take();
            ipi::send_to(owner, move |_| drop(moved));
        });
        // Not sent: the node is gone, and nobody shares with the owner any more.
        clear_up(|| drop(moved));
    }
}

fn with_owner(owner: *const Cpu, node: &Weak<Node>, f: impl FnOnce(&Cpu)) {
    let here = current::try_current().is_some_and(|here| ptr::eq(here.node(), node.as_ptr()));
    let node = if here { None } else { node.upgrade() };
    if here || node.is_some() {
        // SAFETY: this CPU belongs to the same node, or the node is held for the time of the call.
        f(unsafe { &*owner });
    }
}
