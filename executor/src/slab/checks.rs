//! What debug builds check of each object: that it is freed once, as what it was allocated as, and not written after.
//!
//! A record for each object, between a zone's header and its first object, says whether it is allocated, and which CPU
//! and thread changed that last. The change is one atomic swap, so that of two CPUs that free the same object one is found out for
//! certain. A free object is filled with 0xdeadc0de, which is looked at when it is handed out again. Builds without
//! debug assertions have no records, and do none of this.
//!
//! What is not noticed: a layout of another size in the same class, which does no harm; and large requests, which have
//! no records (the zone map knows whether their zones are free).
//!
//! Source: DragonFly's INVARIANTS kernels (`kern_slaballoc.c`: `WEIRD_ADDR`, the bitmap of each chunk).

use super::{
    FreeNode, ZONE_SIZE,
    classes::{HEADER, SHAPES, Shape},
    remote::POISON,
    zone::Zone,
};
use core::{
    alloc::Layout,
    fmt, ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// Bytes of a record.
pub(super) const RECORD: usize = if cfg!(debug_assertions) { 4 } else { 0 };

/// The record of an object that is allocated: this bit, and who allocated it. Without it: who freed it.
const ALLOCATED: u32 = 1 << 31;
/// Set in the record of an object that was ever allocated.
const KNOWN: u32 = 1 << 30;
const CPU_BITS: u32 = 12;
const THREAD_BITS: u32 = 18;

/// Who it is that calls: in a record's form.
fn caller() -> u32 {
    let Some(here) = crate::try_current() else {
        return ((1 << CPU_BITS) - 1) << THREAD_BITS | KNOWN;
    };
    let cpu = u32::from(here.id().0) & ((1 << CPU_BITS) - 1);
    KNOWN | cpu << THREAD_BITS | here.running_id() & ((1 << THREAD_BITS) - 1)
}

/// A record, in words.
struct Who(u32);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.0 >> THREAD_BITS & ((1 << CPU_BITS) - 1);
        let thread = self.0 & ((1 << THREAD_BITS) - 1);
        if self.0 & KNOWN == 0 {
            f.write_str("nobody")
        } else if cpu == (1 << CPU_BITS) - 1 {
            f.write_str("somebody outside of every CPU")
        } else if thread == 0 {
            write!(f, "no thread of cpu{cpu}")
        } else {
            write!(f, "thread {thread} of cpu{cpu}")
        }
    }
}

/// Which object of its zone this is; None if none of this class begins there.
fn index_of(object: *mut u8, shape: &Shape) -> Option<usize> {
    let offset = (object.addr() % ZONE_SIZE).checked_sub(shape.first as usize)?;
    let (index, rest) = (offset / shape.size as usize, offset % shape.size as usize);
    (rest == 0 && index < shape.capacity as usize).then_some(index)
}

/// The record of an object; panics if there is none of this class.
fn record<'a>(object: *mut u8, shape: &Shape) -> &'a AtomicU32 {
    let Some(index) = index_of(object, shape) else {
        panic!("slab: {object:p} is no object of {} bytes", shape.size)
    };
    let record = Zone::at(Zone::of(object), HEADER + index * RECORD);
    // SAFETY: the records of a zone lie behind its header, and are aligned to 4 bytes; they are atomic for everybody.
    unsafe { &*record.cast::<AtomicU32>() }
}

/// Begins the records of a zone that was just claimed.
///
/// # Safety
/// The zone is the caller's alone.
pub(super) unsafe fn begin(zone: *const Zone, shape: &Shape) {
    let records = Zone::at(zone, HEADER);
    // SAFETY: the records lie between the header and the first object.
    unsafe { records.write_bytes(0, shape.capacity as usize * RECORD) };
}

/// Looks at an object that is about to be handed out.
///
/// # Panics
/// If it is allocated, or was written after it was freed.
///
/// # Safety
/// `node` is a free object of `zone`, the first on a list of its free objects, and the caller's alone.
#[inline(never)]
pub(super) unsafe fn allocated(zone: *const Zone, node: *mut FreeNode) {
    // SAFETY: the caller's promise.
    let class = unsafe { (*zone).class } as usize;
    let (shape, object) = (&SHAPES[class], node.cast::<u8>());
    let before = record(object, shape).swap(ALLOCATED | caller(), Ordering::Relaxed);
    let (size, who) = (shape.size, Who(before));
    assert!(
        before & ALLOCATED == 0,
        "slab: {object:p}, an object of {size} bytes, is handed out while {who} has it"
    );
    if before & KNOWN == 0 {
        // Fresh memory is whatever it was.
        return;
    }
    // SAFETY: the object is the caller's.
    let next = unsafe { FreeNode::next(node) };
    let is_free = |next: *mut u8| {
        ptr::eq(Zone::of(next), zone)
            && index_of(next, shape).is_some()
            && record(next, shape).load(Ordering::Relaxed) & ALLOCATED == 0
    };
    let spoilt = if !next.is_null() && !is_free(next.cast()) {
        Some(0)
    } else {
        let words = 1..size as usize / 8;
        // SAFETY: inside the object, aligned to 8 bytes, and initialised when it was freed.
        let word = |at: usize| unsafe { object.cast::<u64>().add(at).read() };
        words
            .into_iter()
            .find(|at| word(*at) != POISON)
            .map(|at| at * 8)
    };
    if let Some(at) = spoilt {
        panic!(
            "slab: {object:p}, an object of {size} bytes, was written at byte {at} after {who} had freed it"
        );
    }
}

/// Looks at an object that is freed as one of `class`, and fills it.
///
/// # Panics
/// If it is free already, or no object of this class.
///
/// # Safety
/// `object` is in a zone in use as a slab, and the caller's alone.
#[inline(never)]
pub(super) unsafe fn freed(object: *mut u8, class: usize, layout: Layout) {
    // SAFETY: the caller's promise.
    let actual = unsafe { (*Zone::of(object)).class } as usize;
    assert!(
        actual == class,
        "slab: {object:p} is freed as {} bytes aligned to {}, and is an object of {} bytes",
        layout.size(),
        layout.align(),
        SHAPES.get(actual).map_or(0, |shape| shape.size)
    );
    let shape = &SHAPES[class];
    let before = record(object, shape).swap(caller(), Ordering::AcqRel);
    assert!(
        before & ALLOCATED != 0,
        "slab: {object:p}, an object of {} bytes, is freed twice; before by {}",
        shape.size,
        Who(before)
    );
    for at in 0..shape.size as usize / 8 {
        // SAFETY: inside the object.
        unsafe { object.cast::<u64>().add(at).write(POISON) };
    }
}

/// Fills the second word of an object, which carried a summary.
///
/// # Safety
/// `node` is a free object, and the caller's alone.
pub(super) unsafe fn refill(node: *mut FreeNode) {
    // SAFETY: the caller's promise.
    unsafe { (*node).summary.with_mut(|word| *word = POISON) };
}

/// Looks at a large request that is freed.
///
/// # Panics
/// If it does not begin a zone.
pub(super) fn freed_zones(object: *mut u8, layout: Layout) {
    assert!(
        object.addr().is_multiple_of(ZONE_SIZE),
        "slab: {object:p} is freed as {} bytes, and is a smaller object",
        layout.size()
    );
}
