//! The heap of one CPU: what it has at hand of each size, and what goes to and comes from other CPUs.
//!
//! Each zone begins with a [`Zone`] header and belongs to the heap that claimed it. A class has one *current* zone,
//! whose free objects are at hand in the heap itself: allocating takes the first, and freeing what lies in the current
//! zone puts it back, without a look at the zone. Objects of the heap's other zones go back to their zone; those of
//! other heaps are gathered, zone by zone, and sent home in batches (see `remote.rs`). All of it is plain loads and
//! stores, inside a critical section of the CPU when interrupts may allocate ([`Cpu::allocate`](crate::Cpu::allocate)).
//!
//! The invariant that makes the unsafe code sound: an object is allocated, or on exactly one list (at hand, its zone's,
//! a batch's, its owner's remote list), or behind its class's `fresh`; what is on a list is touched by the list's owner
//! alone. A zone is given back when all its objects are on its own list, so nobody can be about to free into it (trap
//! 50); its first cache line is written before its first object is handed out, and never after.
//!
//! The alternative, a list of free objects for each class over all zones, sorted back when it grows too long, frees as
//! fast; but a burst would pay for each object twice, and few free objects would hold many zones.

use super::{
    FreeNode, RemoteList, ZoneMap, checks,
    classes::{CLASSES, SHAPES, class_of, zones_for},
    zone::Zone,
};
use crate::{stats::Counter, sync::CachePadded};
use core::{
    alloc::Layout,
    cell::Cell,
    ptr::{self, NonNull},
    sync::atomic::AtomicBool,
};

mod class;
mod failpoint;
mod figures;
mod tidy;

use class::{Class, summary};
pub use figures::{ClassStats, HeapStats};

/// Empty zones that a heap keeps for its next requests: 512 KiB (DragonFly: 32 zones).
const KEPT: u32 = 8;

/// The slabs of one CPU.
pub struct Heap {
    classes: [Class; CLASSES],
    /// A bit for each class with a batch.
    batched: Cell<u64>,
    /// Empty zones on the partial lists.
    empty: Cell<u32>,
    /// How many calls of [`may_fail`](super::may_fail) the requests that come now are in.
    may_fail: Cell<u32>,
    large: Large,
    #[cfg(debug_assertions)]
    failpoint: Cell<u64>,
    /// What other CPUs write.
    shared: CachePadded<Shared>,
}

/// Requests for whole zones.
struct Large {
    requests: Counter,
    frees: Counter,
    /// Zones requested minus zones freed.
    zones: Counter,
    failures: Counter,
}

struct Shared {
    remote: RemoteList,
    /// Somebody found no memory: tidy up.
    wanted: AtomicBool,
}

impl Heap {
    /// A heap that holds nothing.
    pub const fn new() -> Self {
        Self {
            classes: [const { Class::new() }; CLASSES],
            batched: Cell::new(0),
            empty: Cell::new(0),
            may_fail: Cell::new(0),
            large: Large {
                requests: Counter::new(),
                frees: Counter::new(),
                zones: Counter::new(),
                failures: Counter::new(),
            },
            #[cfg(debug_assertions)]
            failpoint: Cell::new(0),
            shared: CachePadded(Shared {
                remote: RemoteList::new(),
                wanted: AtomicBool::new(false),
            }),
        }
    }

    /// Allocates `layout`, or None if `zones` has no memory left. Alignments above [`ZONE_SIZE`](super::ZONE_SIZE) are
    /// refused.
    ///
    /// # Panics
    /// In debug builds, if memory was written after it was freed.
    ///
    /// # Safety
    /// The caller is this heap's CPU, with its interrupt handlers kept out. The heap never moves once it was used, and
    /// always gets the same `zones`.
    #[inline]
    pub unsafe fn allocate(&self, zones: &ZoneMap, layout: Layout) -> Option<NonNull<u8>> {
        let Some(number) = class_of(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { self.allocate_zones(zones, layout) };
        };
        let class = &self.classes[number];
        if cfg!(debug_assertions) && self.is_to_fail() {
            class.failures.add(1);
            return None;
        }
        let mut node = class.free.get();
        if node.is_null() {
            // SAFETY: the caller is the owner.
            node = unsafe { self.refill(zones, number) }?;
        }
        if cfg!(debug_assertions) {
            // SAFETY: the first free object of the current zone.
            unsafe { checks::allocated(class.current.get(), node) };
        }
        // SAFETY: what is at hand is ours, and linked.
        class.free.set(unsafe { FreeNode::next(node) });
        class.requests.add(1);
        NonNull::new(node.cast())
    }

    /// Frees what any heap over the same `zones` has allocated.
    ///
    /// # Panics
    /// In debug builds, if `object` is free already, or was allocated with another layout.
    ///
    /// # Safety
    /// `object` was allocated with this `layout` and is not used any more; otherwise as [`allocate`](Self::allocate).
    #[inline]
    pub unsafe fn free(&self, zones: &ZoneMap, object: NonNull<u8>, layout: Layout) {
        let Some(number) = class_of(layout) else {
            return self.free_zones(zones, object, layout);
        };
        if cfg!(debug_assertions) {
            // SAFETY: the caller's promise.
            unsafe { checks::freed(object.as_ptr(), number, layout) };
        }
        let class = &self.classes[number];
        class.frees.add(1);
        let (zone, node) = (Zone::of(object.as_ptr()), object.as_ptr().cast());
        if ptr::eq(zone, class.current.get()) {
            // SAFETY: free from here on, and ours.
            unsafe { FreeNode::link(node, class.free.get()) };
            class.free.set(node);
        } else {
            // SAFETY: the caller's promise; an object keeps its zone's header alive.
            unsafe { self.free_elsewhere(zones, number, &*zone, node) };
        }
    }

    /// # Safety
    /// As [`free`](Self::free); `node` lies in `zone`, which is not current.
    #[inline(never)]
    unsafe fn free_elsewhere(
        &self,
        zones: &ZoneMap,
        number: usize,
        zone: &Zone,
        node: *mut FreeNode,
    ) {
        let batch = &self.classes[number].batch;
        if ptr::eq(zone, batch.zone.get()) {
            // SAFETY: free, and its owner hears of it only with the batch.
            unsafe { FreeNode::link(node, batch.first.get()) };
            batch.first.set(node);
            batch.count.set(batch.count.get() + 1);
        } else if ptr::eq(zone.owner, self) {
            // SAFETY: a chain of one.
            unsafe { self.put(zones, zone, node, node, 1) };
            return;
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.send(number) };
            batch.zone.set(zone);
            batch.first.set(node);
            batch.last.set(node);
            batch.count.set(1);
            self.batched.set(self.batched.get() | 1 << number);
        }
        if batch.count.get() >= SHAPES[number].batch {
            // SAFETY: the caller's promise.
            unsafe { self.send(number) };
        }
    }

    /// Sends the batch of a class home, if there is one.
    ///
    /// # Safety
    /// As [`allocate`](Self::allocate).
    unsafe fn send(&self, number: usize) {
        let batch = &self.classes[number].batch;
        // SAFETY: a zone whose objects are not all free has its header, and its owner is alive as long as its node.
        let Some(zone) = (unsafe { batch.zone.replace(ptr::null()).as_ref() }) else {
            return;
        };
        self.batched.set(self.batched.get() & !(1 << number));
        let summary = summary(batch.first.get(), batch.count.get());
        // SAFETY: the batch is a chain of free objects of this zone, on no other list.
        unsafe { (&*zone.owner).shared.remote.push(batch.last.get(), summary) };
    }

    /// Frees what some heap over `zones` has allocated, from outside of every CPU: the owner takes it back later, as it
    /// does what another CPU frees. No heap counts it.
    ///
    /// # Panics
    /// As [`free`](Self::free).
    ///
    /// # Safety
    /// `object` was allocated with this `layout` and is not used any more; the heaps over `zones` are still there.
    pub unsafe fn free_from_outside(zones: &ZoneMap, object: NonNull<u8>, layout: Layout) {
        let Some(number) = class_of(layout) else {
            // SAFETY: large requests got whole zones.
            unsafe { zones.release(object, zones_for(layout.size())) };
            return;
        };
        // SAFETY: as in `free`, with a batch of one.
        unsafe {
            if cfg!(debug_assertions) {
                checks::freed(object.as_ptr(), number, layout);
            }
            let node = object.as_ptr().cast();
            let zone = &*Zone::of(object.as_ptr());
            (&*zone.owner).shared.remote.push(node, summary(node, 1));
        }
    }

    /// Puts a chain of `count` free objects, `first` to `last`, back into their zone.
    ///
    /// # Safety
    /// The chain is on no list; `zone` belongs to this heap; the caller is the owner.
    unsafe fn put(
        &self,
        zones: &ZoneMap,
        zone: &Zone,
        first: *mut FreeNode,
        last: *mut FreeNode,
        count: u32,
    ) {
        let class = &self.classes[zone.class as usize];
        if ptr::eq(zone, class.current.get()) {
            // SAFETY: the chain is ours.
            unsafe { FreeNode::link(last, class.free.get()) };
            class.free.set(first);
            return;
        }
        let before = zone.own.free.get();
        // SAFETY: as above.
        unsafe { FreeNode::link(last, before) };
        zone.own.free.set(first);
        zone.own.used.set(zone.own.used.get() - count);
        if before.is_null() {
            // SAFETY: a zone of ours without a free object was on no list.
            unsafe { class.partial.insert(zone) };
        }
        if zone.own.used.get() == 0 {
            if self.empty.get() < KEPT {
                self.empty.set(self.empty.get() + 1);
            } else {
                // SAFETY: all its objects are on its own list.
                unsafe { self.retire(zones, zone) };
            }
        }
    }

    /// Gives a zone of the partial list back.
    ///
    /// # Safety
    /// All its objects are on its own list.
    unsafe fn retire(&self, zones: &ZoneMap, zone: &Zone) {
        let class = &self.classes[zone.class as usize];
        // SAFETY: it is on the list; nothing points into it once it is off. The header dies with it.
        unsafe {
            class.partial.remove(zone);
            class.zones.add(1u64.wrapping_neg());
            zones.release(NonNull::from(zone).cast(), 1);
        }
    }

    /// Finds free objects for a class that has none at hand. Gives the first, which stays at hand.
    ///
    /// # Safety
    /// As [`allocate`](Self::allocate).
    #[cold]
    unsafe fn refill(&self, zones: &ZoneMap, number: usize) -> Option<*mut FreeNode> {
        let (class, shape) = (&self.classes[number], &SHAPES[number]);
        // SAFETY: the caller is the owner.
        unsafe { self.drain(zones) };
        let at_hand = class.free.get();
        if !at_hand.is_null() {
            return Some(at_hand);
        }
        if class.fresh.get() == 0 {
            // SAFETY: the list has zones of ours.
            if let Some(zone) = unsafe { class.partial.first().as_ref() } {
                // SAFETY: as above.
                unsafe { class.partial.remove(zone) };
                if zone.own.used.get() == 0 {
                    self.empty.set(self.empty.get() - 1);
                }
                let objects = zone.own.free.replace(ptr::null_mut());
                // Right for when it is full and no longer current.
                zone.own.used.set(shape.capacity);
                class.current.set(zone);
                class.free.set(objects);
                return Some(objects);
            }
            // SAFETY: the caller is the owner.
            let Some(memory) = (unsafe { self.claim(zones, 1) }) else {
                class.failures.add(1);
                return None;
            };
            // SAFETY: just claimed: nobody else uses it.
            unsafe {
                let zone = Zone::make(memory, self, number as u32, shape.capacity);
                if cfg!(debug_assertions) {
                    checks::begin(zone, shape);
                }
                class.current.set(zone);
            }
            class.fresh.set(shape.capacity);
            class.zones.add(1);
        }
        Some(class.carve(number))
    }

    /// Claims zones, if need be after this heap has given back what it can. The reserve is for requests that may not
    /// fail.
    ///
    /// # Safety
    /// As [`allocate`](Self::allocate).
    unsafe fn claim(&self, zones: &ZoneMap, count: usize) -> Option<NonNull<u8>> {
        let reserve = if self.may_fail.get() == 0 {
            0
        } else {
            zones.reserve()
        };
        let claim = || {
            let enough = zones.free_zones() >= reserve.saturating_add(count);
            enough.then(|| zones.claim(count)).flatten()
        };
        claim().or_else(|| {
            // SAFETY: the caller is the owner.
            unsafe { self.tidy(zones) };
            claim()
        })
    }

    /// Runs `f`, whose requests here may fail. Owner.
    pub(super) fn while_may_fail<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Over<'a>(&'a Cell<u32>);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.may_fail.set(self.may_fail.get() + 1);
        let _over = Over(&self.may_fail);
        f()
    }

    /// # Safety
    /// As [`allocate`](Self::allocate).
    #[cold]
    unsafe fn allocate_zones(&self, zones: &ZoneMap, layout: Layout) -> Option<NonNull<u8>> {
        let count = zones_for(layout.size());
        let fits =
            layout.align() <= super::ZONE_SIZE && !(cfg!(debug_assertions) && self.is_to_fail());
        // SAFETY: the caller is the owner.
        let memory = fits.then(|| unsafe { self.claim(zones, count) }).flatten();
        match memory {
            Some(_) => {
                self.large.requests.add(1);
                self.large.zones.add(count as u64);
            }
            None => self.large.failures.add(1),
        }
        memory
    }

    #[cold]
    fn free_zones(&self, zones: &ZoneMap, object: NonNull<u8>, layout: Layout) {
        if cfg!(debug_assertions) {
            checks::freed_zones(object.as_ptr(), layout);
        }
        let count = zones_for(layout.size());
        self.large.frees.add(1);
        self.large.zones.add((count as u64).wrapping_neg());
        // SAFETY: large requests got whole zones.
        unsafe { zones.release(object, count) };
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: another CPU touches `shared` and the counters alone, which are Sync; see the module's invariant.
unsafe impl Sync for Heap {}

#[cfg(test)]
mod tests;
