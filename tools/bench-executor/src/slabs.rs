//! The kernel's allocator under our nodes, as in a kernel: what their CPUs allocate comes from their heaps.
//!
//! Everything else in this program is the host allocator's, that of the peers too. What crosses from a CPU to the
//! program goes back where its address says. One node at a time has the zones: a second one, left behind by a subject
//! that hangs, does with the host's allocator.

use std::alloc::Layout;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, ensure};
use executor::hosted::{Hosted, Options};
use executor::slab::{Heap, ZONE_SIZE, ZoneMap};

/// Zones of a [`Region`]: a gigabyte.
pub const ZONES: usize = 1 << 14;

/// Memory in zones.
pub struct Region {
    memory: *mut libc::c_void,
    pub zones: ZoneMap,
}

// SAFETY: the mapping belongs to the region, which only its drop changes.
unsafe impl Send for Region {}
// SAFETY: as above; the map is Sync.
unsafe impl Sync for Region {}

impl Region {
    const LENGTH: usize = (ZONES + 1) * ZONE_SIZE;

    pub fn new() -> Result<Self> {
        // SAFETY: a new mapping, wherever the host likes.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        ensure!(
            memory != libc::MAP_FAILED,
            "no memory: {}",
            std::io::Error::last_os_error()
        );
        let base = memory.expose_provenance().next_multiple_of(ZONE_SIZE);
        let words = (0..ZoneMap::words(ZONES)).map(|_| AtomicU64::new(0));
        let bitmap = words.collect::<Vec<_>>().leak();
        // SAFETY: the zones lie in the mapping, which lives as long as the map.
        let zones = unsafe { ZoneMap::new(ptr::with_exposed_provenance_mut(base), ZONES, bitmap) };
        zones.add(0, ZONES);
        Ok(Self { memory, zones })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and whoever uses it holds the region.
        unsafe { libc::munmap(self.memory, Self::LENGTH) };
    }
}

static REGION: OnceLock<Region> = OnceLock::new();
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A node whose CPUs have heaps, if nobody else's have the zones.
pub struct Node {
    hosted: Option<Hosted>,
    has_zones: bool,
}

impl Node {
    /// Starts one.
    pub fn start(options: Options) -> Self {
        let has_zones = REGION.get().is_some() && !TAKEN.swap(true, Ordering::AcqRel);
        let hosted = Hosted::start(options);
        if has_zones {
            hosted
                .node()
                .set_zones(&REGION.get().expect("it was there").zones);
        }
        Self {
            hosted: Some(hosted),
            has_zones,
        }
    }
}

impl std::ops::Deref for Node {
    type Target = Hosted;
    fn deref(&self) -> &Hosted {
        self.hosted.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.hosted.take());
        if let Some(region) = REGION.get().filter(|_| self.has_zones) {
            // SAFETY: the heaps over the zones went with the node, and what its CPUs had allocated with them.
            unsafe { region.zones.reset() };
            TAKEN.store(false, Ordering::Release);
        }
    }
}

/// Reserves the zones. Before the first node.
pub fn reserve() -> Result<()> {
    let region = Region::new()?;
    let _ = REGION.set(region);
    Ok(())
}

/// Allocates from the current CPU's heap. None: this is no CPU, or one without a heap.
#[inline]
pub fn allocate(layout: Layout) -> Option<*mut u8> {
    let cpu = executor::try_current()?;
    let zones = cpu.node().zones()?;
    // SAFETY: the current CPU, its node's zones.
    let memory = unsafe { cpu.allocate(zones, layout) };
    Some(memory.map_or(ptr::null_mut(), NonNull::as_ptr))
}

/// Frees what [`allocate`] gave. False: it is somebody else's.
///
/// # Safety
/// `memory` was allocated with this layout, and is not used any more.
#[inline]
pub unsafe fn free(memory: *mut u8, layout: Layout) -> bool {
    let Some(region) = REGION.get().filter(|region| region.zones.contains(memory)) else {
        return false;
    };
    let Some(object) = NonNull::new(memory) else {
        return true;
    };
    let cpu = executor::try_current().filter(|cpu| cpu.node().zones().is_some());
    // SAFETY: it came from a heap over these zones, of the one node that has them.
    unsafe {
        match cpu {
            Some(cpu) => cpu.free(&region.zones, object, layout),
            None => Heap::free_from_outside(&region.zones, object, layout),
        }
    }
    true
}
