//! The few steps of the boot that touch memory by address, so that `main.rs` need not.
//!
//! Invariant: all of this runs once, on the boot processor, before any other CPU and before anything is
//! allocated where the boot loader's block may lie.

use super::{paging, physical};
use apic::boot_info::{BootInfo, BootInfoError};

/// Reads the boot loader's block.
pub fn boot_info(magic: u32, block: u32) -> Result<BootInfo, BootInfoError> {
    // SAFETY: the block is memory that nobody writes yet (module head), and all of it is copied.
    BootInfo::parse(magic, block.into(), |address, len| unsafe {
        physical::bytes(address, len)
    })
}

/// Leaves the boot page tables for the kernel's own.
pub fn activate(tables: &paging::Tables) {
    // SAFETY: they map the image, the boot stack and the window where the boot page tables do.
    unsafe { tables.activate() }
}

/// `cpus=N` on the command line: start no more than this.
pub fn cpu_limit(boot: &BootInfo) -> usize {
    let word = boot
        .command_line()
        .split_whitespace()
        .find_map(|word| word.strip_prefix("cpus="));
    word.and_then(|number| number.parse().ok())
        .unwrap_or(usize::MAX)
}
