//! The two ways to configuration space: a memory window, and a pair of I/O ports.
//!
//! [`Ecam`] is PCI Express's window (ACPI table MCFG says where), 4 KiB for each function.
//! [`PortAccess`] is the older pair of ports at CF8h and CFCh, 256 bytes for each function, which
//! every PC has. The window is better where there is one: it is one access and needs no critical
//! section, while the ports are an address and then data, and two users at once read each other's
//! registers. Source: PCI Express Base 3.0, 7.2.2; PCI Local Bus 3.0, 3.2.2.3.2.

use alloc::boxed::Box;

use pci_types::{ConfigRegionAccess, PciAddress};

use crate::drivers::mmio::Registers;

/// Configuration space in a memory window.
pub struct Ecam {
    window: Box<dyn Registers>,
    first_bus: u8,
}

impl Ecam {
    /// `window` starts at the registers of `first_bus`; 1 MiB for each bus.
    pub fn new(window: Box<dyn Registers>, first_bus: u8) -> Self {
        Self { window, first_bus }
    }

    /// Where a register is in the window; buses below the first come out beyond its end.
    fn offset(&self, address: PciAddress, register: u16) -> usize {
        let Some(bus) = address.bus().checked_sub(self.first_bus) else {
            return usize::MAX;
        };
        usize::from(bus) << 20
            | usize::from(address.device()) << 15
            | usize::from(address.function()) << 12
            | usize::from(register & 0xffc)
    }
}

impl ConfigRegionAccess for Ecam {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.window.read32(self.offset(address, offset))
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        self.window.write32(self.offset(address, offset), value);
    }
}

/// The ports CF8h (address) and CFCh (data), as the platform offers them.
pub trait ConfigPorts {
    /// Writes `address` to CF8h, then reads CFCh, undisturbed in between.
    fn read(&self, address: u32) -> u32;
    /// Writes `address` to CF8h, then `value` to CFCh, undisturbed in between.
    fn write(&self, address: u32, value: u32);
}

/// Configuration space through the ports.
#[derive(Debug)]
pub struct PortAccess<P>(pub P);

impl<P> PortAccess<P> {
    /// The word for CF8h, or `None` for a register that it cannot name.
    fn word(address: PciAddress, register: u16) -> Option<u32> {
        (register < 0x100 && address.segment() == 0).then(|| {
            1 << 31
                | u32::from(address.bus()) << 16
                | u32::from(address.device()) << 11
                | u32::from(address.function()) << 8
                | u32::from(register & 0xfc)
        })
    }
}

impl<P: ConfigPorts> ConfigRegionAccess for PortAccess<P> {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        Self::word(address, offset).map_or(u32::MAX, |word| self.0.read(word))
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        if let Some(word) = Self::word(address, offset) {
            self.0.write(word, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    struct Ports(Cell<u32>);

    impl ConfigPorts for &Ports {
        fn read(&self, address: u32) -> u32 {
            self.0.set(address);
            7
        }
        fn write(&self, address: u32, _value: u32) {
            self.0.set(address);
        }
    }

    #[test]
    fn port_addresses_are_the_specifications() {
        let ports = Ports(Cell::new(0));
        let access = PortAccess(&ports);
        let address = PciAddress::new(0, 2, 31, 7);
        // SAFETY: the ports are a test's cell.
        assert_eq!(unsafe { access.read(address, 0x34) }, 7);
        assert_eq!(ports.0.get(), 0x8002_ff34);
        // SAFETY: as above.
        assert_eq!(unsafe { access.read(address, 0x100) }, u32::MAX);
    }
}
