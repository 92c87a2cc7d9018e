//! Finding the ACPI tables and the local APIC.
//!
//! A machine whose tables are missing or broken still boots, on one CPU and with what a PC has had since
//! 1995: its firmware says less, but its users should get a console to read about it on.
//!
//! Invariant: ACPI tables lie in memory that the boot loader's map does not call usable, so that nobody
//! writes them; the window shows them.

use super::features::Features;
use super::hardware::LocalApicPage;
use super::machine::Apic;
use super::{cpus, paging, physical};
use alloc::vec::Vec;
use apic::boot_info::{BootInfo, RootPointer};
use apic::tables::{self, Firmware};

const RSDP_LEN: usize = 36;
const LOCAL_APIC: u64 = 0xfee0_0000;
const IO_APIC: u64 = 0xfec0_0000;

#[derive(Clone)]
struct Shown;

impl tables::Memory for Shown {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        // SAFETY: firmware tables are memory that nobody writes (module head); an address that is none
        // reads as ones on a PC.
        unsafe { physical::bytes(address, len) }
    }
}

/// What the tables say, or what we assume without them; problems are printed.
pub fn read(boot: &BootInfo) -> Firmware {
    let firmware = match boot.root_pointer {
        RootPointer::Copy(bytes) => Firmware::read(Shown, &bytes),
        RootPointer::At(address) => {
            let bytes = tables::Memory::bytes(&Shown, address, RSDP_LEN).unwrap_or(&[]);
            Firmware::read(Shown, bytes)
        }
        RootPointer::Absent => Err(tables::Error::BadRootPointer),
    };
    firmware.unwrap_or_else(|error| {
        crate::early_println!("ACPI: {error}; going on with one CPU");
        without_tables()
    })
}

fn without_tables() -> Firmware {
    Firmware {
        local_apic: LOCAL_APIC,
        processors: Vec::new(),
        io_apics: alloc::vec![tables::IoApicEntry {
            address: IO_APIC,
            first: 0
        }],
        overrides: Vec::new(),
        soft_off: None,
        reset: None,
        pm_timer: None,
        hpet: None,
        pci: Vec::new(),
    }
}

/// The local APICs of this machine's CPUs.
pub fn local_apic(firmware: &Firmware, features: &Features) -> &'static Apic {
    let told = firmware.local_apic..firmware.local_apic.saturating_add(4096);
    let page = paging::map_device(told).unwrap_or(physical::window(LOCAL_APIC));
    // SAFETY: where the MADT has the local APICs, or where every PC has them.
    cpus::forever(Apic::new(
        unsafe { LocalApicPage::new(page) },
        features.apic,
    ))
}
