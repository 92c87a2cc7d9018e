//! The zone map: which 64 KiB pieces of the kernel's memory are in use.
//!
//! One bit per zone in atomic words; a claim is a compare-and-swap of one word, so there is no lock and nothing to
//! corrupt: a run of zones that looks free is claimed zone by zone and given back if it meets a used one. Zones
//! move rarely (a slab keeps its zone), so a scan from a shared hint is fast enough.

use crate::sync::{AtomicU64, AtomicUsize, Fault, Ordering, fault};
use core::ptr::NonNull;

/// Bytes in a zone, which is aligned to its size.
pub const ZONE_SIZE: usize = 64 * 1024;

/// A span of memory cut into zones.
#[derive(Debug)]
pub struct ZoneMap {
    base: usize,
    count: usize,
    used: &'static [AtomicU64],
    hint: AtomicUsize,
    free: AtomicUsize,
    reserve: AtomicUsize,
}

/// One zone of so many is kept for requests that may not fail.
const RESERVED: usize = 16;

impl ZoneMap {
    /// How many words of bitmap `zones` zones need.
    pub const fn words(zones: usize) -> usize {
        zones.div_ceil(64)
    }

    /// A map of `count` zones from `base`, all in use: [`add`](Self::add) those that are memory.
    ///
    /// # Safety
    /// The zones that will be added are ordinary memory, mapped read-write, used by nothing else, for as long as the
    /// map lives.
    ///
    /// # Panics
    /// If `base` is not aligned to [`ZONE_SIZE`] or `bitmap` has not [`words`](Self::words)`(count)` words.
    pub unsafe fn new(base: *mut u8, count: usize, bitmap: &'static [AtomicU64]) -> Self {
        let base = base.expose_provenance();
        assert!(
            base.is_multiple_of(ZONE_SIZE),
            "zones start at a multiple of their size"
        );
        assert!(
            bitmap.len() >= Self::words(count),
            "the bitmap is too small"
        );
        for word in bitmap {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        Self {
            base,
            count,
            used: bitmap,
            hint: AtomicUsize::new(0),
            free: AtomicUsize::new(0),
            reserve: AtomicUsize::new(0),
        }
    }

    /// Makes zones `first..first + count` available. A sixteenth of all becomes the [`reserve`](Self::reserve).
    ///
    /// # Panics
    /// If they are not all in the map.
    pub fn add(&self, first: usize, count: usize) {
        assert!(first + count <= self.count, "zones outside of the map");
        for zone in first..first + count {
            self.used[zone / 64].fetch_and(!(1 << (zone % 64)), Ordering::Release);
        }
        let free = self.free.fetch_add(count, Ordering::Relaxed) + count;
        self.reserve.store(free / RESERVED, Ordering::Relaxed);
    }

    /// Makes every zone that is in the map available again.
    ///
    /// # Safety
    /// All zones were made available by [`add`](Self::add), and nothing uses any of them any more.
    pub unsafe fn reset(&self) {
        self.unclaim(0, self.count);
        self.hint.store(0, Ordering::Relaxed);
        self.free.store(self.count, Ordering::Relaxed);
    }

    /// Zones that are free now; a hint.
    pub fn free_zones(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    /// Zones that requests which may fail leave alone ([`may_fail`](super::may_fail)), so that the others, those of the
    /// executor itself among them, do not (DragonFly: the system and interrupt reserves).
    pub fn reserve(&self) -> usize {
        self.reserve.load(Ordering::Relaxed)
    }

    /// True if `address` lies in the span that this map covers.
    #[inline]
    pub fn contains(&self, address: *const u8) -> bool {
        address.addr().wrapping_sub(self.base) < self.count * ZONE_SIZE
    }

    /// Claims `count` zones in a row.
    pub fn claim(&self, count: usize) -> Option<NonNull<u8>> {
        if count == 0 || count > self.count {
            return None;
        }
        let start = self.hint.load(Ordering::Relaxed).min(self.count - 1);
        let first = self.search(start, self.count, count).or_else(|| {
            // Once more from the bottom; the overlap finds runs that straddle the hint.
            self.search(0, (start + count).min(self.count), count)
        })?;
        self.hint.store(first + count, Ordering::Relaxed);
        self.free.fetch_sub(count, Ordering::Relaxed);
        NonNull::new(core::ptr::with_exposed_provenance_mut(
            self.base + first * ZONE_SIZE,
        ))
    }

    fn search(&self, from: usize, to: usize, count: usize) -> Option<usize> {
        let mut first = from;
        while first + count <= to {
            let word = self.used[first / 64].load(Ordering::Relaxed);
            if word >> (first % 64) == u64::MAX >> (first % 64) {
                first = (first / 64 + 1) * 64;
                continue;
            }
            // Looks before it takes: part of a run, taken and given back, would hide free zones from others meanwhile.
            let mut run = first..first + count;
            if let Some(taken) = run.clone().find(|zone| !self.is_free(*zone)) {
                first = taken + 1;
                continue;
            }
            let Some(taken) = run.find(|zone| !self.claim_one(*zone)) else {
                return Some(first);
            };
            self.unclaim(first, taken);
            first = taken + 1;
        }
        None
    }

    fn is_free(&self, zone: usize) -> bool {
        self.used[zone / 64].load(Ordering::Relaxed) & 1 << (zone % 64) == 0
    }

    fn claim_one(&self, zone: usize) -> bool {
        let bit = 1 << (zone % 64);
        if fault(Fault::ClaimWithoutExchange) {
            let word = self.used[zone / 64].load(Ordering::Acquire);
            self.used[zone / 64].store(word | bit, Ordering::Release);
            return word & bit == 0;
        }
        self.used[zone / 64].fetch_or(bit, Ordering::Acquire) & bit == 0
    }

    fn unclaim(&self, from: usize, to: usize) {
        for zone in from..to {
            self.used[zone / 64].fetch_and(!(1 << (zone % 64)), Ordering::Release);
        }
    }

    /// Gives `count` zones from `start` back.
    ///
    /// # Safety
    /// They were claimed from this map together or in parts, and nothing uses them any more.
    pub unsafe fn release(&self, start: NonNull<u8>, count: usize) {
        let first = (start.addr().get() - self.base) / ZONE_SIZE;
        self.unclaim(first, first + count);
        self.free.fetch_add(count, Ordering::Relaxed);
        // A hint: a racing store costs a longer scan, no more.
        if first < self.hint.load(Ordering::Relaxed) {
            self.hint.store(first, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    extern crate std;
    use alloc::{boxed::Box, vec, vec::Vec};

    fn map(zones: usize) -> ZoneMap {
        let bitmap = (0..ZoneMap::words(zones))
            .map(|_| AtomicU64::new(0))
            .collect::<Vec<_>>();
        // SAFETY: no test here touches the memory behind the addresses.
        let map = unsafe { ZoneMap::new(ZONE_SIZE as *mut u8, zones, Box::leak(bitmap.into())) };
        map.add(0, zones);
        map
    }

    #[test]
    fn runs_are_contiguous_distinct_and_come_back() {
        let map = map(200);
        let mut runs = vec![];
        while let Some(run) = map.claim(3) {
            runs.push(run.addr().get());
        }
        assert_eq!(runs.len(), 66);
        runs.sort_unstable();
        assert!(
            runs.windows(2)
                .all(|pair| pair[1] - pair[0] >= 3 * ZONE_SIZE)
        );
        assert_eq!(map.free_zones(), 2);
        assert!(
            map.claim(2).is_some(),
            "the last two are found behind the hint"
        );
        assert!(map.claim(1).is_none());
        let again = NonNull::new(runs[10] as *mut u8).expect("not null");
        // SAFETY: claimed above.
        unsafe { map.release(again, 3) };
        assert_eq!(map.claim(3), Some(again));
    }

    #[test]
    fn holes_of_the_memory_map_are_never_handed_out() {
        let map = map(128);
        for hole in [0, 63, 64, 100] {
            assert!(map.claim_one(hole));
        }
        let first = map
            .claim(36)
            .expect("101..128 is too short, 65..100 too, 1..63 fits");
        assert_eq!(first.addr().get() / ZONE_SIZE - 1, 1);
        assert!(map.claim(64).is_none());
    }

    #[test]
    fn a_search_for_a_run_hides_no_free_zone_from_others() {
        let map = map(256);
        // 32 zones in a row are free, which a search for 33 passes again and again.
        assert!((0..256).all(|zone| (96..128).contains(&zone) || map.claim_one(zone)));
        map.free.store(32, Ordering::Relaxed);
        let done = core::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(map.claim(33).is_none());
                }
            });
            let lost = (0..100_000).filter(|_| match map.claim(1) {
                // SAFETY: just claimed.
                Some(zone) => unsafe {
                    map.release(zone, 1);
                    false
                },
                None => true,
            });
            let lost = lost.count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(lost, 0, "32 free zones were not found");
        });
    }

    #[test]
    fn threads_never_share_a_zone() {
        let map: &'static ZoneMap = Box::leak(Box::new(map(512)));
        let claimed: Vec<usize> = std::thread::scope(|scope| {
            let claim = || {
                let mut mine = vec![];
                while let Some(zone) = map.claim(1) {
                    mine.push(zone.addr().get());
                }
                mine
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(claim)).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        let mut unique = claimed.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!((unique.len(), claimed.len()), (512, 512));
    }
}
