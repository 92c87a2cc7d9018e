//! PCI: finding functions, their memory and their capabilities.
//!
//! [`enumerate`] lists what is there; [`Function`] reads and sets up one of them; [`msix`] programs
//! its interrupts; [`access`] has the two ways to configuration space. Registers are reached through
//! `pci_types::ConfigRegionAccess`, so a test (or a simulator) brings a configuration space of bytes.
//!
//! We walk the capability list and size the BARs ourselves and use `pci_types` for the rest: its
//! iterator follows a list that loops for ever, and its BAR sizes overflow a shift when the device
//! answers nonsense. A device's configuration space is input like any other.
//! Source: PCI Local Bus 3.0, 6.1, 6.2.5 and 6.7.

use alloc::vec::Vec;

use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType, PciAddress, PciHeader};

pub mod access;
pub mod msix;

pub use msix::{InterruptLine, InterruptLines, InterruptMessage, Msix};

/// What is wrong with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciError {
    /// The capability list leaves configuration space or does not end.
    BadCapabilityList,
    /// No memory BAR of that number.
    NoMemoryBar(u8),
    /// The firmware gave the BAR no address.
    BarUnassigned(u8),
    /// A structure does not fit the BAR it claims to be in.
    OutsideBar(u8),
    /// The platform could not map the BAR.
    NotMapped(u8),
    /// No MSI-X capability, or fewer entries than asked for.
    NoVector(u16),
}

/// A function that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Where it is.
    pub address: PciAddress,
    /// Who made it.
    pub vendor: u16,
    /// What it is, in the maker's numbering.
    pub device: u16,
    /// What it is, in PCI's: base class and subclass.
    pub class: (u8, u8),
}

/// A capability in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its kind.
    pub id: u8,
    /// Where it starts in configuration space.
    pub offset: u16,
}

/// A memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBar {
    /// Physical address.
    pub address: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// Lists all functions of segment 0 that can be reached from bus 0 through bridges as the firmware
/// has numbered them, in order of discovery.
pub fn enumerate(access: &(impl ConfigRegionAccess + ?Sized)) -> Vec<FunctionInfo> {
    let mut found = Vec::new();
    let mut seen = [false; 256];
    let mut buses = Vec::from([0_u8]);
    seen[0] = true;
    while let Some(bus) = buses.pop() {
        for device in 0..32 {
            let functions = if is_multifunction(access, bus, device) {
                8
            } else {
                1
            };
            for function in 0..functions {
                let address = PciAddress::new(0, bus, device, function);
                let Some(info) = identify(access, address) else {
                    continue;
                };
                found.push(info);
                let header = PciHeader::new(address).header_type(access);
                if header == HeaderType::PciPciBridge {
                    let secondary = (read(access, address, 0x18) >> 8) as u8;
                    // A bridge that was given no bus, or one already seen (a loop), is left out.
                    if !core::mem::replace(&mut seen[usize::from(secondary)], true) {
                        buses.push(secondary);
                    }
                }
            }
        }
    }
    found
}

fn is_multifunction(access: &(impl ConfigRegionAccess + ?Sized), bus: u8, device: u8) -> bool {
    let address = PciAddress::new(0, bus, device, 0);
    identify(access, address).is_some() && PciHeader::new(address).has_multiple_functions(access)
}

fn identify(
    access: &(impl ConfigRegionAccess + ?Sized),
    address: PciAddress,
) -> Option<FunctionInfo> {
    let header = PciHeader::new(address);
    let (vendor, device) = header.id(access);
    if vendor == u16::MAX {
        return None;
    }
    let (_, base, sub, _) = header.revision_and_class(access);
    Some(FunctionInfo {
        address,
        vendor,
        device,
        class: (base, sub),
    })
}

/// Subsystem vendor and id of the function at `address`.
pub fn subsystem(access: &(impl ConfigRegionAccess + ?Sized), address: PciAddress) -> (u16, u16) {
    let word = read(access, address, 0x2c);
    (word as u16, (word >> 16) as u16)
}

fn read(access: &(impl ConfigRegionAccess + ?Sized), address: PciAddress, offset: u16) -> u32 {
    // SAFETY: a read of an aligned dword below 4096 has no side effect beyond the device's own;
    // absent functions answer with ones. Callers pass offsets below 256.
    unsafe { access.read(address, offset & 0xffc) }
}

fn write(
    access: &(impl ConfigRegionAccess + ?Sized),
    address: PciAddress,
    offset: u16,
    value: u32,
) {
    // SAFETY: aligned and in range as for `read`. The registers written here (command, BARs,
    // MSI-X control) affect memory only through BARs and messages that this module sets up.
    unsafe { access.write(address, offset & 0xffc, value) }
}

/// One function, with the access to its registers.
#[derive(Clone, Copy, Debug)]
pub struct Function<A> {
    access: A,
    address: PciAddress,
    bars: [Result<MemoryBar, PciError>; 6],
}

impl<A: ConfigRegionAccess> Function<A> {
    /// The function at `address`. Sizes its BARs, for which it stops decoding them: nothing of it can
    /// be accessed before [`enable`](Self::enable).
    ///
    /// All BARs are sized at one go, because under an emulator each change of what is decoded
    /// rebuilds the machine's memory map, the slowest thing a driver's start-up does.
    pub fn open(access: A, address: PciAddress) -> Self {
        let mut function = Self {
            access,
            address,
            bars: [Err(PciError::NoMemoryBar(0)); 6],
        };
        let decoding = CommandRegister::MEMORY_ENABLE | CommandRegister::IO_ENABLE;
        function.command(|command| command - decoding);
        for slot in 0..6 {
            function.bars[usize::from(slot)] = function.size_bar(slot);
        }
        function
    }

    /// Where it is.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Reads the dword at `offset` (rounded down to 4) of its configuration space.
    pub fn read(&self, offset: u16) -> u32 {
        read(&self.access, self.address, offset)
    }

    pub(super) fn write(&self, offset: u16, value: u32) {
        write(&self.access, self.address, offset, value);
    }

    /// Lets it decode memory and read and write ours.
    pub fn enable(&self) {
        self.command(|command| {
            command | CommandRegister::MEMORY_ENABLE | CommandRegister::BUS_MASTER_ENABLE
        });
    }

    fn command(&self, change: impl FnOnce(CommandRegister) -> CommandRegister) {
        PciHeader::new(self.address).update_command(&self.access, change);
    }

    /// Its capabilities, in list order.
    pub fn capabilities(&self) -> Result<Vec<Capability>, PciError> {
        /// Capabilities are 4-aligned and lie behind the header, so there are at most so many.
        const MOST: usize = (0x100 - 0x40) / 4;
        let mut list = Vec::new();
        if !PciHeader::new(self.address)
            .status(&self.access)
            .has_capability_list()
        {
            return Ok(list);
        }
        let mut offset = (self.read(0x34) & 0xfc) as u16;
        while offset != 0 {
            if offset < 0x40 || list.len() == MOST {
                return Err(PciError::BadCapabilityList);
            }
            let word = self.read(offset);
            list.push(Capability {
                id: word as u8,
                offset,
            });
            offset = (word >> 8 & 0xfc) as u16;
        }
        Ok(list)
    }

    /// The memory BAR in `slot` (and the next one, if it is 64 bits wide).
    pub fn memory_bar(&self, slot: u8) -> Result<MemoryBar, PciError> {
        *self
            .bars
            .get(usize::from(slot))
            .unwrap_or(&Err(PciError::NoMemoryBar(slot)))
    }

    /// Sizes a BAR by writing ones into it, with decoding off.
    fn size_bar(&self, slot: u8) -> Result<MemoryBar, PciError> {
        let register = 0x10 + 4 * u16::from(slot);
        let low = self.read(register);
        let wide = low & 0b110 == 0b100;
        if low & 1 != 0 || (wide && slot == 5) || !matches!(low & 0b110, 0 | 0b100) {
            return Err(PciError::NoMemoryBar(slot));
        }
        let high = if wide { self.read(register + 4) } else { 0 };
        let mask_low = self.probe(register, low) & !0xf;
        let mask_high = if wide {
            self.probe(register + 4, high)
        } else {
            u32::MAX
        };
        let mask = u64::from(mask_high) << 32 | u64::from(mask_low);
        if mask_low == 0 && (!wide || mask_high == 0) {
            return Err(PciError::NoMemoryBar(slot));
        }
        let len_bytes = 1 << mask.trailing_zeros();
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        if address == 0 {
            return Err(PciError::BarUnassigned(slot));
        }
        if address.checked_add(len_bytes).is_none() {
            return Err(PciError::NoMemoryBar(slot));
        }
        Ok(MemoryBar { address, len_bytes })
    }

    fn probe(&self, register: u16, value: u32) -> u32 {
        self.write(register, u32::MAX);
        let mask = self.read(register);
        self.write(register, value);
        mask
    }

    /// The physical address of `len_bytes` at `offset` of the BAR in `slot`, if they fit.
    pub fn in_bar(&self, slot: u8, offset: u32, len_bytes: u32) -> Result<u64, PciError> {
        let bar = self.memory_bar(slot)?;
        let end = u64::from(offset) + u64::from(len_bytes);
        if end > bar.len_bytes || len_bytes == 0 {
            return Err(PciError::OutsideBar(slot));
        }
        Ok(bar.address + u64::from(offset))
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
