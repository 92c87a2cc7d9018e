//! The heap of one CPU: size classes, their zones, and what comes back from other CPUs.
//!
//! Each zone begins with a [`Zone`] header and belongs to the heap that claimed it. The owner allocates and frees
//! with plain loads and stores, inside a critical section of its CPU when interrupts may allocate (the kernel's global
//! allocator sees to that). Another CPU finds the owner in the header and pushes the object on its remote list.
//!
//! The invariant that makes the unsafe code sound: an object is on exactly one list (its zone's free list or its
//! owner's remote list) or allocated; a zone header is written by its owner alone, but for `owner`, which never changes
//! while the zone has objects.

use super::{FreeNode, RemoteList, ZONE_SIZE, ZoneMap};
use core::{
    alloc::Layout,
    cell::Cell,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

/// The largest object carved from a zone; above it, whole zones.
const LARGEST: usize = 16 * 1024;
const CLASSES: usize = 36;
const HEADER: usize = 64;

/// The header of a zone in use as a slab.
#[repr(C)]
struct Zone {
    owner: *const Heap,
    class: Cell<u16>,
    used: Cell<u16>,
    /// Objects never handed out begin here.
    fresh: Cell<u32>,
    free: Cell<*mut FreeNode>,
    next: Cell<*const Zone>,
    previous: Cell<*const Zone>,
    /// On its class's list: it has room.
    listed: Cell<bool>,
}

const _: () = assert!(size_of::<Zone>() <= HEADER);

/// Numbers for `vmstat`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapStats {
    /// Zones that this heap holds as slabs.
    pub zones: usize,
    /// Objects allocated minus objects freed on this CPU. Only the sum over all CPUs has meaning (trap 52).
    pub objects: isize,
    /// Bytes allocated minus bytes freed on this CPU; as above.
    pub bytes: isize,
    /// Objects taken back from other CPUs.
    pub remote_frees: u64,
    /// Requests that could not be met.
    pub failures: u64,
}

/// What [`HeapStats`] shows, as wrapping sums. The owner adds with plain loads and stores; anybody may read.
struct Counts {
    zones: AtomicU64,
    objects: AtomicU64,
    bytes: AtomicU64,
    remote_frees: AtomicU64,
    failures: AtomicU64,
}

#[inline]
fn add(count: &AtomicU64, n: i64) {
    let sum = count.load(Ordering::Relaxed).wrapping_add_signed(n);
    count.store(sum, Ordering::Relaxed);
}

/// The slabs of one CPU.
pub struct Heap {
    /// Zones with room, by class; the first is allocated from.
    partial: [Cell<*const Zone>; CLASSES],
    remote: RemoteList,
    counts: Counts,
}

impl core::fmt::Debug for Heap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.stats().fmt(f)
    }
}

/// The class of a request, or None if it gets whole zones.
///
/// Up to 128 bytes in steps of 16, then four classes to each doubling. A request with a larger alignment than 16 is
/// rounded up to a power of two, whose objects lie at multiples of their size.
#[inline]
fn class_of(layout: Layout) -> Option<usize> {
    let mut size = layout.size().max(1);
    if layout.align() > 16 {
        size = size.max(layout.align()).next_power_of_two();
    }
    if size <= 128 {
        Some(size.div_ceil(16) - 1)
    } else if size <= LARGEST {
        // 129..=16384: the doubling, then which quarter of it.
        let doubling = (usize::BITS - 1 - (size - 1).leading_zeros()) as usize; // 7..=13
        let quarter = ((size - 1) >> (doubling - 2)) & 3;
        Some(8 + (doubling - 7) * 4 + quarter)
    } else {
        None
    }
}

/// The object size of a class, in bytes.
const fn class_size(class: usize) -> usize {
    if class < 8 {
        (class + 1) * 16
    } else {
        let (doubling, quarter) = ((class - 8) / 4, (class - 8) % 4);
        (128 << doubling) + (quarter + 1) * (32 << doubling)
    }
}

/// Where a class's first object lies: after the header, and such that powers of two are aligned to their size.
const fn first_object(class: usize) -> usize {
    let size = class_size(class);
    if size.is_power_of_two() && size > HEADER {
        size
    } else {
        HEADER
    }
}

const fn zones_for(size: usize) -> usize {
    size.div_ceil(ZONE_SIZE)
}

impl Heap {
    /// A heap that holds nothing.
    pub const fn new() -> Self {
        Self {
            partial: [const { Cell::new(ptr::null()) }; CLASSES],
            remote: RemoteList::new(),
            counts: Counts {
                zones: AtomicU64::new(0),
                objects: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                remote_frees: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            },
        }
    }

    /// The numbers so far; exact on the CPU itself.
    pub fn stats(&self) -> HeapStats {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        HeapStats {
            zones: get(&self.counts.zones) as usize,
            objects: get(&self.counts.objects) as isize,
            bytes: get(&self.counts.bytes) as isize,
            remote_frees: get(&self.counts.remote_frees),
            failures: get(&self.counts.failures),
        }
    }

    /// Allocates `layout`, or None if `zones` has no memory left. Alignments above [`ZONE_SIZE`] are refused.
    ///
    /// # Safety
    /// The caller is this heap's CPU, with its interrupt handlers kept out. The heap never moves once it was used, and
    /// always gets the same `zones`.
    #[inline]
    pub unsafe fn allocate(&self, zones: &ZoneMap, layout: Layout) -> Option<NonNull<u8>> {
        let Some(class) = class_of(layout) else {
            return self.allocate_zones(zones, layout);
        };
        // SAFETY: the list holds zones of this heap.
        let object = match unsafe { self.partial[class].get().as_ref() } {
            // SAFETY: listed zones have room, and are ours.
            Some(zone) => unsafe { self.take(zone) },
            // SAFETY: the caller's promise.
            None => unsafe { self.refill(zones, class) }?,
        };
        self.count(1, class_size(class) as isize);
        Some(object)
    }

    /// # Safety
    /// `zone` belongs to this heap and is on its class's list.
    #[inline]
    unsafe fn take(&self, zone: &Zone) -> NonNull<u8> {
        let size = class_size(usize::from(zone.class.get()));
        let head = zone.free.get();
        let object = if head.is_null() {
            let offset = zone.fresh.get() as usize;
            zone.fresh.set((offset + size) as u32);
            // SAFETY: a listed zone without freed objects has fresh ones: the offset is inside the zone.
            unsafe { ptr::from_ref(zone).cast_mut().cast::<u8>().add(offset) }
        } else {
            // SAFETY: a node on the zone's free list is a free object of ours.
            zone.free.set(unsafe { (*head).next.with(|next| *next) });
            head.cast()
        };
        zone.used.set(zone.used.get() + 1);
        if zone.free.get().is_null() && zone.fresh.get() as usize + size > ZONE_SIZE {
            self.unlist(zone);
        }
        // SAFETY: inside a zone, hence not null.
        unsafe { NonNull::new_unchecked(object) }
    }

    #[cold]
    unsafe fn refill(&self, zones: &ZoneMap, class: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller is the owner.
        unsafe { self.drain(zones) };
        if self.partial[class].get().is_null() {
            let Some(memory) = zones.claim(1) else {
                add(&self.counts.failures, 1);
                return None;
            };
            let zone = memory.cast::<Zone>();
            // SAFETY: just claimed: 64 KiB of memory that nobody else uses.
            unsafe {
                zone.write(Zone {
                    owner: self,
                    class: Cell::new(class as u16),
                    used: Cell::new(0),
                    fresh: Cell::new(first_object(class) as u32),
                    free: Cell::new(ptr::null_mut()),
                    next: Cell::new(ptr::null()),
                    previous: Cell::new(ptr::null()),
                    listed: Cell::new(false),
                });
                self.list(zone.as_ref());
            }
            add(&self.counts.zones, 1);
        }
        // SAFETY: the list is not empty now.
        Some(unsafe { self.take(&*self.partial[class].get()) })
    }

    #[cold]
    fn allocate_zones(&self, zones: &ZoneMap, layout: Layout) -> Option<NonNull<u8>> {
        let memory = (layout.align() <= ZONE_SIZE)
            .then(|| zones.claim(zones_for(layout.size())))
            .flatten();
        match memory {
            Some(_) => self.count(1, layout.size() as isize),
            None => add(&self.counts.failures, 1),
        }
        memory
    }

    /// Frees what any heap over the same `zones` has allocated.
    ///
    /// # Safety
    /// `object` was allocated with this `layout` and is not used any more; otherwise as [`allocate`](Self::allocate).
    #[inline]
    pub unsafe fn free(&self, zones: &ZoneMap, object: NonNull<u8>, layout: Layout) {
        let Some(class) = class_of(layout) else {
            self.count(-1, -(layout.size() as isize));
            // SAFETY: large requests got whole zones.
            unsafe { zones.release(object, zones_for(layout.size())) };
            return;
        };
        self.count(-1, -(class_size(class) as isize));
        // SAFETY: an object lies in a zone, whose header is at the multiple of the zone's size below it.
        let zone = unsafe {
            let offset = object.addr().get() % ZONE_SIZE;
            &*object.as_ptr().sub(offset).cast::<Zone>()
        };
        let node = object.as_ptr().cast::<FreeNode>();
        if ptr::eq(zone.owner, self) {
            // SAFETY: ours, and free from here on.
            unsafe { self.put(zones, zone, node) };
        } else {
            // SAFETY: the owner is alive as long as its node; the object belongs to its list from here on.
            unsafe {
                node.write(FreeNode::new());
                (*zone.owner).remote.push(node);
            }
        }
    }

    /// Frees what some heap over `zones` has allocated, from outside of every CPU: the owner takes it back later, as it
    /// does what another CPU frees. No heap counts it.
    ///
    /// # Safety
    /// `object` was allocated with this `layout` and is not used any more; the heaps over `zones` are still there.
    pub unsafe fn free_from_outside(zones: &ZoneMap, object: NonNull<u8>, layout: Layout) {
        if class_of(layout).is_none() {
            // SAFETY: large requests got whole zones.
            unsafe { zones.release(object, zones_for(layout.size())) };
            return;
        }
        // SAFETY: as in `free`.
        unsafe {
            let offset = object.addr().get() % ZONE_SIZE;
            let zone = &*object.as_ptr().sub(offset).cast::<Zone>();
            let node = object.as_ptr().cast::<FreeNode>();
            node.write(FreeNode::new());
            (*zone.owner).remote.push(node);
        }
    }

    /// # Safety
    /// `node` is a free object of `zone`, which belongs to this heap; the caller is the owner.
    #[inline]
    unsafe fn put(&self, zones: &ZoneMap, zone: &Zone, node: *mut FreeNode) {
        debug_assert!(zone.used.get() > 0, "an object was freed twice");
        // SAFETY: the object is free, so its first word is ours to write.
        unsafe {
            node.write(FreeNode::new());
            (*node).next.with_mut(|next| *next = zone.free.get());
        }
        zone.free.set(node);
        zone.used.set(zone.used.get() - 1);
        if !zone.listed.get() {
            self.list(zone);
        } else if zone.used.get() == 0
            && !(zone.next.get().is_null() && zone.previous.get().is_null())
        {
            self.retire(zones, zone);
        }
    }

    /// Gives an empty zone back, unless it is the last of its class: the next request would claim it again.
    #[cold]
    fn retire(&self, zones: &ZoneMap, zone: &Zone) {
        self.unlist(zone);
        add(&self.counts.zones, -1);
        // SAFETY: empty and off the list: nothing points into it. The header dies with it.
        unsafe { zones.release(NonNull::from(zone).cast(), 1) };
    }

    /// Takes back what other CPUs have freed. Owner; also worth a call when idle.
    ///
    /// # Safety
    /// As [`allocate`](Self::allocate).
    pub unsafe fn drain(&self, zones: &ZoneMap) -> usize {
        if self.remote.is_empty() {
            return 0;
        }
        // SAFETY: what is on our remote list are free objects of our zones.
        let count = unsafe {
            self.remote.take_all(|node| {
                let offset = node.addr() % ZONE_SIZE;
                let zone = &*node.cast::<u8>().sub(offset).cast::<Zone>();
                self.put(zones, zone, node);
            })
        };
        add(&self.counts.remote_frees, count as i64);
        count
    }

    fn list(&self, zone: &Zone) {
        let list = &self.partial[usize::from(zone.class.get())];
        let first = list.get();
        // SAFETY: the list holds zones of this heap.
        if let Some(first) = unsafe { first.as_ref() } {
            first.previous.set(zone);
        }
        zone.next.set(first);
        zone.previous.set(ptr::null());
        zone.listed.set(true);
        list.set(zone);
    }

    fn unlist(&self, zone: &Zone) {
        let (previous, next) = (zone.previous.get(), zone.next.get());
        // SAFETY: neighbours on the list are zones of this heap.
        unsafe {
            match previous.as_ref() {
                Some(previous) => previous.next.set(next),
                None => self.partial[usize::from(zone.class.get())].set(next),
            }
            if let Some(next) = next.as_ref() {
                next.previous.set(previous);
            }
        }
        zone.listed.set(false);
    }

    #[inline]
    fn count(&self, objects: isize, bytes: isize) {
        add(&self.counts.objects, objects as i64);
        add(&self.counts.bytes, bytes as i64);
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: another CPU touches `remote` and `counts` alone, which are Sync; see the module's invariant.
unsafe impl Sync for Heap {}

#[cfg(test)]
mod tests;
