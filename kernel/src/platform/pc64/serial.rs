//! The 16550 UARTs: COM1 is the console, COM2 carries the trace.
//!
//! Output is synchronous: bytes go out one after another with no lock that a panic could find taken, so a
//! message printed by two CPUs at once may be torn, but never waits for ever. Input comes by interrupt
//! (`console.rs` owns the ring). The `uart_16550` crate brings the port up and names its registers; its
//! `&mut self` methods are for one owner, which a port written by every CPU does not have.
//!
//! Decision: the receive FIFO triggers at 14 bytes (10 times the throughput of trigger 1 under QEMU), and
//! what has arrived before our reset is drained and kept: the reset would throw away what a user typed ahead.
//!
//! Invariant: [`Port`] addresses one of the two standard UARTs; reading RBR or writing THR there is harmless
//! to memory whatever the hardware is.

use core::fmt;

use uart_16550::spec::registers::{IER, LSR};
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::port::Port as IoPort;

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const LINE_STATUS: u16 = 5;
/// A transmitter that stays busy so long (about a tenth of a second) is broken: bytes are then dropped.
const TRANSMIT_POLLS_MAX: u32 = 100_000;
/// More typed-ahead bytes than any FIFO holds.
const DRAIN_MAX: usize = 64;

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
        for _ in 0..DRAIN_MAX {
            match self.receive() {
                // An absent port reads as all ones, and goes on doing so: that is no input.
                Some(byte) if self.status() != 0xff => keep(byte),
                _ => break,
            }
        }
        let config = Config {
            baud_rate: BaudRate::Baud115200,
            ..Config::DEFAULT
        };
        // SAFETY: a standard UART base (module head); nobody else resets it.
        let uart = unsafe { Uart16550::new_port(self.0) };
        uart.is_ok_and(|mut uart| uart.init(config).is_ok())
    }

    /// The next received byte.
    #[inline]
    pub fn receive(self) -> Option<u8> {
        if self.status() & LSR::DATA_READY.bits() == 0 {
            return None;
        }
        // SAFETY: reading RBR (module head).
        Some(unsafe { IoPort::new(self.0 + DATA).read() })
    }

    /// Lets the port interrupt when bytes have arrived.
    pub fn enable_receive_interrupt(self) {
        // SAFETY: a standard UART's interrupt enable register (module head).
        unsafe { IoPort::new(self.0 + INTERRUPT_ENABLE).write(IER::DATA_READY.bits()) }
    }

    /// Sends every byte; returns when the last is in the transmitter's FIFO.
    pub fn send(self, bytes: &[u8]) {
        let mut data = IoPort::<u8>::new(self.0 + DATA);
        for &byte in bytes {
            let mut polls = 0;
            while self.status() & LSR::THR_EMPTY.bits() == 0 {
                polls += 1;
                if polls == TRANSMIT_POLLS_MAX {
                    return;
                }
                core::hint::spin_loop();
            }
            // SAFETY: writing THR (module head).
            unsafe { data.write(byte) };
        }
    }

    #[inline]
    fn status(self) -> u8 {
        // SAFETY: reading LSR (module head).
        unsafe { IoPort::new(self.0 + LINE_STATUS).read() }
    }
}

/// Formatted text to a port, "\n" becoming "\r\n". For early messages and panics.
pub struct Writer(pub Port);

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.0.send(b"\r\n");
            }
            self.0.send(line.as_bytes());
        }
        Ok(())
    }
}

/// Prints to the console port at once, from any context, without the console's help.
#[macro_export]
macro_rules! early_println {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::platform::pc64::serial::Writer($crate::platform::pc64::serial::COM1), $($argument)*);
    }};
}
