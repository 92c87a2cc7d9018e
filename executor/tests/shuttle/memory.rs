//! Heaps whose objects are freed by other CPUs, on zones that all claim from.

use super::*;
use executor::slab::{Heap, ZONE_SIZE, ZoneMap};
use shuttle::sync::atomic::AtomicU64 as Word;
use std::{
    alloc::{Layout, alloc, dealloc},
    collections::BTreeSet,
    ptr::NonNull,
};

const CPUS: usize = 3;
const OBJECTS: usize = 4;

/// What the CPUs share: heaps, and objects on their way to the CPU that frees them.
struct Shared {
    heaps: [Heap; CPUS],
    zones: ZoneMap,
    mail: [Mutex<Vec<usize>>; CPUS],
    /// Not shuttle's: to look at it is no step.
    live: std::sync::Mutex<BTreeSet<usize>>,
}

// SAFETY: each thread allocates and frees with its own heap; the rest is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

fn one_cpu(shared: &Shared, cpu: usize) {
    let (heap, layout) = (&shared.heaps[cpu], Layout::new::<[u64; 8]>());
    let mut freed = 0;
    for turn in 0..2 * OBJECTS {
        if turn < OBJECTS {
            // SAFETY: this thread is the heap's owner.
            let object = unsafe { heap.allocate(&shared.zones, layout) }.expect("memory for all");
            let address = object.as_ptr().expose_provenance();
            assert!(
                shared.live.lock().unwrap().insert(address),
                "handed out twice"
            );
            shared.mail[(cpu + 1) % CPUS].lock().unwrap().push(address);
        }
        let mail = std::mem::take(&mut *shared.mail[cpu].lock().unwrap());
        for address in mail {
            assert!(shared.live.lock().unwrap().remove(&address));
            freed += 1;
            let object = NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap();
            // SAFETY: allocated from a heap over these zones with this layout, and given to this thread alone.
            unsafe { heap.free(&shared.zones, object, layout) };
        }
        if turn >= OBJECTS && freed < OBJECTS {
            thread::yield_now();
        }
        // As before a CPU sleeps: what was freed for the others goes home, what they have freed comes back.
        // SAFETY: this thread is the heap's owner.
        unsafe {
            heap.settle(&shared.zones);
            heap.drain(&shared.zones);
        }
    }
}

#[test]
fn traps_50_53_what_is_freed_elsewhere_comes_back_once_and_nothing_is_handed_out_twice() {
    check(
        &[Fault::TakeWithoutSwap, Fault::ClaimWithoutExchange],
        || {
            let memory = Layout::from_size_align(4 * ZONE_SIZE, ZONE_SIZE).unwrap();
            // SAFETY: the size is not zero.
            let base = unsafe { alloc(memory) };
            assert!(!base.is_null());
            let words = Box::leak(Box::new([Word::new(0)]));
            let bitmap: *mut [Word; 1] = words;
            // SAFETY: the zones are this memory, freed below when nothing refers to it any more, as the bitmap is.
            let zones = unsafe { ZoneMap::new(base, 4, &*bitmap) };
            zones.add(0, 4);
            let shared = Arc::new(Shared {
                heaps: std::array::from_fn(|_| Heap::new()),
                zones,
                mail: Default::default(),
                live: Default::default(),
            });
            let threads: Vec<_> = (0..CPUS)
                .map(|cpu| {
                    let shared = shared.clone();
                    thread::spawn(move || one_cpu(&shared, cpu))
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            let mut unread = 0;
            let mut returned = 0;
            for (heap, mail) in shared.heaps.iter().zip(&shared.mail) {
                // SAFETY: the heap's owner has ended.
                unsafe { heap.drain(&shared.zones) };
                unread += mail.lock().unwrap().len();
                returned += heap.stats().remote_frees as usize;
            }
            assert_eq!(returned + unread, CPUS * OBJECTS, "freed memory is lost");
            drop(shared);
            // SAFETY: allocated and leaked above; the heaps that used them are gone.
            unsafe {
                dealloc(base, memory);
                drop(Box::from_raw(bitmap));
            }
        },
    );
}
