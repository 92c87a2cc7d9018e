//! The 16550 UARTs: COM1 is the console, COM2 carries the trace.
//!
//! Output is synchronous: bytes go out one after another with no lock that a panic could find taken, so a
//! message printed by two CPUs at once may be torn, but never waits for ever. Input comes by interrupt
//! (`console.rs` owns the ring). The `uart_16550` crate has the registers and their bits; its driver is for
//! one owner (`&mut self`), which a port that every CPU prints to does not have, and its initialisation
//! throws away what has been received.
//!
//! Decision: the receive FIFO triggers at 14 bytes (10 times the throughput of trigger 1 under QEMU). Turning
//! the FIFO on empties it, and so does asking for a reset: we do not ask (firmware may have turned it on
//! already), and drain and keep what a user or a script typed ahead right before. A byte is lost only if it
//! arrives between two port accesses, and only if the FIFO was off.
//!
//! Invariant: [`Port`] addresses one of the two standard UARTs; its registers do not touch memory, whatever
//! the hardware there is.

use core::fmt;

use crate::report::Lines;
use uart_16550::spec::registers::{FCR, FifoTriggerLevel, IER, LCR, LSR, MCR, WordLength, offsets};
use x86_64::instructions::port::Port as IoPort;

/// A transmitter that stays busy so long (about a tenth of a second) is broken: bytes are then dropped.
const TRANSMIT_POLLS_MAX: u32 = 100_000;
/// As many typed-ahead bytes as `console.rs` keeps. Behind a virtual UART, more arrive while we read.
const DRAIN_MAX: usize = 4096;

/// One UART, by its I/O base. Copies are the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(u16);

/// The console, ISA interrupt 4.
pub const COM1: Port = Port(0x3f8);
/// The trace stream.
pub const COM2: Port = Port(0x2f8);
/// COM1's interrupt on the ISA bus.
pub const COM1_ISA_IRQ: u8 = 4;

impl Port {
    /// Brings the port up (115200 8N1, FIFOs on, interrupts off). False if there is none.
    /// `keep` gets the bytes that had arrived before.
    pub fn init(self, mut keep: impl FnMut(u8)) -> bool {
        const PATTERN: u8 = 0xa5;
        const DIVISOR_115200: u8 = 1;
        self.write(offsets::SPR, PATTERN);
        if self.read(offsets::SPR) != PATTERN {
            return false;
        }
        self.write(offsets::IER, 0);
        self.write(offsets::LCR, LCR::DLAB.bits());
        self.write(offsets::DLL, DIVISOR_115200);
        self.write(offsets::DLM, 0);
        let line = LCR::empty().set_word_length(WordLength::EightBits);
        self.write(offsets::LCR, line.bits());
        // OUT2 connects the UART to its interrupt line.
        self.write(
            offsets::MCR,
            (MCR::DTR | MCR::RTS | MCR::OUT_2_INT_ENABLE).bits(),
        );
        let fifo = FCR::FIFO_ENABLE.set_fifo_trigger_level(FifoTriggerLevel::Fourteen);
        for byte in (0..DRAIN_MAX).map_while(|_| self.receive()) {
            keep(byte);
        }
        self.write(offsets::FCR, fifo.bits());
        true
    }

    /// The next received byte.
    #[inline]
    pub fn receive(self) -> Option<u8> {
        let ready = self.read(offsets::LSR) & LSR::DATA_READY.bits() != 0;
        ready.then(|| self.read(offsets::DATA))
    }

    /// Lets the port interrupt when bytes have arrived.
    pub fn enable_receive_interrupt(self) {
        self.write(offsets::IER, IER::DATA_READY.bits());
    }

    /// Sends every byte; returns when the last is in the transmitter's FIFO.
    pub fn send(self, bytes: &[u8]) {
        for &byte in bytes {
            let mut polls = 0;
            while self.read(offsets::LSR) & LSR::THR_EMPTY.bits() == 0 {
                polls += 1;
                if polls == TRANSMIT_POLLS_MAX {
                    return;
                }
                core::hint::spin_loop();
            }
            self.write(offsets::DATA, byte);
        }
    }

    #[inline]
    fn read(self, offset: usize) -> u8 {
        // SAFETY: a register of a standard UART (module head).
        unsafe { IoPort::new(self.0 + offset as u16).read() }
    }

    #[inline]
    fn write(self, offset: usize, value: u8) {
        // SAFETY: as above.
        unsafe { IoPort::new(self.0 + offset as u16).write(value) }
    }
}

/// The console port for formatted text: early messages and panics.
pub fn writer() -> impl fmt::Write {
    Lines(|bytes: &[u8]| COM1.send(bytes))
}

/// Prints to the console port at once, from any context, without the console's help.
#[macro_export]
macro_rules! early_println {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::platform::pc64::serial::writer(), $($argument)*);
    }};
}
