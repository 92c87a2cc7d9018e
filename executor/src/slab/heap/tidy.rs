//! What a heap takes back, sends home and gives back: between requests, or when one finds no memory.

use super::{
    super::{FreeNode, ZoneMap, checks, classes::SHAPES, zone::Zone},
    Heap,
};
use core::sync::atomic::Ordering;

impl Heap {
    /// Takes back what other CPUs have freed.
    ///
    /// # Safety
    /// As [`allocate`](Self::allocate).
    pub unsafe fn drain(&self, zones: &ZoneMap) {
        if self.shared.remote.is_empty() {
            return;
        }
        let put = |last: *mut FreeNode, summary: u64| {
            let zone = Zone::of(last.cast());
            let (offset, count) = (summary as u32 as usize, (summary >> 32) as u32);
            // SAFETY: what is on our remote list are chains of free objects of our zones.
            unsafe {
                if cfg!(debug_assertions) {
                    checks::refill(last);
                }
                let class = &self.classes[(*zone).class as usize];
                class.remote_frees.add(u64::from(count));
                self.put(zones, &*zone, Zone::at(zone, offset).cast(), last, count);
            }
        };
        // SAFETY: as above.
        unsafe { self.shared.remote.take_all(put) };
    }

    /// Sends home what was gathered for other heaps, and takes back what they have sent. For a CPU that is about to
    /// sleep: memory must not wait for it to wake up.
    ///
    /// # Safety
    /// As [`allocate`](Self::allocate).
    #[inline]
    pub unsafe fn settle(&self, zones: &ZoneMap) {
        while self.batched.get() != 0 {
            // SAFETY: the caller is the owner.
            unsafe { self.send(self.batched.get().trailing_zeros() as usize) };
        }
        // SAFETY: as above.
        unsafe { self.drain(zones) };
    }

    /// As [`settle`](Self::settle); and gives back every zone that is empty, also those that it would keep for the next
    /// request. For when memory is short.
    ///
    /// # Safety
    /// As [`allocate`](Self::allocate).
    #[cold]
    pub unsafe fn tidy(&self, zones: &ZoneMap) {
        self.shared.wanted.store(false, Ordering::Relaxed);
        // SAFETY: the caller is the owner.
        unsafe { self.settle(zones) };
        self.empty.set(0);
        for (class, shape) in self.classes.iter().zip(&SHAPES) {
            // SAFETY: the zones of the lists are ours; one without used objects has all on its own list.
            unsafe {
                class.set_current_aside(shape.capacity);
                let mut next = class.partial.first();
                while let Some(zone) = next.as_ref() {
                    next = zone.own.next.get();
                    if zone.own.used.get() == 0 {
                        self.retire(zones, zone);
                    }
                }
            }
        }
    }

    /// Asks the owner, from any CPU, to [`tidy`](Self::tidy). False: it was asked already.
    pub(crate) fn want(&self) -> bool {
        !self.is_wanted() && !self.shared.wanted.swap(true, Ordering::Relaxed)
    }

    /// True if the owner was asked to tidy up.
    #[inline]
    pub(crate) fn is_wanted(&self) -> bool {
        self.shared.wanted.load(Ordering::Relaxed)
    }
}
