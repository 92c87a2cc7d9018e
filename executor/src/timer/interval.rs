//! Ticks with a period: [`Interval`].
//!
//! An interval keeps its phase: all its deadlines are its first one and a multiple of the period. What comes late does
//! not put off what follows, and what is too late is left out and counted. The alternatives, to make all missed ticks up
//! at once or to begin again from now, are a burst after each stall, or a beat that is nobody's; who wants either has
//! the count, or [`sleep`](super::sleep()).

use super::{Sleep, now_ns, poll_ns, sleep::nanoseconds, sleep_until};
use core::time::Duration;

/// A deadline that comes again and again. Made by [`interval`].
#[derive(Debug)]
pub struct Interval {
    next: Sleep,
    period_ns: u64,
    missed: u64,
}

impl Interval {
    /// Waits for the next tick, and gives its deadline in nanoseconds since boot: the latest that has passed.
    ///
    /// To drop the future is to miss nothing: a tick that came meanwhile is given at once by the next call. If the work
    /// of a tick takes longer than the period, each call is ready at once, and it is for the caller to let others
    /// run.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub async fn tick(&mut self) -> u64 {
        (&mut self.next).await;
        let first_ns = self.next.deadline_ns();
        self.missed = poll_ns().saturating_sub(first_ns) / self.period_ns;
        let tick_ns = first_ns + self.missed * self.period_ns;
        self.next.reset(tick_ns.saturating_add(self.period_ns));
        tick_ns
    }

    /// How many ticks were left out just before the last one, because it came so late.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

/// Ticks every `period`, for the first time when a period has passed. A zero period is taken for a nanosecond.
///
/// # Panics
/// Outside of every CPU.
pub fn interval(period: Duration) -> Interval {
    let period_ns = nanoseconds(period).max(1);
    Interval {
        next: sleep_until(now_ns().saturating_add(period_ns)),
        period_ns,
        missed: 0,
    }
}
