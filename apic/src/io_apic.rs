//! An I/O APIC: one redirection entry per input line.
//!
//! [`IoApic`] covers the global system interrupts from its base on; [`IoApic::route`] sends one to a CPU's
//! vector. Everything starts masked. Only physical destinations are written: an interrupt belongs to one
//! CPU, and the CPU that takes it is the one whose thread it wakes.
//!
//! Source: 82093AA datasheet, section 3.2.

/// The index and data registers; the platform implements it over the chip's page, tests with an array.
pub trait Hardware {
    /// Reads the register of this index.
    fn read(&self, index: u8) -> u32;
    /// Writes it.
    fn write(&self, index: u8, value: u32);
}

/// Electrical shape of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Asserted as long as it is active, rather than by an edge.
    pub level: bool,
    /// Active when low.
    pub active_low: bool,
}

impl Signal {
    /// What an ISA interrupt is when no override says otherwise.
    pub const ISA: Signal = Signal {
        level: false,
        active_low: false,
    };
}

/// Where an input goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The CPU, by APIC id (an I/O APIC without interrupt remapping reaches ids below 256).
    pub apic_id: u8,
    /// The vector it raises there.
    pub vector: u8,
    /// The input's shape.
    pub signal: Signal,
}

/// The global system interrupt is not one of this chip's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

/// One I/O APIC.
#[derive(Debug)]
pub struct IoApic<H> {
    hardware: H,
    first: u32,
    count: u32,
}

const VERSION: u8 = 0x01;
const TABLE: u8 = 0x10;
const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

impl<H: Hardware> IoApic<H> {
    /// Takes over the chip whose first input is global system interrupt `first`, and masks all inputs.
    pub fn new(hardware: H, first: u32) -> IoApic<H> {
        // The index register is 8 bits: at most 120 entries fit, whatever the version register claims.
        let count = (hardware.read(VERSION) >> 16 & 0xff).min(119) + 1;
        for input in 0..count {
            hardware.write(TABLE + 2 * input as u8, MASKED);
        }
        IoApic {
            hardware,
            first,
            count,
        }
    }

    /// The number of inputs.
    pub fn inputs(&self) -> u32 {
        self.count
    }

    /// Routes and unmasks a global system interrupt.
    pub fn route(&self, interrupt: u32, route: Route) -> Result<(), NotOurs> {
        let index = self.index(interrupt)?;
        let mut low = u32::from(route.vector);
        if route.signal.level {
            low |= LEVEL;
        }
        if route.signal.active_low {
            low |= ACTIVE_LOW;
        }
        // Masked while half written: an edge in between would go to the wrong CPU.
        self.hardware.write(index, MASKED);
        self.hardware
            .write(index + 1, u32::from(route.apic_id) << 24);
        self.hardware.write(index, low);
        Ok(())
    }

    /// Masks a global system interrupt.
    pub fn mask(&self, interrupt: u32) -> Result<(), NotOurs> {
        let index = self.index(interrupt)?;
        self.hardware
            .write(index, self.hardware.read(index) | MASKED);
        Ok(())
    }

    fn index(&self, interrupt: u32) -> Result<u8, NotOurs> {
        let input = interrupt
            .checked_sub(self.first)
            .filter(|&input| input < self.count);
        input.map(|input| TABLE + 2 * input as u8).ok_or(NotOurs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    struct Fake {
        registers: RefCell<[u32; 256]>,
        log: RefCell<Vec<(u8, u32)>>,
    }

    impl Fake {
        fn new(inputs: u32) -> Fake {
            let mut registers = [0; 256];
            registers[1] = (inputs - 1) << 16 | 0x20;
            Fake {
                registers: RefCell::new(registers),
                log: RefCell::default(),
            }
        }
    }

    impl Hardware for &Fake {
        fn read(&self, index: u8) -> u32 {
            self.registers.borrow()[usize::from(index)]
        }
        fn write(&self, index: u8, value: u32) {
            self.registers.borrow_mut()[usize::from(index)] = value;
            self.log.borrow_mut().push((index, value));
        }
    }

    #[test]
    fn starts_with_every_input_masked() {
        let fake = Fake::new(24);
        let chip = IoApic::new(&fake, 0);
        assert_eq!(chip.inputs(), 24);
        assert!((0..24).all(|input| fake.registers.borrow()[0x10 + 2 * input] == 1 << 16));
        assert_eq!(
            fake.registers.borrow()[0x10 + 2 * 24],
            0,
            "and nothing beyond is touched"
        );
    }

    #[test]
    fn routes_the_second_chip_of_microvm_by_global_interrupt() {
        let fake = Fake::new(24);
        let chip = IoApic::new(&fake, 24);
        fake.log.borrow_mut().clear();
        let signal = Signal {
            level: true,
            active_low: true,
        };
        assert_eq!(
            chip.route(
                29,
                Route {
                    apic_id: 3,
                    vector: 0x41,
                    signal
                }
            ),
            Ok(())
        );
        assert_eq!(
            *fake.log.borrow(),
            [(0x1a, 1 << 16), (0x1b, 3 << 24), (0x1a, 0xa041)]
        );
        assert_eq!(chip.mask(29), Ok(()));
        assert_eq!(fake.registers.borrow()[0x1a], 0x1_a041);
    }

    #[test]
    fn an_interrupt_of_another_chip_is_refused() {
        let fake = Fake::new(24);
        let chip = IoApic::new(&fake, 24);
        let route = Route {
            apic_id: 0,
            vector: 0x40,
            signal: Signal::ISA,
        };
        assert_eq!(chip.route(23, route), Err(NotOurs));
        assert_eq!(chip.route(48, route), Err(NotOurs));
        assert_eq!(chip.mask(0), Err(NotOurs));
    }

    #[test]
    fn a_chip_that_claims_256_inputs_does_not_wrap_the_index() {
        let fake = Fake::new(256);
        assert_eq!(IoApic::new(&fake, 0).inputs(), 120);
    }
}
