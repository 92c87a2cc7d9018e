//! The kernel's page tables: W^X, guard pages, the window onto physical memory.
//!
//! [`build`] makes them once, before the other CPUs start; all CPUs share them. Text is executable and
//! read-only, constants are read-only, everything else is writable and not executable; the window's alias
//! of text and constants is read-only as well, or W^X would be a promise about addresses instead of memory.
//! Later changes only add mappings ([`map_device`]), so no TLB entry ever goes stale.
//!
//! Invariant: a page table is reached through the window and changed by one CPU at a time: during boot there
//! is one, later `map_device` holds a lock (taken while drivers start, never on a data path).
//!
//! Source: Intel SDM volume 3A, section 4.5.

use super::{image, physical};
use alloc::alloc::{Layout, alloc_zeroed};
use core::ops::Range;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{PageTable, PageTableFlags as Flags, PhysFrame};

/// Where kernel stacks are (`stacks.rs` lays them out).
pub const STACKS: u64 = 0xffff_c000_0000_0000;

const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
const HUGE: u64 = 1 << 30;

/// What a mapping allows; there is no writable and executable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Code.
    Execute,
    /// Constants.
    Read,
    /// Data.
    Write,
    /// Device registers: as data, uncached.
    Device,
}

impl Access {
    fn flags(self) -> Flags {
        let shared = Flags::PRESENT | Flags::GLOBAL;
        match self {
            Access::Execute => shared,
            Access::Read => shared | Flags::NO_EXECUTE,
            Access::Write => shared | Flags::WRITABLE | Flags::NO_EXECUTE,
            Access::Device => {
                shared
                    | Flags::WRITABLE
                    | Flags::NO_EXECUTE
                    | Flags::NO_CACHE
                    | Flags::WRITE_THROUGH
            }
        }
    }
}

/// A tree of page tables. Having one tells you that it may be changed here and now.
pub struct Tables {
    root: u64,
    huge_pages: bool,
}

impl Tables {
    /// Maps `len` bytes, in the largest pages that fit. Both addresses and the length are whole pages; what
    /// was mapped there before stays. False: out of memory for tables.
    pub fn map(&mut self, virt: u64, phys: Range<u64>, access: Access) -> bool {
        let (mut virt, mut at) = (virt, phys.start);
        while at < phys.end {
            let fits = |size: u64| (virt | at).is_multiple_of(size) && phys.end - at >= size;
            let (size, level) = match () {
                _ if self.huge_pages && fits(HUGE) => (HUGE, 3),
                _ if fits(LARGE) => (LARGE, 2),
                _ => (PAGE, 1),
            };
            // A run of pages in one table needs one walk.
            let Some(table) = self.table(virt, level) else {
                return false;
            };
            let first = index(virt, level);
            let run = (512 - first as u64).min((phys.end - at) / size);
            let mut flags = access.flags();
            if level > 1 {
                flags |= Flags::HUGE_PAGE;
            }
            for entry in table.iter_mut().skip(first).take(run as usize) {
                if entry.is_unused() {
                    entry.set_addr(PhysAddr::new(at), flags);
                }
                at += size;
                virt += size;
            }
        }
        true
    }

    /// The table of this level (1 = of 4 KiB pages) that covers an address; made on the way.
    fn table(&mut self, virt: u64, level: u8) -> Option<&mut PageTable> {
        let mut at = self.root;
        for above in (level + 1..=4).rev() {
            // SAFETY: `at` is a table of this tree (module head).
            let table = unsafe { &mut *physical::window(at).cast::<PageTable>() };
            let entry = &mut table[index(virt, above)];
            if entry.is_unused() {
                entry.set_addr(
                    PhysAddr::new(new_table()?),
                    Flags::PRESENT | Flags::WRITABLE,
                );
            } else if entry.flags().contains(Flags::HUGE_PAGE) {
                return None;
            }
            at = entry.addr().as_u64();
        }
        // SAFETY: as above.
        Some(unsafe { &mut *physical::window(at).cast::<PageTable>() })
    }
}

fn index(virt: u64, level: u8) -> usize {
    (virt >> (12 + 9 * (level - 1)) & 511) as usize
}

fn new_table() -> Option<u64> {
    // SAFETY: a PageTable has a size.
    let table = unsafe { alloc_zeroed(Layout::new::<PageTable>()) };
    if table.is_null() {
        None
    } else {
        physical::physical_address(table)
    }
}

/// Builds the kernel's page tables, for memory up to `memory_end`. The root's physical address.
pub fn build(memory_end: u64, huge_pages: bool) -> Option<Tables> {
    let mut tables = Tables {
        root: new_table()?,
        huge_pages,
    };
    let (text, rodata, data) = (image::text(), image::rodata(), image::data());
    let names = image::names();
    let guard = image::boot_stack_guard_page();
    let linked = |at: u64| physical::KERNEL_BASE + at;
    let shown = |at: u64| physical::WINDOW + at;
    let end = memory_end
        .max(physical::ALWAYS_MAPPED)
        .next_multiple_of(LARGE);

    let done = tables.map(linked(text.start), text.clone(), Access::Execute)
        && tables.map(linked(rodata.start), rodata.clone(), Access::Read)
        && tables.map(linked(data.start), data.start..guard, Access::Write)
        && tables.map(linked(guard + PAGE), guard + PAGE..data.end, Access::Write)
        && tables.map(linked(names.start), names.clone(), Access::Read)
        && tables.map(shown(0), 0..text.start, Access::Write)
        && tables.map(shown(text.start), text.start..rodata.end, Access::Read)
        && tables.map(shown(rodata.end), rodata.end..names.start, Access::Write)
        && tables.map(shown(names.start), names.clone(), Access::Read)
        && tables.map(shown(names.end), names.end..end, Access::Write);
    done.then_some(tables)
}

impl Tables {
    /// The physical address that goes into CR3.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Makes these the current CPU's page tables.
    ///
    /// # Safety
    /// They must map the running code, its stack and everything it refers to as now.
    pub unsafe fn activate(&self) {
        let frame = PhysFrame::containing_address(PhysAddr::new(self.root));
        // SAFETY: the caller's promise.
        unsafe { Cr3::write(frame, Cr3Flags::empty()) }
    }
}

/// Shows a device's registers in the window, wherever they are, and gives their address there.
/// None: no memory for page tables, or not an address of this machine.
pub fn map_device(phys: Range<u64>) -> Option<*mut u8> {
    #[expect(
        clippy::disallowed_types,
        reason = "drivers start one after another; not a data path"
    )]
    static ONE_AT_A_TIME: spin::Mutex<()> = spin::Mutex::new(());
    if phys.end > physical::ALWAYS_MAPPED {
        let _turn = ONE_AT_A_TIME.lock();
        let whole = phys.start & !(PAGE - 1)..phys.end.next_multiple_of(PAGE);
        if whole.end > 1 << 46 {
            return None;
        }
        let root = Cr3::read().0.start_address().as_u64();
        let mut tables = Tables {
            root,
            huge_pages: false,
        };
        if !tables.map(physical::WINDOW + whole.start, whole, Access::Device) {
            return None;
        }
    }
    Some(physical::window(phys.start))
}
