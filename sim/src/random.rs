//! What a seed decides: streams of numbers that are the same on every machine.
//!
//! Each part of a run has a [`Random`] of its own (the steps, the LAN, the script), so that leaving a fault out of the
//! script does not change what the others draw, as far as that is possible.
//! Source: xoshiro256++ (D. Blackman, S. Vigna), whose crate promises the same numbers for ever.

use std::ops::RangeInclusive;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(Xoshiro256PlusPlus);

impl Random {
    /// The stream called `purpose` of a seed.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        // FNV-1a of the name, so that streams of one seed have nothing to do with each other.
        let name = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        Self(Xoshiro256PlusPlus::seed_from_u64(seed ^ name))
    }

    /// Any number.
    #[inline]
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `limit`, which is not 0.
    #[inline]
    pub fn below(&mut self, limit: u64) -> u64 {
        // The high half of a product: no division, and a bias of less than limit / 2^64.
        ((u128::from(self.number()) * u128::from(limit)) >> 64) as u64
    }

    /// A number of the range.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True `ppm` times in a million.
    #[inline]
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// One of the items, of which there is at least one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}
