//! The window onto physical memory: every physical address, at a fixed distance, not executable.
//!
//! The boot page tables (`entry.s`) show the first 4 GiB there, the final ones (`paging.rs`) all memory and
//! the device area below 4 GiB; what lies above is added by `paging::map_device`. A window at a constant
//! distance rather than temporary mappings: reaching ACPI tables, page tables and device memory costs an
//! addition, and the kernel heap lives in it, so that a buffer's physical address is a subtraction.

/// Where physical address 0 is seen.
pub const WINDOW: u64 = 0xffff_8000_0000_0000;
/// Where the image is linked: physical address 0 is seen here, too, as far as the image goes.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// The end of what the boot page tables show, and of what any page tables show without being asked.
pub const ALWAYS_MAPPED: u64 = 1 << 32;

/// The virtual address of a physical one, in the window.
pub const fn window(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((WINDOW + address) as usize)
}

/// The physical address of something in the window (the heap, DMA memory) or in the image.
/// None for anything else: stacks, for one, have addresses of their own.
pub fn physical_address<T: ?Sized>(pointer: *const T) -> Option<u64> {
    let address = pointer.addr() as u64;
    match address {
        KERNEL_BASE.. => Some(address - KERNEL_BASE),
        WINDOW..0xffff_c000_0000_0000 => Some(address - WINDOW),
        _ => None,
    }
}

/// Shows `len` bytes of the first 4 GiB.
///
/// # Safety
/// Nobody may write these bytes while the slice lives, and they must be memory, not device registers.
pub unsafe fn bytes(address: u64, len: usize) -> Option<&'static [u8]> {
    let end = address.checked_add(len as u64)?;
    if address == 0 || end > ALWAYS_MAPPED {
        return None;
    }
    // SAFETY: 1. Mapped from the first instruction on (module head). 2. Memory that nobody writes: the
    // caller's promise. 3. Any bytes are valid u8s.
    Some(unsafe { core::slice::from_raw_parts(window(address), len) })
}
