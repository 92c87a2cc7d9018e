//! What this machine offers its drivers: DMA memory, register windows, interrupt lines, PCI.
//!
//! [`Pc64`] implements [`Hardware`]; start-up hands it to [`crate::drivers::probe::probe`] on CPU 0. PCI
//! configuration space is the window of the MCFG table where there is one, else the two ports.
//!
//! Invariant: DMA memory is heap memory. Heaps lie in the window onto physical memory, whose distance is
//! constant, so what is contiguous for us is contiguous for a device; there is no IOMMU in between.

use super::machine::Pc64;
use super::{paging, physical, vectors};
use crate::drivers::dma::{Dma, DmaRegion, PAGE_SIZE};
use crate::drivers::mmio::{MapRegisters, MmioWindow, Registers};
use crate::drivers::pci::access::{ConfigPorts, Ecam, PortAccess};
use crate::drivers::pci::{InterruptLine, InterruptLines, InterruptMessage};
use crate::drivers::probe::Hardware;
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;
use pci_types::ConfigRegionAccess;
use x86_64::instructions::interrupts;
use x86_64::instructions::port::Port;

/// Bytes of configuration space for one bus.
const BUS_BYTES: u64 = 1 << 20;

/// The kernel heap as DMA memory.
struct HeapDma;

fn layout(len_bytes: usize) -> Option<Layout> {
    Layout::from_size_align(
        len_bytes.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE),
        PAGE_SIZE,
    )
    .ok()
}

// SAFETY: the heap gives memory that nobody else has, zeroed and aligned as asked, mapped and physically
// contiguous (module head).
unsafe impl Dma for HeapDma {
    fn allocate(&self, len_bytes: usize) -> Option<DmaRegion> {
        let layout = layout(len_bytes)?;
        // SAFETY: the layout has a size.
        let virtual_address = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let physical_address = physical::physical_address(virtual_address.as_ptr())?;
        Some(DmaRegion {
            virtual_address,
            physical_address,
            len_bytes: layout.size(),
        })
    }

    unsafe fn free(&self, region: DmaRegion) {
        if let Some(layout) = layout(region.len_bytes) {
            // SAFETY: it came from `allocate` with this layout and is given back once: the caller's promise.
            unsafe { dealloc(region.virtual_address.as_ptr(), layout) }
        }
    }
}

/// The ports CF8h and CFCh.
struct Ports;

impl ConfigPorts for Ports {
    fn read(&self, address: u32) -> u32 {
        // SAFETY: the pair of ports is PCI's on every PC (or nobody's), and drivers are probed on one CPU.
        interrupts::without_interrupts(|| unsafe {
            Port::new(0xcf8).write(address);
            Port::new(0xcfc).read()
        })
    }

    fn write(&self, address: u32, value: u32) {
        // SAFETY: as in `read`; what is written is the PCI code's responsibility.
        interrupts::without_interrupts(|| unsafe {
            Port::new(0xcf8).write(address);
            Port::new(0xcfc).write(value);
        });
    }
}

impl MapRegisters for &'static Pc64 {
    fn map(&self, physical_address: u64, len_bytes: usize) -> Option<Box<dyn Registers>> {
        let end = physical_address.checked_add(len_bytes as u64)?;
        let base = NonNull::new(paging::map_device(physical_address..end)?)?;
        // SAFETY: mapped in the window for good. A caller names registers of a BAR or of the MCFG table.
        Some(Box::new(unsafe { MmioWindow::new(base, len_bytes) }))
    }
}

impl InterruptLines for &'static Pc64 {
    fn take_line(&self) -> Option<InterruptLine> {
        let vector = vectors::allocate(self, executor::current_cpu())?;
        let message = vector.message()?;
        let line = vector.line();
        // The device keeps it for good.
        core::mem::forget(vector);
        Some(InterruptLine {
            line,
            message: InterruptMessage {
                address: message.address,
                data: message.data,
            },
        })
    }
}

impl Hardware for &'static Pc64 {
    fn dma(&self) -> Arc<dyn Dma> {
        Arc::new(HeapDma)
    }

    fn pci(&self) -> Option<Box<dyn ConfigRegionAccess>> {
        let window = self
            .firmware
            .pci
            .iter()
            .find(|it| it.segment == 0 && it.first_bus == 0);
        let window = window.and_then(|range| {
            let buses = u64::from(range.last_bus) + 1;
            self.map(range.address, (buses * BUS_BYTES) as usize)
        });
        Some(match window {
            Some(window) => Box::new(Ecam::new(window, 0)),
            None => Box::new(PortAccess(Ports)),
        })
    }
}
