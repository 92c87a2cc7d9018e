//! A hierarchical timing wheel that fires in exact order, to the nanosecond.
//!
//! Time is written in digits of five bits: thirteen hold a `u64`. A timer lies on the level of the highest digit in which
//! its deadline differs from where the wheel stands, in the slot of that digit. A slot of level 0 is one nanosecond, one of
//! level 6 about a second; a word for each level has a bit for each slot with something in it.
//!
//! ```text
//!   the wheel stands at      ..  12  20  07  31
//!   a deadline of            ..  12  21  30  02       lies on level 2, slot 21
//!   when the wheel stands at ..  12  21  05  17       on level 1, slot 30; and in the end on level 0, slot 2
//! ```
//!
//! Where a timer lies depends on its deadline and on where the wheel stands, on nothing else. So equal deadlines always
//! lie in one slot; and as slots are queues, which a move to a lower level does not reorder, equal deadlines fire in
//! the order in which they were made, and no number is compared for it.
//!
//! A slot is a queue of records, in chunks of [`CHUNK`]: to read them in a row is what makes a move cheap. A slot that
//! fills no more than one chunk does not move: it is sorted. So a CPU with few timers has in truth a short sorted array.
//!
//! The timer itself lies in a room, whose number its [`Key`] has. To cancel it is to empty the room and to count, without
//! a look at what is in the slot: the record goes when the slot is moved or used up, or when memory is short and most
//! records are such. To unlink it from a list instead would be to wait for the memory of its neighbours, too. Rooms are
//! used again, so key and record have the timer's own number besides.
//!
//! Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987, scheme 7; that levels depend on where the
//! wheel stands is the radix heap of Ahuja et al., 1990. DragonFly's `kern_timeout.c` has one level, of ticks.

use super::{
    pool::{NONE, Pool},
    slot::{CHUNK, Chunk, Record, Slot},
};
use alloc::boxed::Box;
use core::mem;

/// Bits of a digit.
const DIGIT: u32 = 5;
const SLOTS: usize = 1 << DIGIT;
const LEVELS: usize = u64::BITS.div_ceil(DIGIT) as usize;

/// A timer of one wheel. It stays different from every other, and means nothing any more once the timer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) room: u32,
    /// Counts the timers of the wheel, from 1.
    pub(super) number: u64,
}

/// A cache line holds two.
#[repr(align(32))]
struct Timer<T> {
    value: Option<T>,
    deadline_ns: u64,
    /// As in the key; 0 if the room was left.
    number: u64,
}

/// Values that wait for their time.
pub(super) struct Wheel<T> {
    /// Where the wheel stands: nothing lies before, and no slot around this moment has anything in it but that of level 0.
    stands_ns: u64,
    /// A bit for each level with something on it.
    levels: u16,
    /// A bit for each slot with something in it.
    occupied: [u32; LEVELS],
    slots: Box<[Slot]>,
    timers: Pool<Timer<T>>,
    chunks: Pool<Chunk>,
    /// Timers made so far.
    made: u64,
    /// Records read or written so far.
    #[cfg(test)]
    steps: u64,
}

impl<T> Wheel<T> {
    pub(super) fn new() -> Self {
        Self {
            stands_ns: 0,
            levels: 0,
            occupied: [0; LEVELS],
            slots: (0..LEVELS * SLOTS).map(|_| Slot::EMPTY).collect(),
            timers: Pool::new(),
            chunks: Pool::new(),
            made: 0,
            #[cfg(test)]
            steps: 0,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.levels == 0
    }

    /// Adds a timer. `now_ns` is the present or somewhat before; a deadline that has passed is due at once.
    pub(super) fn insert(&mut self, now_ns: u64, deadline_ns: u64, value: T) -> Key {
        self.turn_to(now_ns);
        let room = self.timers.take(|| Timer {
            value: None,
            deadline_ns: 0,
            number: 0,
        });
        self.set(room, deadline_ns, Some(value))
    }

    /// Takes a timer out. None: it is not there any more.
    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let timer = self.timer(key)?;
        let value = timer.value.take();
        let deadline_ns = timer.deadline_ns;
        timer.number = 0;
        self.timers.leave(key.room);
        self.count_out(deadline_ns);
        value
    }

    /// Gives a timer another deadline, behind those that have it already. None: it is not there any more.
    pub(super) fn reset(&mut self, now_ns: u64, key: Key, deadline_ns: u64) -> Option<Key> {
        let timer = self.timer(key)?;
        let value = timer.value.take();
        let old_ns = timer.deadline_ns;
        timer.number = 0;
        self.count_out(old_ns);
        self.turn_to(now_ns);
        Some(self.set(key.room, deadline_ns, value))
    }

    #[inline]
    fn set(&mut self, room: u32, deadline_ns: u64, value: Option<T>) -> Key {
        self.made += 1;
        let number = self.made;
        let deadline_ns = deadline_ns.max(self.stands_ns);
        let key = Key { room, number };
        if let Some(timer) = self.timers.get_mut(room) {
            *timer = Timer {
                value,
                deadline_ns,
                number,
            };
        }
        if self.push(Record { deadline_ns, key }) {
            self.tidy_up(self.place(deadline_ns));
        }
        key
    }

    /// What waits, to be replaced. None: it is not there any more.
    pub(super) fn value(&mut self, key: Key) -> Option<&mut T> {
        self.timer(key)?.value.as_mut()
    }

    /// Takes the first of the timers that are due at `now_ns`, with its deadline.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<(u64, T)> {
        loop {
            let (place, start_ns) = self.first()?;
            if start_ns > now_ns {
                self.turn_to(now_ns);
                return None;
            }
            let slot = self.slots[place];
            if slot.earliest_ns > now_ns {
                return None;
            }
            if !self.is_queue(place) {
                self.stands_ns = slot.earliest_ns;
                self.sift(place);
                continue;
            }
            let Record { deadline_ns, key } = self.front(place)?;
            if deadline_ns > now_ns {
                return None;
            }
            return Some((deadline_ns, self.remove(key)?));
        }
    }

    /// When there is something to do: the earliest deadline, `u64::MAX` if there is none. If the first slot has more timers
    /// than fit into a chunk and its earliest was cancelled, it may be that one's, when the others will move on.
    pub(super) fn next_ns(&mut self) -> u64 {
        let Some((place, _)) = self.first() else {
            return u64::MAX;
        };
        let slot = self.slots[place];
        if !self.is_queue(place) {
            if slot.timers as usize > CHUNK {
                return slot.earliest_ns;
            }
            self.sift(place);
        }
        let front = self.front(place);
        front.map_or(slot.earliest_ns, |front| front.deadline_ns)
    }

    /// The first slot with something in it, and when it begins.
    #[inline]
    fn first(&self) -> Option<(usize, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let digit = self.occupied[level as usize].trailing_zeros();
        let shift = level * DIGIT;
        // The digits above are those of where the wheel stands, those below are zero.
        let above = u64::MAX.checked_shl(shift + DIGIT).unwrap_or(0);
        let start_ns = (self.stands_ns & above) | u64::from(digit) << shift;
        Some((level as usize * SLOTS + digit as usize, start_ns))
    }

    /// Turns the wheel to the present, if no timer has to move for that.
    #[inline]
    fn turn_to(&mut self, now_ns: u64) {
        let is_free = |(_, start_ns)| start_ns > now_ns;
        if now_ns > self.stands_ns && self.first().is_none_or(is_free) {
            self.stands_ns = now_ns;
        }
    }

    /// Where a deadline lies that is not before where the wheel stands.
    #[inline]
    fn place(&self, deadline_ns: u64) -> usize {
        let differing = (deadline_ns ^ self.stands_ns) | 1;
        let level = differing.ilog2() / DIGIT;
        let digit = (deadline_ns >> (level * DIGIT)) as usize % SLOTS;
        level as usize * SLOTS + digit
    }

    /// The timers of this slot can be taken from its front: they have one deadline, or are in one chunk.
    #[inline]
    fn is_queue(&self, place: usize) -> bool {
        place < SLOTS || self.slots[place].first == self.slots[place].last
    }

    #[inline]
    fn timer(&mut self, key: Key) -> Option<&mut Timer<T>> {
        let timer = self.timers.get_mut(key.room)?;
        (timer.number == key.number).then_some(timer)
    }

    /// A bit for each record of a chunk that has its timer. They are looked up all at once: no branch depends on what is
    /// found, so that none waits for the one before.
    fn present(timers: &Pool<Timer<T>>, chunk: &Chunk) -> u64 {
        let is_there = |key: Key| {
            let timer = timers.get(key.room);
            timer.is_some_and(|timer| timer.number == key.number)
        };
        chunk.in_use().fold(0, |present, index| {
            present | u64::from(is_there(chunk.records[index].key)) << index
        })
    }

    /// Puts a record at the end of its slot. True: in a chunk of its own.
    #[inline]
    fn push(&mut self, record: Record) -> bool {
        self.step(1);
        let place = self.place(record.deadline_ns);
        self.occupied[place / SLOTS] |= 1 << (place % SLOTS);
        self.levels |= 1 << (place / SLOTS);
        let slot = &mut self.slots[place];
        slot.records += 1;
        slot.timers += 1;
        slot.earliest_ns = slot.earliest_ns.min(record.deadline_ns);
        match self.chunks.get_mut(slot.last) {
            Some(last) if usize::from(last.end) < CHUNK => {
                last.push(record);
                false
            }
            _ => {
                Self::extend(&mut self.chunks, slot, record);
                true
            }
        }
    }

    fn extend(chunks: &mut Pool<Chunk>, slot: &mut Slot, record: Record) {
        let number = chunks.take(|| Chunk::EMPTY);
        if let Some(chunk) = chunks.get_mut(number) {
            (chunk.next, chunk.begin, chunk.end) = (NONE, 0, 0);
            chunk.push(record);
        }
        match chunks.get_mut(slot.last) {
            Some(last) => last.next = number,
            None => slot.first = number,
        }
        slot.last = number;
    }

    /// The first record of a queue that has its timer.
    fn front(&mut self, place: usize) -> Option<Record> {
        loop {
            let slot = &mut self.slots[place];
            let chunk = self.chunks.get_mut(slot.first)?;
            let (read, gone) = if !chunk.sorted {
                let records = chunk.len();
                chunk.sort(Self::present(&self.timers, chunk));
                (records, records - chunk.len())
            } else if chunk.len() == 0 {
                let used_up = mem::replace(&mut slot.first, chunk.next);
                self.chunks.leave(used_up);
                continue;
            } else {
                let record = chunk.records[usize::from(chunk.begin)];
                let timer = self.timers.get(record.key.room)?;
                if timer.number == record.key.number {
                    return Some(record);
                }
                chunk.begin += 1;
                (1, 1)
            };
            slot.records -= gone;
            self.step(read);
        }
    }

    /// One timer less in the slot of this deadline. The last one takes the records with it.
    #[inline]
    fn count_out(&mut self, deadline_ns: u64) {
        let place = self.place(deadline_ns);
        self.slots[place].timers -= 1;
        if self.slots[place].timers == 0 {
            self.empty(place);
        }
    }

    fn empty(&mut self, place: usize) {
        let mut next = self.take_slot(place).first;
        while let Some(chunk) = self.chunks.get(next) {
            let used_up = mem::replace(&mut next, chunk.next);
            self.chunks.leave(used_up);
        }
    }

    /// Leaves records without a timer where they are most: those of a slot that became a chunk longer, if two of three are
    /// such, and those of all slots before there are more chunks than ever, if half of the chunks are not needed. So what
    /// is read here is no more than a few records for each timer that was cancelled.
    #[cold]
    #[inline(never)]
    fn tidy_up(&mut self, place: usize) {
        if self.slots[place].records > 3 * self.slots[place].timers {
            self.sift(place);
        }
        let slots: u32 = self.occupied.iter().map(|slots| slots.count_ones()).sum();
        let needed = self.timers.taken().div_ceil(CHUNK) + slots as usize;
        if self.chunks.taken() == self.chunks.rooms() && self.chunks.rooms() > 2 * needed {
            for place in 0..self.slots.len() {
                if self.slots[place].records > self.slots[place].timers {
                    self.sift(place);
                }
            }
        }
    }

    /// Leaves a slot empty, and gives what was in it.
    fn take_slot(&mut self, place: usize) -> Slot {
        let level = place / SLOTS;
        self.occupied[level] &= !(1 << (place % SLOTS));
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
        mem::replace(&mut self.slots[place], Slot::EMPTY)
    }

    /// Puts each timer of a slot where it lies now, and leaves the records of those that are gone.
    fn sift(&mut self, place: usize) {
        let slot = self.take_slot(place);
        let all_there = slot.records == slot.timers;
        let mut next = slot.first;
        while let Some(&chunk) = self.chunks.get(next) {
            self.chunks.leave(next);
            next = chunk.next;
            self.step(chunk.len());
            if all_there {
                for index in chunk.in_use() {
                    self.push(chunk.records[index]);
                }
                continue;
            }
            let mut present = Self::present(&self.timers, &chunk);
            while present != 0 {
                self.push(chunk.records[present.trailing_zeros() as usize]);
                present &= present - 1;
            }
        }
    }

    #[inline(always)]
    fn step(&mut self, records: u32) {
        #[cfg(test)]
        {
            self.steps += u64::from(records);
        }
        let _ = records;
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
