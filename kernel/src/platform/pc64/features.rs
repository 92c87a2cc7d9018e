//! What this CPU can do, and switching it on.
//!
//! [`enable`] runs on every CPU, so that all have the same control registers whatever the firmware left
//! there; [`Hypervisor`] tells emulators from hardware, because the delays and calibrations that hardware
//! needs would be most of a boot under emulation.
//!
//! Invariant: an MSR is touched only where CPUID offers it.
//!
//! Source: Intel SDM volume 3A, sections 2.5 and 4.6; volume 2A, CPUID. A leaf above the maximum answers
//! with the last leaf's data, not with zeroes: `raw-cpuid` checks the maximum first.

use super::physical;
use alloc::boxed::Box;
use apic::kvm_clock::TimeInfo;
use raw_cpuid::{CpuId, CpuIdReaderNative};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

/// Who pretends to be our hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// Nobody, or somebody who does not say so.
    None,
    /// QEMU's own emulator.
    QemuTcg,
    /// KVM (QEMU, Firecracker, cloud-hypervisor).
    Kvm,
    /// Another one.
    Other,
}

/// The CPU we run on; all CPUs of a machine are taken to be alike.
pub struct Features {
    /// The hypervisor, if any.
    pub hypervisor: Hypervisor,
    /// For the local APIC.
    pub apic: apic::local_apic::Features,
    /// Pages of 1 GiB.
    pub huge_pages: bool,
    /// The TSC runs at one rate in every state of the CPU.
    pub invariant_tsc: bool,
    /// The TSC's rate in Hz, if the CPU or the hypervisor tells.
    pub tsc_hz: Option<u64>,
    id: CpuId<CpuIdReaderNative>,
}

impl Features {
    /// Asks the current CPU.
    pub fn read() -> Features {
        let id = CpuId::new();
        let basic = id.get_feature_info();
        let power = id.get_advanced_power_mgmt_info();
        let extended = id.get_extended_processor_and_feature_identifiers();
        let hypervisor_info = id.get_hypervisor_info();
        let hypervisor = match hypervisor_info.as_ref().map(|info| info.identify()) {
            None => Hypervisor::None,
            Some(raw_cpuid::Hypervisor::QEMU) => Hypervisor::QemuTcg,
            Some(raw_cpuid::Hypervisor::KVM) => Hypervisor::Kvm,
            Some(_) => Hypervisor::Other,
        };
        // A hypervisor's leaf 0x40000010 is in kHz; leaf 0x15 is a ratio to a crystal, which may be unknown.
        let told_khz = hypervisor_info
            .as_ref()
            .and_then(|info| info.tsc_frequency());
        let told = told_khz.map(|khz| u64::from(khz) * 1000);
        let computed = id.get_tsc_info().and_then(|info| info.tsc_frequency());
        Features {
            hypervisor,
            apic: apic::local_apic::Features {
                x2apic: basic.as_ref().is_some_and(|it| it.has_x2apic()),
                tsc_deadline: basic.as_ref().is_some_and(|it| it.has_tsc_deadline()),
            },
            huge_pages: extended.is_some_and(|it| it.has_1gib_pages()),
            invariant_tsc: power.is_some_and(|it| it.has_invariant_tsc()),
            tsc_hz: told
                .or(computed)
                .filter(|hz| *hz > 0)
                .or_else(|| kvm_clock(hypervisor)),
            id,
        }
    }

    /// True where the hardware is software: it resets in no time, and its APIC timer runs at exactly 1 GHz
    /// (QEMU's and KVM's APIC bus has a period of 1 ns).
    pub fn emulated_apic(&self) -> bool {
        matches!(self.hypervisor, Hypervisor::QemuTcg | Hypervisor::Kvm)
    }

    /// The CPU's name for people.
    pub fn write_name(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        match self.id.get_processor_brand_string() {
            Some(brand) => out.write_str(brand.as_str().trim()),
            None => out.write_str("unnamed x86-64 CPU"),
        }
    }

    /// Sets the current CPU's control registers: no-execute, write protection, global pages, and
    /// supervisor-mode execution and access prevention where present.
    ///
    /// The page tables in use must not rely on the opposite; no page is a user's yet.
    pub fn enable(&self) {
        let extended = self.id.get_extended_feature_info();
        let has =
            |flag: fn(&raw_cpuid::ExtendedFeatures) -> bool| extended.as_ref().is_some_and(flag);
        let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::PAGE_GLOBAL;
        cr4.set(
            Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
            has(|it| it.has_smep()),
        );
        cr4.set(
            Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION,
            has(|it| it.has_smap()),
        );
        cr4.set(
            Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION,
            has(|it| it.has_umip()),
        );
        let cr0 = Cr0Flags::PAGING
            | Cr0Flags::WRITE_PROTECT
            | Cr0Flags::NUMERIC_ERROR
            | Cr0Flags::PROTECTED_MODE_ENABLE
            | Cr0Flags::EXTENSION_TYPE
            | Cr0Flags::MONITOR_COPROCESSOR;
        // SAFETY: paging and long mode stay as they are (entry.s, trampoline.s); what is added forbids things
        // that the kernel does not do: execute or access user pages, write read-only ones.
        unsafe {
            Efer::write(Efer::read() | EferFlags::NO_EXECUTE_ENABLE);
            Cr0::write(cr0);
            Cr4::write(cr4);
        }
    }
}

/// The TSC's rate from kvm-clock, where KVM offers it.
fn kvm_clock(hypervisor: Hypervisor) -> Option<u64> {
    const LEAF_FEATURES: u32 = 0x4000_0001;
    const CLOCK_SOURCE_2: u32 = 1 << 3;
    const MSR_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    const ENABLE: u64 = 1;
    let offered =
        hypervisor == Hypervisor::Kvm && raw_cpuid::cpuid!(LEAF_FEATURES).eax & CLOCK_SOURCE_2 != 0;
    let info: &'static mut TimeInfo = offered.then(|| Box::leak(Box::default()))?;
    let info = core::ptr::from_mut(info);
    let address = physical::physical_address(info)?;
    let mut msr = Msr::new(MSR_SYSTEM_TIME_NEW);
    // SAFETY: KVM writes the structure while the MSR is enabled, and only then; it is leaked, reached through this
    // pointer alone, and read when KVM has been told to stop.
    unsafe {
        msr.write(address | ENABLE);
        msr.write(0);
        info.read_volatile().tsc_hz()
    }
}
