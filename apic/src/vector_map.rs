//! Which interrupt vectors of a CPU are taken: a bitmap that drivers of all CPUs may change at once.

use core::sync::atomic::{AtomicU64, Ordering};

/// First vector for devices: below are the CPU's exceptions.
const FIRST_DEVICE: u8 = 0x20;
/// End of the devices' vectors: from here on they are the platform's own.
const DEVICES_END: u8 = 0xf0;

/// The vectors of one CPU.
#[derive(Debug)]
pub struct VectorMap([AtomicU64; 4]);

impl VectorMap {
    /// With the exceptions' and the platform's own vectors taken.
    pub const fn new() -> VectorMap {
        let exceptions = (1 << FIRST_DEVICE) - 1;
        let own = u64::MAX << (DEVICES_END - 192);
        VectorMap([
            AtomicU64::new(exceptions),
            AtomicU64::new(0),
            AtomicU64::new(0),
            AtomicU64::new(own),
        ])
    }

    /// Takes the lowest free vector.
    pub fn take(&self) -> Option<u8> {
        self.0.iter().zip(0u8..).find_map(|(word, index)| {
            let lowest_free = |taken: u64| (taken != u64::MAX).then(|| taken | (taken + 1));
            let before = word
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, lowest_free)
                .ok()?;
            Some(index * 64 + before.trailing_ones() as u8)
        })
    }

    /// Gives a taken vector back.
    pub fn give_back(&self, vector: u8) {
        self.0[usize::from(vector / 64)].fetch_and(!(1 << (vector % 64)), Ordering::Relaxed);
    }
}

impl Default for VectorMap {
    fn default() -> VectorMap {
        VectorMap::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use std::thread;

    #[test]
    fn every_device_vector_is_handed_out_once_and_no_other() {
        let map = VectorMap::new();
        let all: Vec<u8> = core::iter::from_fn(|| map.take()).collect();
        assert_eq!(all, (0x20..0xf0).collect::<Vec<u8>>());
        map.give_back(0x81);
        assert_eq!((map.take(), map.take()), (Some(0x81), None));
    }

    #[test]
    fn two_drivers_at_once_never_get_the_same() {
        let map = VectorMap::new();
        let take = || core::iter::from_fn(|| map.take()).collect::<Vec<u8>>();
        let mut all = thread::scope(|scope| {
            let other = scope.spawn(take);
            let mut mine = take();
            mine.extend(other.join().expect("no panic"));
            mine
        });
        all.sort_unstable();
        assert_eq!(all, (0x20..0xf0).collect::<Vec<u8>>());
    }
}
