//! The heap against a model: every object distinct, aligned, and back where it belongs.

use super::*;
use crate::slab::ZONE_SIZE;
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
        stats.zones <= CLASSES + KEPT as usize,
        "a zone for each class and a few empty ones are kept, not {}",
        stats.zones
    );
    // SAFETY: one thread is the CPU.
    unsafe { heap.tidy(&memory.zones) };
    assert_eq!(heap.stats().zones, 0, "none when memory is short");
    assert_eq!(memory.zones.free_zones(), 64);
}

/// Allocates all that there is.
fn use_up(heap: &Heap, memory: &Memory, layout: Layout) -> Vec<NonNull<u8>> {
    // SAFETY: one thread is the CPU.
    core::iter::from_fn(|| unsafe { heap.allocate(&memory.zones, layout) }).collect()
}

fn capacity(layout: Layout) -> usize {
    SHAPES[class_of(layout).expect("a class")].capacity as usize
}

#[test]
fn exhaustion_is_none_and_is_counted() {
    let memory = Memory::new(2);
    let heap = Heap::new();
    let large = layout(3 * ZONE_SIZE, 16);
    // SAFETY: one thread.
    unsafe {
        assert!(heap.allocate(&memory.zones, large).is_none());
        let page = layout(4096, 16);
        let mut objects = use_up(&heap, &memory, page);
        assert_eq!(objects.len(), 2 * capacity(page));
        assert_eq!(heap.stats().failures, 2);
        heap.free(&memory.zones, objects.pop().expect("some"), page);
        assert!(
            heap.allocate(&memory.zones, page).is_some(),
            "what is freed is there again"
        );
    }
}

#[test]
fn memory_of_one_size_serves_another_when_it_is_short() {
    let memory = Memory::new(6);
    let heap = Heap::new();
    for (size, other) in [(64, 1000), (1000, 64), (12_000, 16), (64, ZONE_SIZE)] {
        // SAFETY: one thread.
        unsafe {
            for object in use_up(&heap, &memory, layout(size, 8)) {
                heap.free(&memory.zones, object, layout(size, 8));
            }
            let other = layout(other, 8);
            let object = heap.allocate(&memory.zones, other).expect("memory");
            heap.free(&memory.zones, object, other);
        }
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
            there.stats().zones,
            0,
            "nothing of it went to the wrong heap"
        );
        assert!(
            here.stats().zones <= 4,
            "memory is bounded: {:?}",
            here.stats()
        );
        there.settle(&memory.zones);
        here.drain(&memory.zones);
        assert_eq!(here.stats().remote_frees, 100_000);
        here.tidy(&memory.zones);
        assert_eq!(memory.zones.free_zones(), 16);
    }
}

#[test]
fn batches_of_many_zones_and_owners_get_home() {
    let memory = Memory::new(256);
    let heaps: Vec<Heap> = (0..4).map(|_| Heap::new()).collect();
    let mut random = 1u64;
    let mut next = |limit: usize| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as usize % limit
    };
    let mut live = Vec::new();
    // SAFETY: one thread plays all CPUs in turn; each object is freed once, with its layout.
    unsafe {
        for _ in 0..200_000 {
            let heap = &heaps[next(4)];
            if next(2) == 0 && live.len() < 2_000 {
                let layout = layout(1 + next(6_000), 8);
                live.push((
                    heap.allocate(&memory.zones, layout).expect("memory"),
                    layout,
                ));
            } else if !live.is_empty() {
                let (object, layout) = live.swap_remove(next(live.len()));
                heap.free(&memory.zones, object, layout);
            }
        }
        for (object, layout) in live {
            Heap::free_from_outside(&memory.zones, object, layout);
        }
        heaps.iter().for_each(|heap| heap.settle(&memory.zones));
        heaps.iter().for_each(|heap| heap.tidy(&memory.zones));
    }
    assert_eq!(memory.zones.free_zones(), 256, "every object got home");
}

#[test]
fn trap_50_a_zone_is_not_given_back_while_a_remote_free_is_on_its_way() {
    let memory = Memory::new(4);
    let (here, there) = (Heap::new(), Heap::new());
    let (sent, gathered) = (layout(16_000, 8), layout(64, 8));
    // SAFETY: one thread plays both CPUs in turn.
    unsafe {
        // Two zones, each with one object; one goes to the owner's list at once, the other waits with the freer.
        for object in [sent, gathered] {
            let last = here.allocate(&memory.zones, object).expect("memory");
            there.free(&memory.zones, last, object);
        }
        let others = use_up(&here, &memory, layout(ZONE_SIZE, 8));
        assert_eq!(others.len(), 3, "the second is not reused");
        for other in others {
            here.free(&memory.zones, other, layout(ZONE_SIZE, 8));
        }
        assert_eq!(
            memory.zones.free_zones(),
            3,
            "the first was, when memory was short"
        );
        there.settle(&memory.zones);
        assert_eq!(memory.zones.free_zones(), 3, "the second is on its way");
        here.tidy(&memory.zones);
        assert_eq!(memory.zones.free_zones(), 4);
    }
}

#[test]
fn trap_52_a_heaps_figures_may_be_negative_and_their_sum_is_not() {
    let memory = Memory::new(16);
    let (here, there) = (Heap::new(), Heap::new());
    // SAFETY: one thread plays both CPUs in turn.
    unsafe {
        for size in [64, 5 * ZONE_SIZE] {
            let object = here
                .allocate(&memory.zones, layout(size, 8))
                .expect("memory");
            there.free(&memory.zones, object, layout(size, 8));
        }
    }
    let (mine, other) = (here.stats(), there.stats());
    assert_eq!((other.objects, mine.objects + other.objects), (-2, 0));
    assert!(other.bytes < 0 && mine.bytes + other.bytes == 0);
    for (mut class, other) in here.class_stats().zip(there.class_stats()) {
        class.add(&other);
        assert_eq!(class.objects(), 0);
    }
    let large = there.class_stats().last().expect("whole zones");
    assert_eq!(
        (large.objects(), large.bytes()),
        (-1, -5 * ZONE_SIZE as i64)
    );
}

#[cfg(debug_assertions)]
#[test]
fn every_request_of_a_run_can_be_made_to_fail() {
    let memory = Memory::new(8);
    let heap = Heap::new();
    for nth in 1..=3 {
        heap.fail_after(nth);
        for request in 1..=3 {
            let layout = layout(if request == 2 { 2 * ZONE_SIZE } else { 64 }, 8);
            // SAFETY: one thread.
            let met = heap.while_may_fail(|| unsafe { heap.allocate(&memory.zones, layout) });
            let met = met.is_some();
            assert_eq!(met, request != nth);
        }
        assert_eq!((heap.fails_after(), heap.stats().failures), (0, nth));
    }
}

#[test]
fn what_may_fail_leaves_the_reserve_to_what_may_not() {
    let memory = Memory::new(64);
    assert_eq!(memory.zones.reserve(), 4);
    let heap = Heap::new();
    for size in [64, 5_000, ZONE_SIZE, 3 * ZONE_SIZE] {
        let object = layout(size, 8);
        let mut objects = heap.while_may_fail(|| use_up(&heap, &memory, object));
        assert!((4..7).contains(&memory.zones.free_zones()), "{size}");
        let others = use_up(&heap, &memory, object);
        assert!(!others.is_empty(), "{size}");
        objects.extend(others);
        for object in objects {
            // SAFETY: one thread; allocated above.
            unsafe { heap.free(&memory.zones, object, layout(size, 8)) };
        }
        // SAFETY: one thread.
        unsafe { heap.tidy(&memory.zones) };
    }
}

#[cfg(debug_assertions)]
mod misuse {
    //! Debug builds find it out, and say what and who.

    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::string::String;

    /// What the panic says that `f` ends in.
    fn complaint(f: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("it is found out");
        *payload.downcast::<String>().expect("a message")
    }

    #[test]
    fn a_write_after_free_is_found_wherever_it_is() {
        for at in [0, 8, 15, 16, 40, 63] {
            let memory = Memory::new(1);
            let heap = Heap::new();
            let layout = layout(64, 8);
            // SAFETY: one thread; the object is written after it was freed, which is what this is about.
            let (object, said) = unsafe {
                let object = heap.allocate(&memory.zones, layout).expect("memory");
                heap.free(&memory.zones, object, layout);
                object.add(at).write(0x55);
                let said = complaint(|| {
                    heap.allocate(&memory.zones, layout);
                });
                (object, said)
            };
            assert!(said.contains(&std::format!("{object:p}")), "{said}");
            let expected = std::format!(
                "an object of 64 bytes, was written at byte {} after somebody outside of every CPU had freed it",
                at / 8 * 8
            );
            assert!(said.contains(&expected), "{said}");
        }
    }

    #[test]
    fn a_double_free_is_found_on_the_same_cpu_and_on_another() {
        for elsewhere in [false, true] {
            let memory = Memory::new(1);
            let (here, there) = (Heap::new(), Heap::new());
            let layout = layout(100, 8);
            // SAFETY: one thread plays both CPUs; the second free is what this is about.
            let said = unsafe {
                let object = here.allocate(&memory.zones, layout).expect("memory");
                let _other = here.allocate(&memory.zones, layout);
                here.free(&memory.zones, object, layout);
                let again = if elsewhere { &there } else { &here };
                complaint(|| again.free(&memory.zones, object, layout))
            };
            assert!(
                said.contains("an object of 112 bytes, is freed twice"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_wrong_layout_is_found() {
        let cases = [
            (
                64,
                0,
                80,
                "is freed as 80 bytes aligned to 8, and is an object of 64 bytes",
            ),
            (64, 16, 64, "is no object of 64 bytes"),
            (
                64,
                0,
                20_000,
                "is freed as 20000 bytes, and is a smaller object",
            ),
        ];
        for (size, shift, freed, expected) in cases {
            let memory = Memory::new(1);
            let heap = Heap::new();
            // SAFETY: one thread; the layout is what this is about.
            let said = unsafe {
                let object = heap
                    .allocate(&memory.zones, layout(size, 8))
                    .expect("memory");
                complaint(|| heap.free(&memory.zones, object.add(shift), layout(freed, 8)))
            };
            assert!(said.contains(expected), "{said}");
        }
    }
}
