//! Physical memory: what the boot loader's map leaves us, and the allocators that get it.
//!
//! During boot one cursor moves through the largest usable region below 4 GiB ([`BootHeap`]): page tables,
//! stacks and the first boxes come from there and are never freed. When CPU 0 has a node, [`hand_over`] gives
//! the rest of that region, and all others, to the executor's zones, from which each CPU's heap allocates.
//!
//! Invariant: the cursor only moves forward within a range that [`start`] took from the memory map, so that
//! no byte is handed out twice.

use super::{image, physical};
use apic::boot_info::BootInfo;
use conquer_once::spin::OnceCell;
use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, AtomicU64 as ZoneWord, Ordering};
use executor::Node;
use executor::slab::{ZONE_SIZE, ZoneMap};

/// Below lie the real-mode tables, the EBDA, the trampoline: not worth the care it would take.
const LOW_MEMORY_END: u64 = 1 << 20;

/// The boot-time allocator: a cursor.
struct BootHeap {
    next: AtomicU64,
    end: AtomicU64,
}

static BOOT_HEAP: BootHeap = BootHeap {
    next: AtomicU64::new(0),
    end: AtomicU64::new(0),
};

/// Gives the boot heap its memory: the largest region that every page table shows. None: the memory map has no
/// megabyte to spare.
pub fn start(boot: &BootInfo) -> Option<()> {
    let part = boot
        .usable_without(
            LOW_MEMORY_END,
            [image::whole(), physical::ALWAYS_MAPPED..u64::MAX],
        )
        .max_by_key(|part| part.end - part.start)
        .filter(|part| part.end - part.start >= 1 << 20)?;
    BOOT_START.store(part.start, Ordering::Relaxed);
    BOOT_HEAP.next.store(part.start, Ordering::Relaxed);
    BOOT_HEAP.end.store(part.end, Ordering::Relaxed);
    Some(())
}

impl BootHeap {
    fn take(&self, layout: Layout) -> Option<u64> {
        let end = self.end.load(Ordering::Relaxed);
        let align = (layout.align() as u64).max(1);
        let start_of = |next: u64| next.next_multiple_of(align);
        let after = |next: u64| {
            start_of(next)
                .checked_add(layout.size() as u64)
                .filter(|after| *after <= end)
        };
        let before = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, after)
            .ok()?;
        Some(start_of(before))
    }

    /// Ends the boot heap; what it has not handed out.
    fn close(&self) -> Range<u64> {
        let end = self.end.load(Ordering::Relaxed);
        let next = self.next.swap(end, Ordering::Relaxed);
        self.end.store(next, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
        next..end
    }
}

/// The kernel's zones, once [`hand_over`] has run.
static ZONES: OnceCell<ZoneMap> = OnceCell::uninit();
/// What the boot heap handed out before it closed: never freed.
static BOOT_START: AtomicU64 = AtomicU64::new(0);

/// Gives all memory that is left to the per-CPU heaps of `node`. On CPU 0, entered; the others allocate
/// nothing before they are entered, too.
pub fn hand_over(boot: &BootInfo, node: &Node) {
    let count = boot.memory_end() as usize / ZONE_SIZE;
    let bitmap: &'static [ZoneWord] = (0..ZoneMap::words(count))
        .map(|_| ZoneWord::new(0))
        .collect::<alloc::vec::Vec<_>>()
        .leak();
    let boot_start = BOOT_START.load(Ordering::Relaxed);
    let rest = BOOT_HEAP.close();
    // SAFETY: the window maps all memory up to its end read-write but for the image, and what is added
    // below is usable memory that is neither the image's nor the boot heap's.
    let zones = unsafe { ZoneMap::new(physical::window(0), count, bitmap) };
    for part in boot.usable_without(LOW_MEMORY_END, [image::whole(), boot_start..rest.start]) {
        let first = part.start.div_ceil(ZONE_SIZE as u64);
        let end = part.end / ZONE_SIZE as u64;
        if first < end {
            zones.add(first as usize, (end - first) as usize);
        }
    }
    ZONES.try_init_once(|| zones).ok();
    if let Ok(zones) = ZONES.try_get() {
        node.set_zones(zones);
    }
}

/// The boot heap until [`hand_over`], the current CPU's heap from then on.
struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

// SAFETY: 1. Memory comes from the boot heap (module head) or from the current CPU's heap, used on that CPU. 2. Memory of the boot heap is recognised by its
// address and never taken back; everything else came from some CPU's heap over the same zones.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match (ZONES.try_get(), executor::try_current()) {
            (Ok(zones), Some(cpu)) => {
                // SAFETY: see above.
                let memory = unsafe { cpu.allocate(zones, layout) };
                memory.map_or(ptr::null_mut(), NonNull::as_ptr)
            }
            _ => BOOT_HEAP
                .take(layout)
                .map_or(ptr::null_mut(), physical::window),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let at = (memory.addr() as u64).wrapping_sub(physical::WINDOW);
        let boot = BOOT_START.load(Ordering::Relaxed)..BOOT_HEAP.end.load(Ordering::Relaxed);
        if boot.contains(&at) {
            return;
        }
        if let (Ok(zones), Some(cpu), Some(memory)) = (
            ZONES.try_get(),
            executor::try_current(),
            NonNull::new(memory),
        ) {
            // SAFETY: see above; the caller gives back what it got for this layout.
            unsafe { cpu.free(zones, memory, layout) };
        }
    }
}
