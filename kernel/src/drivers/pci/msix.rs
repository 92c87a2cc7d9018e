//! MSI-X: interrupts as writes to an address.
//!
//! [`Msix`] is a function's vector table. [`InterruptLines`] is the platform's half: it knows which
//! address and data make a CPU take an interrupt line. A driver connects the two and
//! learns neither APIC ids nor vector numbers.
//!
//! An entry is masked while it changes: a device may send half an address otherwise.
//! Source: PCI Local Bus 3.0, 6.8.2.

use alloc::boxed::Box;

use pci_types::ConfigRegionAccess;

use super::{Function, PciError};
use crate::drivers::mmio::{MapRegisters, Registers};

const CAPABILITY_ID: u8 = 0x11;
const CONTROL_ENABLE: u32 = 1 << 31;
const CONTROL_MASK_ALL: u32 = 1 << 30;
const ENTRY_BYTES: usize = 16;
const ENTRY_MASKED: u32 = 1;

/// A memory write that is an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptMessage {
    /// Where the device writes.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// An interrupt line of the CPU that drives devices, with the message that raises it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptLine {
    /// Where its handler is registered.
    pub line: u8,
    /// What a device must send.
    pub message: InterruptMessage,
}

/// The platform's supply of interrupt lines.
pub trait InterruptLines {
    /// Takes a line of the current CPU for good, or `None` when all are taken.
    fn take_line(&self) -> Option<InterruptLine>;
}

/// A function's MSI-X table, enabled, with every entry masked at first.
pub struct Msix {
    table: Box<dyn Registers>,
    entries: u16,
}

impl Msix {
    /// Finds and enables the function's MSI-X.
    pub fn open(
        function: &Function<impl ConfigRegionAccess>,
        mapper: &dyn MapRegisters,
    ) -> Result<Self, PciError> {
        let capability = function
            .capabilities()?
            .into_iter()
            .find(|capability| capability.id == CAPABILITY_ID)
            .ok_or(PciError::NoVector(0))?;
        let control = function.read(capability.offset);
        let entries = (control >> 16 & 0x7ff) as u16 + 1;
        let place = function.read(capability.offset + 4);
        let (bar, offset) = ((place & 7) as u8, place & !7);
        let len_bytes = usize::from(entries) * ENTRY_BYTES;
        let address = function.in_bar(bar, offset, len_bytes as u32)?;
        let table = mapper
            .map(address, len_bytes)
            .ok_or(PciError::NotMapped(bar))?;
        let msix = Self { table, entries };
        for entry in 0..entries {
            msix.table
                .write32(usize::from(entry) * ENTRY_BYTES + 12, ENTRY_MASKED);
        }
        let control = (control | CONTROL_ENABLE) & !CONTROL_MASK_ALL;
        function.write(capability.offset, control);
        Ok(msix)
    }

    /// Number of entries.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Lets `entry` send `message`.
    pub fn set(&mut self, entry: u16, message: InterruptMessage) -> Result<(), PciError> {
        self.mask(entry)?;
        let base = usize::from(entry) * ENTRY_BYTES;
        self.table.write32(base, message.address as u32);
        self.table.write32(base + 4, (message.address >> 32) as u32);
        self.table.write32(base + 8, message.data);
        self.table.write32(base + 12, 0);
        Ok(())
    }

    /// Silences `entry`.
    pub fn mask(&mut self, entry: u16) -> Result<(), PciError> {
        if entry >= self.entries {
            return Err(PciError::NoVector(entry));
        }
        self.table
            .write32(usize::from(entry) * ENTRY_BYTES + 12, ENTRY_MASKED);
        Ok(())
    }
}
