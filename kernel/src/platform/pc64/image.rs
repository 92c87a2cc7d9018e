//! Where the linker put the parts of the image (`image.ld`), as physical ranges.
//!
//! Invariant: the symbols below are defined by the linker script; their addresses are taken, never their
//! contents.

use super::physical::KERNEL_BASE;
use core::ops::Range;

unsafe extern "C" {
    safe static image_start: u8;
    safe static text_start: u8;
    safe static text_end: u8;
    safe static rodata_start: u8;
    safe static rodata_end: u8;
    safe static data_start: u8;
    safe static boot_stack_guard: u8;
    safe static boot_stack_top: u8;
    safe static image_end: u8;
}

fn physical(symbol: &u8) -> u64 {
    core::ptr::from_ref(symbol).addr() as u64 - KERNEL_BASE
}

/// The whole image with its boot part.
pub fn whole() -> Range<u64> {
    // The boot part is linked at its physical address.
    core::ptr::from_ref(&image_start).addr() as u64..physical(&image_end)
}

/// Code.
pub fn text() -> Range<u64> {
    physical(&text_start)..physical(&text_end)
}

/// Constants.
pub fn rodata() -> Range<u64> {
    physical(&rodata_start)..physical(&rodata_end)
}

/// Variables and the boot stack.
pub fn data() -> Range<u64> {
    physical(&data_start)..physical(&image_end)
}

/// The page below the boot stack.
pub fn boot_stack_guard_page() -> u64 {
    physical(&boot_stack_guard)
}

/// The stack that the boot processor boots on, and stays on: its addresses.
pub fn boot_stack() -> Range<u64> {
    let bottom = boot_stack_guard_page() + 4096 + KERNEL_BASE;
    bottom..core::ptr::from_ref(&boot_stack_top).addr() as u64
}

/// True for an address of the kernel's code.
pub fn is_code(address: u64) -> bool {
    address
        .checked_sub(KERNEL_BASE)
        .is_some_and(|at| text().contains(&at))
}
