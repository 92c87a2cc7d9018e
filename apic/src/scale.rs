//! Conversion between two rates by one multiplication and a shift.
//!
//! A division would do the same in forty times the cycles; the clock is read several times per thread switch.

/// A rate as multiplication and shift: `out = in * factor >> 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale(u64);

impl Scale {
    /// From a rate of `from_hz` to one of `to_hz`; both at least 1, their ratio below 2^32.
    pub fn new(from_hz: u64, to_hz: u64) -> Scale {
        Scale(((u128::from(to_hz) << 32) / u128::from(from_hz.max(1))) as u64)
    }

    /// Converts a number of ticks.
    #[inline(always)]
    pub fn of(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.0)) >> 32) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: u64 = 1_000_000_000;

    #[test]
    fn a_year_of_ticks_is_a_year_of_nanoseconds_to_a_part_per_billion() {
        let hz = 2_599_998_000;
        let year_s = 365 * 24 * 3600;
        let ns = Scale::new(hz, NS).of(hz * year_s);
        assert!(ns.abs_diff(year_s * NS) < year_s, "{ns}");
    }

    #[test]
    fn time_never_runs_backwards() {
        let scale = Scale::new(2_599_998_000, NS);
        assert!((0..10_000u64).is_sorted_by_key(|ticks| scale.of(ticks + (1 << 60))));
    }

    #[test]
    fn there_and_back_loses_less_than_a_tick_in_a_million() {
        let (there, back) = (Scale::new(NS, 3_579_545), Scale::new(3_579_545, NS));
        for ns in [0, 1_000_000, 123_456_789, 3_600 * NS] {
            assert!(back.of(there.of(ns)).abs_diff(ns) <= 280 + ns / 1_000_000);
        }
    }

    #[test]
    fn a_rate_of_nothing_does_not_divide_by_it() {
        assert_eq!(Scale::new(0, 1).of(5), 5);
    }
}
