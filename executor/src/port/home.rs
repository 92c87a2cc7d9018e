//! The memory of a port: what it keeps lives, works and dies on one CPU; handles to it go anywhere.
//!
//! [`Home`] is a counted handle. What the owner CPU alone touches is behind [`here`](Home::here), which looks whether this
//! is the owner, and behind [`visit`](Home::visit), which goes there by IPI message. Whoever drops the last handle, the
//! content is dropped on its own CPU, because it need not be Send; only if the node is gone it goes where it is.

use crate::{Cpu, CpuId, Node, current, ipi, sync::CachePadded};
use alloc::{
    boxed::Box,
    sync::{Arc, Weak},
};
use core::{mem::ManuallyDrop, ptr};

/// Two parts on cache lines of their own: the handles' count, the owner's name and what is `shared`, which every CPU
/// touches, and what is the owner's.
struct Inner<A: 'static, T: 'static> {
    owner: *const Cpu,
    cpu: CpuId,
    /// A handle may outlive the node, and with it the owner.
    node: Weak<Node>,
    /// Keeps the owner's address from naming a CPU of another node.
    _addresses: Weak<[Cpu]>,
    shared: A,
    own: CachePadded<T>,
}

/// A counted handle to an `A` for every CPU and a `T` for one.
pub(super) struct Home<A: 'static, T: 'static>(ManuallyDrop<Arc<Inner<A, T>>>);

// SAFETY: `own` is touched on the owner CPU alone, its drop included: every path checks, goes there by IPI message, or has
// promised (`own`).
unsafe impl<A: Send + Sync, T> Send for Home<A, T> {}
// SAFETY: as above.
unsafe impl<A: Send + Sync, T> Sync for Home<A, T> {}

impl<A, T> Clone for Home<A, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Send + Sync, T> Home<A, T> {
    /// A home on this CPU.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub(super) fn new(shared: A, own: T) -> Self {
        let here = current::current();
        Self(ManuallyDrop::new(Arc::new(Inner {
            owner: ptr::from_ref(here),
            cpu: here.id(),
            node: here.node().weak(),
            _addresses: here.node().addresses(),
            shared,
            own: CachePadded(own),
        })))
    }

    /// The owner's number.
    pub(super) fn cpu(&self) -> CpuId {
        self.0.cpu
    }

    /// What every CPU may touch.
    pub(super) fn shared(&self) -> &A {
        &self.0.shared
    }

    /// The owner and what is its own, if it is the current CPU.
    #[inline(always)]
    pub(super) fn here(&self) -> Option<(&Cpu, &T)> {
        // SAFETY: the current CPU is alive.
        ptr::eq(self.0.owner, current::pointer()).then(|| (unsafe { &*self.0.owner }, &*self.0.own))
    }

    /// What is the owner's.
    ///
    /// # Safety
    /// The current CPU is the owner.
    #[inline(always)]
    pub(super) unsafe fn own(&self) -> &T {
        &self.0.own
    }

    /// True if `cpu` is one of the owner's node.
    pub(super) fn is_home_of(&self, cpu: &Cpu) -> bool {
        // The Weak keeps the node's address from being used again, so that an equal address is the same node.
        ptr::eq(cpu.node(), self.0.node.as_ptr())
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
        with_owner(self.0.owner, &self.0.node, f);
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
        let inner = unsafe { ManuallyDrop::take(&mut self.0) };
        if ptr::eq(inner.owner, current::pointer()) {
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
        let (owner, node) = (last.owner, last.node.clone());
        let mut moved = Some(Moved(last));
        with_owner(owner, &node, |owner| {
            let moved = moved.take();
            ipi::send_to(owner, move |_| drop(moved));
        });
        // Not sent: the node is gone, and nobody shares with the owner any more.
        drop(moved);
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
