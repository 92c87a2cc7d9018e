//! A ring of bytes from one interrupt handler to one thread.
//!
//! Orders: the producer writes a byte, then moves `head` with Release; the consumer loads `head` with Acquire,
//! reads bytes, then moves `tail` with Release, which the producer loads with Acquire before it reuses a slot.
//! Indices count without wrapping at the capacity, so that full and empty differ. All of it is atomics: a
//! second producer or consumer would mix bytes up, and nothing worse.

use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

const CAPACITY: usize = 4096;

/// The ring, and how many bytes did not fit.
#[derive(Debug)]
pub struct ByteRing {
    bytes: [AtomicU8; CAPACITY],
    /// Bytes put so far. Producer.
    head: AtomicUsize,
    /// Bytes taken so far. Consumer.
    tail: AtomicUsize,
    overruns: AtomicU64,
}

impl ByteRing {
    /// Empty.
    pub const fn new() -> ByteRing {
        ByteRing {
            bytes: [const { AtomicU8::new(0) }; CAPACITY],
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            overruns: AtomicU64::new(0),
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

    /// Takes what there is; the number of bytes. Consumer.
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

    /// Bytes that did not fit.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }
}

impl Default for ByteRing {
    fn default() -> ByteRing {
        ByteRing::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn bytes_come_out_as_they_went_in_across_the_wrap() {
        let ring = ByteRing::new();
        let mut buffer = [0; 100];
        for round in 0..200u8 {
            (0..100u8).for_each(|byte| ring.put(byte ^ round));
            assert_eq!(ring.take(&mut buffer), 100);
            assert!(
                buffer
                    .iter()
                    .zip(0..100u8)
                    .all(|(got, byte)| *got == byte ^ round)
            );
        }
        assert_eq!(ring.take(&mut buffer), 0);
    }

    #[test]
    fn what_does_not_fit_is_dropped_at_the_end_and_counted() {
        let ring = ByteRing::new();
        (0..CAPACITY).for_each(|_| ring.put(b'a'));
        ring.put(b'b');
        assert_eq!(ring.overruns(), 1);
        let mut buffer = [0; CAPACITY + 1];
        assert_eq!(ring.take(&mut buffer), CAPACITY);
        assert!(buffer[..CAPACITY].iter().all(|byte| *byte == b'a'));
    }

    #[test]
    fn a_producer_and_a_consumer_at_the_same_time_lose_and_reorder_nothing() {
        const TOTAL: usize = 200_000;
        let ring = ByteRing::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                for index in 0..TOTAL {
                    let before = ring.overruns();
                    ring.put(index as u8);
                    while ring.overruns() != before {
                        // It was full: the test wants every byte, so once more.
                        ring.overruns.store(before, Ordering::Relaxed);
                        thread::yield_now();
                        ring.put(index as u8);
                    }
                }
            });
            let mut next = 0;
            let mut buffer = [0; 333];
            while next < TOTAL {
                let len = ring.take(&mut buffer);
                for byte in &buffer[..len] {
                    assert_eq!(*byte, next as u8);
                    next += 1;
                }
                if len == 0 {
                    thread::yield_now();
                }
            }
        });
    }
}
