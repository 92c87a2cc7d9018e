//! One size class of a heap: its current zone, its other zones with room, and the batch that is gathered.

use super::super::{
    FreeNode, ZONE_SIZE,
    classes::SHAPES,
    zone::{Partial, Zone},
};
use crate::stats::Counter;
use core::{cell::Cell, ptr};

/// Bytes of fresh memory that are made into free objects at a time.
const CARVED: u32 = 4096;

/// One size class.
#[repr(align(128))]
pub(super) struct Class {
    /// Free objects at hand, all of the current zone.
    pub(super) free: Cell<*mut FreeNode>,
    /// Null before the first.
    pub(super) current: Cell<*const Zone>,
    /// Requests met.
    pub(super) requests: Counter,
    /// Objects freed on this CPU, whosever they are.
    pub(super) frees: Counter,
    /// How many objects of the current zone were never handed out: its last ones.
    pub(super) fresh: Cell<u32>,
    pub(super) partial: Partial,
    pub(super) batch: Batch,
    pub(super) zones: Counter,
    pub(super) remote_frees: Counter,
    pub(super) failures: Counter,
}

/// Freed objects of one zone of another heap, not sent yet.
pub(super) struct Batch {
    /// Null when there are none.
    pub(super) zone: Cell<*const Zone>,
    pub(super) first: Cell<*mut FreeNode>,
    pub(super) last: Cell<*mut FreeNode>,
    pub(super) count: Cell<u32>,
}

impl Class {
    pub(super) const fn new() -> Self {
        Self {
            free: Cell::new(ptr::null_mut()),
            current: Cell::new(ptr::null()),
            requests: Counter::new(),
            frees: Counter::new(),
            fresh: Cell::new(0),
            partial: Partial::new(),
            batch: Batch {
                zone: Cell::new(ptr::null()),
                first: Cell::new(ptr::null_mut()),
                last: Cell::new(ptr::null_mut()),
                count: Cell::new(0),
            },
            zones: Counter::new(),
            remote_frees: Counter::new(),
            failures: Counter::new(),
        }
    }

    /// Makes some of the current zone's fresh objects free. There are some.
    pub(super) fn carve(&self, number: usize) -> *mut FreeNode {
        let (zone, shape) = (self.current.get(), &SHAPES[number]);
        let fresh = self.fresh.get();
        let count = (CARVED / shape.size).clamp(1, fresh);
        let begin = shape.first + (shape.capacity - fresh) * shape.size;
        let mut first = self.free.get();
        for index in (0..count).rev() {
            let node = Zone::at(zone, (begin + index * shape.size) as usize).cast();
            // SAFETY: fresh objects are ours, and in no use.
            unsafe { FreeNode::link(node, first) };
            first = node;
        }
        self.fresh.set(fresh - count);
        self.free.set(first);
        first
    }

    /// Makes the current zone one of the others, if all its objects were handed out once.
    ///
    /// # Safety
    /// The caller is the owner.
    pub(super) unsafe fn set_current_aside(&self, capacity: u32) {
        // SAFETY: the current zone is ours.
        let Some(zone) = (unsafe { self.current.get().as_ref() }) else {
            return;
        };
        // What is still fresh is carved, or it could not be told from what is used.
        while self.fresh.get() != 0 {
            self.carve(zone.class as usize);
        }
        self.current.set(ptr::null());
        let objects = self.free.replace(ptr::null_mut());
        let (mut count, mut node) = (0, objects);
        while !node.is_null() {
            count += 1;
            // SAFETY: what was at hand is ours, and linked.
            node = unsafe { FreeNode::next(node) };
        }
        zone.own.free.set(objects);
        zone.own.used.set(capacity - count);
        if count != 0 {
            // SAFETY: the current zone was on no list.
            unsafe { self.partial.insert(zone) };
        }
    }
}

/// What a batch's last object says to the owner: where in the zone the first is, and how many there are.
pub(super) fn summary(first: *mut FreeNode, count: u32) -> u64 {
    (first.addr() % ZONE_SIZE) as u64 | u64::from(count) << 32
}
