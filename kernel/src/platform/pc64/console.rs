//! The console's input: from the receive interrupt to whoever edits lines.
//!
//! One producer, COM1's interrupt handler on CPU 0 (and the boot, before there are interrupts); one consumer,
//! the console's thread. What does not fit into the ring is dropped and counted.

use super::serial;
use crate::console::byte_ring::ByteRing;
use executor::Event;

/// The ring and its event.
#[derive(Debug, Default)]
pub struct Console {
    ring: ByteRing,
    event: Event,
}

impl Console {
    /// Nothing received.
    pub const fn new() -> Console {
        Console {
            ring: ByteRing::new(),
            event: Event::new(),
        }
    }

    /// Puts one byte in that came before there were interrupts.
    pub fn put(&self, byte: u8) {
        self.ring.put(byte);
    }

    /// Takes what there is; the number of bytes. The console's thread.
    pub fn take(&self, buffer: &mut [u8]) -> usize {
        self.ring.take(buffer)
    }

    /// Empties the UART into the ring: its interrupt handler.
    pub fn receive(&self) {
        // All of it, or the line stays asserted and an edge-triggered input never fires again.
        while let Some(byte) = serial::COM1.receive() {
            self.ring.put(byte);
        }
        self.event.signal();
    }

    /// Lets the UART interrupt, and signals what has come before.
    pub fn enable(&self) {
        serial::COM1.enable_receive_interrupt();
        self.event.signal();
    }

    /// Signalled when input has arrived.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Bytes lost because nobody took them.
    pub fn overruns(&self) -> u64 {
        self.ring.overruns()
    }
}
