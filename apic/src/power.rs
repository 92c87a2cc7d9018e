//! Switching a machine off as its FADT says.
//!
//! Register by register, through a trait ([`Registers`]); what follows if the machine stays on is the caller's.
//!
//! Source: ACPI 6.4, 4.8.3 (PM1 control, sleep control, reset register).

use crate::tables::{Register, SoftOff};

const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE: u16 = 7 << 10;
const SCI_ENABLED: u16 = 1;
/// Looks at a register while the firmware hands over.
const PATIENCE: u32 = 1_000_000;

/// The registers that an FADT names.
pub trait Registers {
    /// A register of 16 bits.
    fn read16(&self, register: Register) -> u16;
    /// A register of 16 bits.
    fn write16(&self, register: Register, value: u16);
    /// A register of 8 bits.
    fn write8(&self, register: Register, value: u8);
}

/// Asks for the machine to be switched off. It may take a moment.
pub fn soft_off(registers: &impl Registers, how: SoftOff) {
    match how {
        SoftOff::Pm1 {
            a,
            b,
            types,
            acquire,
        } => {
            let is_ours = || registers.read16(a) & SCI_ENABLED != 0;
            if let Some((port, value)) = acquire.filter(|_| !is_ours()) {
                registers.write8(Register::Port(port), value);
                let _ = (0..PATIENCE).find(|_| is_ours());
            }
            let command = |register, sleep_type: u8| {
                let rest = registers.read16(register) & !SLEEP_TYPE;
                let value = rest | u16::from(sleep_type) << 10 | SLEEP_ENABLE;
                registers.write16(register, value);
            };
            command(a, types.a);
            if let Some(b) = b {
                command(b, types.b);
            }
        }
        SoftOff::Control { register, types } => {
            registers.write8(register, types.a << 2 | 1 << 5);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sleep_package::SleepTypes;
    use alloc::vec::Vec;
    use core::cell::{Cell, RefCell};

    const A: Register = Register::Port(0x604);
    const B: Register = Register::Memory(0x1_0000_0000);
    const TYPES: SleepTypes = SleepTypes { a: 5, b: 6 };

    /// PM1 registers that read `now`, and what was written.
    #[derive(Default)]
    struct Fake {
        now: Cell<u16>,
        written: RefCell<Vec<(Register, u16)>>,
    }

    impl Registers for Fake {
        fn read16(&self, _: Register) -> u16 {
            self.now.get()
        }
        fn write16(&self, register: Register, value: u16) {
            self.written.borrow_mut().push((register, value));
        }
        fn write8(&self, register: Register, value: u8) {
            self.written.borrow_mut().push((register, value.into()));
            if register == Register::Port(0xb2) {
                self.now.set(self.now.get() | SCI_ENABLED);
            }
        }
    }

    fn written(now: u16, how: SoftOff) -> Vec<(Register, u16)> {
        let fake = Fake::default();
        fake.now.set(now);
        soft_off(&fake, how);
        fake.written.into_inner()
    }

    fn pm1(b: Option<Register>, acquire: Option<(u16, u8)>) -> SoftOff {
        SoftOff::Pm1 {
            a: A,
            b,
            types: TYPES,
            acquire,
        }
    }

    #[test]
    fn the_machine_is_taken_over_from_the_firmware_once() {
        let off = |now| written(now, pm1(None, Some((0xb2, 0xf0))));
        assert_eq!(off(0), [(Register::Port(0xb2), 0xf0), (A, 0x3401)]);
        assert_eq!(off(1), [(A, 0x3401)]);
    }

    #[test]
    fn both_halves_get_their_types_and_keep_their_other_bits() {
        let expected = [
            (A, 0x8000 | 5 << 10 | 1 << 13),
            (B, 0x8000 | 6 << 10 | 1 << 13),
        ];
        assert_eq!(written(0x8000 | 7 << 10, pm1(Some(B), None)), expected);
    }

    #[test]
    fn a_machine_without_pm1_has_one_register() {
        let register = Register::Port(0x600);
        let how = SoftOff::Control {
            register,
            types: TYPES,
        };
        assert_eq!(written(0, how), [(register, 5 << 2 | 1 << 5)]);
    }
}
