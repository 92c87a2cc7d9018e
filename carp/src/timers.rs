//! The arithmetic of advertisement intervals and of the master-down timer.
//!
//! [`Timing`] is the pair an advertisement carries. All results are nanoseconds; 1/256 s is
//! 3,906,250 ns exactly, so nothing is rounded. Master-down is FreeBSD's and DragonFly's
//! 3 x advbase + advskew/256 s, not OpenBSD's recent 3 x (advbase + advskew/256): a slow backup
//! should not also wait longer for a dead master. At advbase 0 that formula would be one single
//! interval, a flap at the first lost packet, so there we use OpenBSD's 3 x advskew/256.

use core::fmt;

/// One second in nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;
/// One unit of advskew: 1/256 s.
const SKEW_NS: u64 = SECOND_NS / 256;
/// A master is dead after this many silent intervals.
const DEAD_INTERVALS: u64 = 3;

/// How fast a node advertises: advbase seconds + advskew/256 s. Faster is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Seconds.
    pub advbase: u8,
    /// 1/256 s. 255 only in a bow-out.
    pub advskew: u8,
}

impl Timing {
    /// What a node that leaves sends: so slow that every backup takes over.
    pub const BOW_OUT: Self = Self {
        advbase: 255,
        advskew: 255,
    };

    /// Whether this is a bow-out.
    #[must_use]
    pub fn is_bow_out(self) -> bool {
        self == Self::BOW_OUT
    }

    /// The time between two advertisements. 0/0 counts as 1/256 s.
    #[must_use]
    pub fn interval_ns(self) -> u64 {
        u64::from(self.units().max(1)) * SKEW_NS
    }

    /// How long a backup of this timing waits for an advertisement.
    #[must_use]
    pub fn master_down_ns(self) -> u64 {
        if self.advbase == 0 {
            return DEAD_INTERVALS * self.interval_ns();
        }
        DEAD_INTERVALS * u64::from(self.advbase) * SECOND_NS + u64::from(self.advskew) * SKEW_NS
    }

    /// The interval in 1/256 s, to compare by: smaller is better.
    #[must_use]
    pub fn units(self) -> u32 {
        u32::from(self.advbase) * 256 + u32::from(self.advskew)
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "advbase {} advskew {}", self.advbase, self.advskew)
    }
}

/// What an election is decided by: demotion first (OpenBSD), then speed. The smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    // The order of the fields is the order of comparison.
    pub(crate) demotion: u8,
    pub(crate) timing_units: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_master_down_times() {
        const MS: u64 = 1_000_000;
        // advbase, advskew, interval, master down
        let table = [
            (1, 0, 1000 * MS, 3000 * MS),
            (1, 100, 1_390_625_000, 3_390_625_000),
            (1, 254, 1_992_187_500, 3_992_187_500),
            (2, 128, 2500 * MS, 6500 * MS),
            (255, 254, 255_992_187_500, 765_992_187_500),
            (0, 64, 250 * MS, 750 * MS),
            (0, 2, 7_812_500, 23_437_500),
            (0, 1, 3_906_250, 11_718_750),
            (0, 0, 3_906_250, 11_718_750),
        ];
        for (advbase, advskew, interval_ns, master_down_ns) in table {
            let timing = Timing { advbase, advskew };
            assert_eq!(timing.interval_ns(), interval_ns, "{timing}");
            assert_eq!(timing.master_down_ns(), master_down_ns, "{timing}");
        }
    }

    #[test]
    fn demotion_is_compared_before_speed() {
        let rank = |demotion, timing_units| Rank {
            demotion,
            timing_units,
        };
        assert!(rank(0, 5000) < rank(1, 1));
        assert!(rank(1, 256) < rank(1, 257));
    }
}
