//! What a heap has counted.

use super::{CLASSES, Class, Heap, SHAPES};
use core::fmt;

/// The numbers of one heap in all, for `vmstat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Zones that this heap holds as slabs.
    pub zones: usize,
    /// Objects allocated minus objects freed on this CPU. Only the sum over all CPUs has meaning (trap 52).
    pub objects: isize,
    /// Bytes allocated minus bytes freed on this CPU; as above.
    pub bytes: isize,
    /// Objects taken back from other CPUs.
    pub remote_frees: u64,
    /// Requests that could not be met.
    pub failures: u64,
}

/// The numbers of one size class of a heap, for `vmstat -m`. Sums over CPUs are wrapping sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Bytes of an object; 0 for requests that get whole zones.
    pub size: usize,
    /// Requests met here.
    pub requests: u64,
    /// Objects freed here, whosever they are.
    pub frees: u64,
    /// Zones held; of requests for whole zones, those allocated here minus those freed here, which may wrap below 0.
    pub zones: u64,
    /// Objects taken back from other CPUs.
    pub remote_frees: u64,
    /// Requests that could not be met.
    pub failures: u64,
}

impl ClassStats {
    /// Objects allocated here minus objects freed here: negative where others' are freed. Only the sum has meaning.
    pub fn objects(&self) -> i64 {
        self.requests.wrapping_sub(self.frees).cast_signed()
    }

    /// The bytes of these objects, as they lie in their zones.
    pub fn bytes(&self) -> i64 {
        match self.size {
            0 => self.zones.cast_signed() * super::super::ZONE_SIZE as i64,
            size => self.objects() * size as i64,
        }
    }

    /// Adds what another CPU counts of the same class.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.frees += other.frees;
        self.zones = self.zones.wrapping_add(other.zones);
        self.remote_frees += other.remote_frees;
        self.failures += other.failures;
    }
}

impl Heap {
    /// The numbers of every class, the smallest first, and at the end those of requests for whole zones. Exact on the CPU
    /// itself; anybody may read them.
    pub fn class_stats(&self) -> impl Iterator<Item = ClassStats> + '_ {
        let of = |(number, class): (usize, &Class)| ClassStats {
            size: SHAPES[number].size as usize,
            requests: class.requests.get(),
            frees: class.frees.get(),
            zones: class.zones.get(),
            remote_frees: class.remote_frees.get(),
            failures: class.failures.get(),
        };
        let large = ClassStats {
            size: 0,
            requests: self.large.requests.get(),
            frees: self.large.frees.get(),
            zones: self.large.zones.get(),
            remote_frees: 0,
            failures: self.large.failures.get(),
        };
        let slabs = self.classes.iter().enumerate().map(of);
        slabs.chain([large])
    }

    /// How many items [`class_stats`](Self::class_stats) has.
    pub const CLASS_COUNT: usize = CLASSES + 1;

    /// The numbers in all; as [`class_stats`](Self::class_stats).
    pub fn stats(&self) -> HeapStats {
        let mut sum = HeapStats::default();
        for class in self.class_stats() {
            if class.size != 0 {
                sum.zones += class.zones as usize;
            }
            sum.objects += class.objects() as isize;
            sum.bytes += class.bytes() as isize;
            sum.remote_frees += class.remote_frees;
            sum.failures += class.failures;
        }
        sum
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
