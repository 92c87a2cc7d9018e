//! The registers that `apic` reaches through traits: memory-mapped pages in the window, MSRs, ports.
//!
//! Invariant: a page address given to [`LocalApicPage`] or [`IoApicPage`] is that of such a chip (from the
//! ACPI tables) and lies in the window. Their registers do not change memory.

use apic::{fw_cfg, io_apic, local_apic};
use core::sync::atomic::{Ordering, compiler_fence};
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

/// The current CPU's local APIC, as page and MSRs.
#[derive(Debug)]
pub struct LocalApicPage(*mut u8);

// SAFETY: every CPU sees its own APIC at this address; the pointer is never a reference.
unsafe impl Send for LocalApicPage {}
// SAFETY: as above.
unsafe impl Sync for LocalApicPage {}

impl LocalApicPage {
    /// # Safety
    /// `page` is where the local APICs are (module head).
    pub unsafe fn new(page: *mut u8) -> LocalApicPage {
        LocalApicPage(page)
    }
}

impl local_apic::Hardware for LocalApicPage {
    #[inline]
    fn read_register(&self, offset: u16) -> u32 {
        // SAFETY: a register of the page (module head); `apic` uses offsets below 4096, 16-byte aligned.
        unsafe { self.0.add(offset.into()).cast::<u32>().read_volatile() }
    }

    #[inline]
    fn write_register(&self, offset: u16, value: u32) {
        // SAFETY: as above.
        unsafe {
            self.0
                .add(offset.into())
                .cast::<u32>()
                .write_volatile(value)
        }
    }

    fn read_msr(&self, msr: u32) -> u64 {
        // SAFETY: `apic` reads IA32_APIC_BASE, which all have, and x2APIC registers where CPUID has them.
        unsafe { Msr::new(msr).read() }
    }

    fn write_msr(&self, msr: u32, value: u64) {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as above; and IA32_TSC_DEADLINE where CPUID has it. None of them changes memory.
        unsafe { Msr::new(msr).write(value) }
    }

    fn fence(&self) {
        // SAFETY: fences have no precondition (SSE2 is part of x86-64).
        unsafe { core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags)) }
    }
}

/// An I/O APIC's page: index register at 0, data register at 16.
#[derive(Debug)]
pub struct IoApicPage(*mut u32);

// SAFETY: the chip is one for all CPUs; machine.rs programs it from the boot CPU, before drivers share it.
unsafe impl Send for IoApicPage {}
// SAFETY: as above.
unsafe impl Sync for IoApicPage {}

impl IoApicPage {
    /// # Safety
    /// `page` is an I/O APIC's (module head), and one CPU at a time uses it.
    pub unsafe fn new(page: *mut u8) -> IoApicPage {
        IoApicPage(page.cast())
    }
}

impl io_apic::Hardware for IoApicPage {
    fn read(&self, index: u8) -> u32 {
        // SAFETY: the two registers of the page (module head).
        unsafe {
            self.0.write_volatile(index.into());
            self.0.add(4).read_volatile()
        }
    }

    fn write(&self, index: u8, value: u32) {
        // SAFETY: as above.
        unsafe {
            self.0.write_volatile(index.into());
            self.0.add(4).write_volatile(value);
        }
    }
}

/// The ports of fw_cfg. To be used on QEMU or KVM only, where they are fw_cfg's or nobody's.
pub struct FwCfgPorts;

impl fw_cfg::Ports for FwCfgPorts {
    fn select(&mut self, key: u16) {
        // SAFETY: selecting an item has no effect beyond fw_cfg.
        unsafe { Port::new(fw_cfg::SELECTOR_PORT).write(key) }
    }

    fn read_byte(&mut self) -> u8 {
        // SAFETY: nor has reading it.
        unsafe { Port::new(fw_cfg::DATA_PORT).read() }
    }
}
