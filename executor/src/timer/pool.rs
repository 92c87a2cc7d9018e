//! Numbered rooms: what a wheel keeps its timers and its chunks of records in.
//!
//! A room is found by its number, so nothing outside holds a reference. Rooms lie in blocks, each twice as large as the
//! one before: growing moves nothing and copies nothing, and a few dozen blocks are all there is to look through. The
//! room that was left last is the next to be used, while it is still in the cache; what was in it stays there until then.
//! The numbers of those left are a stack beside them and no list through them: rooms that were left in any order are used
//! again without waiting for one to tell of the next. Nothing is given back: a pool is as large as it ever had to be.

use alloc::vec::Vec;

/// No room has this number.
pub(super) const NONE: u32 = u32::MAX;

/// Rooms in the first block.
const FIRST: usize = 4;

pub(super) struct Pool<T> {
    blocks: Vec<Vec<T>>,
    /// Has space for the numbers of all rooms, so that to leave one allocates nothing.
    left: Vec<u32>,
    /// Rooms there are, taken or not: the number of the next.
    rooms: u32,
}

/// The block in which room `number` is, and where in it.
#[inline]
fn locate(number: u32) -> (usize, usize) {
    let shifted = number as usize + FIRST;
    let block = (shifted / FIRST).ilog2();
    (block as usize, shifted - (FIRST << block))
}

impl<T> Pool<T> {
    /// With the first block: a few timers are to be had even where memory is short.
    pub(super) fn new() -> Self {
        Self {
            blocks: alloc::vec![Vec::with_capacity(FIRST)],
            left: Vec::with_capacity(2 * FIRST),
            rooms: 0,
        }
    }

    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (block, place) = locate(number);
        self.blocks.get(block)?.get(place)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (block, place) = locate(number);
        self.blocks.get_mut(block)?.get_mut(place)
    }

    /// A room, and its number. One that was never used before is made by `new`.
    #[inline]
    pub(super) fn take(&mut self, new: impl FnOnce() -> T) -> u32 {
        match self.left.pop() {
            Some(number) => number,
            None => self.extend(new()),
        }
    }

    #[inline]
    fn extend(&mut self, room: T) -> u32 {
        let (block, place) = locate(self.rooms);
        if place == 0 && block == self.blocks.len() {
            self.add_block(FIRST << block);
        }
        let number = self.rooms;
        if let Some(block) = self.blocks.get_mut(block) {
            block.push(room);
            self.rooms += 1;
        }
        number
    }

    #[cold]
    #[inline(never)]
    fn add_block(&mut self, rooms: usize) {
        self.blocks.push(Vec::with_capacity(rooms));
        self.left.reserve(2 * rooms);
    }

    /// Leaves a room, once.
    #[inline]
    pub(super) fn leave(&mut self, number: u32) {
        self.left.push(number);
    }

    pub(super) fn taken(&self) -> usize {
        self.rooms() - self.left.len()
    }

    /// How many rooms there are, taken or not. 2^32 fit into the memory of no machine.
    pub(super) fn rooms(&self) -> usize {
        self.rooms as usize
    }
}
