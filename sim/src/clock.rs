//! The clock of one node: it runs too fast or too slow, and may leap forward.

/// How far the clock of a node that has just been switched on may be off, in parts of a million.
pub const DRIFT_PPM: i64 = 200;

/// A node's clock, as a function of the world's time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// At this moment of the world...
    world_ns: u64,
    /// ...it shows this.
    node_ns: u64,
    /// Nanoseconds of the node in a million of the world.
    rate: u64,
}

impl Clock {
    /// A clock that shows 0 at `world_ns`.
    #[must_use]
    pub fn new(world_ns: u64, drift_ppm: i64) -> Self {
        Self {
            world_ns,
            node_ns: 0,
            rate: (1_000_000 + drift_ppm).max(1) as u64,
        }
    }

    /// What it shows.
    #[inline]
    #[must_use]
    pub fn at(&self, world_ns: u64) -> u64 {
        let passed = world_ns - self.world_ns;
        if self.rate == 1_000_000 {
            return self.node_ns + passed;
        }
        self.node_ns + (u128::from(passed) * u128::from(self.rate) / 1_000_000) as u64
    }

    /// The first moment of the world at which it shows `node_ns`, or later.
    #[inline]
    #[must_use]
    pub fn when(&self, node_ns: u64) -> u64 {
        let passed = node_ns.saturating_sub(self.node_ns);
        let world = (u128::from(passed) * 1_000_000).div_ceil(u128::from(self.rate));
        self.world_ns
            .saturating_add(u64::try_from(world).unwrap_or(u64::MAX))
    }

    /// From now on it runs at another rate.
    pub fn drift(&mut self, world_ns: u64, drift_ppm: i64) {
        let node_ns = self.at(world_ns);
        *self = Self {
            node_ns,
            ..Self::new(world_ns, drift_ppm)
        };
    }

    /// It leaps forward.
    pub fn leap(&mut self, by_ns: u64) {
        self.node_ns += by_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_moment_that_shows_the_time() {
        for drift in [-200, 0, 7, 200] {
            let mut clock = Clock::new(1000, drift);
            clock.leap(5);
            for shown in [5, 6, 999, 1_000_000, 123_456_789_012] {
                let when = clock.when(shown);
                assert!(clock.at(when) >= shown, "{drift} {shown}");
                assert!(
                    when == 1000 || clock.at(when - 1) < shown,
                    "{drift} {shown}"
                );
            }
        }
    }

    #[test]
    fn a_change_of_rate_is_no_leap() {
        let mut clock = Clock::new(0, 200);
        let before = clock.at(1_000_000_000);
        clock.drift(1_000_000_000, -200);
        assert_eq!(clock.at(1_000_000_000), before);
    }
}
