//! What an x86 machine is made of, as plain code over traits.
//!
//! [`LocalApic`] (xAPIC and x2APIC behind one type), [`IoApic`], [`message`] (MSI), [`start`] (the broadcast
//! INIT-SIPI-SIPI and who answered), and [`tables`] (the MADT, FADT, HPET and MCFG, and the `_S5_` package of
//! the DSDT). Around them: what a boot loader and QEMU hand over ([`boot_info`], [`fw_cfg`]), the clock and its
//! rate ([`clock`], [`scale`], [`kvm_clock`]), which interrupt vectors are taken ([`vector_map`]), what an
//! exception says ([`exception`]) and how the machine is switched off ([`power`]).
//!
//! The kernel's pc64 platform is the one user. Everything that touches hardware goes through a trait that the
//! platform implements, because the machines that we test on lack half of it: QEMU's TCG has neither x2APIC
//! nor TSC-deadline, so that those paths run under `cargo test` against fake registers.
//!
//! Source: Intel SDM volume 3A, chapter 11; ACPI 6.4, chapters 4 and 5; 82093AA I/O APIC datasheet.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod boot_info;
pub mod clock;
pub mod exception;
pub mod fw_cfg;
pub mod io_apic;
pub mod kvm_clock;
pub mod local_apic;
pub mod message;
pub mod power;
pub mod scale;
pub mod sleep_package;
pub mod start;
pub mod tables;
pub mod vector_map;

pub use io_apic::IoApic;
pub use local_apic::LocalApic;
