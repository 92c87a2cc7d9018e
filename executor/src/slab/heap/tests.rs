//! The heap against a model: every object distinct, aligned, and back where it belongs.

use super::*;
extern crate std;
use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::sync::atomic::AtomicU64;
use std::alloc::{alloc, dealloc};

/// Real memory for `count` zones.
struct Memory {
    base: *mut u8,
    layout: Layout,
    zones: ZoneMap,
}

impl Memory {
    fn new(count: usize) -> Self {
        let layout = Layout::from_size_align(count * ZONE_SIZE, ZONE_SIZE).expect("valid");
        // SAFETY: the size is not zero; freed in drop; the map's zones are this memory.
        unsafe {
            let base = alloc(layout);
            assert!(!base.is_null());
            let bitmap: Vec<_> = (0..ZoneMap::words(count))
                .map(|_| AtomicU64::new(0))
                .collect();
            let zones = ZoneMap::new(base, count, Box::leak(bitmap.into()));
            zones.add(0, count);
            Self {
                base,
                layout,
                zones,
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { dealloc(self.base, self.layout) };
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("valid")
}

#[test]
fn classes_cover_every_size_with_little_waste() {
    for size in 1..=LARGEST {
        let class = class_of(layout(size, 8)).expect("a class");
        let got = class_size(class);
        assert!(got >= size, "{size} got {got}");
        assert!(
            size <= 128 || got * 4 <= size * 5 + 4,
            "{size} wastes {}",
            got - size
        );
        assert!(
            class == 0 || class_size(class - 1) < size,
            "{size} fits a smaller class"
        );
    }
    assert_eq!(class_of(layout(LARGEST, 8)), Some(CLASSES - 1));
    assert_eq!(class_of(layout(LARGEST + 1, 8)), None);
}

#[test]
fn objects_are_aligned_disjoint_and_reused() {
    let memory = Memory::new(64);
    let heap = Heap::new();
    let mut random = 12345u64;
    let mut next = || {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as usize
    };
    let mut live: BTreeMap<usize, Layout> = BTreeMap::new();
    for _ in 0..20_000 {
        if next() % 2 == 0 || live.is_empty() {
            let layout = layout(1 + next() % 3000, 1 << (next() % 12));
            // SAFETY: one thread is the CPU.
            let Some(object) = (unsafe { heap.allocate(&memory.zones, layout) }) else {
                continue;
            };
            let at = object.addr().get();
            assert!(at.is_multiple_of(layout.align()));
            if let Some((before, l)) = live.range(..=at).next_back() {
                assert!(before + l.size() <= at, "overlaps the object below");
            }
            if let Some((after, _)) = live.range(at..).next() {
                assert!(at + layout.size() <= *after, "overlaps the object above");
            }
            // SAFETY: allocated with this size.
            unsafe { object.write_bytes(0xa5, layout.size()) };
            live.insert(at, layout);
        } else {
            let at = *live.keys().nth(next() % live.len()).expect("not empty");
            let layout = live.remove(&at).expect("there");
            let object =
                NonNull::new(core::ptr::with_exposed_provenance_mut(at)).expect("not null");
            // SAFETY: allocated with this layout, not freed yet.
            unsafe { heap.free(&memory.zones, object, layout) };
        }
    }
    for (at, layout) in live {
        let object = NonNull::new(core::ptr::with_exposed_provenance_mut(at)).expect("not null");
        // SAFETY: as above.
        unsafe { heap.free(&memory.zones, object, layout) };
    }
    let stats = heap.stats();
    assert_eq!((stats.objects, stats.bytes), (0, 0));
    assert!(
        stats.zones <= CLASSES,
        "at most one empty zone a class is kept, not {}",
        stats.zones
    );
}

#[test]
fn exhaustion_is_none_and_is_counted() {
    let memory = Memory::new(2);
    let heap = Heap::new();
    let large = layout(3 * ZONE_SIZE, 16);
    // SAFETY: one thread.
    unsafe {
        assert!(heap.allocate(&memory.zones, large).is_none());
        let mut objects = Vec::new();
        while let Some(object) = heap.allocate(&memory.zones, layout(4096, 16)) {
            objects.push(object);
        }
        assert_eq!(objects.len(), 30);
        assert_eq!(heap.stats().failures, 2);
        heap.free(
            &memory.zones,
            objects.pop().expect("some"),
            layout(4096, 16),
        );
        assert!(
            heap.allocate(&memory.zones, layout(4096, 16)).is_some(),
            "what is freed is there again"
        );
    }
}

#[test]
fn remote_frees_come_back_to_their_owner() {
    let memory = Memory::new(16);
    let (here, there) = (Heap::new(), Heap::new());
    let object = layout(64, 8);
    // SAFETY: one thread plays both CPUs in turn.
    unsafe {
        for _ in 0..100 {
            let objects: Vec<_> = (0..1000)
                .map(|_| here.allocate(&memory.zones, object).expect("memory"))
                .collect();
            for each in objects {
                there.free(&memory.zones, each, object);
            }
        }
        assert_eq!(
            there.stats().objects,
            -100_000,
            "one CPU's figure may be negative"
        );
        assert_eq!(here.stats().objects + there.stats().objects, 0);
        assert_eq!(
            there.stats().zones,
            0,
            "nothing of it went to the wrong heap"
        );
        assert!(
            here.stats().zones <= 3,
            "memory is bounded: {:?}",
            here.stats()
        );
        here.drain(&memory.zones);
        assert!(here.stats().remote_frees >= 99_000);
    }
}
