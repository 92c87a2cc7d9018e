//! What lies in one slot of a [wheel](super::wheel): records, in chunks that are read in a row.
//!
//! A record stands for a timer, which may be gone by now; only the wheel can tell. Chunks are of one size, so that
//! each can be used for any slot, and large enough that one is all that a CPU with few timers has.

use super::{pool::NONE, wheel::Key};
use core::ops::Range;

/// Records in a chunk, which is sixteen cache lines.
pub(super) const CHUNK: usize = 42;

#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) deadline_ns: u64,
    pub(super) key: Key,
}

/// The records `begin..end` are in use.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Chunk {
    pub(super) records: [Record; CHUNK],
    pub(super) next: u32,
    pub(super) begin: u8,
    pub(super) end: u8,
    /// The records were looked through and are in the order of their deadlines.
    pub(super) sorted: bool,
}

impl Chunk {
    pub(super) const EMPTY: Self = Self {
        records: [Record {
            deadline_ns: 0,
            key: Key {
                room: NONE,
                number: 0,
            },
        }; CHUNK],
        next: NONE,
        begin: 0,
        end: 0,
        sorted: false,
    };

    pub(super) fn len(&self) -> u32 {
        u32::from(self.end - self.begin)
    }

    pub(super) fn in_use(&self) -> Range<usize> {
        usize::from(self.begin)..usize::from(self.end)
    }

    #[inline]
    pub(super) fn push(&mut self, record: Record) {
        self.records[usize::from(self.end)] = record;
        self.end += 1;
        self.sorted = false;
    }

    /// Keeps the records that `keep` has bits for, and sorts them; equal deadlines stay in their order. Mostly all but the
    /// last are sorted already.
    pub(super) fn sort(&mut self, mut keep: u64) {
        let mut kept = 0;
        while keep != 0 {
            let record = self.records[keep.trailing_zeros() as usize];
            keep &= keep - 1;
            let mut place = kept;
            while place > 0 && self.records[place - 1].deadline_ns > record.deadline_ns {
                self.records[place] = self.records[place - 1];
                place -= 1;
            }
            self.records[place] = record;
            kept += 1;
        }
        (self.begin, self.end, self.sorted) = (0, kept as u8, true);
    }
}

/// A queue of records, in chunks.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) records: u32,
    /// How many of the records still have their timer. A slot with none has no records.
    pub(super) timers: u32,
    /// No record is earlier.
    pub(super) earliest_ns: u64,
}

impl Slot {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
        records: 0,
        timers: 0,
        earliest_ns: u64::MAX,
    };
}
