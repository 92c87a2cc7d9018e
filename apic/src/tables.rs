//! What the firmware's ACPI tables say about interrupts, CPUs, power and clocks.
//!
//! [`Firmware::read`] takes the root pointer and a view of physical memory and gives plain values back; the
//! tables are then no longer needed. The `acpi` crate finds and lays out the tables; [`checked`] stands
//! between it and memory, because the crate believes every address and length that a table contains. What
//! does not check out (sum, length, an entry too short) is an [`Error`] if we cannot run without it (MADT)
//! and counts as absent otherwise: firmware must not be able to panic us.
//!
//! Source: ACPI 6.4, sections 5.2.5 to 5.2.12; IA-PC HPET 1.0a, 3.2.4; PCI Firmware 3.2, table 4-2.

mod checked;
#[cfg(test)]
mod tests;

use crate::io_apic::Signal;
use crate::sleep_package::{self, SleepTypes};
use acpi::address::{AddressSpace, GenericAddress};
use acpi::sdt::madt::{Madt, MadtEntry, Polarity, TriggerMode, parse_mps_inti_flags};
use acpi::sdt::{Signature, fadt::Fadt, hpet::HpetTable, mcfg::Mcfg};
use alloc::vec::Vec;
use checked::Tables;

/// A view of physical memory.
pub trait Memory: Clone {
    /// These bytes, or None if they are not all memory.
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]>;
}

/// Why we know nothing of the machine's CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The root pointer has a wrong signature or sum: whoever passed it is wrong.
    BadRootPointer,
    /// There is no MADT, or its sum or length is wrong.
    NoMadt,
    /// An entry of the MADT ends beyond it or is too short for its type.
    BadMadtEntry,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::BadRootPointer => "no valid root pointer",
            Self::NoMadt => "no valid MADT",
            Self::BadMadtEntry => "a malformed MADT entry",
        })
    }
}

/// Where a fixed hardware register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// An I/O port.
    Port(u16),
    /// A physical address.
    Memory(u64),
}

/// An I/O APIC of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicEntry {
    /// Physical address of its page.
    pub address: u64,
    /// The global system interrupt of its first input.
    pub first: u32,
}

/// An ISA interrupt that is not global system interrupt `irq`, edge-triggered, active high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsaOverride {
    /// The ISA interrupt, 0 to 15.
    pub irq: u8,
    /// What it is wired to.
    pub interrupt: u32,
    /// Its shape there.
    pub signal: Signal,
}

/// How to power the machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftOff {
    /// Through PM1 control registers (word wide).
    Pm1 {
        /// PM1a_CNT.
        a: Register,
        /// PM1b_CNT, where there is one.
        b: Option<Register>,
        /// The package of S5.
        types: SleepTypes,
        /// Port and value that hand the registers from the firmware to us, if we do not own them yet.
        acquire: Option<(u16, u8)>,
    },
    /// Through the sleep control register (byte wide) of a hardware-reduced machine.
    Control {
        /// The register.
        register: Register,
        /// The package of S5.
        types: SleepTypes,
    },
}

/// The ACPI timer: 3.579545 MHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmTimer {
    /// Its counter.
    pub register: Register,
    /// 32 bits wide, rather than 24.
    pub wide: bool,
}

/// A range of PCI buses whose configuration space is memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciRange {
    /// Physical address that bus 0 of the segment has, or would have.
    pub address: u64,
    /// The segment group.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus.
    pub last_bus: u8,
}

/// Everything read from the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Physical address of the local APICs' page.
    pub local_apic: u64,
    /// APIC ids of the usable processors, in the firmware's order (usually the boot processor first).
    pub processors: Vec<u32>,
    /// The I/O APICs.
    pub io_apics: Vec<IoApicEntry>,
    /// ISA interrupts that are not what they seem.
    pub overrides: Vec<IsaOverride>,
    /// Power off, if there is a way.
    pub soft_off: Option<SoftOff>,
    /// Reset register and the value that resets.
    pub reset: Option<(Register, u8)>,
    /// The ACPI timer, if there is one.
    pub pm_timer: Option<PmTimer>,
    /// Physical address of the HPET, if there is one.
    pub hpet: Option<u64>,
    /// PCI configuration space in memory.
    pub pci: Vec<PciRange>,
}

impl Firmware {
    /// Reads the tables below the root pointer: the bytes of an RSDP (20 of revision 0, 36 of later ones;
    /// more do not matter).
    pub fn read(memory: impl Memory, root_pointer: &[u8]) -> Result<Firmware, Error> {
        let (table, entry_len) = root(root_pointer).ok_or(Error::BadRootPointer)?;
        let tables = Tables::new(memory, table, entry_len);

        let mut firmware = Firmware {
            local_apic: 0,
            processors: Vec::new(),
            io_apics: Vec::new(),
            overrides: Vec::new(),
            soft_off: None,
            reset: None,
            pm_timer: None,
            hpet: None,
            pci: Vec::new(),
        };
        firmware.take_madt(&tables)?;
        firmware.take_fadt(&tables);
        if let Some(hpet) = tables.padded::<HpetTable>() {
            let address = hpet.base_address;
            firmware.hpet =
                (address.address_space == 0 && address.address != 0).then_some(address.address);
        }
        if let Some(mcfg) = tables.find::<Mcfg>() {
            firmware
                .pci
                .extend(mcfg.get().entries().iter().map(|entry| PciRange {
                    address: entry.base_address,
                    segment: entry.pci_segment_group,
                    first_bus: entry.bus_number_start,
                    last_bus: entry.bus_number_end,
                }));
        }
        Ok(firmware)
    }

    /// Where an ISA interrupt is wired to.
    pub fn isa(&self, irq: u8) -> (u32, Signal) {
        let found = self.overrides.iter().find(|entry| entry.irq == irq);
        found.map_or((irq.into(), Signal::ISA), |entry| {
            (entry.interrupt, entry.signal)
        })
    }

    fn take_madt(&mut self, tables: &Tables<impl Memory>) -> Result<(), Error> {
        const USABLE: u32 = 1;
        const NOT_A_PROCESSOR: u32 = 0xff;
        let mapping = tables.find::<Madt>().ok_or(Error::NoMadt)?;
        let madt = mapping.get();
        checked::madt_entries(tables.bytes_of(&mapping)).map_err(|_| Error::BadMadtEntry)?;

        self.local_apic = madt.local_apic_address.into();
        for entry in madt.entries() {
            match entry {
                MadtEntry::LocalApic(entry) if entry.flags & USABLE != 0 => {
                    self.add_processor(entry.apic_id.into(), NOT_A_PROCESSOR);
                }
                MadtEntry::LocalX2Apic(entry) if entry.flags & USABLE != 0 => {
                    self.add_processor(entry.x2apic_id, u32::MAX);
                }
                MadtEntry::IoApic(entry) => self.io_apics.push(IoApicEntry {
                    address: entry.io_apic_address.into(),
                    first: entry.global_system_interrupt_base,
                }),
                MadtEntry::InterruptSourceOverride(entry) if entry.bus == 0 => {
                    // Flags that mean nothing are read as "like the bus", which for ISA is edge and high.
                    let flags = parse_mps_inti_flags(entry.flags).ok();
                    let signal = flags.map_or(Signal::ISA, |(polarity, trigger)| Signal {
                        level: trigger == TriggerMode::Level,
                        active_low: polarity == Polarity::ActiveLow,
                    });
                    self.overrides.push(IsaOverride {
                        irq: entry.irq,
                        interrupt: entry.global_system_interrupt,
                        signal,
                    });
                }
                MadtEntry::LocalApicAddressOverride(entry) => {
                    self.local_apic = entry.local_apic_address
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A processor may be listed twice, as an APIC and as an x2APIC.
    fn add_processor(&mut self, apic_id: u32, nobody: u32) {
        if apic_id != nobody && !self.processors.contains(&apic_id) {
            self.processors.push(apic_id);
        }
    }

    fn take_fadt(&mut self, tables: &Tables<impl Memory>) {
        let Some(fadt) = tables.padded::<Fadt>() else {
            return;
        };
        let flags = fadt.flags;

        self.pm_timer = fadt
            .pm_timer_block()
            .ok()
            .flatten()
            .and_then(register)
            .map(|register| PmTimer {
                register,
                wide: flags.pm_timer_is_32_bit(),
            });
        if flags.supports_system_reset_via_fadt() {
            let reset = fadt.reset_register().ok().and_then(register);
            self.reset = reset.map(|register| (register, fadt.reset_value));
        }

        let dsdt = fadt
            .dsdt_address()
            .ok()
            .and_then(|at| tables.table_at(at as u64, Signature::DSDT));
        let Some(types) = dsdt.and_then(|dsdt| sleep_package::find(dsdt.get(36..)?)) else {
            return;
        };
        self.soft_off = if flags.system_is_hw_reduced_acpi() {
            let control = fadt
                .sleep_control_register()
                .ok()
                .flatten()
                .and_then(register);
            control.map(|register| SoftOff::Control { register, types })
        } else {
            let a = fadt.pm1a_control_block().ok().and_then(register);
            let b = fadt.pm1b_control_block().ok().flatten().and_then(register);
            let port = u16::try_from(fadt.smi_cmd_port)
                .ok()
                .filter(|&port| port != 0);
            let acquire = port.map(|port| (port, fadt.acpi_enable));
            a.map(|a| SoftOff::Pm1 {
                a,
                b,
                types,
                acquire,
            })
        };
    }
}

/// The address of the root table, and the length of its entries.
fn root(pointer: &[u8]) -> Option<(u64, usize)> {
    let zero_sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0;
    let first = pointer.get(..20)?;
    if !first.starts_with(b"RSD PTR ") || !zero_sum(first) {
        return None;
    }
    let revision = first[15];
    if revision >= 2
        && let Some(whole) = pointer.get(..36)
        && zero_sum(whole)
        && let Some(xsdt) = whole[24..]
            .first_chunk()
            .map(|field| u64::from_le_bytes(*field))
        && xsdt != 0
    {
        return Some((xsdt, 8));
    }
    let rsdt = first[16..]
        .first_chunk()
        .map(|field| u32::from_le_bytes(*field))?;
    (rsdt != 0).then_some((rsdt.into(), 4))
}

fn register(address: GenericAddress) -> Option<Register> {
    match address.address_space {
        _ if address.address == 0 => None,
        AddressSpace::SystemIo => u16::try_from(address.address).ok().map(Register::Port),
        AddressSpace::SystemMemory => Some(Register::Memory(address.address)),
        _ => None,
    }
}
