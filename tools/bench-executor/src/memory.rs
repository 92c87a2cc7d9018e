//! Memory: what an object costs here and freed elsewhere, and what a million idle threads take.
//!
//! Allocators are called through their own interface, none of them as the program's: ours as the kernel's global
//! allocator calls it (the current CPU's heap, in a critical section), the others through `GlobalAlloc`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::pending;
use std::hint::spin_loop;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use executor::slab::{Heap, ZONE_SIZE};
use executor::{CpuId, spawn_on};
use mimalloc::MiMalloc;
use tikv_jemallocator::Jemalloc;

use crate::allocations::Watch;
use crate::host::{self, pin};
use crate::measure::{Sample, Stopwatch};
use crate::ours::{self, Ours};
use crate::slabs::{self, Region, ZONES};
use crate::traffic::{Runtime, yield_by_wake};

/// What is allocated: 64 bytes.
const OBJECT: Layout = Layout::new::<[u64; 8]>();

/// Objects that live at a time where one CPU allocates and frees.
const LIVE: usize = 64;

/// Objects that are handed over at a time where another CPU frees.
const BATCH: usize = 1024;

/// Batches before the clock runs: the first touch of memory is the host's cost.
const WARM: u64 = 8;

/// An allocator of [`OBJECT`]s.
trait Allocator: Send + Sync + 'static {
    fn allocate(&self) -> *mut u8;

    /// # Safety
    /// `object` was allocated by the same allocator and is not used any more.
    unsafe fn free(&self, object: *mut u8);
}

/// A global allocator that is not this program's.
#[derive(Default)]
struct Peer<A>(A);

impl<A: GlobalAlloc + Send + Sync + 'static> Allocator for Peer<A> {
    #[inline]
    fn allocate(&self) -> *mut u8 {
        // SAFETY: the layout has a size.
        unsafe { self.0.alloc(OBJECT) }
    }

    #[inline]
    unsafe fn free(&self, object: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(object, OBJECT) }
    }
}

/// The heaps of a node's CPUs.
struct Heaps;

impl Allocator for Heaps {
    #[inline]
    fn allocate(&self) -> *mut u8 {
        slabs::allocate(OBJECT).unwrap_or(ptr::null_mut())
    }

    #[inline]
    unsafe fn free(&self, object: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { slabs::free(object, OBJECT) };
    }
}

/// One turn: the oldest of the live objects is freed, and a new one allocated and written to.
fn local(allocator: &impl Allocator, turns: u64) -> Sample {
    let fresh = || {
        let object = allocator.allocate();
        assert!(!object.is_null(), "there is memory");
        // SAFETY: the object has 64 bytes.
        unsafe { object.write_volatile(1) };
        object
    };
    let mut live: [*mut u8; LIVE] = std::array::from_fn(|_| fresh());
    let watch = Stopwatch::one_thread();
    for turn in 0..turns {
        let object = &mut live[turn as usize % LIVE];
        // SAFETY: allocated above or a round ago, and used by nobody.
        unsafe { allocator.free(*object) };
        *object = fresh();
    }
    let sample = watch.stop(turns);
    for object in live {
        // SAFETY: as above.
        unsafe { allocator.free(object) };
    }
    sample
}

/// Where one CPU leaves objects for another.
struct Handover {
    objects: [AtomicPtr<u8>; BATCH],
    full: AtomicBool,
}

impl Handover {
    fn new() -> Self {
        Self {
            objects: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            full: AtomicBool::new(false),
        }
    }

    /// Does `work` to every place, `batches` times, whenever the other side has done its part; gives the processor time of
    /// the work alone.
    fn each(&self, when_full: bool, batches: u64, work: impl Fn(&AtomicPtr<u8>)) -> Duration {
        let mut total = Duration::ZERO;
        for batch in 0..batches + WARM {
            while self.full.load(Ordering::Acquire) != when_full {
                spin_loop();
            }
            let before = host::processor_time();
            self.objects.iter().for_each(&work);
            if batch >= WARM {
                total += host::processor_time() - before;
            }
            self.full.store(!when_full, Ordering::Release);
        }
        total
    }

    fn allocate(&self, allocator: &impl Allocator, batches: u64) -> Duration {
        self.each(false, batches, |place| {
            let object = allocator.allocate();
            assert!(!object.is_null(), "there is memory");
            // SAFETY: the object has 64 bytes.
            unsafe { object.write_volatile(1) };
            place.store(object, Ordering::Relaxed);
        })
    }

    fn free(&self, allocator: &impl Allocator, batches: u64) -> Duration {
        self.each(true, batches, |place| {
            // SAFETY: allocated by the other side, which has left it to us.
            unsafe { allocator.free(place.load(Ordering::Relaxed)) };
        })
    }
}

fn per_object(times: [Duration; 2], batches: u64) -> Sample {
    let total: Duration = times.iter().sum();
    Sample::from(total.as_nanos() as f64 / (batches * BATCH as u64) as f64)
}

fn batches(turns: u64) -> u64 {
    turns.div_ceil(BATCH as u64)
}

fn peer_local<A: GlobalAlloc + Send + Sync + 'static>(peer: A, turns: u64) -> Result<Sample> {
    pin(0)?;
    Ok(local(&Peer(peer), turns))
}

fn peer_remote<A: GlobalAlloc + Send + Sync + 'static>(peer: A, turns: u64) -> Result<Sample> {
    let (allocator, handover, batches) = (Peer(peer), Handover::new(), batches(turns));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let pinned = pin(1);
            pinned.map(|()| handover.free(&allocator, batches))
        });
        let pinned = pin(0);
        let here = handover.allocate(&allocator, batches);
        let there = other.join().expect("it does not panic")?;
        pinned.map(|()| per_object([here, there], batches))
    })
}

/// One turn: an object is allocated and freed on this CPU, from its heap.
pub fn ours_local(turns: u64) -> Result<Sample> {
    Ok(ours::node(1, 0).block_on(move || async move { local(&Heaps, turns) }))
}

/// One turn: an object is allocated on one CPU and freed on another.
pub fn ours_remote(turns: u64) -> Result<Sample> {
    let batches = batches(turns);
    Ok(ours::node(2, 0).block_on(move || async move {
        let handover = Arc::new(Handover::new());
        let theirs = handover.clone();
        let other = spawn_on(CpuId(1), "freer", move || async move {
            theirs.free(&Heaps, batches)
        });
        let allocated = handover.allocate(&Heaps, batches);
        per_object([allocated, other.await], batches)
    }))
}

/// [`ours_local`] of mimalloc.
pub fn mimalloc_local(turns: u64) -> Result<Sample> {
    peer_local(MiMalloc, turns)
}

/// [`ours_remote`] of mimalloc.
pub fn mimalloc_remote(turns: u64) -> Result<Sample> {
    peer_remote(MiMalloc, turns)
}

/// [`ours_local`] of jemalloc.
pub fn jemalloc_local(turns: u64) -> Result<Sample> {
    peer_local(Jemalloc, turns)
}

/// [`ours_remote`] of jemalloc.
pub fn jemalloc_remote(turns: u64) -> Result<Sample> {
    peer_remote(Jemalloc, turns)
}

/// [`ours_local`] of the host's C library.
pub fn glibc_local(turns: u64) -> Result<Sample> {
    peer_local(System, turns)
}

/// [`ours_remote`] of the host's C library.
pub fn glibc_remote(turns: u64) -> Result<Sample> {
    peer_remote(System, turns)
}

/// The bytes of a task that waits for something that never comes, of `count` of them: all that spawning them and their
/// first polls allocate, as the host's allocator rounds it and with its header, which is what a peer's task takes.
pub fn idle<R: Runtime>(count: u64) -> Result<Sample> {
    R::run(0, false, move || async move {
        let watch = Watch::open();
        launch_idle::<R>(count).await;
        Sample::from(watch.close().0 as f64 / count as f64)
    })
}

/// The same of ours, as the kernel's own allocator would hand it out: the same objects from an empty [`Heap`], in whole
/// zones.
pub fn ours_idle(count: u64) -> Result<Sample> {
    let layouts = Ours::run(0, false, move || async move {
        let watch = Watch::open();
        launch_idle::<Ours>(count).await;
        watch.close().1
    })?;
    let (region, heap) = (Region::new()?, Heap::new());
    for (layout, objects) in layouts {
        for _ in 0..objects {
            // SAFETY: this heap is used here alone, and no interrupt handler uses it.
            let object = unsafe { heap.allocate(&region.zones, layout) };
            ensure!(object.is_some(), "the region has no memory left");
        }
    }
    let zones = ZONES - region.zones.free_zones();
    Ok(Sample::from((zones * ZONE_SIZE) as f64 / count as f64))
}

async fn launch_idle<R: Runtime>(count: u64) {
    for _ in 0..count {
        R::launch(pending());
    }
    // Lets them run to where they wait.
    yield_by_wake().await;
}
