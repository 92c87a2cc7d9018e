//! Kernel stacks: one per CPU, and three for what may come at any time, each with an unmapped page below.
//!
//! An overflow then faults instead of writing into a neighbour, and the double fault that follows has a
//! stack of its own to report from. NMI, double fault and machine check each have one, because one of them
//! may interrupt another.
//!
//! Invariant: a slot's pages are mapped once, at an address that depends on the slot alone.

use super::paging::{Access, STACKS, Tables};
use super::{image, physical};
use alloc::alloc::{Layout, alloc};
use core::ops::Range;
use x86_64::VirtAddr;

const PAGE: u64 = 4096;
/// Where the next slot begins; a slot's four stacks and their guards fit.
const SLOT: u64 = 128 << 10;
const MAIN: u64 = 64 << 10;
const SMALL: u64 = 8 << 10;

/// The stack tops of one CPU.
#[derive(Clone, Copy, Debug)]
pub struct Stacks {
    /// Threads, and interrupts that find us in the kernel.
    pub main: VirtAddr,
    /// Non-maskable interrupts.
    pub nmi: VirtAddr,
    /// Double faults.
    pub double_fault: VirtAddr,
    /// Machine checks.
    pub machine_check: VirtAddr,
}

/// Makes the stacks of a slot; the boot processor stays on the stack that it booted on, and gives its top.
/// None: out of memory.
pub fn make(tables: &mut Tables, slot: usize, boot_stack: Option<VirtAddr>) -> Option<Stacks> {
    let mut at = STACKS + slot as u64 * SLOT;
    let mut stack = |len: u64| {
        let layout = Layout::from_size_align(len as usize, PAGE as usize).ok()?;
        // SAFETY: the length is not zero.
        let memory = unsafe { alloc(layout) };
        let phys = if memory.is_null() {
            None
        } else {
            physical::physical_address(memory)
        }?;
        let bottom = at + PAGE;
        at = bottom + len;
        tables
            .map(bottom, phys..phys + len, Access::Write)
            .then_some(VirtAddr::new(at))
    };
    Some(Stacks {
        nmi: stack(SMALL)?,
        double_fault: stack(SMALL)?,
        machine_check: stack(SMALL)?,
        main: match boot_stack {
            Some(top) => top,
            None => stack(MAIN)?,
        },
    })
}

/// Where slots can be: more than there are APIC ids in xAPIC mode.
const SLOTS: Range<u64> = STACKS..STACKS + SLOT * 4096;

/// Whether an address lies in a stack, so that a frame pointer may be followed there.
pub fn contains(address: u64) -> bool {
    (SLOTS.contains(&address) && !is_guard(address)) || image::boot_stack().contains(&address)
}

/// Whether an address lies in the guard page of some stack: a fault there is an overflow.
pub fn is_guard(address: u64) -> bool {
    if !SLOTS.contains(&address) {
        let page = address & !(PAGE - 1);
        return page == physical::KERNEL_BASE + image::boot_stack_guard_page();
    }
    let small = PAGE + SMALL;
    let at = (address - STACKS) % SLOT;
    if at < 3 * small {
        at % small < PAGE
    } else {
        at - 3 * small < PAGE
    }
}
