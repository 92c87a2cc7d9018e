//! Memory that a device reads and writes while we look at it.
//!
//! [`Dma`] is what a platform offers: physically contiguous pages and their physical address.
//! [`DmaBuffer`] is what drivers use: the same memory behind bounds-checked copies and atomics,
//! and never behind a reference to plain bytes. A device may store at any moment, so a `&[u8]`
//! into this memory would be a promise we cannot keep; a copy taken once is a fact.
//!
//! All `unsafe` of the virtqueue is in this file. The invariant it rests on: from
//! [`DmaBuffer::allocate`] to [`Dma::free`] the region is mapped, zeroed at first, and reachable
//! through this one `DmaBuffer` alone (which is not `Sync`) and through the device. The device is
//! outside the Rust machine; what it stores is only ever read into owned integers and buffers.

use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

/// The granule of [`Dma::allocate`] in bytes.
pub const PAGE_SIZE: usize = 4096;

/// Physically contiguous memory, as the platform hands it out.
#[derive(Clone, Copy, Debug)]
pub struct DmaRegion {
    /// Where the CPU finds it.
    pub virtual_address: NonNull<u8>,
    /// Where a device finds it.
    pub physical_address: u64,
    /// Length in bytes, a multiple of [`PAGE_SIZE`].
    pub len_bytes: usize,
}

/// A source of memory for devices.
///
/// # Safety
///
/// A region returned by `allocate` must be page-aligned, zeroed, mapped for reading and writing,
/// at least `len_bytes` long, contiguous from `physical_address` on, and used by nothing else
/// until it comes back through `free`.
pub unsafe trait Dma: Send + Sync {
    /// Allocates `len_bytes` (rounded up to whole pages), or `None` when there is no such run.
    fn allocate(&self, len_bytes: usize) -> Option<DmaRegion>;

    /// Takes a region back.
    ///
    /// # Safety
    ///
    /// `region` came from `allocate` of this same object, is freed once, and neither the kernel nor
    /// a device will touch it again.
    unsafe fn free(&self, region: DmaRegion);
}

/// An access to [`DmaBuffer`] beyond its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

/// Memory shared with a device.
///
/// Having a `DmaBuffer` tells you that the memory behind [`physical_address`] stays allocated while
/// it lives. It does not tell you that the bytes stay what they were: the device may change them.
///
/// [`physical_address`]: DmaBuffer::physical_address
pub struct DmaBuffer {
    region: DmaRegion,
    allocator: Arc<dyn Dma>,
}

// SAFETY: the region belongs to this object alone (contract of `Dma::allocate`) and no part of it
// is tied to a thread; moving the owner moves nothing else. It stays `!Sync`: plain copies through
// `&self` from two threads would race.
unsafe impl Send for DmaBuffer {}

impl DmaBuffer {
    /// Allocates at least `len_bytes` of zeroed memory.
    pub fn allocate(allocator: &Arc<dyn Dma>, len_bytes: usize) -> Option<Self> {
        let region = allocator.allocate(len_bytes.next_multiple_of(PAGE_SIZE))?;
        Some(Self {
            region,
            allocator: Arc::clone(allocator),
        })
    }

    /// The address that a device uses for `offset`.
    pub fn physical_address(&self, offset: usize) -> u64 {
        self.region.physical_address + offset as u64
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.region.len_bytes
    }

    /// Whether there is no memory at all (never so for an allocated buffer).
    pub fn is_empty(&self) -> bool {
        self.region.len_bytes == 0
    }

    /// Copies `out.len()` bytes from `offset` on.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OutOfRange> {
        let source = self.at(offset, out.len())?;
        // SAFETY: `at` checked that the source range lies inside the region, which is mapped; `out`
        // is an exclusive reference and so cannot overlap it. What the device stores meanwhile only
        // changes which bytes arrive.
        unsafe { source.copy_to_nonoverlapping(NonNull::from(&mut *out).cast(), out.len()) };
        Ok(())
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let target = self.at(offset, bytes.len())?;
        // SAFETY: as in `read`; the target is mapped for writing, and no reference into the region
        // exists but those to atomics, on this thread.
        unsafe { target.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(())
    }

    /// The 16-bit word at `offset`.
    ///
    /// # Panics
    ///
    /// When the word is misaligned or outside: a bug in a driver, as callers mask every number that
    /// comes from a device before it becomes an offset.
    pub fn word16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: `word` checked range and alignment; the region lives as long as `self`.
        unsafe { AtomicU16::from_ptr(self.word(offset, 2).cast().as_ptr()) }
    }

    /// The 32-bit word at `offset`.
    ///
    /// # Panics
    ///
    /// As [`word16`](Self::word16).
    pub fn word32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `word16`.
        unsafe { AtomicU32::from_ptr(self.word(offset, 4).cast().as_ptr()) }
    }

    /// The 64-bit word at `offset`.
    ///
    /// # Panics
    ///
    /// As [`word16`](Self::word16).
    pub fn word64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `word16`.
        unsafe { AtomicU64::from_ptr(self.word(offset, 8).cast().as_ptr()) }
    }

    fn word(&self, offset: usize, size: usize) -> NonNull<u8> {
        assert!(
            offset.is_multiple_of(size),
            "misaligned word at {offset} in DMA memory"
        );
        match self.at(offset, size) {
            Ok(pointer) => pointer,
            Err(OutOfRange) => panic!("word at {offset} outside DMA memory of {}", self.len()),
        }
    }

    fn at(&self, offset: usize, len: usize) -> Result<NonNull<u8>, OutOfRange> {
        let end = offset.checked_add(len).ok_or(OutOfRange)?;
        if end > self.region.len_bytes {
            return Err(OutOfRange);
        }
        // SAFETY: `offset <= len_bytes` of one allocation.
        Ok(unsafe { self.region.virtual_address.add(offset) })
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        // SAFETY: the region came from this allocator and is given back once. That no device uses
        // it any more is the promise of whoever drops it: queues keep theirs in `ManuallyDrop`
        // until the device has confirmed a reset (`virtio::queue::SplitQueue::release`).
        unsafe { self.allocator.free(self.region) };
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DmaBuffer({:#x}, {} bytes)",
            self.region.physical_address,
            self.len()
        )
    }
}

#[cfg(test)]
pub(crate) mod fake;

#[cfg(test)]
mod tests {
    use super::fake::FakeDma;
    use super::*;
    use alloc::vec;

    #[test]
    fn copies_stay_inside_the_region() {
        let dma = FakeDma::new();
        let buffer = DmaBuffer::allocate(&dma.handle(), 100).unwrap();
        assert_eq!(buffer.len(), PAGE_SIZE);
        buffer.write(PAGE_SIZE - 3, b"abc").unwrap();
        let mut out = [0; 3];
        buffer.read(PAGE_SIZE - 3, &mut out).unwrap();
        assert_eq!(&out, b"abc");
        assert_eq!(buffer.write(PAGE_SIZE - 2, b"abc"), Err(OutOfRange));
        assert_eq!(buffer.read(usize::MAX, &mut out), Err(OutOfRange));
        assert_eq!(buffer.read(0, &mut vec![0; PAGE_SIZE + 1]), Err(OutOfRange));
    }

    #[test]
    fn memory_returns_to_its_allocator() {
        let dma = FakeDma::new();
        let buffer = DmaBuffer::allocate(&dma.handle(), 5000).unwrap();
        assert_eq!(dma.allocated_bytes(), 2 * PAGE_SIZE);
        drop(buffer);
        assert_eq!(dma.allocated_bytes(), 0);
    }
}
