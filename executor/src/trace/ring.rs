//! The ring of one CPU's newest records: the owner writes, anybody reads while it runs or after it has died.
//!
//! ```text
//!   owner                                reader
//!   next := n + 1           (relaxed)    read `written` (acquire): up to there records are whole
//!   fence (release)                      copy records
//!   slot n % SIZE := record (relaxed)    fence (acquire), read `next`: slots below next - SIZE may have been
//!   written := n + 1        (release)    overwritten meanwhile: drop those, count them as lost
//! ```
//!
//! A reader never stops the owner, and a record that it reports is one that was written: what the writer overtook is
//! counted, not shown.

use super::Record;
use crate::sync::{AtomicPtr, AtomicU64, Fault, Ordering, fault, fence};
use alloc::boxed::Box;

/// Records a ring keeps: 64 KiB of memory. Shrunk under loom so that a model comes round.
#[cfg(not(loom))]
pub const SIZE: usize = 4096;
/// Records a ring keeps.
#[cfg(loom)]
pub const SIZE: usize = 2;

type Slots = [[AtomicU64; 2]; SIZE];

/// The ring. Its memory is made at the first record, so that a CPU that is never traced has none.
#[derive(Debug)]
pub struct Ring {
    slots: AtomicPtr<Slots>,
    next: AtomicU64,
    written: AtomicU64,
    refused: AtomicU64,
}

impl Ring {
    /// An empty ring, with no memory yet.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self {
            slots: AtomicPtr::new(core::ptr::null_mut()),
            next: AtomicU64::new(0),
            written: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn slots(&self) -> Option<&Slots> {
        // SAFETY: made by `push` and freed by drop alone.
        unsafe { self.slots.load(Ordering::Acquire).as_ref() }
    }

    /// True once it has memory. The raw timer entry may come in the middle of an allocation, so it records only then.
    pub fn is_made(&self) -> bool {
        self.slots().is_some()
    }

    #[cold]
    fn make(&self) -> &Slots {
        let slots: Box<Slots> = {
            let slots: Box<[[AtomicU64; 2]]> = (0..SIZE).map(|_| Default::default()).collect();
            slots.try_into().expect("SIZE slots were collected")
        };
        let slots = Box::into_raw(slots);
        self.slots.store(slots, Ordering::Release);
        // SAFETY: just made.
        unsafe { &*slots }
    }

    /// Appends a record. Owner, in a critical section.
    #[inline]
    pub fn push(&self, record: Record) {
        let slots = self.slots().unwrap_or_else(|| self.make());
        let sequence = self.written.load(Ordering::Relaxed);
        if self.next.load(Ordering::Relaxed) != sequence {
            // The raw timer entry came in the middle of a push: its own record must not share the slot.
            self.refused.store(self.refused() + 1, Ordering::Relaxed);
            return;
        }
        self.next.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let slot = &slots[sequence as usize % SIZE];
        slot[0].store(record.time_ns, Ordering::Relaxed);
        slot[1].store(record.word, Ordering::Relaxed);
        self.written.store(sequence + 1, Ordering::Release);
    }

    /// How many records were not written because they came in the middle of another.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many records were ever written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Copies records from number `from` on into `out`. Returns the number of the first one copied, which is above
    /// `from` by what was lost, and how many were copied.
    pub fn read(&self, from: u64, out: &mut [Record]) -> (u64, usize) {
        let written = self.written();
        let first = from.max(written.saturating_sub(SIZE as u64)).min(written);
        let count = ((written - first) as usize).min(out.len());
        let Some(slots) = self.slots() else {
            return (first, 0);
        };
        for (number, record) in (first..).zip(&mut out[..count]) {
            let slot = &slots[number as usize % SIZE];
            record.time_ns = slot[0].load(Ordering::Relaxed);
            record.word = slot[1].load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        let safe = self
            .next
            .load(Ordering::Relaxed)
            .saturating_sub(SIZE as u64);
        let safe = if fault(Fault::ReadWithoutRecheck) {
            0
        } else {
            safe
        };
        let overtaken = (safe.saturating_sub(first) as usize).min(count);
        out.copy_within(overtaken..count, 0);
        (first + overtaken as u64, count - overtaken)
    }

    /// Calls `each` with the newest `count` records, oldest first. For a panic: allocates nothing.
    pub fn last(&self, count: usize, mut each: impl FnMut(Record)) {
        let mut from = self.written().saturating_sub(count as u64);
        let mut one = [Record::default()];
        while from < self.written() {
            let (first, got) = self.read(from, &mut one);
            if got == 0 {
                return;
            }
            each(one[0]);
            from = first + 1;
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let slots = self.slots.load(Ordering::Relaxed);
        if !slots.is_null() {
            // SAFETY: made by Box in `make`.
            drop(unsafe { Box::from_raw(slots) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::trace::Event;
    extern crate std;

    fn record(n: u64) -> Record {
        Record::new(n, Event::Mark, 0, 0, n as u32)
    }

    #[test]
    fn what_was_overwritten_is_skipped_and_can_be_counted() {
        let ring = Ring::new();
        for n in 0..SIZE as u64 + 10 {
            ring.push(record(n));
        }
        let mut out = [Record::default(); 5];
        assert_eq!(ring.read(0, &mut out), (10, 5));
        assert_eq!(out.map(|r| r.time_ns), [10, 11, 12, 13, 14]);
        assert_eq!(ring.read(SIZE as u64 + 10, &mut out).1, 0);
        let mut last = alloc::vec::Vec::new();
        ring.last(2, |r| last.push(r.time_ns));
        assert_eq!(last, [SIZE as u64 + 8, SIZE as u64 + 9]);
    }

    #[test]
    fn a_reader_beside_a_fast_writer_never_sees_a_torn_record() {
        let ring = Ring::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..400_000).for_each(|n| ring.push(record(n))));
            let (mut from, mut seen, mut lost) = (0, 0, 0);
            let mut out = [Record::default(); 256];
            while from < 400_000 {
                let (first, count) = ring.read(from, &mut out);
                lost += first - from;
                for (n, record) in (first..).zip(&out[..count]) {
                    assert_eq!(
                        (record.time_ns, record.arg()),
                        (n, n as u32),
                        "torn or misplaced"
                    );
                }
                seen += count as u64;
                from = first + count as u64;
            }
            assert_eq!(seen + lost, 400_000);
        });
    }
}
