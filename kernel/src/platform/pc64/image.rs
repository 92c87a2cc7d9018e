//! Where the linker put the parts of the image (`image.ld`), as physical ranges.
//!
//! Invariant: the symbols below are defined by the linker script; their addresses are taken, never their
//! contents, but for the one that counts the bytes behind it, which nobody writes.

use super::physical::KERNEL_BASE;
use crate::names::Names;
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
    safe static data_end: u8;
    safe static names_len: u64;
}

fn physical(symbol: &u8) -> u64 {
    core::ptr::from_ref(symbol).addr() as u64 - KERNEL_BASE
}

/// The whole image with its boot part.
pub fn whole() -> Range<u64> {
    // The boot part is linked at its physical address.
    core::ptr::from_ref(&image_start).addr() as u64..names().end
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
    physical(&data_start)..physical(&data_end)
}

/// The names of the functions, in whole pages. The last part: how long it is says its first word.
pub fn names() -> Range<u64> {
    let start = physical(&data_end);
    let len = size_of_val(&names_len) as u64 + names_len;
    start..(start + len).next_multiple_of(4096)
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

/// The function in which an address lies, and how far into it; unknown if the image has no names.
pub fn function(address: u64) -> Option<(&'static str, u64)> {
    let text = text();
    let at = address.checked_sub(KERNEL_BASE + text.start)?;
    if at >= text.end - text.start {
        return None;
    }
    let table = core::ptr::with_exposed_provenance((&raw const names_len).expose_provenance() + 8);
    // SAFETY: whoever puts a table there counts its bytes in the word before it. They are loaded and mapped with the
    // word ([`names`]), and never written.
    let table = unsafe { core::slice::from_raw_parts(table, names_len as usize) };
    Names::new(table)?.find(at)
}

/// True for an address of the kernel's code.
pub fn is_code(address: u64) -> bool {
    address
        .checked_sub(KERNEL_BASE)
        .is_some_and(|at| text().contains(&at))
}
