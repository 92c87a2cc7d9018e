//! Power off, reboot, halt, and silencing the interrupt controllers of 1981.
//!
//! Both ways out try what the firmware offers, then what has always worked, and end in a halt: a machine
//! that cannot be turned off must at least stay quiet.
//!
//! Source: ACPI 6.4, 4.8.3.6 (reset register); 8042 and 8259A datasheets.
//! Invariant: registers come from the FADT; the fixed ports are where every PC has had these chips.

use super::paging;
use apic::power::Registers;
use apic::tables::{Firmware, Register};
use x86_64::instructions::{hlt, interrupts, port::Port};

/// Turns to wait for a write to take effect.
const PATIENCE: u32 = 1_000_000;

/// Turns the machine off, or halts it for good.
pub fn power_off(firmware: &Firmware) -> ! {
    interrupts::disable();
    if let Some(how) = firmware.soft_off {
        apic::power::soft_off(&Fixed, how);
    }
    // The machine may take a moment.
    (0..PATIENCE).for_each(|_| core::hint::spin_loop());
    halt()
}

/// Starts the machine again: reset register, keyboard controller, triple fault, in this order.
pub fn reboot(firmware: Option<&Firmware>) -> ! {
    interrupts::disable();
    if let Some((register, value)) = firmware.and_then(|firmware| firmware.reset) {
        Fixed.write8(register, value);
        (0..PATIENCE).for_each(|_| core::hint::spin_loop());
    }
    const KEYBOARD_COMMAND: u16 = 0x64;
    const PULSE_RESET: u8 = 0xfe;
    // SAFETY: resets the machine, as asked.
    unsafe { Port::new(KEYBOARD_COMMAND).write(PULSE_RESET) };
    (0..PATIENCE).for_each(|_| core::hint::spin_loop());
    // SAFETY: an empty interrupt table makes the next exception a triple fault, which resets the CPU.
    unsafe {
        let nothing = x86_64::structures::DescriptorTablePointer {
            limit: 0,
            base: x86_64::VirtAddr::zero(),
        };
        x86_64::instructions::tables::lidt(&nothing);
        core::arch::asm!("ud2");
    }
    halt()
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}

/// Masks the two 8259 controllers: what a BIOS left pending there would arrive as an exception.
pub fn mask_legacy_interrupts() {
    // SAFETY: the mask registers of the 8259s; where there are none, nobody listens.
    unsafe {
        Port::<u8>::new(0x21).write(0xff);
        Port::<u8>::new(0xa1).write(0xff);
    }
}

/// The fixed hardware registers of this machine (module head).
struct Fixed;

impl Registers for Fixed {
    fn read16(&self, register: Register) -> u16 {
        match register {
            // SAFETY: a PM1 control register; reading has no effect.
            Register::Port(port) => unsafe { Port::new(port).read() },
            // SAFETY: as above, shown in the window.
            Register::Memory(at) => paging::map_device(at..at + 2).map_or(0, |pointer| unsafe {
                pointer.cast::<u16>().read_volatile()
            }),
        }
    }

    fn write16(&self, register: Register, value: u16) {
        match register {
            // SAFETY: a PM1 control register; the value powers the machine off.
            Register::Port(port) => unsafe { Port::new(port).write(value) },
            Register::Memory(at) => {
                if let Some(pointer) = paging::map_device(at..at + 2) {
                    // SAFETY: as above.
                    unsafe { pointer.cast::<u16>().write_volatile(value) }
                }
            }
        }
    }

    fn write8(&self, register: Register, value: u8) {
        match register {
            // SAFETY: the reset, sleep control or SMI command register, and the value that the FADT gives for it.
            Register::Port(port) => unsafe { Port::new(port).write(value) },
            Register::Memory(at) => {
                if let Some(pointer) = paging::map_device(at..at + 1) {
                    // SAFETY: as above.
                    unsafe { pointer.write_volatile(value) }
                }
            }
        }
    }
}
