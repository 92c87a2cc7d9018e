//! The console's input: from the receive interrupt to whoever edits lines.
//!
//! A ring of bytes with one producer (COM1's interrupt handler, on CPU 0) and one consumer (the console's
//! thread). What does not fit is counted; the UART's own FIFO holds 16 bytes more before that. Bytes that
//! came before interrupts were on are put in by the boot.
//!
//! Orders: the producer writes a byte, then moves `head` with Release; the consumer loads `head` with
//! Acquire, reads bytes, then moves `tail` with Release, which the producer loads with Acquire.

use super::serial;
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use executor::Event;

const CAPACITY: usize = 4096;

/// The ring and its event.
pub struct Console {
    bytes: [AtomicU8; CAPACITY],
    head: AtomicUsize,
    tail: AtomicUsize,
    overruns: AtomicU64,
    event: Event,
}

impl Console {
    /// Empty.
    pub const fn new() -> Console {
        Console {
            bytes: [const { AtomicU8::new(0) }; CAPACITY],
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            overruns: AtomicU64::new(0),
            event: Event::new(),
        }
    }

    /// Puts one byte in; drops and counts it when the ring is full. Producer.
    pub fn put(&self, byte: u8) {
        let head = self.head.load(Ordering::Relaxed);
        if head.wrapping_sub(self.tail.load(Ordering::Acquire)) == CAPACITY {
            self.overruns.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.bytes[head % CAPACITY].store(byte, Ordering::Relaxed);
        self.head.store(head.wrapping_add(1), Ordering::Release);
    }

    /// Takes what there is. Consumer.
    pub fn take(&self, buffer: &mut [u8]) -> usize {
        let tail = self.tail.load(Ordering::Relaxed);
        let available = self.head.load(Ordering::Acquire).wrapping_sub(tail);
        let len = available.min(buffer.len());
        for (offset, slot) in buffer[..len].iter_mut().enumerate() {
            *slot = self.bytes[tail.wrapping_add(offset) % CAPACITY].load(Ordering::Relaxed);
        }
        self.tail.store(tail.wrapping_add(len), Ordering::Release);
        len
    }

    /// Empties the UART into the ring: its interrupt handler.
    pub fn receive(&self) {
        // All of it, or the line stays asserted and an edge-triggered input never fires again.
        while let Some(byte) = serial::COM1.receive() {
            self.put(byte);
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
        self.overruns.load(Ordering::Relaxed)
    }
}

impl Default for Console {
    fn default() -> Console {
        Console::new()
    }
}
