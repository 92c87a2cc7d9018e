//! Sets of CPUs.
//!
//! A node has up to 4096 CPUs, and nearly all have fewer than 65: their masks are one word and no memory. Who sends to a
//! mask begins after itself ([`CpuMask::after`]), as DragonFly `lwkt_send_ipiq_mask` does, so that no CPU is favoured.

use crate::{CpuId, Node};
use alloc::vec::Vec;
use core::iter;

const BITS: usize = u64::BITS as usize;

/// A set of CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuMask {
    /// CPUs 0 to 63.
    first: u64,
    /// CPUs from 64 on; the last word is never 0.
    more: Vec<u64>,
}

impl CpuMask {
    /// No CPU.
    pub const fn new() -> Self {
        Self {
            first: 0,
            more: Vec::new(),
        }
    }

    /// Every CPU of `node`.
    pub fn all(node: &Node) -> Self {
        node.cpus().map(crate::Cpu::id).collect()
    }

    /// No CPU, with room for `count` of them: what is inserted up to there allocates nothing.
    pub(crate) fn with_room_for(count: usize) -> Self {
        Self {
            first: 0,
            more: Vec::with_capacity(count.div_ceil(BITS) - 1),
        }
    }

    fn word(&self, index: usize) -> u64 {
        match index.checked_sub(1) {
            None => self.first,
            Some(index) => self.more.get(index).copied().unwrap_or(0),
        }
    }

    /// Adds `cpu`.
    pub fn insert(&mut self, cpu: CpuId) {
        let (index, bit) = (cpu.index() / BITS, 1 << (cpu.index() % BITS));
        if index == 0 {
            self.first |= bit;
            return;
        }
        if self.more.len() < index {
            self.more.resize(index, 0);
        }
        self.more[index - 1] |= bit;
    }

    /// Takes `cpu` out. True: it was in.
    pub fn remove(&mut self, cpu: CpuId) -> bool {
        if !self.contains(cpu) {
            return false;
        }
        let (index, bit) = (cpu.index() / BITS, 1 << (cpu.index() % BITS));
        match index.checked_sub(1) {
            None => self.first &= !bit,
            Some(index) => self.more[index] &= !bit,
        }
        while self.more.last() == Some(&0) {
            self.more.pop();
        }
        true
    }

    /// Keeps those for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(CpuId) -> bool) {
        let mut start = 0;
        while let Some(number) = self.next(start) {
            start = number + 1;
            if !keep(CpuId(number as u16)) {
                self.remove(CpuId(number as u16));
            }
        }
    }

    /// True if `cpu` is in.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.word(cpu.index() / BITS) & 1 << (cpu.index() % BITS) != 0
    }

    /// How many CPUs are in.
    pub fn len(&self) -> usize {
        let words = iter::once(&self.first).chain(&self.more);
        words.map(|word| word.count_ones() as usize).sum()
    }

    /// True if no CPU is in.
    pub fn is_empty(&self) -> bool {
        self.first == 0 && self.more.is_empty()
    }

    /// The CPUs in order, from 0 on.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.from(0)
    }

    /// The CPUs in order, from the one after `cpu` on, and `cpu` itself at the end if it is in.
    pub fn after(&self, cpu: CpuId) -> impl Iterator<Item = CpuId> + '_ {
        let before = self.from(0).take_while(move |other| *other <= cpu);
        self.from(cpu.index() + 1).chain(before)
    }

    fn from(&self, start: usize) -> impl Iterator<Item = CpuId> + '_ {
        let id = |number: usize| CpuId(number as u16);
        iter::successors(self.next(start), |number| self.next(number + 1)).map(id)
    }

    /// The first CPU in whose number is at least `start`.
    fn next(&self, start: usize) -> Option<usize> {
        let mut index = start / BITS;
        let mut word = self.word(index) & u64::MAX << (start % BITS);
        while word == 0 {
            index += 1;
            if index > self.more.len() {
                return None;
            }
            word = self.word(index);
        }
        Some(index * BITS + word.trailing_zeros() as usize)
    }
}

impl FromIterator<CpuId> for CpuMask {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut mask = Self::new();
        mask.extend(cpus);
        mask
    }
}

impl Extend<CpuId> for CpuMask {
    fn extend<I: IntoIterator<Item = CpuId>>(&mut self, cpus: I) {
        cpus.into_iter().for_each(|cpu| self.insert(cpu));
    }
}

impl From<CpuId> for CpuMask {
    fn from(cpu: CpuId) -> Self {
        iter::once(cpu).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(cpus: impl Iterator<Item = CpuId>) -> Vec<u16> {
        cpus.map(|cpu| cpu.0).collect()
    }

    #[test]
    fn a_mask_holds_what_was_put_in_wherever_it_lies() {
        let cpus = [0, 1, 63, 64, 127, 128, 500, 4095];
        let mut mask: CpuMask = cpus.map(CpuId).into_iter().collect();
        assert_eq!(numbers(mask.iter()), cpus);
        assert_eq!(mask.len(), cpus.len());
        for number in 0..4096 {
            assert_eq!(mask.contains(CpuId(number)), cpus.contains(&number));
        }
        for number in cpus {
            assert!(mask.remove(CpuId(number)));
            assert!(!mask.remove(CpuId(number)));
        }
        assert!(mask.is_empty());
        assert_eq!(mask, CpuMask::new(), "however large it was");
    }

    #[test]
    fn who_begins_after_itself_comes_last() {
        let mask: CpuMask = [0, 3, 64, 70, 200].map(CpuId).into_iter().collect();
        assert_eq!(numbers(mask.after(CpuId(64))), [70, 200, 0, 3, 64]);
        assert_eq!(numbers(mask.after(CpuId(63))), [64, 70, 200, 0, 3]);
        assert_eq!(numbers(mask.after(CpuId(4095))), [0, 3, 64, 70, 200]);
        assert_eq!(numbers(CpuMask::new().after(CpuId(2))), []);
    }

    #[test]
    fn what_there_is_room_for_allocates_nothing() {
        let mut mask = CpuMask::with_room_for(4096);
        let room = mask.more.capacity();
        mask.extend((0..4096).map(CpuId));
        assert_eq!(mask.more.capacity(), room);
        assert_eq!(CpuMask::with_room_for(64).more.capacity(), 0);
    }
}
