//! DMA memory for host tests, seen from both sides.
//!
//! [`FakeDma`] hands out host memory under invented physical addresses, far from the host's own,
//! so that a driver that gives a device a virtual address is found out. The device side reads and
//! writes by physical address and gets an error outside every live region: what an IOMMU would say.

use super::{Dma, DmaRegion, PAGE_SIZE};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Mutex;

/// A device touched memory that is not (or no longer) given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BusFault(pub(crate) u64);

#[derive(Default)]
struct Inner {
    regions: BTreeMap<u64, (usize, usize)>,
    next: u64,
    budget_bytes: Option<usize>,
}

/// Host memory posing as DMA memory; clones share one address space.
#[derive(Clone)]
pub(crate) struct FakeDma(Arc<Mutex<Inner>>);

impl FakeDma {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            next: 0x1_0000_0000,
            ..Inner::default()
        })))
    }

    /// The allocator as drivers take it.
    pub(crate) fn handle(&self) -> Arc<dyn Dma> {
        Arc::new(self.clone())
    }

    /// Lets at most `bytes` more be allocated.
    pub(crate) fn limit(&self, bytes: usize) {
        self.0.lock().unwrap().budget_bytes = Some(bytes);
    }

    pub(crate) fn allocated_bytes(&self) -> usize {
        self.0
            .lock()
            .unwrap()
            .regions
            .values()
            .map(|&(_, len)| len)
            .sum()
    }

    /// Makes host memory visible to the device; used by the oracle, whose buffers are slices.
    pub(crate) fn expose(&self, memory: NonNull<u8>, len: usize) -> u64 {
        let mut inner = self.0.lock().unwrap();
        let physical = inner.next;
        inner.next += len.next_multiple_of(PAGE_SIZE) as u64 + PAGE_SIZE as u64;
        inner
            .regions
            .insert(physical, (memory.as_ptr() as usize, len));
        physical
    }

    /// Ends what [`expose`](Self::expose) began.
    pub(crate) fn hide(&self, physical: u64) {
        self.0.lock().unwrap().regions.remove(&physical);
    }

    /// Where the host finds `len` bytes at `physical`.
    fn translate(&self, physical: u64, len: usize) -> Result<*mut u8, BusFault> {
        let inner = self.0.lock().unwrap();
        let (&start, &(host, size)) = inner
            .regions
            .range(..=physical)
            .next_back()
            .ok_or(BusFault(physical))?;
        let offset = (physical - start) as usize;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(BusFault(physical));
        }
        Ok((host + offset) as *mut u8)
    }

    /// The device reads.
    pub(crate) fn read(&self, physical: u64, out: &mut [u8]) -> Result<(), BusFault> {
        let source = self.translate(physical, out.len())?;
        // SAFETY: `translate` found the range inside a live region.
        unsafe { source.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// The device writes.
    pub(crate) fn write(&self, physical: u64, bytes: &[u8]) -> Result<(), BusFault> {
        let target = self.translate(physical, bytes.len())?;
        // SAFETY: `translate` found the range inside a live region.
        unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// The device's view of one aligned 16-bit word.
    pub(crate) fn word16(&self, physical: u64) -> Result<&core::sync::atomic::AtomicU16, BusFault> {
        let pointer = self.translate(physical, 2)?.cast::<u16>();
        if !pointer.is_aligned() {
            return Err(BusFault(physical));
        }
        // SAFETY: in range and aligned; tests keep the region alive while the device runs.
        Ok(unsafe { core::sync::atomic::AtomicU16::from_ptr(pointer) })
    }
}

// SAFETY: regions are fresh, zeroed, page-aligned heap memory, and stay until `free`.
unsafe impl Dma for FakeDma {
    fn allocate(&self, len_bytes: usize) -> Option<DmaRegion> {
        let len_bytes = len_bytes.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE);
        {
            let mut inner = self.0.lock().unwrap();
            if let Some(budget) = inner.budget_bytes {
                inner.budget_bytes = Some(budget.checked_sub(len_bytes)?);
            }
        }
        let layout = Layout::from_size_align(len_bytes, PAGE_SIZE).ok()?;
        // SAFETY: the layout has a size that is not zero.
        let virtual_address = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let physical_address = self.expose(virtual_address, len_bytes);
        Some(DmaRegion {
            virtual_address,
            physical_address,
            len_bytes,
        })
    }

    unsafe fn free(&self, region: DmaRegion) {
        self.hide(region.physical_address);
        let layout = Layout::from_size_align(region.len_bytes, PAGE_SIZE).unwrap();
        // SAFETY: allocated above with this layout; the caller frees it once.
        unsafe { dealloc(region.virtual_address.as_ptr(), layout) };
    }
}
