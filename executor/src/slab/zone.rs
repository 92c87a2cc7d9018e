//! The header of a zone in use as a slab.

use super::{FreeNode, Heap, ZONE_SIZE, classes::HEADER};
use core::{
    cell::Cell,
    ptr::{self, NonNull},
};

/// The beginning of a zone.
///
/// The first cache line is written when the zone is claimed and read by every CPU that frees into it; the second is
/// the owner's, so that its writing slows nobody.
#[repr(C, align(64))]
pub(super) struct Zone {
    pub(super) owner: *const Heap,
    pub(super) class: u32,
    pub(super) own: Own,
}

/// What the owner alone reads and writes.
#[repr(align(64))]
pub(super) struct Own {
    /// The zone's free objects, unless it is its class's current zone, whose objects are at hand in the heap.
    pub(super) free: Cell<*mut FreeNode>,
    /// Objects that are not on `free`. Not kept up for a current zone.
    pub(super) used: Cell<u32>,
    pub(super) next: Cell<*const Zone>,
    pub(super) previous: Cell<*const Zone>,
}

const _: () = assert!(size_of::<Zone>() <= HEADER);

impl Zone {
    /// The zone that an object lies in.
    #[inline(always)]
    pub(super) fn of(object: *mut u8) -> *const Zone {
        object.wrapping_sub(object.addr() % ZONE_SIZE).cast()
    }

    /// Makes a zone of just claimed memory, with all its objects handed to its class.
    ///
    /// # Safety
    /// `memory` is a zone that nobody else uses.
    pub(super) unsafe fn make(
        memory: NonNull<u8>,
        owner: *const Heap,
        class: u32,
        capacity: u32,
    ) -> *const Zone {
        let zone = memory.cast::<Self>();
        // SAFETY: the caller's promise.
        unsafe {
            zone.write(Self {
                owner,
                class,
                own: Own {
                    free: Cell::new(ptr::null_mut()),
                    used: Cell::new(capacity),
                    next: Cell::new(ptr::null()),
                    previous: Cell::new(ptr::null()),
                },
            });
        }
        zone.as_ptr()
    }

    /// The address of the byte at `offset` in this zone.
    #[inline(always)]
    pub(super) fn at(zone: *const Self, offset: usize) -> *mut u8 {
        zone.cast_mut().cast::<u8>().wrapping_add(offset)
    }
}

/// The zones of a class that have free objects, but for the current one.
pub(super) struct Partial(Cell<*const Zone>);

impl Partial {
    pub(super) const fn new() -> Self {
        Self(Cell::new(ptr::null()))
    }

    /// The first, or null.
    pub(super) fn first(&self) -> *const Zone {
        self.0.get()
    }

    /// # Safety
    /// All zones of the list, and `zone`, which is on none, are the caller's and alive.
    pub(super) unsafe fn insert(&self, zone: &Zone) {
        let first = self.0.get();
        // SAFETY: the caller's promise.
        if let Some(first) = unsafe { first.as_ref() } {
            first.own.previous.set(zone);
        }
        zone.own.next.set(first);
        zone.own.previous.set(ptr::null());
        self.0.set(zone);
    }

    /// # Safety
    /// All zones of the list, one of them `zone`, are the caller's and alive.
    pub(super) unsafe fn remove(&self, zone: &Zone) {
        let (previous, next) = (zone.own.previous.get(), zone.own.next.get());
        // SAFETY: the caller's promise.
        unsafe {
            match previous.as_ref() {
                Some(previous) => previous.own.next.set(next),
                None => self.0.set(next),
            }
            if let Some(next) = next.as_ref() {
                next.own.previous.set(previous);
            }
        }
    }
}
